"""What to buy next for a problem: another solution, another vote on an answer, or nothing. No model, no I/O.

Answers are clusters of solutions. Exactly one answer is right; it may not have been drawn yet. The belief is exact:

    p ~ Beta(a, b)                 the policy's chance of a right solution, problem by problem
    wrong answers ~ CRP(theta)     a wrong solution repeats a wrong answer or gives a new one (Chinese restaurant; the
                                   Dirichlet prior with mass for what was not seen)
    votes ~ Beta-Bernoulli         an answer's votes share one chance of a yes, drawn from Beta(right) or Beta(wrong)

With n_j draws of answer j out of N, J answers, y_j of m_j votes in favour, the posterior weight of "j is right" is

    B(a + n_j, b + N - n_j)  theta^(J-1) prod_{l != j} G(n_l) G(theta) / G(theta + N - n_j)  LR(y_j, m_j)

and that of "none of them" the same with n_j = 0, theta^J and no likelihood ratio, LR being the ratio of the
Beta-binomial probabilities of the votes for a right and for a wrong answer (B beta, G gamma function).

The plan maximises  P(the chosen answer is right) - price * cost  over all ways to go on: a finite Markov decision
process, solved by expectimax with a memory over the symmetric states (`Planner`). It stops where nothing is worth its
price: gain per unit of cost below the price. One price for all problems sends a run's compute where it helps most.
Sources: optimal stopping and Pandora's problem (Weitzman 1979; 2510.01394), adaptive consistency (2305.11860), the
value of computation as expected gain in decision quality (Russell and Wefald 1991), Lagrangian relaxation.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import Literal, NamedTuple


class Answer(NamedTuple):
    """What is known of one answer: solutions that gave it, votes in its favour, votes, and the level of the policy's
    own confidence in its surest solution (`Beliefs.level`; None where it is unknown).

    Of the steps of the next vote, `judged` are known to be accepted, from votes on solutions that begin alike, and
    `left` are to be judged (None: it is not known how many).
    """

    draws: int
    yes: int = 0
    votes: int = 0
    level: int | None = None
    judged: int = 0
    left: int | None = None


State = tuple[Answer, ...]
"""The answers seen so far, in falling order: order means nothing."""


def state_of(answers: Iterable[Answer]) -> State:
    """The answers in the order that makes equal states equal."""
    return tuple(sorted(answers, key=_order, reverse=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Beliefs:
    """The parameters of the model above, fitted on recordings (calibrating.py).

    Attributes:
        solve: a, b of the policy's chance of a right solution.
        spread: theta: how new the next wrong answer is.
        right, wrong: alpha, beta of the chance of a yes for a right and for a wrong answer.
        accept, reject: cost of a vote that ends with yes and with no, in costs of a solution.
        edges: borders between the levels of confidence, rising: log probabilities of whole solutions.
        sure_right, sure_wrong: chance of each level for a right and for a wrong answer; empty: not used.
        trust: share of the confidence's log likelihood ratio that counts; counts and confidence partly say the same.
        turn: cost of judging one step, in costs of a solution.
        passes_right, passes_wrong: chance that the next step of a right and of a wrong solution is accepted, by the
            steps that are left: one, two, ...; empty: votes are not looked at step by step.
    """

    solve: tuple[float, float] = (0.7, 0.7)
    spread: float = 4.0
    right: tuple[float, float] = (2.0, 0.5)
    wrong: tuple[float, float] = (0.5, 2.0)
    accept: float = 5.0
    reject: float = 3.5
    edges: tuple[float, ...] = ()
    sure_right: tuple[float, ...] = ()
    sure_wrong: tuple[float, ...] = ()
    trust: float = 1.0
    turn: float = 1.2
    passes_right: tuple[float, ...] = ()
    passes_wrong: tuple[float, ...] = ()

    def level(self, logprob: float) -> int | None:
        """The level of a solution's log probability; None where levels are not used or it is nan."""
        return bisect.bisect(self.edges, logprob) if self.sure_right and logprob == logprob else None

    def odds(self, answer: Answer) -> float:
        """Log likelihood ratio, right against wrong, of an answer's votes and confidence."""
        odds = self.vote_odds(answer.yes, answer.votes)
        if answer.judged:
            odds += math.log(self._passed(answer, self.passes_right) / self._passed(answer, self.passes_wrong))
        if answer.level is None:
            return odds
        return odds + self.trust * math.log(self.sure_right[answer.level] / self.sure_wrong[answer.level])

    def _passed(self, answer: Answer, passes: tuple[float, ...]) -> float:
        """Chance that the steps which are known to be accepted would be."""
        left = answer.left or 0
        return math.prod(_pass(passes, i) for i in range(left, left + answer.judged))

    def vote_odds(self, yes: int, votes: int) -> float:
        """Log likelihood ratio, right against wrong, of `yes` among `votes`."""
        return _log_beta_binomial(yes, votes, self.right) - _log_beta_binomial(yes, votes, self.wrong)

    def yes_chance(self, answer: Answer, chance: float) -> float:
        """Probability that the next vote is a yes for an answer that is right with probability `chance`."""
        right, wrong = (_next_yes(answer, prior) for prior in (self.right, self.wrong))
        if answer.judged:  # a yes accepts all steps: those that are known to be accepted make it likelier
            right = min(right / self._passed(answer, self.passes_right), 1.0)
            wrong = min(wrong / self._passed(answer, self.passes_wrong), 1.0)
        return chance * right + (1 - chance) * wrong

    def vote_costs(self, answer: Answer) -> tuple[float, float]:
        """Cost of the next vote if it is a yes and if it is a no, which ends at the first step that is rejected."""
        if answer.left is None or not self.passes_wrong:
            return self.accept, self.reject
        passes = [_pass(self.passes_wrong, i) for i in reversed(range(answer.left))]
        reached = list(accumulate(passes[:-1], mul, initial=1.0))  # chance that a wrong solution's next step is judged
        return self.turn * answer.left, self.turn * math.fsum(reached)


