"""Adaptive allocation: buy the solution or the vote that is worth most, stop when none is worth its price."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from tts_engine.allocation import GENERIC, load_allocation
from tts_engine.compute.allocator import Answer, Planner, posterior, state_of
from tts_engine.formats.answers import group_answers
from tts_engine.judging import votes as votes_of
from tts_engine.search import Search
from tts_engine.strategies.options import Count, Positive
from tts_engine.types import Candidate, Judged, Key, Outcome


async def adaptive_allocation(
    search: Search,
    *,
    n: Count = 16,
    samples: Count = 8,
    votes: Count = 1,
    price: Positive = 0.005,
    horizon: Count = 1,
    beliefs: str = GENERIC,
) -> Outcome:
    """Draw solutions and ask for votes one at a time, each the best purchase by compute/allocator.py.

    Args:
        n: solutions at most.
        samples: verifier samples of a text at most; `votes`: of an answer (more than one pays where the verifier's
            samples disagree).
        price: probability of a right answer that must be won with the cost of one solution; with `run.allocate`
            the run's budget sets it, problem by problem.
        horizon: solutions that a plan looks ahead.
        beliefs: what is known of the two models: `embedded`, `generic`, or a file (allocation.py).
    """
    plan, table = planner(beliefs, price, n, min(votes, samples), horizon), Table()
    drawn = 0
    while True:
        state = [row.answer(plan) for row in table.rows()]
        purchase = plan.choose(state_of(state), drawn)
        if purchase.kind == "stop":
            break
        search.value_calls(max(purchase.gain, price))
        if purchase.kind == "draw":
            drawn += 1
            if not search.room(1, 0, whole=True):
                break
            candidates = [candidate async for candidate in search.propose(search.root, 1, whole=True)]
            if not candidates:
                break
            table.pool += [Judged(candidate=candidate) for candidate in candidates]
        else:
            row = next(row for row, answer in zip(table.rows(), state, strict=True) if answer == purchase.answer)
            candidate, number = row.next_text()
            search.room(0)  # votes are paid from what is common, whichever solution they are on
            judged = await search.judge(candidate, number + 1)
            table.note(judged, number + 1)
            if judged.verdict is None:
                break
    return await search.finish(table.pool, "majority", table.weights(plan))


@dataclass(slots=True)
class Row:
    """The solutions of one answer: for each text its first candidate, how often it came, and its votes."""

    candidates: list[Candidate]
    asked: dict[str, tuple[int, int, int]]

    def answer(self, plan: Planner) -> Answer:
        """What the planner has to know."""
        texts = {candidate.text for candidate in self.candidates}
        known = [self.asked[text] for text in texts if text in self.asked]
        levels = [plan.beliefs.level(logprob(candidate)) for candidate in self.candidates]
        sure = [level for level in levels if level is not None]
        yes, no = sum(known[0] for known in known), sum(known[1] for known in known)
        return Answer(len(self.candidates), yes, yes + no, max(sure, default=None))

    def next_text(self) -> tuple[Candidate, int]:
        """The candidate to vote on next, and the samples it has: texts with fewest votes first, then the commonest."""
        texts = [candidate.text for candidate in self.candidates]
        best = min(texts, key=lambda text: (self._samples(text), -texts.count(text)))
        return self.candidates[texts.index(best)], self._samples(best)

    def _samples(self, text: str) -> int:
        return self.asked.get(text, (0, 0, 0))[2]


@dataclass(slots=True)
class Table:
    """All candidates so far, and the votes on their texts: yes, no, samples asked for."""

    pool: list[Judged] = field(default_factory=list)
    asked: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """One row an answer, in the order in which answers first came."""
        found = [judged.candidate for judged in self.pool]
        groups = group_answers([candidate.answer for candidate in found])
        return [Row([found[i] for i in group], self.asked) for group in groups]

    def note(self, judged: Judged, samples: int) -> None:
        """Enter the votes on a candidate's text."""
        yes, no = votes_of(judged.verdict) if judged.verdict else (0, 0)
        if yes + no < samples:
            no = samples - yes  # an unparseable judgement is no evidence for an answer
        self.asked[judged.candidate.text] = (yes, no, samples)
        place = next(i for i, other in enumerate(self.pool) if other.candidate.key == judged.candidate.key)
        self.pool[place] = judged

    def weights(self, plan: Planner) -> dict[Key, float]:
        """The posterior of every answer, shared by its candidates; 0 for those without an answer."""
        rows = self.rows()
        chances = posterior(tuple(row.answer(plan) for row in rows), plan.beliefs)
        shares = {judged.candidate.key: 0.0 for judged in self.pool}
        for row, chance in zip(rows, chances, strict=False):
            shares |= {candidate.key: chance / len(row.candidates) for candidate in row.candidates}
        return shares


def logprob(candidate: Candidate) -> float:
    """Log probability of a whole solution under the policy; nan where the backend gives none."""
    return candidate.mean_logprob * candidate.usage.completion


@lru_cache(maxsize=64)
def planner(beliefs: str, price: float, n: int, votes: int, horizon: int) -> Planner:
    """One planner a setting: what it has worked out serves all problems."""
    known = load_allocation(beliefs).beliefs
    return Planner(beliefs=known, price=price, draws=n, votes=votes, horizon=horizon)
