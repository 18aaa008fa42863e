"""The allocator: its posterior against simulation of its own model, its plan against exhaustive search."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.compute.allocator import (
    SURE,
    Answer,
    Beliefs,
    Planner,
    State,
    next_answer,
    posterior,
    state_of,
    voted,
)

BELIEFS = Beliefs(
    solve=(1.5, 2.0), spread=1.5, right=(4.0, 1.0), wrong=(1.0, 3.0), edges=(-1.0,), sure_right=(0.3, 0.7),
    sure_wrong=(0.8, 0.2),
)  # fmt: skip
states = st.lists(
    st.builds(lambda n, m, y, level: Answer(n, min(y, m), m, level), st.integers(1, 6), st.integers(0, 3),
              st.integers(0, 3), st.sampled_from([None, 0, 1])),
    max_size=4,
)  # fmt: skip


def worlds(draws: int, votes: int, count: int) -> Counter[tuple[State, Answer | None]]:
    """Simulated problems: what is seen after `draws` solutions and `votes` votes on each answer, and which is right."""
    random = np.random.default_rng(0)
    seen: Counter[tuple[State, Answer | None]] = Counter()
    for _ in range(count):
        chance, wrongs, right = random.beta(*BELIEFS.solve), Counter[int](), 0
        for _ in range(draws):
            if random.random() < chance:
                right += 1
            elif random.random() < BELIEFS.spread / (BELIEFS.spread + wrongs.total()):
                wrongs[len(wrongs)] += 1
            else:
                wrongs[random.choice(list(wrongs.elements()))] += 1
        yes = int(random.binomial(votes, random.beta(*BELIEFS.right)))
        best = Answer(right, yes, votes) if right else None
        others = [Answer(n, int(random.binomial(votes, random.beta(*BELIEFS.wrong))), votes) for n in wrongs.values()]
        seen[state_of([*others, *([best] if best else [])]), best] += 1
    return seen


@pytest.mark.parametrize("votes", [0, 1])
def test_the_posterior_is_what_happens_in_the_model(votes: int) -> None:
    """Over simulated problems that look alike, the share in which an answer is right is its posterior."""
    seen = worlds(3, votes, 30_000)
    for state in {state for state, _ in seen}:
        cases = {best: n for (other, best), n in seen.items() if other == state}
        total = sum(cases.values())
        if total < 800:
            continue
        chances = posterior(state, BELIEFS)
        expected: Counter[Answer | None] = Counter()
        for answer, chance in zip((*state, None), chances, strict=True):
            expected[answer] += chance  # type: ignore[assignment]  # equal answers add up
        for answer, chance in expected.items():
            assert cases.get(answer, 0) / total == pytest.approx(chance, abs=4 * math.sqrt(0.25 / total))


@given(states)
def test_probabilities_are_probabilities(answers: list[Answer]) -> None:
    state = state_of(answers)
    chances = posterior(state, BELIEFS)
    shares = next_answer(state, chances, BELIEFS)
    assert sum(chances) == pytest.approx(1)
    assert all(share >= 0 for share in shares)
    assert sum(shares) <= 1 + 1e-9


@given(states.filter(bool))
def test_the_order_of_answers_means_nothing(answers: list[Answer]) -> None:
    by_answer = dict(zip(answers, posterior(tuple(answers), BELIEFS), strict=False))
    for answer, chance in zip(reversed(answers), posterior(tuple(reversed(answers)), BELIEFS), strict=False):
        assert chance == pytest.approx(by_answer[answer])


@given(states.filter(bool))
@settings(deadline=None)
def test_a_vote_moves_the_posterior_but_not_on_average(answers: list[Answer]) -> None:
    """The expected posterior after a vote is the posterior before it (law of total probability)."""
    before = posterior(tuple(answers), BELIEFS)
    first, *others = answers
    yes = BELIEFS.yes_chance(first, before[0])
    after = [
        posterior((first._replace(yes=first.yes + vote, votes=first.votes + 1), *others), BELIEFS) for vote in (1, 0)
    ]
    for place, chance in enumerate(before):
        assert yes * after[0][place] + (1 - yes) * after[1][place] == pytest.approx(chance)
    assert after[0][0] >= after[1][0]


def exhaustive(state: State, ahead: int, price: float, votes: int) -> float:
    """The value of the best way to go on, every purchase tried (nothing is rare, no vote is left out)."""
    plain = Beliefs(solve=BELIEFS.solve, spread=BELIEFS.spread, right=BELIEFS.right, wrong=BELIEFS.wrong)

    @cache
    def value(state: State, ahead: int) -> float:
        chances = posterior(state, plain)
        options = [max(chances[:-1], default=0.0)]
        for place, answer in enumerate(state):
            if answer.votes < votes:
                yes = plain.yes_chance(answer, chances[place])
                rest = state[:place] + state[place + 1 :]
                good, bad = (
                    value(state_of((*rest, answer._replace(yes=answer.yes + v, votes=answer.votes + 1))), ahead)
                    for v in (1, 0)
                )
                options.append(yes * (good - price * plain.accept) + (1 - yes) * (bad - price * plain.reject))
        if ahead:
            shares = next_answer(state, chances, plain)
            new = value(state_of((*state, Answer(1))), ahead - 1)
            total = (1 - sum(shares)) * new - price
            for place, share in enumerate(shares):
                more = state[place]._replace(draws=state[place].draws + 1)
                total += share * value(state_of((*state[:place], more, *state[place + 1 :])), ahead - 1)
            options.append(total)
        return max(options)

    return value(state, ahead)


@pytest.mark.parametrize("price", [0.002, 0.01, 0.03, 0.1])
def test_the_plan_is_nearly_as_good_as_trying_everything(price: float) -> None:
    plain = Beliefs(solve=BELIEFS.solve, spread=BELIEFS.spread, right=BELIEFS.right, wrong=BELIEFS.wrong)
    planner = Planner(beliefs=plain, price=price, draws=16, votes=2, horizon=3)
    for state in ((), (Answer(1),), (Answer(2), Answer(1)), (Answer(2), Answer(2, 0, 1), Answer(1, 1, 1))):
        best = exhaustive(state_of(state), 3, price, 2)
        assert best - 0.03 <= planner.value(state_of(state), 3) <= best + 1e-9


def test_purchases_by_hand() -> None:
    def choice(price: float, *answers: Answer, drawn: int = 5) -> str:
        return Planner(beliefs=Beliefs(), price=price, draws=16, horizon=2).choose(state_of(answers), drawn).kind

    assert choice(0.01, drawn=0) == "draw"  # nothing can be chosen yet
    assert choice(0.5, Answer(1), drawn=1) == "stop"  # too dear for anything
    assert choice(1e-3, Answer(8), drawn=8) == "stop"  # as good as certain
    assert choice(1e-3, Answer(2), Answer(2), drawn=4) == "vote"  # a tie that a vote can break
    assert choice(1e-4, Answer(3, 0, 2), drawn=3) == "draw"  # the only answer was rejected twice
    assert choice(1e-4, Answer(3, 0, 2), drawn=16) == "stop"  # and no solution may be drawn any more


@given(states.filter(bool), st.floats(0.001, 0.2))
@settings(max_examples=30, deadline=None)
def test_a_lower_price_never_buys_less_value(answers: list[Answer], price: float) -> None:
    state = state_of(answers[:2])
    dear, cheap = (
        Planner(beliefs=BELIEFS, price=p, draws=9, horizon=1, votes=1).value(state, 1) for p in (price, price / 2)
    )
    assert cheap >= dear - 1e-9
    assert dear >= max(posterior(state, BELIEFS)[:-1]) - 1e-9


STEPWISE = replace(BELIEFS, passes_right=(0.97, 0.97, 0.98, 0.99), passes_wrong=(0.3, 0.8, 0.85, 0.9), turn=1.5)


@pytest.mark.parametrize("judged", [1, 2, 3])
def test_steps_that_are_known_to_be_accepted_count_as_part_of_the_vote(judged: int) -> None:
    """A yes says as much whether its steps came at once or one after the other, and is likelier the more are known."""
    fresh, begun = Answer(1, left=4), Answer(1, judged=judged, left=4 - judged)
    assert STEPWISE.odds(fresh) < STEPWISE.odds(begun) < STEPWISE.odds(Answer(1, yes=1, votes=1))
    ratio = STEPWISE.yes_chance(begun, 1.0) / STEPWISE.yes_chance(begun, 0.0)
    assert STEPWISE.odds(begun) + math.log(ratio) == pytest.approx(STEPWISE.odds(voted(begun, 1)))
    assert STEPWISE.yes_chance(begun, 0.5) > STEPWISE.yes_chance(fresh, 0.5)


def test_a_vote_costs_what_is_left_of_it() -> None:
    assert STEPWISE.vote_costs(Answer(1)) == (STEPWISE.accept, STEPWISE.reject)
    assert STEPWISE.vote_costs(Answer(1, left=1)) == pytest.approx((1.5, 1.5))
    turns, random = [], np.random.default_rng(0)
    for _ in range(20_000):
        turns.append(
            1 + next((i for i, left in enumerate((3, 2, 1)) if random.random() > STEPWISE.passes_wrong[left]), 3)
        )
    accept, reject = STEPWISE.vote_costs(Answer(1, left=4))
    assert accept == pytest.approx(6.0)
    assert reject == pytest.approx(1.5 * np.mean(turns), rel=0.02)


def test_solutions_are_drawn_together_only_where_more_are_surely_wanted() -> None:
    cheap, dear = (Planner(beliefs=BELIEFS, price=price, draws=6, votes=0, horizon=3) for price in (1e-6, 0.3))
    assert cheap.at_once((), 0) > 1
    assert cheap.at_once((), 5) == 1  # one is left
    assert dear.at_once((), 0) == 1
    together = cheap.at_once((), 0)
    one = cheap._outcomes((), posterior((), BELIEFS))
    wanted = sum(share for state, share in one if cheap.choose(state, 1).kind == "draw")
    assert (together > 1) == (wanted >= SURE)