class Posterior:
    """The posterior of states; what it has worked out of answers and counts is remembered."""

    def __init__(self, beliefs: Beliefs) -> None:
        self._beliefs = beliefs
        self._odds: dict[Answer, float] = {}
        self._counts: dict[tuple[int, int], float] = {}
        self._known: dict[State, list[float]] = {}

    def __call__(self, state: State) -> list[float]:
        """Probability of each answer of being right, then that of none of them; sums to 1."""
        known = self._known.get(state)
        if known is None:
            known = self._known[state] = self._worked_out(state)
        return known

    def _worked_out(self, state: State) -> list[float]:
        total = sum(answer.draws for answer in state)
        weights = [self._count(answer.draws, total) + self._odd(answer) for answer in state]
        weights.append(self._count(0, total))
        most = max(weights)
        parts = [math.exp(weight - most) for weight in weights]
        whole = math.fsum(parts)
        return [part / whole for part in parts]

    def _odd(self, answer: Answer) -> float:
        found = self._odds.get(answer)
        if found is None:
            found = self._odds[answer] = self._beliefs.odds(answer)
        return found

    def _count(self, n: int, total: int) -> float:
        """Log weight of an answer with n of all draws (0: of none that was seen), less what all of them share."""
        found = self._counts.get((n, total))
        if found is None:
            (a, b), theta = self._beliefs.solve, self._beliefs.spread
            found = math.lgamma(a + n) + math.lgamma(b + total - n) - math.lgamma(theta + total - n)
            found = self._counts[n, total] = found - (math.lgamma(n) + math.log(theta) if n else 0.0)
        return found


def posterior(state: State, beliefs: Beliefs) -> list[float]:
    """Probability of each answer of being right, then that of none of them; sums to 1."""
    return Posterior(beliefs)(state)


def next_answer(state: State, chances: Sequence[float], beliefs: Beliefs) -> list[float]:
    """Probability that the next solution gives each answer; what is missing to 1 is a new answer's."""
    a, b = beliefs.solve
    total = sum(answer.draws for answer in state)
    counts = [*(answer.draws for answer in state), 0]
    right = [(a + n) / (a + b + total) for n in counts]
    wrong = [p * (1 - r) / (beliefs.spread + total - n) for p, r, n in zip(chances, right, counts, strict=True)]
    both = math.fsum(wrong)
    return [p * r + n * (both - w) for p, r, n, w in zip(chances[:-1], right, counts, wrong, strict=False)]


