"""Supervised fine-tuning on masked documents: batches of a fixed number of tokens, Muon and AdamW, linear decay."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from tts_engine.backends.cores import pick_dtype
from tts_engine.verifiers.training.encode import IGNORE, Document
from tts_engine.verifiers.training.muon import Muon

ROUND = 16
"""Documents are padded to a multiple of so many tokens."""
SHUFFLED = 24
"""Batches among which the next one is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast.

    Attributes:
        tokens: tokens to train on, padding included.
        batch: tokens of a batch, padding included.
        rate: learning rate of Muon's matrices; AdamW's (embeddings, norms) is `rate * adam_share`.
        decay: share of the tokens, at the end, over which the rate falls linearly to 0.
        warmup: share of the tokens, at the beginning, over which it rises from 0.
    """

    tokens: int
    batch: int = 4096
    rate: float = 8e-3
    adam_share: float = 0.5
    decay: float = 0.7
    warmup: float = 0.01

    def rate_at(self, seen: int) -> float:
        """The learning rate after so many tokens."""
        progress = seen / self.tokens
        return self.rate * min(1.0, (progress + 1e-3) / self.warmup, max(0.0, 1 - progress) / self.decay)


def batches(documents: Iterator[Document], size: int, pad: int, rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of at most `size` tokens of documents of like length, padded on the right.

    Lengths are multiples of ROUND, so that few shapes occur: a CPU prepares its kernels for each new one.

    Yields:
        ids and targets, both int64 of shape (documents, length).
    """
    buckets: dict[int, list[Document]] = {}
    ready: list[tuple[Tensor, Tensor]] = []
    for document in documents:
        length = -(-len(document.ids) // ROUND) * ROUND
        bucket = buckets.setdefault(length, [])
        bucket.append(document)
        if (len(bucket) + 1) * length > size:
            ready.append(_stack(buckets.pop(length), length, pad))
        if len(ready) == SHUFFLED:
            yield ready.pop(rng.randrange(SHUFFLED))
    ready += [_stack(bucket, length, pad) for length, bucket in sorted(buckets.items())]
    rng.shuffle(ready)
    yield from ready


def _stack(documents: list[Document], length: int, pad: int) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[*d.ids, *[pad] * (length - len(d.ids))] for d in documents])
    targets = torch.tensor([[*d.targets, *[IGNORE] * (length - len(d.targets))] for d in documents])
    return ids, targets


def optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "head" not in name]
    ids = {id(p) for p in inner}
    fast = pick_dtype("auto", inner[0].device)
    rest = [p for p in model.parameters() if id(p) not in ids]
    return [
        Muon(inner, schedule.rate, dtype=fast),
        torch.optim.AdamW(rest, lr=schedule.rate * schedule.adam_share, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def loss_of(model: LlamaForCausalLM, ids: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the learnt positions, in bfloat16 where the device has it, with float32 logits."""
    fast = pick_dtype("auto", ids.device)
    with torch.autocast(ids.device.type, fast, enabled=fast != torch.float32):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        wanted = (targets.flatten() != IGNORE).nonzero().squeeze(1)
        wanted = nn.functional.pad(wanted, (0, -len(wanted) % 256), value=0)
        logits = model.lm_head(hidden.flatten(0, 1)[wanted])
    return nn.functional.cross_entropy(logits.float(), targets.flatten()[wanted], ignore_index=IGNORE)


def train(
    model: LlamaForCausalLM,
    documents: Iterator[Document],
    schedule: Schedule,
    *,
    seed: int,
    pad: int,
    log: Path | None = None,
    note: dict[str, Any] | None = None,
    every: int = 50,
) -> int:
    """Train in place until the schedule's tokens or the documents are used up; returns the number of batches.

    Args:
        documents: an endless or long enough stream.
        log: JSONL file that gets one line every `every` batches.
        note: goes into the log's first line.
    """
    device = next(model.parameters()).device
    steps = optimizers(model, schedule)
    seen = count = 0
    average = 0.0
    start = time.monotonic()
    lines: list[dict[str, Any]] = [{"schedule": asdict(schedule), "seed": seed, **(note or {})}]
    model.train()
    for ids, targets in batches(documents, schedule.batch, pad, random.Random(seed)):
        rate = schedule.rate_at(seen)
        for optimizer, share in zip(steps, (1.0, schedule.adam_share), strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
        loss = loss_of(model, ids.to(device), targets.to(device))
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steps:
            optimizer.step()
            optimizer.zero_grad()
        seen, count = seen + ids.numel(), count + 1
        average = loss.item() if count == 1 else 0.95 * average + 0.05 * loss.item()
        if count % every == 0 or seen >= schedule.tokens:
            line = {"batch": count, "tokens": seen, "loss": round(average, 4), "rate": round(rate, 6)}
            lines.append(line | {"seconds": round(time.monotonic() - start, 1)})
            if log is not None:
                log.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
        if seen >= schedule.tokens:
            break
    model.eval()
    return count
