"""Attention over a paged key/value cache, for ragged batches packed into one row of tokens.

The cache of all layers is one tensor `[2 * layers, pages, kv_heads, PAGE, head_dim]` (keys of layer l at 2l, values at
2l + 1). A sequence owns pages; a step attends page by page and combines the pages' partial results by their log-sum-exp
(the split-K form of flash decoding), so a token's result is the same bits whatever else is in the batch, as long as
the matrix products underneath treat rows alike (true of oneDNN's bf16 kernels; see `cores.pick_dtype`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAGE = 64
"""Tokens a page holds."""
LOG2E = 1.4426950408889634
"""Scores are kept in base 2: exp of large negative numbers is ten times slower than exp2 on a CPU."""
HIDDEN = -1e30
"""Score of a key that must not be seen: finite, so that a page without visible keys yields weight 0 and not nan."""

Ints = npt.NDArray[np.int64]


class Scratch:
    """Memory to copy pages into, kept: fresh memory costs a CPU ten times the copy."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def take(self, like: Tensor, count: int) -> Tensor:
        """Room for `count` pages of the same kind."""
        if self._buffer is None or len(self._buffer) < count:
            self._buffer = torch.empty((count, *like.shape[1:]), dtype=like.dtype, device=like.device)
        return self._buffer[:count]


@dataclass(eq=False)
class Group:
    """Sequences whose numbers of new tokens were padded to the same M; n sequences, E page entries, c pages at most.

    Attributes:
        queries: index of each new token in the packed batch, [n * M]; padding repeats a real token.
        rows: positions in `queries` that are real (None: all).
        first, count: entries are the pages `first .. first + count` of the pool, read in place, when `pages` is None.
        pages: page of each entry, [E], copied out of the pool (chosen when the sequences' pages lie scattered).
        owner: sequence of each entry, [E].
        where: entry of each sequence's pages, [n * c]; 0 where `missing`.
        missing: which of the [n, c] do not exist.
        keys, limits: position of each entry's first key, [E]; position of each new token, [n, M].
    """

    width: int
    queries: Tensor
    rows: Tensor | None
    first: int
    count: int
    pages: Tensor | None
    owner: Tensor
    where: Tensor
    missing: Tensor
    keys: Tensor
    limits: Tensor
    _bias: dict[int | None, Tensor] = field(default_factory=dict)

    def bias(self, window: int | None) -> Tensor:
        """What to add to the scores so that no token sees a later one, [E, 1, 1, M, PAGE], fp32; once a step."""
        if window not in self._bias:
            keys = self.keys[:, None, None] + torch.arange(PAGE, device=self.keys.device)
            limits = self.limits[self.owner][:, :, None]
            hidden = keys > limits
            if window is not None:
                hidden |= keys <= limits - window
            bias = torch.zeros(hidden.shape, device=keys.device).masked_fill_(hidden, HIDDEN)
            self._bias[window] = bias[:, None, None]
        return self._bias[window]

    def read(self, cache: Tensor, scratch: Scratch) -> Tensor:
        """The entries' keys or values, [E, kv_heads, PAGE, head_dim], contiguous; good until the next read."""
        if self.pages is None:
            return cache[self.first : self.first + self.count]
        return torch.index_select(cache, 0, self.pages, out=scratch.take(cache, len(self.pages)))


@dataclass(eq=False)
class Batch:
    """What the attention layers need to know about one step: where new keys go, and who attends to what."""

    pool: Tensor
    writes: Tensor
    """Flat cache row ((page * kv_heads + head) * PAGE + offset) of each new key, [tokens * kv_heads]."""
    tokens: int
    """How many of the packed tokens are real; the rest is padding."""
    groups: list[Group]
    scratch: Scratch


