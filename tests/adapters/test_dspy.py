"""The reward function; tests/agents has it inside DSPy."""

from __future__ import annotations

from types import SimpleNamespace

from tests.adapters.conftest import PROBLEM, RIGHT, WRONG
from tts_engine.adapters.dspy import make_reward
from tts_engine.adapters.hosted import Hosted


def test_the_reward_is_the_verdict_on_the_steps(hosted: Hosted) -> None:
    reward = make_reward(hosted, samples=2)
    right, wrong = (
        reward({"question": PROBLEM}, SimpleNamespace(solution="\n".join(steps))) for steps in (RIGHT, WRONG)
    )
    assert right == hosted.judge(PROBLEM, RIGHT, 2).value
    assert wrong < 0.5 < right


def test_the_fields_have_names(hosted: Hosted) -> None:
    reward = make_reward(hosted, problem="task", solution="work", samples=1)
    assert reward({"task": PROBLEM}, SimpleNamespace(work="\n".join(RIGHT))) > 0.5
