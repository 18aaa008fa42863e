"""For DSPy: the verifier as a reward function, for `dspy.BestOfN`, `dspy.Refine` or an optimizer's metric.

DSPy itself is not imported: a reward function is a function of a mapping and of an object with fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tts_engine.adapters.hosted import Hosted
from tts_engine.formats.policy import split_steps

Reward = Callable[[Mapping[str, Any], Any], float]


def make_reward(
    engine: Hosted, *, problem: str = "question", solution: str = "solution", samples: int | None = None
) -> Reward:
    """A function of a module's inputs and its prediction: the verifier's value of the solution, in [0, 1].

    Args:
        engine: what judges; the caller ends it.
        problem: the input that has the question.
        solution: the output that has the solution, as text with `Step 1: `, `Step 2: `, ...; without, it is one step.
        samples: judgements; the configured number if None.

    Raises:
        VerifierError: (the function) no judgement could be read: DSPy counts it as a failed attempt, not as a bad one.
    """

    def reward(inputs: Mapping[str, Any], prediction: Any) -> float:  # noqa: ANN401  # dspy.Prediction
        steps = split_steps(str(getattr(prediction, solution)))
        value = engine.judge(str(inputs[problem]), steps, samples).value
        assert value is not None  # `judge` raises instead
        return value

    return reward