def make_group(table: Ints, lengths: Ints, fresh: Ints, starts: Ints, width: int, device: torch.device | str) -> Group:
    """Plan the attention of n sequences.

    Args:
        table: pages of each sequence, [n, any]; only as many as `lengths` needs are read.
        lengths: keys of each sequence after this step, [n].
        fresh: new tokens of each sequence, [n], in 1..width.
        starts: index of its first new token in the packed batch, [n].
    """
    chunks = (lengths + PAGE - 1) // PAGE
    exists = np.arange(chunks.max()) < chunks[:, None]
    owner, chunk = np.nonzero(exists)
    pages = table[owner, chunk]
    first, span = int(pages.min()), int(np.ptp(pages)) + 1
    where = np.zeros(exists.shape, np.int64)
    in_place = 2 * span <= 3 * len(pages)  # copying a page costs half of attending to it
    if in_place:
        entry = pages - first
        owner, chunk = _spread(owner, entry, span), _spread(chunk, entry, span)
    else:
        entry = np.arange(len(pages))
    where[exists] = entry
    steps = np.minimum(np.arange(width), fresh[:, None] - 1)
    queries = (starts[:, None] + steps).ravel()

    def put(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Group(
        width=width,
        queries=put(queries),
        rows=None if width == 1 else put(np.flatnonzero(np.arange(width) < fresh[:, None])),
        first=first,
        count=span,
        pages=None if in_place else put(pages),
        owner=put(owner),
        where=put(where.ravel()),
        missing=put(~exists),
        keys=put(chunk * PAGE),
        limits=put(lengths[:, None] - fresh[:, None] + steps),
    )


def _spread(values: Ints, entry: Ints, span: int) -> Ints:
    out = np.zeros(span, np.int64)
    out[entry] = values
    return out


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    group: Group,
    scratch: Scratch,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Causal attention of a group, [n * M, heads * head_dim].

    Args:
        query: [n * M, heads, head_dim], multiplied by the model's scale and LOG2E.
        keys, values: one layer's pages, [pages, kv_heads, PAGE, head_dim].
        group: who attends to what.
        scratch: room for copied pages.
        window: how many keys a token sees (None: all before it).
        softcap: bound of the scores, tanh(score / softcap) * softcap (Gemma 2).
    """
    n, c = group.missing.shape
    m, kv, dim = group.width, keys.shape[1], query.shape[2]
    shared = query.shape[1] // kv  # query heads a key head serves
    rows = query.view(n, m, kv, shared, dim).permute(0, 2, 3, 1, 4).reshape(n, kv * shared * m * dim)
    rows = rows.index_select(0, group.owner).view(-1, shared * m, dim)
    scores = torch.bmm(rows, group.read(keys, scratch).flatten(0, 1).mT).float().view(-1, kv, shared, m, PAGE)
    if softcap is not None:
        scores = torch.tanh(scores / (softcap * LOG2E)) * (softcap * LOG2E)
    scores += group.bias(window)
    peak = scores.amax(-1, keepdim=True)
    weights = scores.sub_(peak).exp2_()
    mass = weights.sum(-1, keepdim=True)
    v = group.read(values, scratch).flatten(0, 1)
    part = torch.bmm(weights.to(v.dtype).view(-1, shared * m, PAGE), v).view(-1, kv, shared, m, dim)
    out = _combine(part, peak, mass, group, n, c)
    return out.permute(0, 3, 1, 2, 4).reshape(n * m, kv * shared * dim).to(query.dtype)


def _combine(part: Tensor, peak: Tensor, mass: Tensor, group: Group, n: int, c: int) -> Tensor:
    """Join the pages' partial results of each sequence: [n, kv, shared, M, head_dim] in fp32."""
    if c == 1:
        return (part.float() / mass).index_select(0, group.where)
    part, peak, mass = (t.index_select(0, group.where).view(n, c, *t.shape[1:]) for t in (part, peak, mass))
    peak = peak.masked_fill(group.missing.view(n, c, 1, 1, 1, 1), 2 * HIDDEN)
    scale = (peak - peak.amax(1, keepdim=True)).exp2_()
    return (part * scale).sum(1) / (mass * scale).sum(1)


def paged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    paged: Batch,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The function transformers' attention modules call: `query` is [1, heads, tokens, head_dim], keys likewise."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    keys, values = paged.pool[2 * layer], paged.pool[2 * layer + 1]
    for cache, new in ((keys, key), (values, value)):
        fresh = new[0, :, : paged.tokens].transpose(0, 1).reshape(-1, new.shape[-1])
        cache.view(-1, new.shape[-1]).index_copy_(0, paged.writes, fresh)
    q = (query[0] * (scaling * LOG2E)).transpose(0, 1)
    out = q.new_zeros(q.shape[0], q.shape[1] * q.shape[2])
    for group in paged.groups:
        result = attend(q.index_select(0, group.queries), keys, values, group, paged.scratch, sliding_window, softcap)
        if group.rows is None:
            out.index_copy_(0, group.queries, result)
        else:
            out.index_copy_(0, group.queries[group.rows], result[group.rows])
    return out.view(1, q.shape[0], q.shape[1], q.shape[2]), None
