"""Critic refinement and its relatives: solutions are written anew after a critique, revised, or thought over again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tts_engine.judging import Critique, critique_of
from tts_engine.search import Search
from tts_engine.strategies.levels import Beam, Gate, Plan
from tts_engine.strategies.options import Count, Select, Share
from tts_engine.together import together
from tts_engine.types import Judged, Outcome, Usage, Verdict


async def refine(
    search: Search,
    *,
    n: Count = 1,
    rounds: Count = 3,
    samples: Count = 8,
    threshold: Share = 0.5,
    control: bool = False,
    select: Select = "best",
) -> Outcome:
    """Draw `n` solutions; feed the first step judged bad and its critique back, and keep the better by the verifier.

    A solution in which no step is bad is kept as it is (GenPRM, arXiv 2504.00891).

    Args:
        n: solutions that are refined independently of each other.
        rounds: refinements of each, at most.
        samples: verifier samples for each solution, old and new.
        threshold: a step scored below it is bad.
        control: also draw and judge fresh solutions for what the refinements cost, both models; what they and the
            first solutions together would have answered is on the tree as `control`. The outcome is that of refining;
            its usage holds both.
        select: how the answer is chosen among the kept solutions.
    """
    gate = Gate(search, n, samples, whole=True)
    lines = [Line(search, gate, i, samples, threshold) for i in range(n)]
    await together(line.run(rounds) for line in lines)
    if control:
        first = [line.attempts[0] for line in lines if line.attempts]
        await _control(search, first, [attempt for line in lines for attempt in line.attempts[1:]], samples, select)
    return await search.finish([line.kept for line in lines if line.kept is not None], select)


async def revise(
    search: Search, *, n: Count = 1, rounds: Count = 3, samples: Count = 8, select: Select = "weighted"
) -> Outcome:
    """Sequential revision (Snell et al., 2408.03314): each attempt is made in view of the one before, right or wrong.

    Nobody says what is bad: the last step is called into doubt. All attempts are candidates for the answer.

    Args:
        n: chains of attempts; `rounds`: revisions in each.
        samples: verifier samples for each attempt.
        select: how the answer is chosen among all attempts.
    """
    gate = Gate(search, n, samples, whole=True)
    lines = [Line(search, gate, i, samples, threshold=None) for i in range(n)]
    await together(line.run(rounds) for line in lines)
    return await search.finish([attempt for line in lines for attempt in line.attempts], select)


async def budget_forcing(
    search: Search, *, n: Count = 1, rounds: Count = 2, words: str = "Wait, let me check that again."
) -> Outcome:
    """Solutions that have ended are made to think on, by forced words (s1, 2501.19393); the last answers vote.

    Args:
        n: solutions.
        rounds: how often each is made to go on; where that leads to no answer, the one before stands.
        words: how the next step is forced to begin.
    """
    pool: list[Judged] = []
    if size := search.room(n, whole=True):
        pool = await search.judged(search.propose(search.root, size, whole=True), 0)
    for _ in range(rounds):
        answered = [i for i, judged in enumerate(pool) if judged.candidate.done]
        size = search.room(len(answered), whole=True)
        ends = await together(search.resume(pool[i].candidate, words) for i in answered[:size])
        for i, end in zip(answered, ends, strict=False):
            if end is not None and end.answer is not None:
                pool[i] = Judged(candidate=end)
    return await search.finish(pool, "majority")


async def beam_refine(
    search: Search,
    *,
    n: Count = 16,
    width: Count = 4,
    winners: Count = 4,
    rounds: Count = 2,
    samples: Count = 8,
    threshold: Share = 0.5,
    control: bool = False,
    select: Select = "weighted",
) -> Outcome:
    """A beam, whose best solutions are then refined; the refined ones take the places of those they were made from.

    Args:
        n, width, samples, select: as for `beam`.
        winners: how many are refined; `rounds`, `threshold`, `control`: as for `refine`; the fresh solutions are added
            to those of the beam.
    """
    plan = Plan(n=n, widths=[width], samples=samples)
    ended = await Beam(search, plan, plan.gate(search)).run()
    pool = sorted(ended, key=lambda judged: judged.rank, reverse=True)
    gate = Gate(search, len(pool[:winners]), samples, whole=True)
    lines = [Line(search, gate, i, samples, threshold, judged) for i, judged in enumerate(pool[:winners])]
    await together(line.run(rounds) for line in lines)
    if control:
        await _control(search, pool, [attempt for line in lines for attempt in line.attempts], samples, select)
    return await search.finish([line.kept for line in lines if line.kept is not None] + pool[winners:], select)


@dataclass
class Line:
    """One solution and what becomes of it.

    Attributes:
        gate: where it waits for the other lines, as number `party`.
        threshold: a step scored below it is bad; None: the last step is called bad, whatever its score.
        kept: the best attempt so far, the first one at the start where it is given.
        attempts: all attempts in order.
    """

    search: Search
    gate: Gate
    party: int
    samples: int
    threshold: float | None
    kept: Judged | None = None
    attempts: list[Judged] = field(default_factory=list)

    async def run(self, rounds: int) -> None:
        """Draw the first solution if there is none, and refine it `rounds` times or until nothing is bad in it."""
        try:
            if self.kept is None:
                await self._draw()
            for _ in range(rounds if self.kept is not None else 0):
                await self._refine()
        finally:
            self.gate.leave()

    async def _draw(self) -> None:
        if await self.gate.room(self.party, 1):
            for judged in await self.search.judged(self.search.propose(self.search.root, 1, whole=True), self.samples):
                self._take(judged)

    async def _refine(self) -> None:
        before = self.kept if self.threshold is not None or not self.attempts else self.attempts[-1]
        critique = None if before is None else self._critique(before)
        if before is None or critique is None or not await self.gate.room(self.party, 1):
            return
        candidate = await self.search.refine(before.candidate, critique)
        if candidate is not None:
            self._take(await self.search.judge(candidate, self.samples))

    def _critique(self, judged: Judged) -> Critique | None:
        if self.threshold is None:
            return Critique(step=judged.candidate.depth - 1) if judged.candidate.done else None
        return critique_of(judged.verdict, self.threshold)

    def _take(self, judged: Judged) -> None:
        self.attempts.append(judged)
        if self.kept is None or judged.rank > self.kept.rank:
            self.kept = judged


async def _control(
    search: Search, first: Sequence[Judged], refined: Sequence[Judged], samples: int, select: str
) -> None:
    """Draw as many solutions as the refinements would have paid for, and note what comes out."""
    each, cost = _cost(first) / max(len(first), 1), _cost(refined)
    wanted = round(cost / each) if each else 0
    size = search.room(wanted, samples, whole=True) if wanted else 0
    fresh = await search.judged(search.propose(search.root, size, whole=True), samples)
    await search.compare([*first, *fresh])
    kept = search.outcome([*first, *fresh], select)
    search.tree.graph["control"] = {
        "answer": kept.answer,
        "correct": kept.correct,
        "refinements": len(refined),
        "resamples": len(fresh),
        "cost_refined": cost,
        "cost_resampled": _cost(fresh),
    }


def _cost(attempts: Sequence[Judged]) -> float:
    """FLOPs of writing and judging them, or tokens where FLOPs are not known."""
    usage = sum((attempt.candidate.usage + (attempt.verdict or _UNJUDGED).usage for attempt in attempts), Usage())
    return usage.flops or usage.tokens


_UNJUDGED = Verdict(step_scores=(), value=None)
