"""Loading a checkpoint to train it, wholly or through low-rank adapters, and writing what came out of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tts_engine.backends.local_model import read_config
from tts_engine.errors import DataError, UsageError, first_line
from tts_engine.verifiers.training.masks import STYLES
from tts_engine.verifiers.training.model import FORMAT_FILE
from tts_engine.verifiers.training.recipe import Recipe

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def read_card(folder: Path, form: str) -> dict[str, Any]:
    """The `tts_format.json` of a checkpoint; empty where there is none.

    Raises:
        DataError: the checkpoint speaks another format, or another version of it.
    """
    path = folder / FORMAT_FILE
    if not path.is_file():
        return {}
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = card["format"], card["version"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} cannot be read: delete it to train the checkpoint as a model of no format") from None
    if found != (form, STYLES[form].version):
        raise DataError(
            f"{folder} was trained on format {found[0]} {found[1]}, not {form} {STYLES[form].version}: choose another"
            f" model, set format={found[0]}, or delete its {FORMAT_FILE} to train it anew"
        )
    return card


def load_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers' tokenizers share no typed base
    """The tokenizer of a folder, with a padding token.

    Raises:
        DataError: there is none, or it cannot end a turn.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):  # transformers would make an empty one
        raise DataError(f"{folder} has no tokenizer: add {TOKENIZER_FILES[0]}, or plan with --dry-run --tokenizer DIR")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise DataError(f"{folder} has no tokenizer that can be loaded ({first_line(error)}): add its files") from None
    if tokenizer.eos_token is None:
        raise DataError(f"the tokenizer of {folder} names no eos_token: add it to tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, recipe: Recipe, *, bf16: bool) -> PreTrainedModel:
    """The model, ready to train: in fp32, or frozen (in bf16 where that is asked for) under fp32 adapters.

    Raises:
        DataError: transformers cannot load it.
    """
    read_config(folder)
    dtype = torch.bfloat16 if recipe.method == "lora" and bf16 else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=recipe.attention, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(f"cannot load the model in {folder}: {first_line(error)}") from None
    model.config.use_cache = False
    if recipe.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # the second one is its name before transformers 5.20
    return with_adapters(model, recipe) if recipe.method == "lora" else model


def with_adapters(model: Any, recipe: Recipe) -> Any:  # noqa: ANN401 - peft's model wraps any module
    """The model under new adapters in fp32; equal seeds give equal ones.

    Raises:
        UsageError: peft is missing, or no module has a name among `lora.targets`.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise UsageError(f"method=lora needs {error.name}: pip install 'tts-engine[train]'") from None
    lora = recipe.lora
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
    )
    torch.manual_seed(recipe.seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(f"lora.targets={lora.targets!r} fits no module of the model: {first_line(error)}") from None


def export(base: Path, trained: Path, out: Path, tokenizer: Any, card: dict[str, Any] | None) -> None:  # noqa: ANN401
    """Write a checkpoint that any backend loads, in the precision of the base, replacing an earlier one when complete.

    Args:
        base: the checkpoint that was trained.
        trained: what the trainer saved: a whole model, or adapters, which are merged into the base.
        card: content of its `tts_format.json`; None for none.
    """
    dtype = getattr(read_config(base), "dtype", None) or torch.float32
    fresh = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    _merged(base, trained).to(dtype).save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", fresh / "generation_config.json")
    if card is not None:
        (fresh / FORMAT_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def _merged(base: Path, trained: Path) -> Any:  # noqa: ANN401
    options = {"dtype": torch.float32, "local_files_only": True}
    if not (trained / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(trained, **options)
    from peft import PeftModel

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, **options), trained).merge_and_unload()
