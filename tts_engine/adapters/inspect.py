"""For Inspect (inspect_ai): a solver that searches, and a scorer that asks the verifier.

The engine starts with the first sample that needs it and ends with the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inspect_ai.hooks import Hooks, RunEnd, hooks
from inspect_ai.model import ModelOutput, ModelUsage
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from tts_engine.adapters.hosted import Hosted
from tts_engine.adapters.told import solved, verified
from tts_engine.errors import VerifierError
from tts_engine.formats.answers import compared, extract_answer, same_answer
from tts_engine.formats.policy import split_steps
from tts_engine.selection import shown
from tts_engine.types import Outcome, Problem

Settings = Mapping[str, Any] | str | None
"""A configuration: a YAML file, a mapping with its keys, or None for the embedded models."""

_engines: dict[str, Hosted] = {}


@solver
def search(config: Settings = None, **options: Any) -> Solver:  # noqa: ANN401  # those of `Engine.solve`
    """Answer each sample by a search; the task's own model is not asked.

    Args:
        config: of the engine.
        options: `strategy`, `n`, `verifier_samples`, `budget` (of each sample), `seed`, ... as for `Engine.solve`.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        outcome = await engine_of(config).asolve(problem_of(state), **options)
        told = solved(outcome)
        state.output = output_of(outcome, told.solution)
        state.messages.append(state.output.message)
        state.metadata["tts"] = told.model_dump()
        state.completed = True
        return state

    return solve


@scorer(metrics=[mean(), stderr()])
def verifier(samples: int | None = None, config: Settings = None) -> Scorer:
    """The verifier's value of the solution, in [0, 1]; it needs no target. Unscored where it could not be judged.

    Args:
        samples: judgements of each solution; the configured number if None.
        config: of the engine.
    """

    async def score(state: TaskState, target: Target) -> Score:
        steps = split_steps(state.output.completion)
        try:
            told = verified(await engine_of(config).ajudge(problem_of(state), steps, samples))
        except VerifierError as error:
            return Score.unscored(explanation=str(error))
        assert told.value is not None
        answer = extract_answer(state.output.completion)
        return Score(
            value=told.value, answer=answer, explanation="\n".join(told.rationales), metadata=told.model_dump()
        )

    return score


@scorer(metrics=[accuracy(), stderr()])
def equal_answer() -> Scorer:
    """Whether the answer is mathematically equal to the target."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = extract_answer(state.output.completion)
        await compared([answer], target.text)
        right = answer is not None and same_answer(answer, target.text)
        return Score(value=CORRECT if right else INCORRECT, answer=answer)

    return score


@hooks(name="tts_engine", description="Ends the engines of tts-engine with the run")
class EndEngines(Hooks):
    """The end of a run."""

    async def on_run_end(self, data: RunEnd) -> None:
        close()


def close() -> None:
    """End all engines."""
    while _engines:
        _engines.popitem()[1].close()


def engine_of(config: Settings) -> Hosted:
    """One engine for each configuration."""
    return _engines.setdefault(json.dumps(config, sort_keys=True, default=str), Hosted(config))


def problem_of(state: TaskState) -> Problem:
    """The sample as a problem; each epoch has its own random draws."""
    return Problem(id=f"{state.sample_id}:{state.epoch}", prompt=state.input_text)


def output_of(outcome: Outcome, text: str) -> ModelOutput:
    """The solution as a model's output, with what both models took."""
    best, total = shown(outcome), outcome.total
    made = total.completion + total.cancelled
    output = ModelOutput.from_content(
        "tts-engine", text, "max_tokens" if best is None or best.candidate.dead else "stop"
    )
    output.usage = ModelUsage(
        input_tokens=total.prompt - total.cached,
        output_tokens=made,
        total_tokens=total.tokens,
        input_tokens_cache_read=total.cached,
    )
    return output
