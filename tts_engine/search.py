"""The handle that a strategy talks to: propose steps, judge them, finish with an answer.

A strategy sees no model, no prompt and no socket, and decides nothing by order of arrival: children have keys in
program order, verdicts depend on the text alone, and money is dealt out in lanes at `room`, the barrier between waves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import networkx as nx

from tts_engine.calls import Calls
from tts_engine.compute.ledger import Hold, Scope
from tts_engine.errors import BackendError, BudgetExhausted, GraderError, SandboxError, TTSError, VerifierError
from tts_engine.formats.answers import same_answer
from tts_engine.judging import Judge
from tts_engine.policy import Policy
from tts_engine.selection import select as choose
from tts_engine.types import Candidate, Failure, Judged, Key, Outcome, Place, Problem, Usage, Verdict

PLACES: Mapping[type[TTSError], Place] = {
    BudgetExhausted: "budget",
    SandboxError: "sandbox",
    VerifierError: "verifier",
    GraderError: "grader",
    BackendError: "backend",
    TTSError: "strategy",
}
"""Where an error is attributed: the first kind that fits."""


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
        self._short = False

    @property
    def spent(self) -> Usage:
        """What this problem has cost so far, both models."""
        return self._scope.total

    def room(self, n: int, samples: int = 0, *, whole: bool = False) -> int:
        """The barrier between two waves: refunds what the last one left over and deals out money for the next.

        Args:
            n: candidates wanted, each to be extended (by a step, or to its end when `whole`) and judged with
                `samples` samples.

        Returns:
            How many of them can probably be paid, at most `n`; 0 when the search has to finish.
        """
        self._close_lanes()
        if self._judge is not None:
            self._judge.publish()
        size = max(0, min(n, self._affordable(samples, whole)))
        self._short = self._short or size < n
        self._lanes = self._scope.split(size, "lane") if size else []
        return size

    async def propose(self, node: Candidate, n: int, *, whole: bool = False) -> AsyncIterator[Candidate]:
        """Extend `node` by one step (or to its end when `whole`) `n` times; yields candidates in order of completion.

        A child that cannot be made is recorded in `failures` and not yielded.
        """
        first = self._children.get(node.key, 0)
        self._children[node.key] = first + n
        lanes = self._take_lanes(n)
        tasks = [
            asyncio.create_task(self._extend(node, node.key.child(first + i), lane, whole))
            for i, lane in enumerate(lanes)
        ]
        try:
            for finished in asyncio.as_completed(tasks):
                candidate = await finished
                if candidate is not None:
                    yield candidate
        finally:
            for task in tasks:
                task.cancel()

    async def judge(self, candidate: Candidate, samples: int) -> Judged:
        """The candidate with the verifier's verdict over all its steps; without one where none could be had, and where
        nothing is paid for it: a candidate that ended without an answer cannot win."""
        verdict = None
        hopeless = candidate.dead or (candidate.done and candidate.answer is None)
        if self._judge is not None and samples > 0 and candidate.steps and not hopeless:
            texts = tuple(step.text for step in candidate.steps)
            calls = self._calls.within(self._lane_of.get(candidate.key, self._scope))
            try:
                verdict = await self._judge(texts, samples, calls)
            except TTSError as error:
                self._record(error, candidate.key)
        judged = Judged(candidate=candidate, verdict=verdict)
        self._note(judged)
        return judged

    async def judged(self, candidates: AsyncIterator[Candidate], samples: int) -> list[Judged]:
        """Judge candidates as they arrive; the result is in program order (by key)."""
        tasks: list[asyncio.Task[Judged]] = []
        try:
            async for candidate in candidates:
                tasks.append(asyncio.create_task(self.judge(candidate, samples)))
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return sorted(results, key=program_order)

    async def finish(self, pool: Sequence[Judged], select: str) -> Outcome:
        """Choose among the finished candidates of `pool`; where none has an answer, complete the best unfinished one
        from the allowance that was held back."""
        self._close_lanes()
        pool = sorted(pool, key=program_order)
        if not any(judged.candidate.answer is not None for judged in pool):
            pool = [*pool, *await self._last_resort()]
        return self.outcome(pool, select)

    def outcome(self, pool: Sequence[Judged], select: str) -> Outcome:
        """The outcome for candidates as they are, without another call."""
        ended = [judged for judged in pool if judged.candidate.done or judged.candidate.dead]
        selection = choose(ended, select, self.problem.answer)
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
        known = sorted(self._judged.values(), key=program_order)
        open_ends = [judged for judged in known if not judged.candidate.done and not judged.candidate.dead]
        best = max(open_ends, key=lambda judged: (_value(judged.verdict), judged.candidate.depth), default=None)
        start = best.candidate if best else self.root
        self._lanes = self._scope.split(1, "finish")
        return [await self.judge(candidate, 0) async for candidate in self.propose(start, 1, whole=True)]

    async def _extend(self, node: Candidate, key: Key, lane: Scope, whole: bool) -> Candidate | None:
        self._lane_of[key] = lane
        try:
            candidate = await self._policy(node, key, self._calls.within(lane), whole=whole)
        except TTSError as error:
            self._record(error, key)
            return None
        self._grow(candidate, node)
        return candidate

    def _affordable(self, samples: int, whole: bool) -> int:
        """How many candidates the free budget pays for by the mean cost so far, at first by the allowance."""
        left = self._scope.left
        if self._scope.expired:
            return 0
        made = self.tree.number_of_nodes() - 1
        guess = self._allowance if whole else self._step_allowance
        if made:
            each = _units(self.spent, 1 / made)
        elif guess is not None:
            each = _units(guess, 1 + samples * self._ratio)
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

    def _grow(self, candidate: Candidate, node: Candidate) -> None:
        name = str(candidate.key)
        text = "\n".join(step.text for step in candidate.steps[node.depth :])
        usage = candidate.usage.asdict()
        self.tree.add_node(
            name, text=text, depth=candidate.depth, done=candidate.done, dead=candidate.dead, usage=usage
        )
        self.tree.add_edge(str(node.key), name)
        self._judged[candidate.key] = Judged(candidate=candidate)

    def _note(self, judged: Judged) -> None:
        self._judged[judged.candidate.key] = judged
        verdict = judged.verdict
        if verdict is not None:
            data = {"score": verdict.value, "step_scores": list(verdict.step_scores), "votes": len(verdict.samples)}
            self.tree.nodes[str(judged.candidate.key)].update(data)

    def _grade(self, answer: str | None) -> bool | None:
        if self.problem.answer is None:
            return None
        try:
            return answer is not None and same_answer(answer, self.problem.answer)
        except GraderError as error:
            self._record(error, self.root.key)
            return None

    def _stop_reason(self, answer: str | None) -> str:
        if self._short or any(failure.where == "budget" for failure in self.failures):
            return f"budget: {self._scope.name}"
        if answer is None and self.failures:
            return f"failed: {self.failures[0].where}"
        return "finished"

    def _record(self, error: TTSError, key: Key) -> None:
        where = next(place for kind, place in PLACES.items() if isinstance(error, kind))
        self.failures.append(Failure(where=where, error=type(error).__name__, message=str(error), key=str(key)))


def program_order(judged: Judged) -> tuple[tuple[int, int | str], ...]:
    """Sort key: the path of the candidate's key, numbers by value."""
    return tuple((isinstance(part, str), part) for part in judged.candidate.key.path)


def _value(verdict: Verdict | None) -> float:
    return verdict.value if verdict is not None and verdict.value is not None else -1.0


def _units(usage: Usage, factor: float) -> tuple[float, float, float]:
    return usage.tokens * factor, usage.flops * factor, usage.dollars * factor
