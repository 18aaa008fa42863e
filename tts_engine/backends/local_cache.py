"""Who owns which page of the key/value cache, and whose beginning a new prompt shares."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import islice

BLOCK = 16
"""Tokens between two places at which prefixes are looked up."""
LOOK = 16
"""Sequences that are compared token by token."""


class Pages:
    """Free pages, lowest first so that those in use stay close together."""

    def __init__(self, total: int) -> None:
        self._free = list(range(total))

    @property
    def free(self) -> int:
        """How many pages nobody owns."""
        return len(self._free)

    def take(self) -> int:
        """A free page.

        Raises:
            IndexError: there is none.
        """
        return heapq.heappop(self._free)

    def give(self, pages: Iterable[int]) -> None:
        """Hand pages back."""
        for page in pages:
            heapq.heappush(self._free, page)


def chain(tokens: Sequence[int], start: int = 0, before: int = 0) -> list[int]:
    """A hash for each prefix of whole blocks, without the first `start`; `before` is the hash of the last of these."""
    out = []
    for i in range(start * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
        before = hash((before, tuple(tokens[i : i + BLOCK])))
        out.append(before)
    return out


class PrefixIndex:
    """Finds a slot that begins like a prompt: hashed at block boundaries, compared exactly at the end.

    `sequences[slot]` are the tokens of each slot; the caller keeps them up to date.
    """

    def __init__(self, slots: int) -> None:
        self.sequences: list[list[int]] = [[] for _ in range(slots)]
        self._hashes: list[list[int]] = [[] for _ in range(slots)]
        self._holders: dict[int, dict[int, None]] = {}

    def put(self, slot: int, tokens: list[int], hashes: list[int] | None = None) -> None:
        """Make `tokens` the sequence of a slot; `hashes` is their chain, if known."""
        self.drop(slot)
        self.sequences[slot] = tokens
        self._hashes[slot] = chain(tokens) if hashes is None else hashes
        for h in self._hashes[slot]:
            self._holders.setdefault(h, {})[slot] = None

    def extend(self, slot: int, length: int) -> None:
        """Register the first `length` tokens of a slot whose sequence has grown."""
        known = self._hashes[slot]
        tokens = self.sequences[slot][:length]
        new = chain(tokens, len(known), known[-1] if known else 0)
        for h in new:
            self._holders.setdefault(h, {})[slot] = None
        self._hashes[slot] = known + new

    def drop(self, slot: int) -> None:
        """Forget a slot."""
        for h in self._hashes[slot]:
            holders = self._holders[h]
            del holders[slot]
            if not holders:
                del self._holders[h]
        self._hashes[slot] = []
        self.sequences[slot] = []

    def best(self, tokens: Sequence[int], hashes: Sequence[int]) -> tuple[int, int]:
        """The slot with the longest common prefix and that prefix's length; (-1, 0) when no block is shared."""
        depth = 0
        for h in hashes:
            if h not in self._holders:
                break
            depth += 1
        if not depth:
            return -1, 0
        shared = depth * BLOCK
        slot, length = -1, 0
        for holder in islice(reversed(self._holders[hashes[depth - 1]]), LOOK):
            common = shared + alike(tokens, self.sequences[holder], shared, shared + BLOCK)
            if common > length:
                slot, length = holder, common
            if length == len(tokens):
                break
        return (slot, length) if self.sequences[slot][:shared] == tokens[:shared] else (-1, 0)


def alike(a: Sequence[int], b: Sequence[int], start: int, end: int) -> int:
    """Number of equal tokens from `start` on, before `end`."""
    end = min(len(a), len(b), end)
    return next((i - start for i in range(start, end) if a[i] != b[i]), end - start)
