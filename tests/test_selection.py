"""Selectors against hand-computed votes (the first table is the field's usual aggregation cases)."""

from __future__ import annotations

import math

import pytest

from tts_engine.selection import select
from tts_engine.types import Aggregation, Candidate, Judged, Key, Problem, Verdict
from tts_engine.verifiers.verdicts import aggregate

PROBLEM = Problem(id="p", prompt="?")


def judged(answer: str | None, value: float | None) -> Judged:
    candidate = Candidate(problem=PROBLEM, key=Key(0), done=True, answer=answer)
    verdict = Verdict(step_scores=(), value=value)
    return Judged(candidate=candidate, verdict=verdict)


ANSWERS = ["4", "5", "4", "6", "5"]
STEPS = [(0.9, 0.2, 0.8), (0.7, 0.7, 0.9), (0.6, 0.5, 0.4), (0.99, 0.95, 0.97), (0.3, 0.9, 0.95)]


@pytest.mark.parametrize(
    ("how", "aggregation", "expected"),
    [
        ("majority", "last", "4"),
        ("best", "min", "6"),
        ("weighted", "min", "5"),
        ("best", "last", "6"),
        ("weighted", "last", "5"),
        ("best", "mean", "6"),
        ("weighted", "mean", "5"),
    ],
)
def test_votes_by_hand(how: str, aggregation: Aggregation, expected: str) -> None:
    pool = [judged(a, aggregate(s, aggregation)) for a, s in zip(ANSWERS, STEPS, strict=True)]
    assert select(pool, how).answer == expected


def test_votes_are_by_equivalence_not_by_string() -> None:
    pool = [judged("0.5", 0.4), judged("\\frac{1}{2}", 0.4), judged("7", 0.7)]
    chosen = select(pool, "weighted")
    assert chosen.answer == "0.5"
    assert math.isclose(chosen.weights["0.5"], 0.8)


def test_ties_go_to_the_earlier_candidate() -> None:
    assert select([judged("A", 0.5), judged("B", 0.5)], "majority").answer == "A"
    assert select([judged("A", 0.5), judged("B", 0.5)], "best").chosen == 0


def test_invalid_verdicts_never_outvote_valid_ones_and_fall_back_to_the_majority() -> None:
    assert select([judged("1", None), judged("1", None), judged("2", 0.1)], "weighted").answer == "2"
    assert select([judged("1", None), judged("2", 0.0)], "best").answer == "2"
    assert select([judged("2", None), judged("1", None), judged("1", None)], "weighted").answer == "1"


def test_candidates_without_answer_do_not_vote() -> None:
    assert select([judged(None, 1.0), judged(None, 1.0), judged("3", 0.1)], "majority").answer == "3"
    assert select([judged(None, 1.0)], "majority").answer is None


def test_oracle_finds_a_right_answer_if_there_is_one() -> None:
    pool = [judged("1", 0.9), judged("2.0", 0.1)]
    assert select(pool, "oracle", "2").answer == "2.0"
    assert select(pool, "oracle", "3").weights == {"1": 0.0, "2.0": 0.0}


def test_unknown_selector_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="majority, best, weighted, oracle"):
        select([], "loudest")


def test_pessimism_matches_the_published_oracle() -> None:
    """Means less alpha ln(N) / (n_a + 1), alpha 0.5, N 8."""
    scores = {"A": (0.9, 0.8, 0.7), "B": (0.95,), "C": (0.5, 0.5, 0.5, 0.5)}
    pool = [judged(answer, value) for answer, values in scores.items() for value in values]
    expected = {"A": 0.5400698072900207, "B": 0.430139614580041, "C": 0.29205584583201644}
    assert select(pool, "pessimistic").weights == pytest.approx(expected)
    assert select(pool, "weighted").weights == pytest.approx({"A": 2.4, "B": 0.95, "C": 2.0})


def test_counts_weigh_the_votes_of_a_majority() -> None:
    pool = [judged("1", None), judged("1", None), judged("2", 0.1)]
    assert select(pool, "majority", counts=[0.2, 0.2, 0.6]).answer == "2"
