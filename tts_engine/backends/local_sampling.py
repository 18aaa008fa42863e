"""Drawing tokens for a whole batch: one uniform number a token, from a counter, then the inverse CDF.

A draw depends on the request's seed and the token's position alone, never on the rest of the batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FIRST_LOOK = 128
"""Tokens looked at before all of them are sorted for top-p."""


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """A number in [0, 1) for each (seed, position), by splitmix64 (Steele, Lea and Flood 2014)."""
    z = seeds + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    out: npt.NDArray[np.float32] = (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return out


def draw(logits: Tensor, uniform: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, filtered: bool) -> Tensor:
    """Sample a token for each row: [n] int64.

    Args:
        logits: [n, V], fp32.
        uniform, temperature, top_k, top_p: [n]; temperature 0 is greedy, top_k 0 and top_p 1 are off.
        filtered: whether any row uses top_k or top_p.
    """
    greedy = temperature == 0
    probs = torch.softmax(logits / torch.where(greedy, 1.0, temperature)[:, None], -1)
    if filtered:
        rows = torch.nonzero(((top_k > 0) | (top_p < 1)) & ~greedy).flatten()
        if len(rows):
            probs[rows] = keep_likely(probs[rows], top_k[rows], top_p[rows])
    cdf = probs.cumsum(-1)
    tokens = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True).flatten()
    return torch.where(greedy, logits.argmax(-1), tokens)


def keep_likely(probs: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Zero what top-k, then top-p (of what top-k left) drop; tokens as likely as the last one kept are kept."""
    vocabulary = probs.shape[1]
    k = torch.where(top_k > 0, top_k, vocabulary).clamp_(max=vocabulary)
    width = min(vocabulary, max(FIRST_LOOK, int(top_k.max())))
    ordered = probs.topk(width).values
    unbounded = (top_k == 0) & (ordered.sum(-1) < top_p)
    if width < vocabulary and bool(unbounded.any()):
        ordered = probs.sort(-1, descending=True).values
        width = vocabulary
    cumulative = ordered.cumsum(-1)
    total = torch.where(top_k > 0, cumulative.gather(1, k.clamp(max=width)[:, None] - 1)[:, 0], 1.0)
    ahead = cumulative - ordered
    inside = (ahead < (top_p * total)[:, None]) & (torch.arange(width, device=probs.device) < k[:, None])
    last = inside.sum(-1).clamp_(min=1) - 1
    return probs.masked_fill(probs < ordered.gather(1, last[:, None]), 0.0)
