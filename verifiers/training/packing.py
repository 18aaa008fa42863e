"""Several documents in one row, blind to one another, and the batches that a model is trained on.

transformers sees from position ids that start again at 0 that a row holds several documents, and keeps attention within
each (its masks for sdpa, eager and flex attention, and variable lengths for flash attention). `blind` tests that on the
model itself, because an architecture may do otherwise.
"""

from __future__ import annotations

import bisect
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tts_engine.verifiers.training.encode import IGNORE
from tts_engine.verifiers.training.masks import Sample

ROUND = 16
"""Batches are padded to a multiple of so many tokens."""


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows of at most `size` tokens, as indices: best-fit decreasing, so nearly full, and the same every time.

    >>> pack([5, 3, 4, 2], 7)
    [[0, 3], [2, 1]]
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect.bisect_left(room, (lengths[index], 0))
        left, row = room.pop(at) if at < len(room) else (size, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        bisect.insort(room, (left - lengths[index], row))
    return rows


def shares(samples: Sequence[Sample], held_out: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out documents; all documents of a group are on the same side.

    The groups are shuffled and taken until the share is reached; at least one group stays on each side.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    if not held_out or len(groups) < 2:
        return list(samples), []
    names = sorted(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    kept: set[str] = set()
    count = 0
    for i in order[:-1]:
        if kept and count >= held_out * len(samples):
            break
        kept.add(names[i])
        count += len(groups[names[i]])
    return [s for s in samples if s.group not in kept], [s for s in samples if s.group in kept]


class Rows(Dataset[dict[str, Tensor]]):
    """Rows of documents, each as ids, positions within its document, and targets (int64, of shape (length,))."""

    def __init__(self, samples: Sequence[Sample], size: int, *, packing: bool) -> None:
        self._samples = samples
        lengths = [len(sample.ids) for sample in samples]
        self._rows = pack(lengths, size) if packing else [[index] for index in range(len(samples))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        parts = [self._samples[i] for i in self._rows[index]]
        return {
            "input_ids": torch.from_numpy(np.concatenate([part.ids for part in parts])).long(),
            "position_ids": torch.cat([torch.arange(len(part.ids)) for part in parts]),
            "labels": torch.from_numpy(np.concatenate([part.targets for part in parts])).long(),
        }

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(sum(len(self._samples[i].ids) for i in row) for row in self._rows)

    @property
    def most_learnt(self) -> int:
        """Most tokens of a row that carry the loss."""
        return max(sum(self._samples[i].learnt for i in row) for row in self._rows)


class Collator:
    """Batches of rows, padded on the right; padding is a document of its own that nobody sees.

    Beside the targets it gives `logits_to_keep`, the columns in which anything is learnt, so that a model which takes
    them computes no other logits (with a vocabulary of 152,000 they would be most of the memory).
    """

    def __init__(self, model: Any, pad: int) -> None:  # noqa: ANN401
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._chooses = "logits_to_keep" in inspect.signature(type(inner).forward).parameters
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        length = longest if len(rows) == 1 else -(-longest // ROUND) * ROUND
        batch = {
            "input_ids": torch.stack([_filled(row["input_ids"], length, self._pad) for row in rows]),
            "labels": torch.stack([_filled(row["labels"], length, IGNORE) for row in rows]),
            "position_ids": torch.stack([_positions(row["position_ids"], length) for row in rows]),
        }
        if self._chooses:
            batch["logits_to_keep"] = learnt_columns(batch["labels"])
        return batch


def _filled(values: Tensor, length: int, filler: int) -> Tensor:
    return nn.functional.pad(values, (0, length - len(values)), value=filler)


def _positions(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, torch.arange(length - len(values))])


def learnt_columns(labels: Tensor) -> Tensor:
    """Indices of the columns of (rows, length) in which any row has a target."""
    return (labels != IGNORE).any(0).nonzero().squeeze(1)


@torch.no_grad()
def blind(model: Any, vocabulary: int) -> bool:  # noqa: ANN401 - a causal LM of any architecture
    """Whether a document in a packed row has the same logits whatever stands before it; `use_cache` has to be off."""
    device = next(model.parameters()).device
    document = torch.arange(1, 9) % vocabulary
    rows = [torch.cat([(first + torch.arange(7)) % vocabulary, document]) for first in (2, 11)]
    positions = torch.cat([torch.arange(7), torch.arange(8)]).expand(2, -1)
    training = model.training
    model.eval()
    both = model(input_ids=torch.stack(rows).to(device), position_ids=positions.to(device)).logits
    model.train(training)
    return torch.allclose(both[0, 7:].float(), both[1, 7:].float(), atol=1e-2, rtol=1e-2)
