"""Confidence from token windows, by hand and from a real run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine import Engine
from tts_engine.errors import ConfigError
from tts_engine.types import Candidate, Key, Problem
from tts_engine.verifiers import Confidence
from tts_engine.verifiers.confidence import group_confidences

PROBLEM = Problem(
    id="p", prompt="Ann starts with 12 pens. Ann buys 4 boxes of 7 pens. How many pens has Ann in the end?"
)
TOKENS = (4.0, 2.0, 0.0, 1.0, 3.0, 8.0)


def nats(over: Any, **params: Any) -> float:  # noqa: ANN401
    """What the verifier reads off TOKENS, as nats again."""
    value = Confidence(over=over, **params).value(Candidate(problem=PROBLEM, key=Key(0), confidences=TOKENS))
    return value / (1 - value)


@pytest.mark.parametrize(
    ("over", "params", "expected"),
    [
        ("token-mean", {}, 3.0),
        ("token-tail", {"window": 2}, 5.5),
        ("token-tail", {}, 3.0),
        ("lowest-group", {"window": 2}, 0.5),  # means of windows: 3, 1, 0.5, 2, 5.5
        ("lowest-group", {"window": 3}, 1.0),  # 2, 1, 4/3, 4
        ("lowest-group", {}, 3.0),
        ("bottom-groups", {"window": 2, "bottom": 0.4}, 0.75),
        ("bottom-groups", {"window": 2, "bottom": 1.0}, 2.4),
        ("bottom-groups", {"window": 2}, 0.5),
    ],
)
def test_windows_by_hand(over: str, params: dict[str, Any], expected: float) -> None:
    assert nats(over, **params) == pytest.approx(expected)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30), st.integers(1, 40))
def test_groups_are_the_means_of_all_windows(tokens: list[float], window: int) -> None:
    size = min(window, len(tokens))
    expected = [sum(tokens[i : i + size]) / size for i in range(len(tokens) - size + 1)]
    assert group_confidences(tokens, window) == pytest.approx(expected, abs=1e-9)


async def test_a_search_reads_the_alternatives_it_asked_for() -> None:
    config = {
        "policy": {"logprobs": 5},
        "strategy": {"name": "best-of-n", "n": 4},
        "verifier": {"name": "confidence", "params": {"over": "lowest-group", "window": 8}},
        "run": {"baseline": False},
    }
    async with Engine.from_config(config) as engine:
        outcome = await engine.solve(PROBLEM)
    for judged in outcome.candidates:
        assert len(judged.candidate.confidences) == judged.candidate.usage.completion
        assert judged.verdict is not None
        assert judged.verdict.value == Confidence(over="lowest-group", window=8).value(judged.candidate)
        assert 0 < judged.verdict.value < 1


def test_alternatives_that_nobody_asked_for_are_named() -> None:
    with pytest.raises(ConfigError, match=r"policy\.logprobs=20"):
        Confidence(over="token-tail").value(Candidate(problem=PROBLEM, key=Key(0)))
