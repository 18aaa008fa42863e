"""Subsampling against brute force: every ordered subset of solutions and of chains, the engine's own selectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.report.pools import UNITS, Pool, Sample, chain_values, make_pool
from tts_engine.report.subsample import Draws, best_by_rank, cost, majority, oracle, values
from tts_engine.selection import select
from tts_engine.types import Aggregation, Candidate, Judged, Key, Problem, StepJudgement, Verdict
from tts_engine.verifiers.verdicts import make_verdict

ANSWERS = ["7", "8", None, "7", "9"]
CHAINS = [[[0.9, 0.8], [0.9, None]], [[0.7], [0.6]], [], [[0.4, 0.2], [1.0, 0.9]], [[0.95], [0.1]]]


def samples(
    answers: Sequence[str | None], chains: Sequence[Sequence[Sequence[float | None]]] | None = None
) -> list[Sample]:
    judged = chains or [()] * len(answers)
    return [
        Sample(text=f"text {i}", answer=answer, right=answer == "7", chains=said, generate={"tokens": 10.0 + i})
        for i, (answer, said) in enumerate(zip(answers, judged, strict=True))
    ]


def verdict(chains: Sequence[Sequence[float | None]]) -> Verdict | None:
    said = [tuple(StepJudgement(score=score) for score in chain) for chain in chains]
    return make_verdict(said, "product") if said else None


def brute(answers: Sequence[str | None], verdicts: Sequence[Sequence[Verdict | None]], how: str, n: int) -> float:
    """Mean over all orders and subsets, and over the choices of each solution's verdict."""
    problem = Problem(id="p", prompt="?")
    won = []
    for order in itertools.permutations(range(len(answers)), n):
        for choice in itertools.product(*(verdicts[i] for i in order)):
            pool = [
                Judged(candidate=Candidate(problem=problem, key=Key(0, (i,)), answer=answers[i]), verdict=said)
                for i, said in zip(order, choice, strict=True)
            ]
            won.append(select(pool, how).answer == "7")
    return sum(won) / len(won)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("how", ["weighted", "best", "pessimistic"])
def test_all_chains_are_exact(how: str, n: int) -> None:
    pool = make_pool("p", samples(ANSWERS, CHAINS))
    found = Draws(pool, "product").select(how, n, 2)
    assert found.error == 0.0
    assert found.value == pytest.approx(brute(ANSWERS, [[verdict(chains)] for chains in CHAINS], how, n))


@pytest.mark.parametrize("how", ["weighted", "best", "pessimistic"])
def test_fewer_chains_are_within_their_error(how: str) -> None:
    pool = make_pool("p", samples(ANSWERS, CHAINS))
    found = Draws(pool, "product", draws=20_000).select(how, 3, 1)
    one = [[verdict([chain]) for chain in chains] or [None] for chains in CHAINS]
    # unequal numbers of choices would weigh orders differently: every candidate gets two
    exact = brute(ANSWERS, [said * (2 // len(said)) for said in one], how, 3)
    assert 0.0 < found.error < 0.005
    assert abs(found.value - exact) < 4 * found.error


@given(
    answers=st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=6),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_majority_and_oracle_are_exact(answers: list[str | None], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(answers)))
    pool = make_pool("p", samples(answers))
    assert majority(pool, n).value == pytest.approx(brute(answers, [[None]] * len(answers), "majority", n))
    subsets = list(itertools.combinations(answers, n))
    assert oracle(pool, n).value == pytest.approx(sum("7" in subset for subset in subsets) / len(subsets))


@given(value=st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.9]), min_size=2, max_size=6), data=st.data())
@settings(max_examples=40, deadline=None)
def test_ranks_agree_with_all_subsets(value: list[float], data: st.DataObject) -> None:
    answers = data.draw(st.lists(st.sampled_from(["7", "8", None]), min_size=len(value), max_size=len(value)))
    pool = make_pool("p", samples(answers, [[[v]] for v in value]))
    n = data.draw(st.integers(1, len(value)))
    exact = brute(answers, [[verdict([[v]])] for v in value], "best", n)
    ranked = best_by_rank(pool, values(pool, "product"), n)
    assert ranked is None or ranked.value == pytest.approx(exact)
    assert Draws(pool, "product").select("best", n, 1).value == pytest.approx(exact)


