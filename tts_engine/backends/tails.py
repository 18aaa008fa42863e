"""Ends of prompts that a cache of whole blocks does not find: which of its blocks begin with which tokens."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence

from tts_engine.backends.local_cache import alike

MOST = 8192
"""Blocks that are remembered, the latest ones."""
Block = int
Tokens = tuple[int, ...]


class Tails:
    """Blocks, what they follow and the tokens they hold.

    Two texts that part inside a block share its first tokens. Blocks that follow the same are kept sorted by their
    tokens, so that the one with the most in common with a text is beside the place where the text would stand.

    Args:
        most: blocks that are remembered; the oldest is forgotten first.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[Block, tuple[Hashable, Tokens]] = {}
        self._after: dict[Hashable, list[tuple[Tokens, Block]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, block: Block, parent: Hashable, tokens: Sequence[int]) -> None:
        """A block holds these tokens now. `parent` stands for all that is before them."""
        self.drop(block)
        if len(self._known) >= self._most:
            self.drop(next(iter(self._known)))
        held = tuple(tokens)
        self._known[block] = parent, held
        insort(self._after.setdefault(parent, []), (held, block))

    def drop(self, block: Block) -> None:
        """What a block held is no more, if it is known."""
        if block not in self._known:
            return
        parent, tokens = self._known.pop(block)
        siblings = self._after[parent]
        del siblings[bisect_left(siblings, (tokens, block))]
        if not siblings:
            del self._after[parent]

    def find(self, parent: Hashable, tokens: Sequence[int]) -> tuple[Block, int]:
        """The block after `parent` that has the most first tokens in common with these, and how many; 0 if none."""
        wanted = tuple(tokens)
        siblings = self._after.get(parent, [])
        at = bisect_left(siblings, (wanted,))
        best, most = 0, 0
        for held, block in siblings[max(at - 1, 0) : at + 1]:
            common = alike(held, wanted, 0, len(wanted))
            if common > most:
                best, most = block, common
        return best, most

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._after.clear()
