"""The loop of beam search and DVTS: levels of children, of which the best are expanded; no needless waiting.

Without a limit (but time), a child is expanded as soon as it is certain to be kept: the unscored children and the
better ones are fewer than the places. What is made is the same as if every level had waited for its last verdict.
With a limit, money is dealt out between levels, so levels wait (`Gate`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from tts_engine.search import Search
from tts_engine.types import Candidate, Judged

T = TypeVar("T")


class Standing(Enum):
    """What is known of a child that has no score."""

    UNKNOWN = "not generated yet"
    UNSCORED = "generated, to be continued, not judged yet"
    DONE = "ended"
    GONE = "it failed or cannot be continued"


def promised(level: Sequence[float | Standing], n: int, places: int) -> list[int]:
    """How many children each child of a level is certain to get, whatever is still unknown.

    It never falls as more becomes known, and adds up to `n` less the ended ones once all is known: as even as it goes,
    the better first, ties to the earlier.

    Args:
        level: a score for each child, or what is known instead, in program order.
        n: children of the next level, if none of this level ended; `places`: how many children may be expanded.
    """
    shares = [0] * len(level)
    unknown, unscored = level.count(Standing.UNKNOWN), level.count(Standing.UNSCORED)
    scores = {i: score for i, score in enumerate(level) if not isinstance(score, Standing)}
    most = min(places, len(scores) + unscored + unknown)
    least = n - level.count(Standing.DONE) - unknown
    for better, i in enumerate(sorted(scores, key=lambda i: -scores[i])):
        worst = better + unscored + unknown
        if worst >= places or least <= 0:
            break
        shares[i] = least // most + (not unknown and worst < least % most)
    return shares


def spread(children: Sequence[Judged | None], diversity: float) -> list[float | None]:
    """Scores of the children, each lowered by `diversity` for every better one with the same parent, and for every
    better one with the same text; None for those given as None."""
    scores: list[float | None] = [None] * len(children)
    rest = {i: child for i, child in enumerate(children) if child is not None}
    crowd: Counter[object] = Counter()
    while rest:
        alike = {i: sum(crowd[like] for like in _likes(child)) for i, child in rest.items()}
        lowered = {i: child.rank - diversity * alike[i] for i, child in rest.items()}
        best = max(lowered, key=lambda i: (lowered[i], -i))
        scores[best] = lowered[best]
        crowd.update(_likes(rest.pop(best)))
    return scores


def deal(total: int, wants: Sequence[int]) -> list[int]:
    """`total` as evenly as it goes among those who want so many each, the first first."""
    given = [0] * len(wants)
    while total > 0 and given != list(wants):
        for i, want in enumerate(wants):
            if given[i] < want and total > 0:
                given[i] += 1
                total -= 1
    return given


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in order; where one fails, the others are cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


class Gate:
    """Where several lines of work on one problem wait for each other, so that money is dealt out in program order.

    Args:
        parties: number of lines, numbered from 0.
        samples, steps, whole: what each child takes, as for `Search.room`.
    """

    def __init__(self, search: Search, parties: int, samples: int, *, steps: int = 1, whole: bool = False) -> None:
        self._search = search
        self._parties = parties
        self._samples = samples
        self._steps = steps
        self._whole = whole
        self._waiting: dict[int, tuple[int, asyncio.Future[int]]] = {}

    async def room(self, party: int, wanted: int) -> int:
        """How many of the `wanted` children this line may make; without a limit: all, at once."""
        if not self._search.limited:
            return wanted
        share: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[party] = (wanted, share)
        self._open()
        return await share

    def leave(self) -> None:
        """A line has ended: nobody waits for it any more."""
        self._parties -= 1
        self._open()

    def _open(self) -> None:
        if not self._waiting or len(self._waiting) < self._parties:
            return
        asked, self._waiting = [self._waiting[party] for party in sorted(self._waiting)], {}
        wants = [wanted for wanted, _ in asked]
        size = self._search.room(sum(wants), self._samples, steps=self._steps, whole=self._whole)
        for (_, share), given in zip(asked, deal(size, wants), strict=True):
            share.set_result(given)


@dataclass(slots=True, eq=False)
class _Child:
    task: asyncio.Task[None] | None = None
    candidate: Candidate | None = None
    judged: Judged | None = None
    settled: bool = False

    @property
    def standing(self) -> float | Standing:
        if self.candidate is None:
            return Standing.GONE if self.settled else Standing.UNKNOWN
        if self.candidate.done:
            return Standing.DONE
        if self.candidate.dead:
            return Standing.GONE
        return self.judged.rank if self.judged is not None else Standing.UNSCORED


@dataclass(kw_only=True)
class Beam:
    """One beam; `run` gives its ended candidates.

    Attributes:
        gate: where it waits for the others, as number `party`.
        n: children a level; the beam ends when so many have ended, or when nothing is left to expand.
        widths: children of each survivor, by level; the last one holds for all further levels.
        samples: verifier samples for each child.
        every: steps that a child adds, judged at their end.
        lookahead: further steps that are made before a child is judged by what comes out.
        diversity: what a better sibling or twin takes off a child's score.
    """

    search: Search
    gate: Gate
    party: int = 0
    n: int
    widths: Sequence[int]
    samples: int
    every: int = 1
    lookahead: int = 0
    diversity: float = 0.0

    async def run(self) -> list[Judged]:
        """Expand level by level until enough have ended."""
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            return await self._levels()
        finally:
            for task in self._tasks:
                task.cancel()
            self.gate.leave()

    async def _levels(self) -> list[Judged]:
        ended: list[Judged] = []
        level = [self._start(self.search.root) for _ in range(await self.gate.room(self.party, self.n))]
        depth = 0
        while level:
            places = max(1, self.n // self.widths[min(depth, len(self.widths) - 1)])
            begun: list[list[_Child]] = [[] for _ in level]
            while not all(child.settled for child in level):
                await self._news.wait()
                self._news.clear()
                if not self.search.limited and not self.diversity:
                    self._expand(level, begun, promised(_standings(level), self.n - len(ended), places))
            just_ended = [child.judged for child in level if child.judged is not None and child.judged.candidate.done]
            ended += just_ended
            size = await self.gate.room(self.party, self.n - len(ended)) if self._goes_on(level, ended) else 0
            self._expand(level, begun, promised(self._final(level), size + len(just_ended), places))
            level = [child for family in begun for child in family]
            depth += 1
        return ended

    def _goes_on(self, level: Sequence[_Child], ended: Sequence[Judged]) -> bool:
        """Whether there is anything to expand; a child's unexpected error is raised here."""
        for child in level:
            if child.task is not None:
                child.task.result()
        return len(ended) < self.n and any(isinstance(standing, float) for standing in _standings(level))

    def _final(self, level: Sequence[_Child]) -> list[float | Standing]:
        standings = _standings(level)
        if not self.diversity:
            return standings
        alive = [child.judged if isinstance(child.standing, float) else None for child in level]
        lowered = spread(alive, self.diversity)
        return [standing if new is None else new for standing, new in zip(standings, lowered, strict=True)]

    def _expand(self, level: Sequence[_Child], begun: list[list[_Child]], shares: Sequence[int]) -> None:
        for child, family, share in zip(level, begun, shares, strict=True):
            while child.candidate is not None and len(family) < share:
                family.append(self._start(child.candidate))

    def _start(self, node: Candidate) -> _Child:
        child = _Child()
        child.task = asyncio.create_task(self._pursue(child, node))
        self._tasks.add(child.task)
        child.task.add_done_callback(self._tasks.discard)
        return child

    async def _pursue(self, child: _Child, node: Candidate) -> None:
        try:
            async for candidate in self.search.propose(node, 1, steps=self.every):
                child.candidate = candidate
                self._news.set()
                child.judged = await self.search.judge(candidate, self.samples, ahead=self.lookahead)
        finally:
            child.settled = True
            self._news.set()


def _standings(level: Sequence[_Child]) -> list[float | Standing]:
    return [child.standing for child in level]


def _likes(judged: Judged) -> tuple[object, object]:
    """What makes two candidates alike: their parent, their text."""
    return judged.candidate.parent, judged.candidate.text