def test_majority_of_hundred_samples_follows_the_binomial() -> None:
    pool = make_pool("p", samples(["7"] * 60 + ["8"] * 40))
    hyper = [math.comb(60, r) * math.comb(40, 9 - r) / math.comb(100, 9) for r in range(10)]
    assert majority(pool, 9).value == pytest.approx(sum(hyper[5:]))


def test_without_any_answer_nothing_is_right() -> None:
    pool = make_pool("p", samples([None, None], [[[0.5]], [[0.5]]]))
    assert majority(pool, 2).value == 0.0
    assert Draws(pool, "product").select("weighted", 2, 1).value == 0.0


@pytest.mark.parametrize("aggregation", ["last", "mean", "min", "product"])
def test_values_are_those_of_the_verdicts(aggregation: Aggregation) -> None:
    said: list[list[float | None]] = [[0.9, 0.8, 0.1], [0.5, None], [0.2]]
    found = make_verdict([tuple(StepJudgement(score=s) for s in chain) for chain in said], aggregation)
    chains = np.array([[0.9, 0.8, 0.1], [0.5, np.nan, np.nan], [0.2, np.nan, np.nan]])
    assert chain_values(chains, np.ones((1, 3)), aggregation)[0] == pytest.approx(found.value)
    assert chain_values(chains, np.array([[0.0, 0.0, 1.0]]), aggregation)[0] == pytest.approx(0.2)


def test_equal_texts_are_paid_once() -> None:
    same = Sample(
        text="a", answer="7", right=True, chains=[[1.0], [1.0]], generate={"tokens": 10}, verify=[{"tokens": 8}]
    )
    other = Sample(
        text="b", answer="8", right=False, chains=[[0.0], [0.0]], generate={"tokens": 10}, verify=[{"tokens": 4}]
    )
    pool = make_pool("p", [same, Sample(text="a", answer="7", right=True, generate={"tokens": 10}), other])
    tokens = UNITS.index("tokens")
    assert cost(pool, 3, 2)[tokens] == pytest.approx(30 + 8 + 4)
    assert cost(pool, 3, 1)[tokens] == pytest.approx(30 + 4 + 2)
    pairs = [8, 8 + 4, 8 + 4]  # {a, a}, {a, b}, {a, b}
    assert cost(pool, 2, 2)[tokens] == pytest.approx(20 + sum(pairs) / 3)
    assert np.isnan(cost(pool, 2, 2)[UNITS.index("dollars")])


def test_a_common_beginning_is_judged_once() -> None:
    def branch(end: str, *tokens: float) -> Sample:
        return Sample(
            text=f"a{end}",
            answer=end,
            right=False,
            chains=[[1.0, 0.0]],
            generate={"tokens": 0.0},
            verify=[{"tokens": t} for t in tokens],
            prefixes=["a", f"a{end}"],
        )

    pool = make_pool("p", [branch("x", 10.0, 3.0), branch("y", 10.0, 5.0)])
    tokens = UNITS.index("tokens")
    assert cost(pool, 2, 1)[tokens] == pytest.approx(10 + 3 + 5)
    assert cost(pool, 1, 1)[tokens] == pytest.approx(10 + (3 + 5) / 2)
    assert cost(pool.part([1]), 1, 1)[tokens] == pytest.approx(15)


def test_a_part_keeps_what_belongs_to_its_solutions() -> None:
    pool = make_pool("p", samples(ANSWERS, CHAINS)).part([3, 4])
    assert pool.right.tolist() == [True, False]
    assert len(pool.chains) == 2
    assert values(pool, "product").tolist() == pytest.approx([0.7 * 0.55, 0.525])


def test_equal_seeds_give_equal_draws() -> None:
    pool: Pool = make_pool("p", samples(ANSWERS, CHAINS))
    assert Draws(pool, "product", 50).select("weighted", 3, 1) == Draws(pool, "product", 50).select("weighted", 3, 1)
