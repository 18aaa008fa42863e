"""Slots: the sequences that have a place in the cache, running or kept for their prefix, and their pages.

Plain bookkeeping on numbers; the cache's tensor is somewhere else.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from tts_engine.backends.local_attention import PAGE, Ints
from tts_engine.backends.local_cache import BLOCK, Pages, PrefixIndex

FULL, BUSY = -1, -2
"""No slot or page is free; the prefix to be shared is still being computed (try after the next step)."""


class Slots:
    """Slots of one engine.

    Attributes:
        tokens: tokens of each slot, a list a slot; the first `computed[slot]` have keys in the cache.
        length: how many tokens each slot has.
        table: pages of each slot, [slots, most]; the first `owned[slot]` are valid.
    """

    def __init__(self, slots: int, context: int, pages: int) -> None:
        self._index = PrefixIndex(slots)
        self._pages = Pages(pages)
        self.tokens = self._index.sequences
        self.length: Ints = np.zeros(slots, np.int64)
        self.computed: Ints = np.zeros(slots, np.int64)
        self.owned: Ints = np.zeros(slots, np.int64)
        self.table: Ints = np.zeros((slots, pages_for(context)), np.int64)
        self._promised: Ints = np.zeros(slots, np.int64)
        self._free = list(range(slots))[::-1]
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._idle_pages = 0
        self._reserved = 0  # pages that running slots may still ask for
        self._unread: set[int] = set()  # slots whose prefix is to be copied before the next step
        self._copies: tuple[list[int], list[int]] = ([], [])

    @property
    def full(self) -> bool:
        """Whether every slot is running."""
        return not self._free and not self._idle

    def admit(self, tokens: list[int], hashes: list[int], most: int) -> int:
        """Give a prompt a slot, with as much of it as possible already computed: the slot, FULL or BUSY.

        Args:
            tokens: the prompt; the slot appends to this list.
            hashes: its `chain`.
            most: tokens the sequence may grow to; pages for all of them are promised.
        """
        source, shared = self._index.best(tokens, hashes)
        shared = min(shared, len(tokens) - 1)
        if source >= 0 and (source in self._unread or self.computed[source] < shared):
            return BUSY
        if self.full or pages_for(most) > self._pages.free + self._idle_pages - self._reserved:
            return FULL
        slot = self._place(source, shared)
        self._index.put(slot, tokens, hashes)
        self.length[slot], self.computed[slot] = len(tokens), shared
        self._promised[slot] = pages_for(most)
        self._reserved += int(self._promised[slot] - self.owned[slot])
        return slot

    def _place(self, source: int, shared: int) -> int:
        """A slot that holds (or will, after the copies) the first `shared` tokens of `source`."""
        if source in self._idle and (self.computed[source] - shared <= BLOCK or self._only_choice(source)):
            self._wake(source)
            self._trim(source, pages_for(shared))
            return source
        if not self._free:
            self._evict()
        if not shared:
            return self._free.pop()
        wanted = pages_for(shared)
        pages = self.table[source, :wanted].tolist()  # read now: the source may be evicted to make room
        slot = self._free.pop()
        self._add_pages(slot, wanted)
        self._copies[0].extend(pages)
        self._copies[1].extend(self.table[slot, :wanted].tolist())
        self._unread.add(slot)
        return slot

    def _only_choice(self, source: int) -> bool:
        return not self._free and len(self._idle) == 1 and source in self._idle

    def copies(self) -> tuple[list[int], list[int]]:
        """Pages to copy now, (from, to). All are to be read before any is written."""
        pending, self._copies = self._copies, ([], [])
        self._unread.clear()
        return pending

    def grow(self, slot: int, tokens: int) -> None:
        """Give a running slot the pages for its first `tokens` tokens."""
        before = int(self.owned[slot])
        self._add_pages(slot, pages_for(tokens))
        self._reserved -= int(self.owned[slot]) - before

    def release(self, slot: int) -> None:
        """End a running slot; its keys stay as a prefix for later prompts until the room is needed."""
        self._reserved -= int(self._promised[slot] - self.owned[slot])
        computed = int(self.computed[slot])
        self._index.extend(slot, computed)
        del self.tokens[slot][computed:]
        self.length[slot] = computed
        self._trim(slot, pages_for(computed))
        self._idle[slot] = None
        self._idle_pages += int(self.owned[slot])

    def forget(self) -> None:
        """Evict everything that is not running."""
        while self._idle:
            self._evict()

    def _wake(self, slot: int) -> None:
        del self._idle[slot]
        self._idle_pages -= int(self.owned[slot])

    def _evict(self) -> None:
        """Forget the slot that was used longest ago."""
        slot = next(iter(self._idle))
        self._wake(slot)
        self._index.drop(slot)
        self._trim(slot, 0)
        self._free.append(slot)

    def _add_pages(self, slot: int, wanted: int) -> None:
        while self.owned[slot] < wanted:
            while not self._pages.free:
                self._evict()
            self.table[slot, self.owned[slot]] = self._pages.take()
            self.owned[slot] += 1

    def _trim(self, slot: int, keep: int) -> None:
        self._pages.give(self.table[slot, keep : self.owned[slot]].tolist())
        self.owned[slot] = min(keep, int(self.owned[slot]))


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE)
