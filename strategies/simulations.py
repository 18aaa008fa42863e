"""The simulations of mcts.py: the visits that they make, some ahead of time, and what these leave in the tree."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from tts_engine.search import Search, answered
from tts_engine.strategies.visits import Visits
from tts_engine.together import end
from tts_engine.types import Candidate, Judged, Key

Source = Literal["verifier", "rollout", "both"]
"""Where the value of a new node comes from: its verdict, that of a solution completed from it, or their mean."""

ROLLOUT = "rollout"
"""Name of the child that a node is valued by."""


@dataclass(slots=True, eq=False)
class Visit:
    """What a simulation brings, as far as it is known.

    Attributes:
        task: ends when all is known; None where there is nothing to be done.
        ahead: it was begun before a simulation asked for it.
        made: the drawn child, and the end of its rollout.
        value: of the child, or of the ended node that was visited again.
        ended: candidates for the answer.
    """

    task: asyncio.Task[None] | None = None
    ahead: bool = False
    made: list[Candidate] = field(default_factory=list)
    value: float | None = None
    ended: list[Judged] = field(default_factory=list)

    async def over(self) -> Visit:
        """Itself, when all is known; raises what went wrong."""
        if self.task is not None:
            await self.task
        return self


class Simulations:
    """A tree of candidates and its visits; equal draws of one parent are one node.

    With `speculate`, so many visits at a time are made ahead: where the next simulations would go if those under way
    brought nothing, below children that are still being valued, and to the end of the best candidate as long as there
    is no answer. A node's draws have an order, and a simulation gets the next one, whether it was made ahead or not: so
    all visits are those that would have been made without. What nobody asks for is thrown away.

    Attributes:
        visits: the counts.
        pool: every candidate that ended.
    """

    def __init__(
        self, search: Search, samples: int, source: Source, pick: Callable[[Visits], int], speculate: int = 0
    ) -> None:
        self.visits = Visits()
        self.pool: list[Judged] = []
        self._search = search
        self._samples = samples
        self._source = source
        self._pick = pick
        self._speculate = speculate
        self._candidates = [search.root]
        self._twins: dict[tuple[int, str, bool, bool], int] = {}
        self._ahead: dict[Key, deque[Visit]] = {}
        self._ending: dict[Key, Visit] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def room(self, n: int) -> int:
        """How many of `n` simulations can be paid."""
        if self._speculate:
            return n
        return self._search.room(n, self._samples, steps=1 if self._source == "verifier" else 2)

    def pick(self) -> int:
        """Where the next simulation goes; it is under way from now on."""
        return self._pick(self.visits)

    def visit(self, leaf: int) -> Visit:
        """A visit to `leaf`, made ahead or begun now; changes nothing in the tree."""
        if self.visits.closed[leaf]:
            return Visit(value=self.visits.mean(leaf))
        node = self._candidates[leaf]
        waiting = self._ahead.get(node.key)
        return waiting.popleft() if waiting else self._begin(node)

    def back_up(self, leaf: int, visit: Visit) -> None:
        """Enter what the visit brought."""
        self.pool += visit.ended
        if visit.made:
            self.visits.land(leaf, self._node(leaf, visit.made[0]), visit.value)
        elif self.visits.closed[leaf]:
            self.visits.land(leaf, None, visit.value)
        else:
            self.visits.abandon(leaf)

    def look_ahead(self, n: int) -> None:
        """Begin visits that the next simulations, of which `n` are still to come, will probably ask for."""
        if not self._speculate:
            return
        leaves: list[int] = []
        for _ in range(min(n, self._speculate)):
            leaves.append(self.pick())
            if not self.visits.children[leaves[-1]] and self.visits.draws[leaves[-1]] > 1:
                break  # nobody knows yet where it goes from there
        for leaf in reversed(leaves):
            self.visits.forget(leaf)
        for leaf, count in Counter(leaves).items():
            if not self.visits.closed[leaf]:
                self._expect(self._candidates[leaf], count)
        if not answered(self.pool):
            self._expect_end()

    async def finish(self) -> None:
        """All simulations are over: throw away what nobody asked for, and end a search ahead that has no answer."""
        self._drop(visit for waiting in self._ahead.values() for visit in waiting)
        self._ahead.clear()
        if self._speculate and not answered(self.pool):
            visit = await self._expect_end().over()
            if answered(visit.ended):
                self.pool += visit.ended
                self._ending.clear()
        self._drop(self._ending.values())
        self._ending.clear()

    async def close(self) -> None:
        """End what is still under way."""
        await end(*self._tasks)

    def annotate(self) -> None:
        """Write visits and mean values into the search tree, for people."""
        for node, candidate in enumerate(self._candidates):
            data = self._search.tree.nodes[str(candidate.key)]
            data.update(visits=self.visits.visits[node], mean=self.visits.mean(node))

    def _expect(self, node: Candidate, count: int) -> None:
        """Have at least so many visits to `node` made ahead."""
        waiting = self._ahead.setdefault(node.key, deque())
        waiting.extend(self._begin(node, ahead=True) for _ in range(count - len(waiting)))

    def _expect_end(self) -> Visit:
        """The completion of the candidate that is best by now, in place of that of an earlier one."""
        best = self._search.best_open()
        if best.key not in self._ending:
            self._drop(self._ending.values())
            self._ending = {best.key: self._launch(Visit(), partial(self._complete, best))}
        return self._ending[best.key]

    def _begin(self, node: Candidate, *, ahead: bool = False) -> Visit:
        return self._launch(Visit(ahead=ahead), partial(self._extend, node))

    def _launch(self, visit: Visit, make: Callable[[Visit], Coroutine[Any, Any, None]]) -> Visit:
        task = visit.task = asyncio.create_task(make(visit))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return visit

    def _drop(self, visits: Iterable[Visit]) -> None:
        """Cancel visits; what they made leaves the tree, and what it cost is wasted."""
        for visit in visits:
            if visit.task is not None:
                visit.task.cancel()
            for candidate in reversed(visit.made):
                self._search.discard(candidate)

    async def _extend(self, node: Candidate, visit: Visit) -> None:
        child = await self._search.extend(node)
        if child is not None:
            visit.made.append(child)
            if self._speculate and not (visit.ahead or child.done or child.dead):
                self._expect(child, 1)
            visit.value = await self._value(visit, child)

    async def _complete(self, node: Candidate, visit: Visit) -> None:
        candidate = await self._search.complete(node)
        if candidate is not None:
            visit.made.append(candidate)
            visit.ended.append(await self._search.judge(candidate, 0))

    def _node(self, leaf: int, child: Candidate) -> int:
        twin = (leaf, child.steps[-1].text, child.done, child.dead)
        node = self._twins.get(twin)
        if node is None:
            node = self._twins[twin] = self.visits.add(leaf, closed=child.done or child.dead)
            self._candidates.append(child)
        else:
            self.visits.came[node] += 1
            self._drop(self._ahead.pop(child.key, ()))
        return node

    async def _value(self, visit: Visit, child: Candidate) -> float | None:
        values = []
        if child.done or child.dead or self._source != "rollout":
            values.append(await self._judge(visit, child))
        if not child.done and not child.dead and self._source != "verifier":
            further = await self._search.complete(child, ROLLOUT)
            if further is not None:
                visit.made.append(further)
                values.append(await self._judge(visit, further))
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known else None

    async def _judge(self, visit: Visit, candidate: Candidate) -> float | None:
        judged = await self._search.judge(candidate, self._samples)
        if candidate.done or candidate.dead:
            visit.ended.append(judged)
        if candidate.dead or (candidate.done and candidate.answer is None):
            return 0.0
        return None if judged.verdict is None else judged.verdict.value
