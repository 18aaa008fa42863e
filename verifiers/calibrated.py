"""A verifier whose scores are calibrated, and that abstains where it is too unsure. Every verifier can be made one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tts_engine.backends.embedded import folder_of
from tts_engine.calibration import Calibration
from tts_engine.calls import Calls
from tts_engine.judging import Judge, Verifier, judge_candidate
from tts_engine.types import Candidate, Key, Problem, Verdict
from tts_engine.verifiers.verdicts import aggregate

CHECKPOINT = "checkpoint"
"""As `calibration`: the file beside the verifier's own checkpoint."""
Certainty = Annotated[float, Field(ge=0.5, lt=1)]


def calibratable(factory: Callable[..., Verifier]) -> Callable[..., Verifier]:
    """The factory with two more parameters.

    calibration: a file, or `checkpoint` for the one beside the verifier's model; None leaves the scores as they are.
    abstain: a value p with max(p, 1 - p) below this becomes None, as if the candidate had not been judged; 0.5 never.
    """

    @functools.wraps(factory)
    def make(*, calibration: str | None = None, abstain: float = 0.5, **params: Any) -> Verifier:  # noqa: ANN401
        verifier = factory(**params)
        if calibration is None and abstain == 0.5:
            return verifier
        loaded = None if calibration is None else Calibration.load(_path(calibration, params.get("model")))
        return Calibrated(verifier=verifier, calibration=loaded, abstain=abstain)

    signature = inspect.signature(factory, eval_str=True)
    extra = [
        inspect.Parameter("calibration", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=str | None),
        inspect.Parameter("abstain", inspect.Parameter.KEYWORD_ONLY, default=0.5, annotation=Certainty),
    ]
    make.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
    return make


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A verifier with calibrated scores (`calibration` None: as they are) that abstains below a certainty."""

    verifier: Verifier
    calibration: Calibration | None
    abstain: float = 0.5

    @property
    def cost_ratio(self) -> float:
        return self.verifier.cost_ratio

    def open(self, problem: Problem, key: Key) -> CalibratedJudge:
        return CalibratedJudge(self, self.verifier.open(problem, key))

    def adjusted(self, verdict: Verdict) -> Verdict:
        """The verdict with a calibrated value, or with calibrated step scores and the value that follows from them;
        samples stay as they were said."""
        value, scores = verdict.value, verdict.step_scores
        if self.calibration is not None and self.calibration.level == "steps":
            scores = tuple(map(self.calibration, scores))
            how = getattr(self.verifier, "aggregation", None)
            value = aggregate(scores, how) if scores and how else value
        elif self.calibration is not None and value is not None:
            value = self.calibration(value)
        if value is not None and max(value, 1 - value) < self.abstain:
            value = None
        return replace(verdict, value=value, step_scores=scores)


class CalibratedJudge:
    """The verifier at work on one problem."""

    def __init__(self, verifier: Calibrated, judge: Judge) -> None:
        self._verifier = verifier
        self._judge = judge

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        return self._verifier.adjusted(await self._judge(steps, samples, calls))

    async def judge(self, candidate: Candidate, samples: int, calls: Calls) -> Verdict:
        return self._verifier.adjusted(await judge_candidate(self._judge, candidate, samples, calls))

    def publish(self) -> None:
        self._judge.publish()

    async def close(self) -> None:
        await self._judge.close()


def _path(calibration: str, model: str | None) -> Path:
    if calibration != CHECKPOINT or model is None:
        return Path(calibration)
    return folder_of(model)
