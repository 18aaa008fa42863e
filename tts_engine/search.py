"""The handle that a strategy talks to: propose steps, judge them, finish with an answer.

A strategy sees no model, no prompt and no socket, and decides nothing by order of arrival: children have keys in
program order, verdicts depend on the text alone, and money is dealt out in lanes at `room`, the barrier between waves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import networkx as nx

from tts_engine.calls import Calls
from tts_engine.compute.ledger import Hold, Scope
from tts_engine.errors import (
    BackendError,
    BudgetExhausted,
    GraderError,
    SandboxError,
    TTSError,
    UsageError,
    VerifierError,
)
from tts_engine.formats.answers import compared, grade
from tts_engine.judging import Critique, Judge, judge_candidate
from tts_engine.policy import Policy, Writer
from tts_engine.selection import select as choose
from tts_engine.together import Arrivals
from tts_engine.tree import candidate_data, verdict_data
from tts_engine.types import Candidate, Failure, Judged, Key, Outcome, Place, Problem, Usage

PLACES: Mapping[type[TTSError], Place] = {
    BudgetExhausted: "budget",
    SandboxError: "sandbox",
    VerifierError: "verifier",
    GraderError: "grader",
    BackendError: "backend",
    TTSError: "strategy",
}
"""Where an error is attributed: the first kind that fits."""
END = "end"
"""Name of the child that ends a search without an answer."""
Write = Callable[..., Awaitable[Candidate]]
"""Makes a candidate, given `key` and `calls`."""
OnNode = Callable[[Mapping[str, Any]], None]


class Search:
    """One problem being solved.

    Args:
        problem: what is asked.
        policy: extends candidates.
        judge: the verifier opened on this problem; None for strategies that do not verify.
        calls: pays for and makes the model calls; its scope is this problem's.
        key: root of all random draws.
        allowance: upper bound of one solution by the policy, held back so that there is always an answer.
        step_allowance: upper bound of one step by the policy.
        cost_ratio: first guess of what one verifier sample costs, in costs of generating what it judges.
        on_node: hears of every node that was made or judged: what the tree says of it, its `id` and its `parent`.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        policy: Policy,
        judge: Judge | None,
        calls: Calls,
        key: Key,
        allowance: Usage | None = None,
        step_allowance: Usage | None = None,
        cost_ratio: float = 4.0,
        on_node: OnNode | None = None,
    ) -> None:
        self.problem = problem
        self.root = Candidate(problem=problem, key=key)
        self.failures: list[Failure] = []
        self.tree: nx.DiGraph[str] = nx.DiGraph()
        self.tree.add_node(str(key), text=problem.prompt, depth=0)
        self._policy = policy
        self._judge = judge
        self._calls = calls
        self._scope = calls.scope
        self._lanes: list[Scope] = []
        self._lane_of: dict[Key, Scope] = {}
        self._children: dict[Key, int] = {}
        self._judged: dict[Key, Judged] = {}
        self._allowance = allowance
        self._step_allowance = step_allowance
        self._held: Hold | None = self._hold(allowance)
        self._ratio = cost_ratio
        self._on_node = on_node
        self._short = False

    @property
    def spent(self) -> Usage:
        """What this problem has cost so far, both models."""
        return self._scope.total

    @property
    def limited(self) -> bool:
        """Whether there is a limit besides time: then waves go through `room`, so that money is dealt out fairly."""
        return self._calls.limited

    def value_calls(self, worth: float) -> None:
        """What the calls from now on are expected to gain for their cost, above 0: where the models share a device,
        places go to the roles in proportion."""
        self._calls = replace(self._calls, worth=worth)

    def room(self, n: int, samples: int = 0, *, whole: bool = False, steps: int = 1) -> int:
        """The barrier between two waves: refunds what the last one left over and deals out money for the next.

        Args:
            n: candidates wanted, each to be extended (by `steps` steps, or to its end when `whole`) and judged with
                `samples` samples.

        Returns:
            How many of them can probably be paid, at most `n`; 0 when the search has to finish.
        """
        self._close_lanes()
        if self._judge is not None:
            self._judge.publish()
        size = max(0, min(n, self._affordable(samples, whole, steps)))
        self._short = self._short or size < n
        self._lanes = self._scope.split(size, "lane") if size else []
        return size

    async def propose(
        self, node: Candidate, n: int, *, whole: bool = False, steps: int = 1
    ) -> AsyncIterator[Candidate]:
        """Extend `node` `n` times by `steps` steps (or to its end when `whole`); yields in order of completion.

        A child that cannot be made is recorded in `failures` and not yielded; one of several steps of which a later one
        fails is yielded as far as it came.
        """
        keys = self._keys(node, n)
        tasks = [
            asyncio.create_task(self._extend(node, key, lane, whole, steps))
            for key, lane in zip(keys, self._take_lanes(n), strict=True)
        ]
        try:
            arrivals = Arrivals(tasks)
            for _ in tasks:
                candidate = await arrivals.next()
                if candidate is not None:
                    yield candidate
        finally:
            for task in tasks:
                task.cancel()

    async def extend(self, node: Candidate, *, steps: int = 1) -> Candidate | None:
        """Extend `node` once, as `propose` does; None (and a failure) where that was not possible."""
        return await self._extend(node, self._keys(node, 1)[0], self._take_lanes(1)[0], False, steps)

    async def follow(self, node: Candidate, *, steps: int = 1) -> Candidate | None:
        """The same with the money that was dealt to `node`."""
        return await self._extend(node, self._keys(node, 1)[0], self._lane(node), False, steps)

    async def complete(self, node: Candidate, name: str = END) -> Candidate | None:
        """The end of `node` under a key of that name: the same whenever it is asked for; None where that failed.

        It is paid with what was dealt to `node`, if that is still there.
        """
        lane = self._lane_of.get(node.key) or self._take_lanes(1)[0]
        return await self._extend(node, node.key.child(name), lane, True, 1)

    def best_open(self) -> Candidate:
        """The best candidate that can be carried on, by its verdict, then by its depth; at first the root."""
        known = self._judged.values()
        open_ends = [judged for judged in known if not judged.candidate.done and not judged.candidate.dead]
        if not open_ends:
            return self.root
        most = max(map(promise, open_ends))
        return min((judged for judged in open_ends if promise(judged) == most), key=program_order).candidate

    def discard(self, candidate: Candidate) -> None:
        """Throw a candidate away that was made on speculation: it leaves the tree, and what it cost is wasted."""
        name = str(candidate.key)
        del self._judged[candidate.key]
        self.tree.remove_node(name)
        lane = self._lane(candidate)
        for (role, model), usage in lane.accounts.items():
            self._calls.within(lane).waste(role, model, usage.tokens - usage.wasted)

    async def refine(self, candidate: Candidate, critique: Critique) -> Candidate | None:
        """A new solution by the policy after a critique of one step of `candidate`; None where it failed.

        Raises:
            TTSError: the policy cannot do that.
        """
        writer, step = self._writer(), candidate.steps[critique.step].text
        return await self._rewrite(candidate, 0, partial(writer.refine, candidate, step, critique.text))

    async def resume(self, candidate: Candidate, words: str) -> Candidate | None:
        """An ended candidate carried on to another end: its next step begins with `words`; None where it failed.

        Raises:
            TTSError: the policy cannot do that.
        """
        return await self._rewrite(candidate, candidate.depth, partial(self._writer().resume, candidate, words))

    async def judge(self, candidate: Candidate, samples: int, *, ahead: int = 0) -> Judged:
        """The candidate with the verifier's verdict over all its steps; without one where none could be had, and where
        nothing is paid for it: a candidate that ended without an answer cannot win.

        With `ahead`, an unfinished candidate gets the verdict of what `ahead` further steps make of it (lookahead).
        """
        if ahead and not candidate.done and not candidate.dead:
            further = await self.follow(candidate, steps=ahead)
            verdict = (await self.judge(further, samples)).verdict if further else None
            return self._note(Judged(candidate=candidate, verdict=verdict))
        verdict = None
        hopeless = candidate.dead or (candidate.done and candidate.answer is None)
        if self._judge is not None and samples > 0 and candidate.steps and not hopeless:
            calls = self._calls.within(self._lane(candidate))
            try:
                verdict = await judge_candidate(self._judge, candidate, samples, calls)
            except TTSError as error:
                self._record(error, candidate.key)
        return self._note(Judged(candidate=candidate, verdict=verdict))

    async def judged(self, candidates: AsyncIterator[Candidate], samples: int, *, ahead: int = 0) -> list[Judged]:
        """Judge candidates as they arrive; the result is in program order (by key)."""
        tasks: list[asyncio.Task[Judged]] = []
        unjudged: list[Judged] = []
        try:
            async for candidate in candidates:
                if samples > 0 or ahead:
                    tasks.append(asyncio.create_task(self.judge(candidate, samples, ahead=ahead)))
                else:
                    unjudged.append(self._note(Judged(candidate=candidate)))
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return sorted([*results, *unjudged], key=program_order)

    async def finish(self, pool: Sequence[Judged], select: str, weights: Mapping[Key, float] | None = None) -> Outcome:
        """Choose among the finished candidates of `pool`; where none has an answer, complete the best unfinished one
        from the allowance that was held back. `weights`: how much the vote of each candidate counts, 1 if None."""
        self._close_lanes()
        pool = sorted(pool, key=program_order)
        if not answered(pool):
            pool, weights = [*pool, *await self._last_resort()], None
        await self.compare(pool)
        return self.outcome(pool, select, weights)

    async def compare(self, pool: Iterable[Judged]) -> None:
        """Find out which of the pool's answers are the same, and right, without holding up the event loop; what groups
        or grades them next finds it remembered."""
        await compared((judged.candidate.answer for judged in pool), self.problem.answer)

    def outcome(self, pool: Sequence[Judged], select: str, weights: Mapping[Key, float] | None = None) -> Outcome:
        """The outcome for candidates as they are, without another call."""
        ended = [judged for judged in pool if judged.candidate.done or judged.candidate.dead]
        counts = None if weights is None else [weights[judged.candidate.key] for judged in ended]
        selection = choose(ended, select, self.problem.answer, counts)
        chosen = None if selection.chosen is None else str(ended[selection.chosen].candidate.key)
        self.tree.graph.update(answer=selection.answer, chosen=chosen)
        return Outcome(
            problem=self.problem,
            answer=selection.answer,
            correct=self._grade(selection.answer),
            chosen=selection.chosen,
            candidates=tuple(ended),
            usage=self._scope.spent,
            stop_reason=self._stop_reason(selection.answer),
            failures=tuple(sorted(self.failures, key=lambda failure: (failure.key, failure.message))),
            tree=self._export(),
        )

    def best_so_far(self, select: str) -> Outcome:
        """What the search has when it is stopped from outside: everything that was finished and judged."""
        self._close_lanes()
        return self.outcome(sorted(self._judged.values(), key=program_order), select)

    async def _last_resort(self) -> list[Judged]:
        if self._held:
            self._held.release()
        self._lanes = self._scope.split(1, "finish")
        candidate = await self.complete(self.best_open())
        return [] if candidate is None else [await self.judge(candidate, 0)]

    async def _extend(self, node: Candidate, key: Key, lane: Scope, whole: bool, steps: int) -> Candidate | None:
        candidate = await self._make(node, node.depth, key, lane, partial(self._policy, node, whole=whole))
        while candidate and steps > 1 and not candidate.done and not candidate.dead:
            steps -= 1
            further = await self._extend(candidate, self._keys(candidate, 1)[0], lane, whole, 1)
            if further is None:
                break
            candidate = further
        return candidate

    async def _rewrite(self, node: Candidate, first: int, write: Write) -> Candidate | None:
        (key,), (lane,) = self._keys(node, 1), self._take_lanes(1)
        return await self._make(node, first, key, lane, write)

    async def _make(self, node: Candidate, first: int, key: Key, lane: Scope, write: Write) -> Candidate | None:
        """What `write` makes of `node`, paid by `lane`; its steps from `first` on are new."""
        self._lane_of[key] = lane
        try:
            candidate = await write(key=key, calls=self._calls.within(lane))
        except TTSError as error:
            self._record(error, key)
            return None
        name = str(key)
        self.tree.add_node(name, **candidate_data(candidate, first))
        self.tree.add_edge(str(node.key), name)
        self._judged[key] = Judged(candidate=candidate)
        self._tell(candidate)
        return candidate

    def _keys(self, node: Candidate, n: int) -> list[Key]:
        """Keys of the next `n` children of `node`, in program order."""
        first = self._children.get(node.key, 0)
        self._children[node.key] = first + n
        return [node.key.child(first + i) for i in range(n)]

    def _lane(self, candidate: Candidate) -> Scope:
        return self._lane_of.get(candidate.key, self._scope)

    def _writer(self) -> Writer:
        if not isinstance(self._policy, Writer):
            raise TTSError(f"the policy {type(self._policy).__name__} cannot refine or resume a solution")
        return self._policy

    def _affordable(self, samples: int, whole: bool, steps: int) -> int:
        """How many candidates the free budget pays for by the mean cost so far, at first by the allowance."""
        left = self._scope.left
        if self._scope.expired:
            return 0
        made = self.tree.number_of_nodes() - 1
        guess = self._allowance if whole else self._step_allowance
        if made:
            each = _units(self.spent, steps / made)
        elif guess is not None:
            each = _units(guess, steps * (1 + samples * self._ratio))
        else:
            return 2**31
        limits = (left.tokens, left.flops, left.dollars)
        rooms = [free / cost for free, cost in zip(limits, each, strict=True) if free is not None and cost > 0]
        room = int(min(rooms, default=2**31))
        return max(room, 1) if not made else room

    def _hold(self, allowance: Usage | None) -> Hold | None:
        try:
            return self._scope.hold(allowance) if allowance else None
        except BudgetExhausted:
            return None

    def _take_lanes(self, n: int) -> list[Scope]:
        if len(self._lanes) < n:
            self._lanes += self._scope.split(n - len(self._lanes), "lane")
        taken, self._lanes = self._lanes[:n], self._lanes[n:]
        return taken

    def _close_lanes(self) -> None:
        for lane in (*self._lanes, *self._lane_of.values()):
            lane.close()
        self._lanes = []
        self._lane_of.clear()

    def _export(self) -> Mapping[str, Any]:
        """The tree in node-link form, nodes and edges in program order."""
        order = [str(self.root.key), *(str(j.candidate.key) for j in sorted(self._judged.values(), key=program_order))]
        place = {name: i for i, name in enumerate(order)}
        data: dict[str, Any] = nx.node_link_data(self.tree, edges="edges")
        data["nodes"].sort(key=lambda node: place[node["id"]])
        data["edges"].sort(key=lambda edge: place[edge["target"]])
        return data

    def _note(self, judged: Judged) -> Judged:
        candidate, verdict = judged.candidate, judged.verdict
        self._judged[candidate.key] = judged
        if verdict is not None:
            node = self.tree.nodes[str(candidate.key)]
            node.update(verdict_data(verdict, node["first"], candidate.depth))
            self._tell(candidate)
        return judged

    def _tell(self, candidate: Candidate) -> None:
        if self._on_node is not None:
            name = str(candidate.key)
            self._on_node({"id": name, "parent": str(candidate.parent), **self.tree.nodes[name]})

    def _grade(self, answer: str | None) -> bool | None:
        try:
            return grade(answer, self.problem.answer)
        except GraderError as error:
            self._record(error, self.root.key)
            return None

    def _stop_reason(self, answer: str | None) -> str:
        if self._short or any(failure.where == "budget" for failure in self.failures):
            return f"budget: {self._scope.name}"
        if answer is None and self.failures:
            return f"failed: {self.failures[0].where}"
        return "finished" if answer is not None else "no answer"

    def _record(self, error: TTSError, key: Key) -> None:
        """Attribute a failure; one that no other call can escape (a wrong key, a full disk) ends the run instead."""
        if isinstance(error, UsageError):
            raise error
        where = next(place for kind, place in PLACES.items() if isinstance(error, kind))
        self.failures.append(Failure(where=where, error=type(error).__name__, message=str(error), key=str(key)))


def answered(pool: Iterable[Judged]) -> bool:
    """Whether any candidate has an answer."""
    return any(judged.candidate.answer is not None for judged in pool)


def promise(judged: Judged) -> tuple[float, int]:
    """Sort key: the best candidate to be carried on comes last."""
    return judged.rank, judged.candidate.depth


def program_order(judged: Judged) -> tuple[tuple[int, int | str], ...]:
    """Sort key: the path of the candidate's key, numbers by value."""
    return tuple([(isinstance(part, str), part) for part in judged.candidate.key.path])


def _units(usage: Usage, factor: float) -> tuple[float, float, float]:
    return usage.tokens * factor, usage.flops * factor, usage.dollars * factor
