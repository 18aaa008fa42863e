"""Buying again from recorded draws: what an allocation, or a fixed N and K, would have paid and chosen. Pure functions.

The draws are exact: the same solutions, the same votes, each turn of a chain paid once for every prefix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from tts_engine.compute.allocator import Answer, Planner, posterior, state_of, text_order, voted
from tts_engine.compute.calibrating import AnswerRecord
from tts_engine.compute.stopping import VoteRule


class Solution(NamedTuple):
    """One recorded solution: its answer (None: it has none), the number of its text, cost, log probability, steps (0:
    not known)."""

    answer: str | None
    right: bool
    text: int
    flops: float
    tokens: int
    logprob: float
    steps: int = 0


class Turn(NamedTuple):
    """One turn of a verifier's chain: the prefix it judges, its cost, and whether the whole chain says yes."""

    prefix: str
    flops: float
    tokens: int
    accepts: bool


Paid = set[tuple[int, str]]
"""Turns that were bought: the chain's number and the prefix."""


class Recording(NamedTuple):
    """One problem: its solutions, and for every text its chains."""

    problem: str
    solutions: Sequence[Solution]
    chains: Mapping[int, Sequence[Sequence[Turn]]]

    def vote(self, text: int, number: int, paid: Paid) -> tuple[bool, float]:
        """Chain `number` on a text: its vote, and what it costs that was not in `paid`, which grows."""
        chain = self.chain(text, number)
        fresh = [turn for turn in chain if (number, turn.prefix) not in paid]
        paid.update((number, turn.prefix) for turn in fresh)
        return bool(chain) and chain[0].accepts, math.fsum(turn.flops for turn in fresh)

    def chain(self, text: int, number: int) -> Sequence[Turn]:
        """The turns of chain `number` on a text; none where it was not judged."""
        return self.chains[text][number] if text in self.chains else ()


def rotated(item: Recording, start: int) -> list[Solution]:
    """The solutions from `start` on, then those before."""
    return [*item.solutions[start:], *item.solutions[:start]]


class Bought:
    """What an allocation has bought of one recording."""

    def __init__(self, item: Recording, planner: Planner) -> None:
        self._item, self._planner = item, planner
        self.answers: dict[str, Answer] = {}
        self.texts: dict[str, list[int]] = {}
        self.flops, self.drawn, self.votes = 0.0, 0, 0
        self._steps: dict[int, int] = {}
        self._asked: dict[int, int] = {}
        self._paid: Paid = set()

    def draw(self, solution: Solution) -> None:
        """Pay a solution."""
        self.drawn += 1
        self.flops += solution.flops
        if solution.answer is None:
            return
        before = self.answers.get(solution.answer, Answer(0))
        levels = [level for level in (before.level, self._planner.beliefs.level(solution.logprob)) if level is not None]
        self.answers[solution.answer] = before._replace(draws=before.draws + 1, level=max(levels, default=None))
        self.texts.setdefault(solution.answer, []).append(solution.text)
        self._steps[solution.text] = solution.steps
        self._look()

    def vote(self, answer: Answer) -> None:
        """Pay the next vote on an answer, or its next step where votes are bought step by step."""
        name = next(name for name, known in self.answers.items() if known == answer)
        text = self._next(name)
        number = self._asked.get(text, 0)
        if answer.left is not None:
            self._step(text, number)
        else:
            yes, cost = self._item.vote(text, number, self._paid)
            self.flops += cost
            self.votes += 1
            self._enter(name, text, yes)
        self._look()

    def _step(self, text: int, number: int) -> None:
        turn = next(turn for turn in self._item.chain(text, number) if (number, turn.prefix) not in self._paid)
        self._paid.add((number, turn.prefix))
        self.flops += turn.flops
        self.votes += turn is self._item.chain(text, number)[-1]

    def _enter(self, name: str, text: int, yes: bool) -> None:
        self._asked[text] = self._asked.get(text, 0) + 1
        self.answers[name] = voted(self.answers[name], yes)

    def _next(self, name: str) -> int:
        """The text to vote on."""
        texts = self.texts[name]

        def order(text: int) -> tuple[int, ...]:
            rejected, left = self._standing(text) if self._planner.by_steps else (False, 0)
            return text_order(self._asked.get(text, 0), rejected, left, texts.count(text))

        return min(texts, key=order)

    def _standing(self, text: int) -> tuple[bool, int]:
        """Whether the next vote on a text is known to be a no, and its steps that are still to be judged."""
        number = self._asked.get(text, 0)
        chain = self._item.chain(text, number)
        paid = sum((number, turn.prefix) in self._paid for turn in chain)
        accepts = bool(chain) and chain[0].accepts
        return paid == len(chain) and not accepts, max(self._steps[text] - paid, 0)

    def _look(self) -> None:
        """What the steps that were bought say of each answer's next vote: whether it is decided, what is left."""
        for name, answer in self.answers.items():
            if not self._planner.by_steps or answer.votes >= self._planner.votes:
                continue
            text = self._next(name)
            rejected, left = self._standing(text)
            if rejected or (self._steps[text] and not left):
                self._enter(name, text, not rejected)
            elif steps := self._steps[text]:
                self.answers[name] = answer._replace(judged=steps - left, left=left)


