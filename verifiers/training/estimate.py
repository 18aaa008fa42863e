"""What a fine-tuning run will take: steps, memory and FLOPs, from the model's config and the data alone.

Memory of one device, in bytes, with P weights of which T are trained, in rows of n tokens:

    weights       4 P (bf16 under adapters: 2 P + 4 T)       divided by the devices under FSDP, like the next two
    gradients     4 T
    optimizer     8 T                                        Adam's two moments
    copies        a                                          bf16 copies of the weights that a pass multiplies with
    activations   b n + c n^2 a row                          what autograd saves; n^2 is the mask of packed documents
      with checkpointing   h d L n + (b n + c n^2) / L a row   inputs of L layers of width d in h bytes, and one layer
    logits        10 V w + 8 V 1024                          V words at w learnt tokens: fp32, bf16, gradient; slices

a, b and c are counted, not guessed: the model runs forward at three lengths on tensors without contents (torch's
FakeTensorMode) while the tensors that autograd saves are weighed. FLOPs are those of `compute.cost`, forward once and
backward twice as much (once under frozen weights), and forward again with checkpointing.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from tts_engine.backends.shapes import shape_of
from tts_engine.compute.cost import call_flops
from tts_engine.errors import ConfigError, DataError, first_line
from tts_engine.verifiers.training.adapters import with_adapters
from tts_engine.verifiers.training.masks import Sample
from tts_engine.verifiers.training.packing import Rows
from tts_engine.verifiers.training.recipe import Recipe

SLICE = 1024
"""Tokens whose cross-entropy is computed at once."""
PROBES = (128, 256, 384)
"""Lengths at which saved tensors are weighed; three, for a polynomial of degree two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The data as the model meets it: counts over one epoch, the longest row and the row with most to learn."""

    documents: int
    tokens: int
    learnt: int
    rows: int
    longest: int
    most_learnt: int
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device (module docstring)."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of them."""
        return float(sum(getattr(self, part.name) for part in fields(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will take.

    Attributes:
        step_rows: rows of an optimizer step, over all devices; `accumulation` passes of `rows` rows each.
        flops: of the whole run.
    """

    load: Load
    parameters: int
    trained: int
    devices: int
    accumulation: int
    step_rows: int
    steps: int
    memory: Memory
    flops: float


def measure(samples: Sequence[Sample], rows: Rows) -> Load:
    """The load of encoded data."""
    lengths = tuple(len(sample.ids) for sample in samples)
    return Load(
        documents=len(samples),
        tokens=sum(lengths),
        learnt=sum(sample.learnt for sample in samples),
        rows=len(rows),
        longest=rows.longest,
        most_learnt=rows.most_learnt,
        lengths=lengths,
    )


def expected(recipe: Recipe) -> Load:
    """The load that the recipe expects, with full rows.

    Raises:
        ConfigError: it expects nothing.
    """
    if recipe.expected is None:
        raise ConfigError("there is nothing to plan with: give --data FILE, or a recipe with a section `expected`")
    documents = max(1, round(recipe.expected.conversations * (1 - recipe.held_out)))
    tokens, learnt = recipe.expected.tokens, recipe.expected.learnt
    size = recipe.max_length if recipe.packing else tokens
    return Load(
        documents=documents,
        tokens=documents * tokens,
        learnt=documents * learnt,
        rows=math.ceil(documents * tokens / size),
        longest=size,
        most_learnt=round(size * learnt / tokens),
        lengths=(tokens,) * documents,
    )


def read_shape(folder: Path) -> Any:  # noqa: ANN401 - transformers' config classes differ
    """The config of a folder that needs to hold nothing else.

    Raises:
        DataError: there is none that transformers can read.
    """
    if not (folder / "config.json").is_file():
        raise DataError(f"{str(folder)!r} has no config.json: give a folder in Hugging Face format")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{str(folder)!r} has a config.json that cannot be read: {first_line(error)}") from None


def make_plan(config: Any, recipe: Recipe, load: Load, *, devices: int, bf16: bool) -> Plan:  # noqa: ANN401
    """Steps, memory and FLOPs of a run."""
    model = _hollow(config, recipe, bf16)
    parameters, trained = (
        sum(p.numel() for p in model.parameters() if p.requires_grad or everything) for everything in (True, False)
    )
    accumulation, step_rows = step_of(recipe, load, devices)
    steps = recipe.max_steps or math.ceil(math.ceil(load.rows / step_rows) * recipe.epochs)
    epochs = steps * step_rows / load.rows
    return Plan(
        load=load,
        parameters=parameters,
        trained=trained,
        devices=devices,
        accumulation=accumulation,
        step_rows=step_rows,
        steps=steps,
        memory=_memory(model, config, recipe, load, devices, bf16),
        flops=epochs * epoch_flops(config, recipe, load),
    )


def step_of(recipe: Recipe, load: Load, devices: int) -> tuple[int, int]:
    """Passes of an optimizer step on each device, and its rows on all of them: about `batch` documents."""
    wanted = recipe.batch * load.rows / load.documents
    passes = max(1, round(wanted / (recipe.rows * devices)))
    return passes, passes * recipe.rows * devices


def epoch_flops(config: Any, recipe: Recipe, load: Load) -> float:  # noqa: ANN401
    """Floating point operations of one epoch; documents in a row do not attend to one another."""
    shape = shape_of(config, 0)
    forward = sum(call_flops(shape, length, 0) for length in load.lengths)
    forward += 2.0 * shape.width * shape.vocabulary * load.learnt
    return forward * ((3 if recipe.method == "full" else 2) + recipe.gradient_checkpointing)


def _memory(model: Any, config: Any, recipe: Recipe, load: Load, devices: int, bf16: bool) -> Memory:  # noqa: ANN401
    weights = sum(p.numel() * p.itemsize for p in model.parameters())
    copies, linear, square = saved_bytes(model, bf16=bf16)
    if recipe.attention != "eager" and not (recipe.packing and recipe.attention == "sdpa"):
        square = 0.0
    shape = shape_of(config, 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    row = linear * load.longest + square * load.longest**2
    if recipe.gradient_checkpointing:
        stream = 2 if recipe.method == "lora" and bf16 else 4
        row = stream * shape.width * shape.layers * load.longest + row / shape.layers
    learnt = recipe.rows * load.most_learnt
    return Memory(
        weights=weights / devices,
        gradients=4 * trained / devices,
        optimizer=8 * trained / devices,
        copies=copies,
        activations=recipe.rows * row,
        logits=shape.vocabulary * ((10 if bf16 else 8) * learnt + 8 * min(SLICE, learnt)),
    )


def _hollow(config: Any, recipe: Recipe, bf16: bool) -> Any:  # noqa: ANN401
    """The model to train, with shapes and no contents."""
    dtype = torch.bfloat16 if recipe.method == "lora" and bf16 else torch.float32
    attention = "eager" if recipe.attention == "eager" else "sdpa"
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initializing nothing
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=attention)
        return with_adapters(model, recipe) if recipe.method == "lora" else model


def saved_bytes(model: Any, *, bf16: bool) -> tuple[float, float, float]:  # noqa: ANN401
    """What autograd saves of a row of n tokens: (a, b, c) of a + b n + c n^2 bytes. `model` is on the meta device."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        hollow = model.to_empty(device="cpu").train()
        (hollow.get_base_model() if hasattr(hollow, "get_base_model") else hollow).tie_weights()
        first, second, third = (weigh(hollow, n, bf16=bf16) for n in PROBES)
    gap = PROBES[1] - PROBES[0]
    square = (third - 2 * second + first) / (2 * gap**2)
    linear = (second - first) / gap - square * (PROBES[0] + PROBES[1])
    return first - linear * PROBES[0] - square * PROBES[0] ** 2, linear, square


def weigh(model: Any, tokens: int, *, bf16: bool, positions: Tensor | None = None) -> int:  # noqa: ANN401
    """Bytes of the tensors, other than weights, that a forward pass over one row saves for the backward pass.

    Args:
        positions: (1, tokens), of a packed row; without contents every row is taken for one.
    """
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}  # kept, so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), position_ids=positions, use_cache=False)
    return sum(storage.nbytes() for storage in seen.values())
