"""Tiny random models with a real tokenizer, made once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

LINES = [
    "Tom has 12 apples and buys 30 more. How many apples does he have now?",
    "Step 1: now 12+30=42.\nAnswer: 42\n",
    "He gives half of the boxes away, and double the pens: crates, bags, friends.",
    "print(r:=12+30, r==42)\n[Code Output] 42 True\n",
]
ADDED = ["<user>", "<assistant>", "<analyze>\nLet's analyze the Paragraph ", "\\boxed{", "</output>\n", "Yes", "No"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with added tokens for literals, as the embedded checkpoints have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", chat_template=TEMPLATE
    )
    fast.add_tokens([AddedToken(text, special=False, normalized=False) for text in ADDED])
    return fast


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Write a model folder, weights in bf16."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What the configs of both families share. Wide initial weights, so that the model says different things."""
    return {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_key_value_heads=4, **sizes(tokenizer))
    return save(LlamaForCausalLM(config), tokenizer, tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Qwen2: grouped-query attention and biases."""
    tokenizer = make_tokenizer()
    torch.manual_seed(1)
    config = Qwen2Config(hidden_size=64, intermediate_size=96, num_key_value_heads=2, **sizes(tokenizer))
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.3)
    return save(model, tokenizer, tmp_path_factory.mktemp("models") / "qwen")
