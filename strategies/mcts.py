"""Monte Carlo tree search over steps, several simulations at a time (rules: strategies/visits.py)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from tts_engine.search import Search
from tts_engine.strategies.options import Count, Natural, Positive, Select, Share
from tts_engine.strategies.visits import Rule, Visits, scoring
from tts_engine.together import together
from tts_engine.types import Candidate, Judged, Outcome

Source = Literal["verifier", "rollout", "both"]
"""Where the value of a new node comes from: its verdict, that of a solution completed from it, or their mean."""
Visit = tuple[Candidate | None, float | None]
"""What a simulation brings: a drawn child and its value, either may be missing."""


async def mcts(
    search: Search,
    *,
    n: Count = 32,
    samples: Count = 8,
    rule: Rule = "puct",
    exploration: Positive = 1.0,
    width: Positive = 2.0,
    growth: Share = 0.5,
    value: Source = "verifier",
    parallel: Count = 8,
    eager: bool = False,
    fallback: Natural = 0,
    trust: Share = 0.5,
    select: Select = "weighted",
) -> Outcome:
    """`n` simulations: go down by the rule, draw a step, value it, and tell the nodes above.

    Every ended node and every completed rollout is a candidate for the answer. Simulations run in waves of `parallel`,
    picked and backed up in program order, so that the result does not depend on which ends first.

    Args:
        n: simulations; visiting an ended node again counts as one and costs nothing.
        samples: verifier samples for each new node.
        rule: `puct`, whose prior of a step is the share of draws that gave it, or `uct`.
        exploration: constant of the rule; values are in [0, 1].
        width, growth: a node of v visits gets `width * v ** growth` draws (progressive widening).
        value: of a new node; a solution that ended without an answer has value 0.
        parallel: simulations under way at once; each of them counts as lost until it is back (virtual loss).
        eager: back up on arrival and start the next simulation at once instead of in waves: no waiting, but the result
            depends on the order of arrival. With a budget there are waves all the same.
        fallback: where no candidate is valued at least `trust`, so many plain samples are drawn, and all vote.
        select: how the answer is chosen among the candidates.
    """
    pick = partial(Visits.pick, score=scoring(rule, exploration), width=width, growth=growth)
    simulations = Simulations(search, samples, value, pick)
    run = _stream if eager and not search.limited else _waves
    await run(simulations, n, parallel)
    simulations.annotate()
    pool = simulations.pool
    if fallback and max((judged.rank for judged in pool), default=0.0) < trust:
        size = search.room(fallback, whole=True)
        plain = await search.judged(search.propose(search.root, size, whole=True), 0)
        return await search.finish([*pool, *plain], "majority")
    return await search.finish(pool, select)


class Simulations:
    """A tree of candidates and its visits; equal draws of one parent are one node.

    `pool` holds every candidate that ended.
    """

    def __init__(self, search: Search, samples: int, source: Source, pick: Callable[[Visits], int]) -> None:
        self.search = search
        self.visits = Visits()
        self.pool: list[Judged] = []
        self._pick = pick
        self._samples = samples
        self._source = source
        self._candidates = [search.root]
        self._twins: dict[tuple[int, str, bool, bool], int] = {}

    def room(self, n: int) -> int:
        """How many of `n` simulations can be paid."""
        return self.search.room(n, self._samples, steps=1 if self._source == "verifier" else 2)

    def pick(self) -> int:
        """Where the next simulation goes; it is under way from now on."""
        return self._pick(self.visits)

    async def simulate(self, leaf: int) -> Visit:
        """What a visit to `leaf` brings; changes nothing in the tree."""
        if self.visits.closed[leaf]:
            return None, self.visits.mean(leaf)
        drawn = await self.search.extend(self._candidates[leaf])
        return drawn, None if drawn is None else await self._value(drawn)

    def back_up(self, leaf: int, visit: Visit) -> None:
        """Enter what the visit brought."""
        child, value = visit
        if child is not None:
            self.visits.land(leaf, self._node(leaf, child), value)
        elif self.visits.closed[leaf]:
            self.visits.land(leaf, None, value)
        else:
            self.visits.abandon(leaf)

    def annotate(self) -> None:
        """Write visits and mean values into the search tree, for people."""
        for node, candidate in enumerate(self._candidates):
            data = self.search.tree.nodes[str(candidate.key)]
            data.update(visits=self.visits.visits[node], mean=self.visits.mean(node))

    def _node(self, leaf: int, child: Candidate) -> int:
        twin = (leaf, child.steps[-1].text, child.done, child.dead)
        node = self._twins.get(twin)
        if node is None:
            node = self._twins[twin] = self.visits.add(leaf, closed=child.done or child.dead)
            self._candidates.append(child)
        else:
            self.visits.came[node] += 1
        return node

    async def _value(self, child: Candidate) -> float | None:
        values = []
        if child.done or child.dead or self._source != "rollout":
            values.append(await self._judge(child))
        if not child.done and not child.dead and self._source != "verifier":
            end = await self.search.follow(child, whole=True)
            values.append(await self._judge(end) if end is not None else None)
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known else None

    async def _judge(self, candidate: Candidate) -> float | None:
        judged = await self.search.judge(candidate, self._samples)
        if candidate.done or candidate.dead:
            self.pool.append(judged)
        if candidate.dead or (candidate.done and candidate.answer is None):
            return 0.0
        return None if judged.verdict is None else judged.verdict.value


async def _waves(simulations: Simulations, n: int, parallel: int) -> None:
    while n > 0 and (size := simulations.room(min(parallel, n))):
        leaves = [simulations.pick() for _ in range(size)]
        for leaf, visit in zip(leaves, await together(map(simulations.simulate, leaves)), strict=True):
            simulations.back_up(leaf, visit)
        n -= size


async def _stream(simulations: Simulations, n: int, parallel: int) -> None:
    running: dict[asyncio.Task[Visit], int] = {}
    try:
        while n or running:
            for _ in range(min(n, parallel - len(running))):
                leaf = simulations.pick()
                running[asyncio.create_task(simulations.simulate(leaf))] = leaf
                n -= 1
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                simulations.back_up(running.pop(task), task.result())
    finally:
        for task in running:
            task.cancel()
