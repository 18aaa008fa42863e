"""The loop of beam search and DVTS: levels of children, of which the best are expanded; no needless waiting.

Without a limit (but time), a child is expanded as soon as it is certain to be kept: the unscored children and the
better ones are fewer than the places. What is made is the same as if every level had waited for its last verdict.
Those that are likely to be kept may be expanded before; the families of losers are cancelled and leave the tree. With a
limit, money is dealt out between levels, so levels wait (`Gate`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tts_engine.search import Search
from tts_engine.strategies.ranks import Standing, chance_to_stay, deal, promised, spread
from tts_engine.types import Candidate, Judged

ALMOST = math.nextafter(1.0, 0.0)
"""The chance of what is all but certain."""


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
    """A place in a level; `family`: the children that it has got so far."""

    task: asyncio.Task[None] | None = None
    candidate: Candidate | None = None
    judged: Judged | None = None
    standing: float | Standing = Standing.UNKNOWN
    settled: bool = False
    family: list[_Child] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a beam is to do.

    Attributes:
        n: children a level; the beam ends when so many have ended, or when nothing is left to expand.
        widths: children of each survivor, by level; the last one holds for all further levels.
        samples: verifier samples for each child.
        every: steps that a child adds, judged at their end.
        lookahead: further steps that are made before a child is judged by what comes out.
        diversity: what a better sibling or twin takes off a child's score.
        speculate: a child is expanded before it is certain to be kept when the chance of that is 1 - `speculate`.
    """

    n: int
    widths: Sequence[int]
    samples: int
    every: int = 1
    lookahead: int = 0
    diversity: float = 0.0
    speculate: float = 0.0

    @property
    def guesses(self) -> bool:
        """Whether it speculates: only where a child is one step and judged as it is, so that it can be undone."""
        return self.speculate > 0 and self.every == 1 and not self.lookahead

    def places(self, depth: int) -> int:
        """How many children of that level may be expanded."""
        return max(1, self.n // self.widths[min(depth, len(self.widths) - 1)])

    def gate(self, search: Search, parties: int = 1) -> Gate:
        """Where beams of this plan wait for each other."""
        return Gate(search, parties, self.samples, steps=self.every + self.lookahead)


class Beam:
    """One beam; `run` gives its ended candidates. It waits for others at `gate`, as number `party`."""

    def __init__(self, search: Search, plan: Plan, gate: Gate, party: int = 0) -> None:
        self._search = search
        self._plan = plan
        self._gate = gate
        self._party = party
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> list[Judged]:
        """Expand level by level until enough have ended."""
        try:
            return await self._levels()
        finally:
            for task in self._tasks:
                task.cancel()
            self._gate.leave()

    async def _levels(self) -> list[Judged]:
        plan, ended = self._plan, list[Judged]()
        level = [self._start(self._search.root) for _ in range(await self._gate.room(self._party, plan.n))]
        depth = 0
        while level:
            while not all(child.settled for child in level):
                await self._news.wait()
                self._news.clear()
                if not self._search.limited and not plan.diversity:
                    self._promote([(child, 1.0) for child in level], depth, len(ended))
            just_ended = [child.judged for child in level if child.judged is not None and child.judged.candidate.done]
            ended += just_ended
            size = await self._gate.room(self._party, plan.n - len(ended)) if self._goes_on(level, ended) else 0
            shares = promised(self._final(level), size + len(just_ended), plan.places(depth))
            for child, share in zip(level, shares, strict=True):
                self._expand(child, share)
                self._discard(child, share)
            level = [child for parent in level for child in parent.family]
            depth += 1
        return ended

    def _promote(self, level: Sequence[tuple[_Child, float]], depth: int, ended: int, may_end: int = 0) -> None:
        """Expand those of a level that are certain to be kept or likely enough, and of the levels below.

        Args:
            level: those of its children that there are, each with the chance that it has a place here; 1 is certain.
            ended: how many have ended in earlier levels; `may_end`: how many more of them may.
        """
        size, places = self._plan.n - ended, self._plan.places(depth)
        sure = [child for child, chance in level if chance == 1]
        known = [*(child.standing for child in sure), *[Standing.UNKNOWN] * (size - len(sure))]
        shares = dict(zip(sure, promised(known, size - may_end, places), strict=False))
        guesses = self._guesses(level, size, places) if self._plan.guesses else {}
        below: list[tuple[_Child, float]] = []
        for child, _ in level:
            share, (hoped, chance) = shares.get(child, 0), guesses.get(child, (0, 0.0))
            if not (share or hoped or child.family):
                continue
            if max(share, hoped) > len(child.family):
                self._expand(child, max(share, hoped))
            below += [(kin, 1.0 if place < share else min(chance, ALMOST)) for place, kin in enumerate(child.family)]
        if below:
            ended, may_end = ended + known.count(Standing.DONE), may_end + known.count(Standing.UNKNOWN)
            self._promote(below, depth + 1, ended, may_end)

    def _guesses(
        self, level: Sequence[tuple[_Child, float]], size: int, places: int
    ) -> dict[_Child, tuple[int, float]]:
        """How many children each scored child will probably get, and the chance of that; certain losers are left."""
        scored = [(child.standing, child, chance) for child, chance in level if isinstance(child.standing, float)]
        scored.sort(key=lambda each: each[0], reverse=True)
        others = [child.standing for child, _ in level if not isinstance(child.standing, float)]
        ended = others.count(Standing.DONE)
        rest = max(0, size - ended - others.count(Standing.GONE) - len(scored))
        hoped = -(-(size - ended) // max(1, min(places, len(scored) + rest)))
        guesses, above = {}, 0
        for better, (_, child, here) in enumerate(scored):
            chance = here * chance_to_stay(better, len(scored), rest, places)
            if above >= places:
                self._discard(child, 0)
            else:
                guesses[child] = (hoped if chance >= 1 - self._plan.speculate else 0, chance)
            above += here == 1
        return guesses

    def _goes_on(self, level: Sequence[_Child], ended: Sequence[Judged]) -> bool:
        """Whether there is anything to expand; a child's unexpected error is raised here."""
        for child in level:
            if child.task is not None:
                child.task.result()
        return len(ended) < self._plan.n and any(isinstance(child.standing, float) for child in level)

    def _final(self, level: Sequence[_Child]) -> list[float | Standing]:
        standings = [child.standing for child in level]
        if not self._plan.diversity:
            return standings
        alive = [child.judged if isinstance(child.standing, float) else None for child in level]
        lowered = spread(alive, self._plan.diversity)
        return [standing if new is None else new for standing, new in zip(standings, lowered, strict=True)]

    def _expand(self, child: _Child, share: int) -> None:
        while child.candidate is not None and len(child.family) < share:
            child.family.append(self._start(child.candidate))

    def _discard(self, child: _Child, share: int) -> None:
        """Take from `child` what it has been given beyond its share: cancelled, or thrown away."""
        for lost in child.family[share:]:
            self._discard(lost, 0)
            if lost.task is not None:
                lost.task.cancel()
            if lost.candidate is not None:
                self._search.discard(lost.candidate)
        del child.family[share:]

    def _start(self, node: Candidate) -> _Child:
        child = _Child()
        child.task = asyncio.create_task(self._pursue(child, node))
        self._tasks.add(child.task)
        child.task.add_done_callback(self._tasks.discard)
        return child

    async def _pursue(self, child: _Child, node: Candidate) -> None:
        plan = self._plan
        try:
            child.candidate = await self._search.extend(node, steps=plan.every)
            child.standing = _before_judgement(child.candidate)
            self._news.set()
            if child.candidate is not None:
                child.judged = await self._search.judge(child.candidate, plan.samples, ahead=plan.lookahead)
                if child.standing is Standing.UNSCORED:
                    child.standing = child.judged.rank
        finally:
            if child.candidate is None:
                child.standing = Standing.GONE
            child.settled = True
            self._news.set()


def _before_judgement(candidate: Candidate | None) -> Standing:
    if candidate is None or candidate.dead:
        return Standing.GONE
    return Standing.DONE if candidate.done else Standing.UNSCORED
