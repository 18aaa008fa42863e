"""The tokenizer of the embedded models: byte-level BPE with single digits, protocol literals as single tokens.

A turn is generated in several calls and read back as one text, so both have to give the same tokens. Every literal of
the formats is an added token: those are cut out of a text before BPE sees it, so that no merge crosses their edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tts_engine.formats import genprm, policy, prm

SIZE = 640
PAD, END = "<|pad|>", "<|end|>"
SPECIALS = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LONGEST = 9
"""Step headings up to this number are single tokens."""


def literals() -> tuple[str, ...]:
    """The texts that are one token each."""
    headings = [policy.heading(i) for i in range(LONGEST)]
    before_index, after_index = genprm.ANALYZE.split("{index}")
    output, end = genprm.verdict_text("|").split("{|}")
    return (
        *headings,
        *(f"\n{heading}" for heading in headings),
        f"\n\n{policy.INSTRUCTION}",
        policy.REFINE_REQUEST,
        "\\boxed{",
        genprm.SYSTEM,
        "Question: ",
        before_index,
        after_index,
        f"\n{genprm.ANALYZE_END}",
        genprm.VERIFY,
        "print(r:=",
        ", r==",
        genprm.CODE_END,
        "[Code Output]\n\n```\n",
        genprm.VERIFY_END,
        output,
        *genprm.JUDGEMENTS,
        end,
        prm.MARKER,
    )


def train(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer for the texts (deterministic)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = literals()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(added),
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_without(text, added) for text in texts), trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def load(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint folder."""
    return PreTrainedTokenizerFast.from_pretrained(path)


def _without(text: str, added: tuple[str, ...]) -> str:
    for literal in sorted(added, key=len, reverse=True):
        text = text.replace(literal, "\n\n")
    return text
