"""The policy's own confidence: its logprobs, read off the candidate. Costs nothing: what every paid vote must beat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tts_engine.calls import Calls
from tts_engine.errors import VerifierError
from tts_engine.types import Candidate, Key, Problem, StepJudgement, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """The verifier: the geometric mean probability of the tokens, exp(mean logprob).

    Attributes:
        over: `mean` takes all tokens, `tail` those of the last step, `least` those of the step it was least sure of
            (DeepConf's lowest group confidence, with steps as groups; 2508.15260).
    """

    over: Literal["mean", "tail", "least"] = "mean"

    @property
    def cost_ratio(self) -> float:
        return 0.0

    def open(self, problem: Problem, key: Key) -> ConfidenceJudge:
        return ConfidenceJudge(self)


class ConfidenceJudge:
    """Confidence at work; it has no state."""

    def __init__(self, verifier: Confidence) -> None:
        self._verifier = verifier

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        raise VerifierError("confidence is the policy's own: it cannot judge a text that no policy has just written")

    async def judge(self, candidate: Candidate, samples: int, calls: Calls) -> Verdict:
        logprob = self._logprob(candidate)
        if math.isnan(logprob):
            return Verdict(step_scores=(), value=None, samples=(), invalid_samples=1)
        value = math.exp(min(logprob, 0.0))
        return Verdict(step_scores=(), value=value, samples=((StepJudgement(score=value),),))

    def publish(self) -> None:
        """Nothing is shared."""

    async def close(self) -> None:
        """Nothing is held."""

    def _logprob(self, candidate: Candidate) -> float:
        """Mean logprob of the tokens that count; nan where the backend gives none."""
        if self._verifier.over == "mean":
            return candidate.mean_logprob
        known = [step.mean_logprob for step in candidate.steps]
        if not known or any(map(math.isnan, known)):
            return math.nan
        return known[-1] if self._verifier.over == "tail" else min(known)
