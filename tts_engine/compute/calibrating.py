"""Fitting the allocator's beliefs to recorded problems by maximum likelihood. Pure functions of counts.

What is fitted is the model of allocator.py: how often the policy is right, how wrong answers repeat, how the verifier
votes on right and on wrong answers; and what a vote costs. Fit on problems that nothing is measured on afterwards.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tts_engine.compute.allocator import Answer, Beliefs, posterior
from tts_engine.errors import DataError

Objective = Callable[[tuple[float, ...]], float]
VOTES = 4
"""Votes of an answer that count in the fit: those that a plan may buy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """One answer of a recorded problem.

    Attributes:
        right: whether it is the reference.
        draws: solutions that gave it.
        votes: its votes in the order they would be bought.
        costs: what each vote took, in costs of a solution.
    """

    right: bool
    draws: int
    votes: tuple[bool, ...] = ()
    costs: tuple[float, ...] = ()


ProblemRecord = Sequence[AnswerRecord]


def fit_beliefs(problems: Sequence[ProblemRecord]) -> Beliefs:
    """The beliefs of greatest likelihood.

    Raises:
        DataError: the recordings hold no votes on right, or none on wrong answers.
    """
    answers = [answer for problem in problems for answer in problem]
    votes = {truth: [answer for answer in answers if answer.right is truth and answer.votes] for truth in (True, False)}
    if not votes[True] or not votes[False]:
        raise DataError("an allocation needs votes on right and on wrong answers; record a best-of-n run that has both")
    a, b, theta = minimise(lambda x: -_draws_likelihood(problems, *x), (1.0, 1.0, 3.0))
    right, wrong = (minimise(_votes_objective(votes[truth]), (1.0, 1.0)) for truth in (True, False))
    return Beliefs(
        solve=(a, b),
        spread=theta,
        right=(right[0], right[1]),
        wrong=(wrong[0], wrong[1]),
        accept=_mean_cost(answers, True),
        reject=_mean_cost(answers, False),
    )


def minimise(objective: Objective, start: tuple[float, ...], tolerance: float = 1e-3) -> tuple[float, ...]:
    """Where a smooth function of positive numbers is least: pattern search on their logarithms (Hooke and Jeeves 1961).

    The numbers stay within a factor of 10,000 of 1.
    """
    point, step = [math.log(x) for x in start], 1.0
    best = objective(start)
    while step > tolerance:
        moved = False
        for place, way in [(place, way) for place in range(len(point)) for way in (step, -step)]:
            trial = [*point]
            trial[place] = min(max(trial[place] + way, -LIMIT), LIMIT)
            value = objective(tuple(map(math.exp, trial)))
            if value < best - 1e-9:
                point, best, moved = trial, value, True
        step = step if moved else step / 2
    return tuple(map(math.exp, point))


LIMIT = math.log(1e4)
STEPS = 6
"""Numbers of steps left that are told apart."""

History = Sequence[tuple[str, bool, float]]
"""Of each solution of a problem its answer, whether it is right, and its log probability under the policy."""


def fit_confidence(beliefs: Beliefs, histories: Sequence[History], levels: int) -> Beliefs:
    """The beliefs with `levels` levels of the policy's own confidence: equally many solutions fall into each.

    `trust` is where the truth is likeliest over all beginnings of the histories: the number of solutions that agree
    and the policy's confidence partly say the same, so that the confidence must count for less than it says alone.
    """
    found = sorted(logprob for history in histories for _, _, logprob in history if logprob == logprob)
    if levels < 2 or not found:
        return beliefs
    edges = tuple(found[len(found) * i // levels] for i in range(1, levels))
    tables = {truth: [0.5] * levels for truth in (True, False)}
    for history in histories:
        surest: dict[str, tuple[float, bool]] = {}
        for answer, right, logprob in history:
            surest[answer] = max(surest.get(answer, (logprob, right)), (logprob, right))
        for logprob, right in surest.values():
            tables[right][bisect.bisect(edges, logprob)] += 1
    shares = {truth: tuple(count / sum(table) for count in table) for truth, table in tables.items()}
    known = replace(beliefs, edges=edges, sure_right=shares[True], sure_wrong=shares[False])
    trusts = [replace(known, trust=share / 10) for share in range(11)]
    return max(trusts, key=lambda b: math.fsum(_truth_likelihood(b, history) for history in histories))


def fit_steps(beliefs: Beliefs, votes: Sequence[tuple[bool, int, int]], turn: float) -> Beliefs:
    """The beliefs with the chance that a step is accepted, by the steps that are left; a weak prior keeps it from 0.

    Args:
        votes: for each, whether the solution is right, its steps, and how many of them were accepted.
        turn: cost of judging one step, in costs of a solution.
    """
    most = min(max((steps for _, steps, _ in votes), default=0), STEPS)
    if not most:
        return beliefs
    counts = {truth: [[0.5, 0.5] for _ in range(most)] for truth in (True, False)}
    for truth, steps, accepted in votes:
        for judged in range(min(accepted + 1, steps)):
            counts[truth][min(steps - judged, most) - 1][judged < accepted] += 1
    passes = {truth: tuple(yes / (no + yes) for no, yes in counts[truth]) for truth in counts}
    return replace(beliefs, turn=turn, passes_right=passes[True], passes_wrong=passes[False])


def _truth_likelihood(beliefs: Beliefs, history: History) -> float:
    """Sum of the log posteriors of what is true, after 1, 2, 4, ... solutions."""
    seen: dict[str, Answer] = {}
    truths: dict[str, bool] = {}
    total = 0.0
    for number, (answer, right, logprob) in enumerate(history, 1):
        before = seen.get(answer, Answer(0, level=0))
        seen[answer] = Answer(before.draws + 1, level=max(before.level or 0, beliefs.level(logprob) or 0))
        truths[answer] = right
        if number & (number - 1) == 0:
            chances = posterior(tuple(seen.values()), beliefs)
            total += math.log(next((p for p, name in zip(chances, seen, strict=False) if truths[name]), chances[-1]))
    return total


def _draws_likelihood(problems: Sequence[ProblemRecord], a: float, b: float, theta: float) -> float:
    """Log probability of which solutions agree and which of them are right (beta prior, Chinese restaurant)."""
    total = 0.0
    for problem in problems:
        right = sum(answer.draws for answer in problem if answer.right)
        wrong = [answer.draws for answer in problem if not answer.right]
        total += _log_beta(a + right, b + sum(wrong)) - _log_beta(a, b)
        total += len(wrong) * math.log(theta) + math.lgamma(theta) - math.lgamma(theta + sum(wrong))
        total += math.fsum(map(math.lgamma, wrong))
    return total


def _votes_objective(answers: Sequence[AnswerRecord]) -> Objective:
    """Minus the log probability of the votes, whose chance is drawn once an answer; a weak prior keeps it finite."""
    counts = Counter((sum(answer.votes[:VOTES]), len(answer.votes[:VOTES])) for answer in answers)

    def cost(x: tuple[float, ...]) -> float:
        a, b = x
        seen = math.fsum(
            n * (_log_beta(a + yes, b + votes - yes) - _log_beta(a, b)) for (yes, votes), n in counts.items()
        )
        return -seen + 0.05 * (math.log(a) ** 2 + math.log(b) ** 2)

    return cost


def _mean_cost(answers: Sequence[AnswerRecord], vote: bool) -> float:
    """Mean cost of the first votes that say `vote`; 1 where there are none."""
    costs = [answer.costs[0] for answer in answers if answer.votes and answer.costs and answer.votes[0] is vote]
    return math.fsum(costs) / len(costs) if costs else 1.0


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