def adaptive(item: Recording, start: int, planner: Planner) -> tuple[float, float, int, int]:
    """Whether the allocation chooses the right answer, its FLOPs, solutions and votes."""
    bought, supply = Bought(item, planner), iter(rotated(item, start))
    while (purchase := planner.choose(state_of(bought.answers.values()), bought.drawn)).kind != "stop":
        if purchase.answer is not None:
            bought.vote(purchase.answer)
        elif drawn := list(islice(supply, planner.at_once(state_of(bought.answers.values()), bought.drawn))):
            for solution in drawn:
                bought.draw(solution)
        else:
            break
    chances = posterior(tuple(bought.answers.values()), planner.beliefs)
    best = max(zip(chances, bought.answers, strict=False), key=lambda pair: pair[0], default=(0.0, None))[1]
    right = any(solution.right and solution.answer == best for solution in item.solutions)
    return float(right), bought.flops, bought.drawn, bought.votes


def static(item: Recording, start: int, n: int, k: int, how: str) -> tuple[float, float]:
    """Whether `n` solutions with `k` votes each choose the right answer (an even tie counts by its share), and FLOPs.

    Args:
        how: `vote` weighs answers by votes in their favour (by their number where there are none), `best` takes the
            solution with most votes, `sure` the one the policy was surest of (among those with most votes).
    """
    part = rotated(item, start)[:n]
    paid: Paid = set()
    flops = math.fsum(solution.flops for solution in part)
    weights: list[float] = []
    for solution in part:
        found = [item.vote(solution.text, number, paid) for number in range(k)] if solution.answer is not None else []
        flops += math.fsum(cost for _, cost in found)
        weights.append(float(sum(yes for yes, _ in found)))
    chosen = _winners([(s, w) for s, w in zip(part, weights, strict=True) if s.answer is not None], how)
    return (math.fsum(s.right for s in chosen) / len(chosen) if chosen else 0.0), flops


def judged(item: Recording, start: int, n: int, rule: VoteRule, *, fixed: bool) -> tuple[float, int, int]:
    """The score-weighted vote of `n` solutions whose votes end by `rule` (or, `fixed`, are all taken).

    Returns:
        Whether it is right (an even tie counts by its share), the verifier's tokens, and its votes on distinct texts.
    """
    part = rotated(item, start)[:n]
    paid: Paid = set()
    values: dict[int, float] = {}
    tokens = votes = 0
    for text in {solution.text for solution in part if solution.answer is not None and solution.text in item.chains}:
        yes = no = 0
        for number, chain in enumerate(item.chains[text][: rule.most]):
            if not fixed and rule.settled(yes, no):
                break
            tokens += sum(turn.tokens for turn in chain if (number, turn.prefix) not in paid)
            paid.update((number, turn.prefix) for turn in chain)
            yes, no = yes + chain[0].accepts, no + (not chain[0].accepts)
        values[text], votes = yes / max(yes + no, 1), votes + yes + no
    known = [(solution, values.get(solution.text, 0.0)) for solution in part if solution.answer is not None]
    chosen = _winners(known, "vote")
    return (math.fsum(s.right for s in chosen) / len(chosen) if chosen else 0.0), tokens, votes


def _winners(known: Sequence[tuple[Solution, float]], how: str) -> list[Solution]:
    """One solution of every answer that wins."""
    if how == "sure":
        return [max(known, key=lambda pair: (pair[1], pair[0].logprob))[0]] if known else []
    totals: dict[str | None, float] = {}
    plain = not any(weight for _, weight in known)
    for solution, weight in known:
        value = 1.0 if plain else weight
        before = totals.get(solution.answer, 0.0)
        totals[solution.answer] = before + value if how == "vote" or plain else max(before, value)
    most = max(totals.values(), default=0.0)
    first = {solution.answer: solution for solution, _ in reversed(known)}
    return [first[answer] for answer, total in totals.items() if total == most]


def answer_records(item: Recording) -> list[AnswerRecord]:
    """What a fit of the beliefs takes from a recording: the commonest answers are voted on first."""
    groups: dict[str, list[Solution]] = {}
    for solution in item.solutions:
        if solution.answer is not None:
            groups.setdefault(solution.answer, []).append(solution)
    unit = math.fsum(solution.flops for solution in item.solutions) / len(item.solutions)
    paid: Paid = set()
    return [_answer_record(item, found, paid, unit) for found in sorted(groups.values(), key=len, reverse=True)]


def _answer_record(item: Recording, found: Sequence[Solution], paid: Paid, unit: float) -> AnswerRecord:
    texts = [text for text in _commonest(solution.text for solution in found) if text in item.chains]
    rounds = max((len(item.chains[text]) for text in texts), default=0)
    bought = [item.vote(t, number, paid) for number in range(rounds) for t in texts if number < len(item.chains[t])]
    return AnswerRecord(
        right=found[0].right,
        draws=len(found),
        votes=tuple(yes for yes, _ in bought),
        costs=tuple(cost / unit for _, cost in bought),
    )


def _commonest(texts: Iterable[int]) -> list[int]:
    counts: dict[int, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    return sorted(counts, key=lambda text: -counts[text])


def step_votes(item: Recording) -> list[tuple[bool, int, int, float]]:
    """Of the first chain on each text: whether it is right, its steps, those accepted, and FLOPs of judging one."""
    first = {solution.text: solution for solution in reversed(item.solutions) if solution.answer is not None}
    found = [(solution, item.chain(text, 0)) for text, solution in first.items()]
    return [
        (s.right, s.steps, len(chain) - (not chain[0].accepts), math.fsum(turn.flops for turn in chain) / len(chain))
        for s, chain in found
        if chain and s.steps
    ]


def draw_histories(item: Recording) -> list[tuple[str, bool, float]]:
    """Answer, truth and log probability of every solution that has an answer, in order."""
    return [(s.answer, s.right, s.logprob) for s in item.solutions if s.answer is not None]