@dataclass(frozen=True, slots=True)
class Purchase:
    """What to buy next.

    Attributes:
        kind: `draw` a solution, `vote` on an answer, or `stop`.
        answer: which one to vote on.
        gain: expected rise, over the best way to go on, of P(right) - price * cost; 0 for `stop`.
    """

    kind: Literal["draw", "vote", "stop"]
    answer: Answer | None = None
    gain: float = 0.0


STOP = Purchase("stop")
ASKS, CHOICES = 3, 6
"""Votes that a plan looks ahead at most, and that number times the votes that an answer may get."""
RARE = 0.02
"""Outcomes of a draw less likely than this are not planned for."""
TOGETHER, SURE = 4, 0.9
"""Solutions drawn together at most, and how likely each must be wanted."""


@dataclass(slots=True, kw_only=True)
class Planner:
    """Solves the decision process at one price; remembers every state it has solved, for all problems.

    Args:
        beliefs: the model.
        price: probability of a right answer that a cost of one solution must buy.
        draws, votes: most solutions, and most votes on an answer.
        horizon: solutions that a plan looks ahead at most.
    """

    beliefs: Beliefs
    price: float
    draws: int = 16
    votes: int = 2
    horizon: int = 8
    _known: dict[tuple[State, int, int], tuple[float, Purchase]] = field(default_factory=dict, repr=False)
    _costs: dict[Answer, tuple[float, float]] = field(default_factory=dict, repr=False)
    _posterior: Posterior = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._posterior = Posterior(self.beliefs)

    @property
    def by_steps(self) -> bool:
        """Whether votes are bought step by step: where it is known how often steps are accepted."""
        return bool(self.beliefs.passes_wrong)

    def choose(self, state: State, drawn: int) -> Purchase:
        """The best purchase; `drawn` counts all solutions, those without an answer too."""
        ahead = min(self.horizon, self.draws - drawn)
        return self._solve(state_of(state), ahead, self._asks)[1]

    def at_once(self, state: State, drawn: int) -> int:
        """How many solutions to draw together where one is wanted: more as long as the next purchase would be another
        one with a chance of `SURE`. That wastes at most 1 - SURE solutions for each that is added."""
        count, worlds = 1, self._outcomes(state_of(state), self._posterior(state_of(state)))
        while count < TOGETHER and drawn + count < self.draws:
            wanted = math.fsum(share for after, share in worlds if self.choose(after, drawn + count).kind == "draw")
            if wanted < SURE:
                break
            count += 1
            worlds = [
                (later, share * chance)
                for after, share in worlds
                for later, chance in self._outcomes(after, self._posterior(after))
            ]
        return count

    def value(self, state: State, ahead: int) -> float:
        """Expected P(right) less price times what is still spent, on the best way to go on with `ahead` more draws."""
        return self._solve(state_of(state), ahead, self._asks)[0]

    @property
    def _asks(self) -> int:
        """Votes that a plan looks ahead: fewer where there are more to choose from."""
        return max(min(ASKS, CHOICES // max(self.votes, 1)), 1)

    def _solve(self, state: State, ahead: int, asks: int) -> tuple[float, Purchase]:
        known = self._known.get((state, ahead, asks))
        if known is None:
            known = self._known[state, ahead, asks] = self._best(state, ahead, asks)
        return known

    def _best(self, state: State, ahead: int, asks: int) -> tuple[float, Purchase]:
        chances = self._posterior(state)
        stop = max(chances[:-1], default=0.0)
        best, purchase = stop, STOP
        for place in self._worth_asking(state, chances) if asks else ():
            value = self._vote(state, place, chances[place], ahead, asks)
            if value > best:
                best, purchase = value, Purchase("vote", state[place], value - stop)
        if ahead and 1 - stop > self.price:
            value = self._draw(state, chances, ahead, asks)
            if value > best or not state:
                best, purchase = value, Purchase("draw", None, value - stop)
        return best, purchase

    def _worth_asking(self, state: State, chances: Sequence[float]) -> list[int]:
        """The likeliest answer without a vote, and the likeliest of those that may get another one: a dearer vote on a
        less likely answer is not looked at. None where a vote costs more than all that can be gained."""
        least = min((self._vote_costs(answer)[1] for answer in state), default=0.0)
        if 1 - max(chances[:-1], default=0.0) <= self.price * least:
            return []
        fresh = [i for i, answer in enumerate(state) if not answer.votes]
        again = [i for i, answer in enumerate(state) if 0 < answer.votes < self.votes]
        groups = (group for group in (fresh if self.votes else [], again) if group)
        return [max(group, key=lambda i: chances[i]) for group in groups]

    def _vote(self, state: State, place: int, chance: float, ahead: int, asks: int) -> float:
        answer, beliefs = state[place], self.beliefs
        yes = beliefs.yes_chance(answer, chance)
        after = (_replaced(state, place, voted(answer, vote)) for vote in (1, 0))
        accepted, rejected = (self._solve(outcome, ahead, asks - 1)[0] for outcome in after)
        accept, reject = self._vote_costs(answer)
        return yes * (accepted - self.price * accept) + (1 - yes) * (rejected - self.price * reject)

    def _vote_costs(self, answer: Answer) -> tuple[float, float]:
        found = self._costs.get(answer)
        if found is None:
            found = self._costs[answer] = self.beliefs.vote_costs(answer)
        return found

    def _draw(self, state: State, chances: Sequence[float], ahead: int, asks: int) -> float:
        """Rare outcomes count as if they changed nothing: they are many, and their sum is small."""
        outcomes = self._outcomes(state, chances)
        value = math.fsum(share * self._solve(outcome, ahead - 1, asks)[0] for outcome, share in outcomes)
        known = math.fsum(share for _, share in outcomes)
        return value + (1 - known) * max(chances[:-1], default=0.0) - self.price

    def _outcomes(self, state: State, chances: Sequence[float]) -> list[tuple[State, float]]:
        """What one more solution may make of the state, and the chance of each; rare ones are left out."""
        shares = next_answer(state, chances, self.beliefs)
        right = chances[-1] * self.beliefs.solve[0] / (sum(self.beliefs.solve) + sum(answer.draws for answer in state))
        outcomes = [
            (_replaced(state, place, answer._replace(draws=answer.draws + 1)), share)
            for place, (answer, share) in enumerate(zip(state, shares, strict=True))
            if share >= RARE
        ]
        fresh = self._newcomers(right, 1 - math.fsum(shares) - right)
        return outcomes + [(state_of((*state, answer)), share) for answer, share in fresh if share >= RARE]

    def _newcomers(self, right: float, wrong: float) -> list[tuple[Answer, float]]:
        """An answer that was not seen before, by level of confidence, and the chance of each."""
        beliefs = self.beliefs
        if not beliefs.sure_right:
            return [(Answer(1), right + wrong)]
        levels = enumerate(zip(beliefs.sure_right, beliefs.sure_wrong, strict=True))
        return [(Answer(1, level=level), right * r + wrong * w) for level, (r, w) in levels]


def voted(answer: Answer, vote: int) -> Answer:
    """An answer after one more vote; what its next vote has to judge is not known."""
    return answer._replace(yes=answer.yes + vote, votes=answer.votes + 1, judged=0, left=None)


def _pass(passes: tuple[float, ...], left: int) -> float:
    """The chance that a step is accepted when `left` are left after it; the last known one for more."""
    return passes[min(left, len(passes) - 1)]


def text_order(asked: int, rejected: bool, left: int, copies: int) -> tuple[int, ...]:
    """Which text of an answer is voted on next, the least first: fewest votes, not known to be rejected, fewest steps
    left to judge (the last two 0 where votes are bought whole), then the commonest."""
    return asked, rejected, left, -copies


@lru_cache(maxsize=1 << 16)
def _order(answer: Answer) -> tuple[int, ...]:
    return tuple(-1 if number is None else number for number in answer)


def _replaced(state: State, place: int, answer: Answer) -> State:
    return state_of((*state[:place], answer, *state[place + 1 :]))


def _next_yes(answer: Answer, prior: tuple[float, float]) -> float:
    return (prior[0] + answer.yes) / (prior[0] + prior[1] + answer.votes)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


@lru_cache(maxsize=4096)
def _log_beta_binomial(yes: int, votes: int, prior: tuple[float, float]) -> float:
    """Log probability of one sequence with `yes` of `votes`."""
    return _log_beta(prior[0] + yes, prior[1] + votes - yes) - _log_beta(*prior)
