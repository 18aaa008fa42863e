"""Reading a model folder: what it is, and loading it so that its attention runs on the paged cache."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from tts_engine.backends.local_attention import PAGE, paged_attention
from tts_engine.backends.local_heads import head_names, step_head
from tts_engine.backends.shapes import shape_of
from tts_engine.errors import DataError, first_line

SMALL_HEAD = 1 << 23
"""Output layers of at most this many weights run in fp32, so that logprobs are not rounded to bf16."""

ALIGNMENT = 64
"""Bytes of a cache line."""

AttentionInterface.register("tts_paged", paged_attention)


@dataclass(frozen=True, slots=True)
class Weights:
    """A loaded model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: Any
    dtype: torch.dtype
    layers: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    ends: frozenset[int]
    """Tokens that end a turn."""

    def pool(self, pages: int) -> Tensor:
        """An empty cache; on a CPU, memory is taken only when a page is first used."""
        shape = (2 * self.layers, pages, self.kv_heads, PAGE, self.head_dim)
        if self.model.device.type == "cpu":
            return untouched(shape, self.dtype)
        return torch.zeros(shape, dtype=self.dtype, device=self.model.device)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, all layers, keys and values."""
        return 2 * self.layers * self.kv_heads * PAGE * self.head_dim * self.dtype.itemsize


def untouched(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory yet: torch writes its own, numpy leaves that to the system."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return torch.from_numpy(raw[start : start + size]).view(dtype).view(shape)


class _Head(nn.Module):
    """An output layer in fp32."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().float(), requires_grad=False)
        self.bias = None if head.bias is None else nn.Parameter(head.bias.detach().float(), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden.float(), self.weight, self.bias)


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401 - transformers' classes differ
    """The model's config.

    Raises:
        DataError: the folder is missing or holds no usable causal LM.
    """
    if not folder.is_dir():
        raise DataError(f"no model folder {str(folder)!r}: it should hold config.json, *.safetensors and a tokenizer")
    if not (folder / "config.json").is_file():
        raise DataError(f"{str(folder)!r} has no config.json: give a folder in Hugging Face format")
    if not list(folder.glob("*.safetensors")):
        raise DataError(f"{str(folder)!r} has no *.safetensors: convert the weights (save_pretrained) first")
    try:
        json.loads((folder / "config.json").read_text())
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{str(folder)!r} has a config.json that cannot be read: {first_line(error)}") from error


def fingerprint(folder: Path) -> str:
    """32 hex digits over the contents of weights, tokenizer and configuration."""
    digest = hashlib.blake2b(digest_size=16)
    names = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
    for path in sorted({path for pattern in names for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            while data := file.read(1 << 20):
                digest.update(data)
    return digest.hexdigest()


def pick_device(device: str) -> torch.device:
    """`auto`: the GPU if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


_LOADING = threading.Lock()
"""transformers switches the default device and its progress bars for the whole process while it loads a model."""


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> Weights:
    """Load weights and tokenizer; one model at a time.

    Raises:
        DataError: transformers cannot load the folder, or its attention cannot run on a paged cache.
    """
    with _LOADING:
        progress, loudness = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        if head_names(folder):
            logging.set_verbosity_error()  # that the output layer is missing is as it should be
        try:
            options = {"trust_remote_code": False, "local_files_only": True}
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, attn_implementation="tts_paged", **options
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise DataError(f"cannot load the model in {str(folder)!r}: {first_line(error)}") from error
        finally:
            logging.set_verbosity(loudness)
            if progress:
                logging.enable_progress_bar()
        module = cast(nn.Module, model).eval().requires_grad_(False).to(device)
        return _weights(folder, module, tokenizer, dtype)


def _weights(folder: Path, model: Any, tokenizer: Any, dtype: torch.dtype) -> Weights:  # noqa: ANN401
    text = model.config.get_text_config()
    if not model._supports_attention_backend:
        raise DataError(f"{str(folder)!r}: {type(model).__name__} has its own attention; use the vllm backend")
    shape = shape_of(model.config, 0)
    head = model.get_output_embeddings()
    judging = step_head(folder, tokenizer, text.vocab_size)
    if judging is not None:
        model.set_output_embeddings(judging.to(model.device))
    elif isinstance(head, nn.Linear) and head.weight.numel() <= SMALL_HEAD and dtype != torch.float32:
        model.set_output_embeddings(_Head(head))
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    ends = [tokenizer.eos_token_id, text.eos_token_id, model.generation_config.eos_token_id]
    return Weights(
        model=model,
        tokenizer=tokenizer,
        dtype=dtype,
        layers=text.num_hidden_layers,
        kv_heads=shape.kv_width // head_dim,
        head_dim=head_dim,
        vocabulary=text.vocab_size,
        ends=frozenset(token for end in ends if end is not None for token in (end if isinstance(end, list) else [end])),
    )
