"""Sequential tests on votes: known answers, error rates by simulation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.compute.stopping import VoteRule, beta_above_half
from tts_engine.errors import ConfigError


def test_known_answers() -> None:
    assert beta_above_half(1, 1) == 0.5
    assert beta_above_half(5, 1) == pytest.approx(31 / 32)
    assert [VoteRule(error=0.05, test=test).least for test in ("sprt", "beta")] == [2, 4]  # type: ignore[arg-type]
    # five of eight cannot be turned
    assert [VoteRule(error=0.01, test=test).least for test in ("sprt", "beta")] == [3, 5]  # type: ignore[arg-type]
    assert VoteRule(most=1).least == 1
    assert not VoteRule(most=8).settled(2, 2)
    assert VoteRule(most=8).settled(5, 3)  # all taken
    assert VoteRule(most=8, error=1e-9).settled(5, 0)  # three more cannot turn it
    assert not VoteRule(most=8, error=1e-9).settled(4, 0)


@given(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["sprt", "beta"]))
def test_symmetric_and_monotonic(yes: int, no: int, test: str) -> None:
    rule = VoteRule(most=64, test=test)  # type: ignore[arg-type]
    assert rule.settled(yes, no) == rule.settled(no, yes)
    if yes > no and rule.settled(yes, no):
        assert rule.settled(yes + 1, no)


@pytest.mark.parametrize("error", [0.02, 0.1])
def test_the_error_rate_is_kept(error: float) -> None:
    """Votes that are right with the assumed reliability: a wrong majority is as rare as was asked for."""
    draw, rule = random.Random(0), VoteRule(most=100, error=error)
    wrong = asked = 0
    for _ in range(4000):
        yes = no = 0
        while not rule.settled(yes, no):
            vote = draw.random() < rule.reliability
            yes, no = yes + vote, no + (not vote)
        wrong, asked = wrong + (no > yes), asked + yes + no
    assert wrong / 4000 <= error
    assert asked / 4000 < 8


def test_written_forms() -> None:
    assert VoteRule.parse("auto") == VoteRule()
    assert VoteRule.parse("auto:16") == VoteRule(most=16)
    assert VoteRule.parse("auto:16:0.01:beta") == VoteRule(most=16, error=0.01, test="beta")


@pytest.mark.parametrize(
    "text", ["many", "auto:", "auto:x", "auto:0", "auto:8:0.7", "auto:8:0.1:t", "auto:8:0.1:beta:1"]
)
def test_nonsense(text: str) -> None:
    with pytest.raises(ConfigError, match="auto:16"):
        VoteRule.parse(text)
