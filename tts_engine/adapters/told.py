"""What other programs are told of a solution and of a verdict: plain data, the same from every adapter."""

from __future__ import annotations

from pydantic import BaseModel

from tts_engine.selection import shown
from tts_engine.types import Outcome, Usage, Verdict


class Cost(BaseModel, frozen=True):
    """Both models together; tokens are those that were computed."""

    tokens: int
    calls: int
    flops: float
    dollars: float
    checks: int


class Solved(BaseModel, frozen=True):
    """A solved problem. `score` and `step_scores` are the verifier's, in [0, 1]; without one None and empty."""

    answer: str | None
    solution: str
    score: float | None
    step_scores: list[float]
    votes: dict[str, int]
    stop_reason: str
    cost: Cost


class Verified(BaseModel, frozen=True):
    """A judged solution. `value` is None where no judgement could be read; `first_error` counts from 0."""

    value: float | None
    step_scores: list[float]
    first_error: int | None
    rationales: list[str]
    cost: Cost


def cost(usage: Usage) -> Cost:
    """What something took."""
    return Cost(
        tokens=usage.tokens, calls=usage.calls, flops=usage.flops, dollars=usage.dollars, checks=usage.code_runs
    )


def solved(outcome: Outcome) -> Solved:
    """What is told of an outcome; `votes` counts the candidates by their answers."""
    best = shown(outcome)
    answers = [judged.candidate.answer for judged in outcome.candidates]
    return Solved(
        answer=outcome.answer,
        solution=best.candidate.text if best else "",
        score=best.verdict.value if best and best.verdict else None,
        step_scores=list(best.verdict.step_scores) if best and best.verdict else [],
        votes={answer: answers.count(answer) for answer in answers if answer is not None},
        stop_reason=outcome.stop_reason,
        cost=cost(outcome.total),
    )


def verified(verdict: Verdict) -> Verified:
    """What is told of a verdict: of the samples, what the first says of each step that it reached."""
    return Verified(
        value=verdict.value,
        step_scores=list(verdict.step_scores),
        first_error=verdict.first_error(),
        rationales=[judgement.rationale for judgement in verdict.samples[0]] if verdict.samples else [],
        cost=cost(verdict.usage),
    )
