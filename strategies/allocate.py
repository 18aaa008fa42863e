"""Adaptive allocation: buy the solution, or the next step of a vote, that is worth most; stop when none is worth it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from tts_engine.allocation import GENERIC, load_allocation
from tts_engine.compute.allocator import Answer, Planner, posterior, state_of, text_order
from tts_engine.formats.answers import group_answers
from tts_engine.judging import ACCEPTED
from tts_engine.judging import votes as votes_of
from tts_engine.search import Search
from tts_engine.strategies.options import Count, Positive
from tts_engine.types import Candidate, Judged, Key, Outcome, Verdict


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

    Where the beliefs say how often steps are accepted, a vote is bought step by step: after each the plan is made anew,
    and what is known of a beginning counts for all solutions that share it.

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
            count = search.room(plan.at_once(state_of(state), drawn), 0, whole=True)
            found = await search.judged(search.propose(search.root, count, whole=True), 0) if count else []
            if not found:
                break
            drawn += count
            table.pool += found
            await search.compare(table.pool)
        else:
            row = next(row for row, answer in zip(table.rows(), state, strict=True) if answer == purchase.answer)
            search.room(0)  # votes are paid from what is common, whichever solution they are on
            if not await _vote(search, table, row, plan):
                break
        await _settle(search, table, plan)
    return await search.finish(table.pool, "majority", table.weights(plan))


async def _vote(search: Search, table: Table, row: Row, plan: Planner) -> bool:
    """Buy the next vote on an answer, or its next step where steps are planned; whether it could be had."""
    candidate, number = row.next_text(plan.by_steps)
    steps = len(candidate.steps)
    judged = row.judged(candidate, number)[0] + 1 if plan.by_steps else steps
    found = await search.judge(replace(candidate, steps=candidate.steps[:judged]), number + 1)
    if found.verdict is None:
        return False
    table.learn(found.verdict, candidate)
    if not plan.by_steps:
        table.note(replace(found, candidate=candidate), number + 1)
    return True


async def _settle(search: Search, table: Table, plan: Planner) -> None:
    """Enter the votes that are decided by the steps which were judged: they cost nothing."""
    for row in table.rows() if plan.by_steps else ():
        candidate, number = row.next_text(plan.by_steps)
        judged, rejected = row.judged(candidate, number)
        if row.votes < plan.votes and (rejected or judged == len(candidate.steps)):
            search.room(0)
            table.note(await search.judge(candidate, number + 1), number + 1)


@dataclass(slots=True)
class Row:
    """The solutions of one answer: for each text its first candidate, how often it came, and its votes; and of every
    chain and beginning of a text whether it was accepted."""

    candidates: list[Candidate]
    asked: dict[str, tuple[int, int, int]]
    known: dict[tuple[int, tuple[str, ...]], bool]

    @property
    def votes(self) -> int:
        """Votes on its texts."""
        found = (self.asked.get(text, (0, 0, 0)) for text in {candidate.text for candidate in self.candidates})
        return sum(yes + no for yes, no, _ in found)

    def answer(self, plan: Planner) -> Answer:
        """What the planner has to know."""
        texts = {candidate.text for candidate in self.candidates}
        known = [self.asked[text] for text in texts if text in self.asked]
        levels = [plan.beliefs.level(logprob(candidate)) for candidate in self.candidates]
        sure = [level for level in levels if level is not None]
        yes, no = sum(known[0] for known in known), sum(known[1] for known in known)
        found = Answer(len(self.candidates), yes, yes + no, max(sure, default=None))
        if not plan.by_steps or found.votes >= plan.votes:
            return found
        candidate, number = self.next_text(plan.by_steps)
        judged, _ = self.judged(candidate, number)
        return found._replace(judged=judged, left=len(candidate.steps) - judged)

    def next_text(self, by_steps: bool) -> tuple[Candidate, int]:
        """The candidate to vote on next, and the samples it has."""
        texts = [candidate.text for candidate in self.candidates]
        first = {text: self.candidates[texts.index(text)] for text in texts}

        def order(text: str) -> tuple[int, ...]:
            judged, rejected = self.judged(first[text], self._samples(text)) if by_steps else (0, False)
            left = len(first[text].steps) - judged if by_steps else 0
            return text_order(self._samples(text), rejected, left, texts.count(text))

        best = min(texts, key=order)
        return first[best], self._samples(best)

    def judged(self, candidate: Candidate, number: int) -> tuple[int, bool]:
        """How many steps chain `number` is known to accept, and whether it is known to reject the next."""
        texts = tuple(step.text for step in candidate.steps)
        for count in range(1, len(texts) + 1):
            accepted = self.known.get((number, texts[:count]))
            if not accepted:
                return count - 1, accepted is False
        return len(texts), False

    def _samples(self, text: str) -> int:
        return self.asked.get(text, (0, 0, 0))[2]


@dataclass(slots=True)
class Table:
    """All candidates so far, the votes on their texts (yes, no, samples asked for), what chains say of beginnings."""

    pool: list[Judged] = field(default_factory=list)
    asked: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    known: dict[tuple[int, tuple[str, ...]], bool] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """One row an answer, in the order in which answers first came."""
        found = [judged.candidate for judged in self.pool]
        groups = group_answers([candidate.answer for candidate in found])
        return [Row([found[i] for i in group], self.asked, self.known) for group in groups]

    def note(self, judged: Judged, samples: int) -> None:
        """Enter the votes on a candidate's text."""
        yes, no = votes_of(judged.verdict) if judged.verdict else (0, 0)
        if yes + no < samples:
            no = samples - yes  # an unparseable judgement is no evidence for an answer
        self.asked[judged.candidate.text] = (yes, no, samples)
        place = next(i for i, other in enumerate(self.pool) if other.candidate.key == judged.candidate.key)
        self.pool[place] = judged

    def learn(self, verdict: Verdict, candidate: Candidate) -> None:
        """Enter what the chains of a verdict say of each beginning of the candidate."""
        texts = tuple(step.text for step in candidate.steps)
        for number, chain in enumerate(verdict.samples):
            for count, turn in enumerate(chain, 1):
                self.known[number, texts[:count]] = turn.score is not None and turn.score >= ACCEPTED

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
