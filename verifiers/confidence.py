"""The policy's own confidence: its logprobs, read off the candidate. Costs nothing: what every paid vote must beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal

from pydantic import Field

from tts_engine.calls import Calls
from tts_engine.errors import ConfigError, VerifierError
from tts_engine.types import Candidate, Key, Problem, StepJudgement, Verdict

Over = Literal["mean", "tail", "least", "token-mean", "lowest-group", "bottom-groups", "token-tail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """The verifier.

    Attributes:
        over: what is read. From the logprobs of the tokens that were drawn, exp of their mean over all tokens (`mean`),
            over the last step (`tail`) or over the step it was least sure of (`least`). From the alternatives of
            each token (`policy.logprobs` must ask for them), DeepConf's measures (2508.15260): the mean token
            confidence (`token-mean`), that of the least sure window of tokens (`lowest-group`), of the least sure
            tenth of all windows (`bottom-groups`), or of the last window (`token-tail`).
        window: tokens of a window (published: 2048).
        bottom: share of the windows that `bottom-groups` takes (published: 0.1).
    """

    over: Over = "mean"
    window: Annotated[int, Field(ge=1)] = 2048
    bottom: Annotated[float, Field(gt=0, le=1)] = 0.1

    @property
    def cost_ratio(self) -> float:
        return 0.0

    def open(self, problem: Problem, key: Key) -> ConfidenceJudge:
        return ConfidenceJudge(self)

    def value(self, candidate: Candidate) -> float:
        """Confidence in [0, 1]; nan where the backend gives no logprobs.

        A token confidence of c nats, which has no upper bound, becomes c / (1 + c): the order stays the same.

        Raises:
            ConfigError: alternatives are needed and were not asked for.
        """
        if self.over in ("mean", "tail", "least"):
            return math.exp(min(self._logprob(candidate), 0.0))
        if not candidate.confidences:
            raise ConfigError(f"confidence over {self.over} reads the alternatives of tokens: set policy.logprobs=20")
        found = self._nats(candidate.confidences)
        return found / (1 + found)

    def _logprob(self, candidate: Candidate) -> float:
        if self.over == "mean":
            return candidate.mean_logprob
        known = [step.mean_logprob for step in candidate.steps]
        if not known or any(map(math.isnan, known)):
            return math.nan
        return known[-1] if self.over == "tail" else min(known)

    def _nats(self, tokens: Sequence[float]) -> float:
        if self.over == "token-mean":
            return math.fsum(tokens) / len(tokens)
        if self.over == "token-tail":
            return math.fsum(tokens[-self.window :]) / min(self.window, len(tokens))
        lowest = sorted(group_confidences(tokens, self.window))
        kept = lowest[: math.ceil(self.bottom * len(lowest))] if self.over == "bottom-groups" else lowest[:1]
        return math.fsum(kept) / len(kept)


def group_confidences(tokens: Sequence[float], window: int) -> list[float]:
    """Mean confidence of each window of so many consecutive tokens; one window where there are fewer tokens.

    >>> group_confidences([1.0, 2.0, 6.0], 2)
    [1.5, 4.0]
    """
    size = min(window, len(tokens))
    sums = list(accumulate(tokens, initial=0.0))
    return [(high - low) / size for low, high in zip(sums, sums[size:], strict=False)]


class ConfidenceJudge:
    """Confidence at work; it has no state."""

    def __init__(self, verifier: Confidence) -> None:
        self._verifier = verifier

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        raise VerifierError("confidence is the policy's own: it cannot judge a text that no policy has just written")

    async def judge(self, candidate: Candidate, samples: int, calls: Calls) -> Verdict:
        value = self._verifier.value(candidate)
        if math.isnan(value):
            return Verdict(step_scores=(), value=None, samples=(), invalid_samples=1)
        return Verdict(step_scores=(), value=value, samples=((StepJudgement(score=value),),))

    def publish(self) -> None:
        """Nothing is shared."""

    async def close(self) -> None:
        """Nothing is held."""
