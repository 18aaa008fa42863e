"""What a search asks of a verifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from tts_engine.calls import Calls
from tts_engine.errors import VerifierError
from tts_engine.types import Candidate, Key, Problem, StepJudgement, Verdict

ACCEPTED = 0.5
"""A sample votes yes when it scores no step below this."""


class Judge(Protocol):
    """A verifier at work on one problem; it remembers what it has judged, so that a longer prefix costs only its new
    steps and equal texts are judged once."""

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        """Judge the solution prefix `steps` with `samples` independent samples, paid through `calls`.

        Samples are nested: those of a smaller number are among those of a larger one.

        Raises:
            BackendError, BudgetExhausted: not even one sample could be had.
        """
        ...

    def publish(self) -> None:
        """A barrier: what was judged so far is common to all candidates from now on.

        Under a budget, candidates of one wave pay for equal texts each on its own, so that what a candidate can pay
        does not depend on who came first; without one, equal texts are judged once anyway.
        """
        ...

    async def close(self) -> None: ...


class CandidateJudge(Protocol):
    """A judge that looks at more than the texts: at how sure the policy was, or at what other judges say of it."""

    async def judge(self, candidate: Candidate, samples: int, calls: Calls) -> Verdict:
        """As `Judge.__call__`, for a candidate of a search."""
        ...


async def judge_candidate(judge: Judge, candidate: Candidate, samples: int, calls: Calls) -> Verdict:
    """What `judge` says of a candidate: from the candidate if it can, else from its texts. Raises as `Judge` does.

    Raises:
        VerifierError: the verdict is no verdict.
    """
    if hasattr(judge, "judge"):  # all that isinstance(judge, CandidateJudge) asks, which takes 20 us
        verdict = await cast(CandidateJudge, judge).judge(candidate, samples, calls)
    else:
        verdict = await judge(tuple(step.text for step in candidate.steps), samples, calls)
    if verdict.value is not None and not 0.0 <= verdict.value <= 1.0:
        raise VerifierError(f"the verifier valued a candidate at {verdict.value}; values must be from 0 to 1")
    return verdict


class Verifier(Protocol):
    """Makes a `Judge` for each problem."""

    @property
    def cost_ratio(self) -> float:
        """First guess of the cost of one sample over a solution, in costs of generating it; measured from then on."""
        ...

    def open(self, problem: Problem, key: Key) -> Judge: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique:
    """What is wrong with a solution: the first bad step (0-based) and what the verifier says of it (maybe nothing)."""

    step: int
    text: str = ""


def critique_of(verdict: Verdict | None, threshold: float = 0.5) -> Critique | None:
    """The first step scored below `threshold`, with the analysis of the first sample that agrees (arXiv 2504.00891).

    None where no step is bad or there is no verdict.
    """
    step = None if verdict is None else verdict.first_error(threshold)
    if verdict is None or step is None:
        return None
    said = [sample[step] for sample in verdict.samples if len(sample) > step]
    bad = [judgement for judgement in said if judgement.score is not None and judgement.score < threshold]
    return Critique(step=step, text=(bad or said)[0].analysis if said else "")


def votes(verdict: Verdict) -> tuple[int, int]:
    """How many samples accept all that they judged, and how many do not; unparseable ones do not vote."""
    found = [vote for vote in map(_vote, verdict.samples) if vote is not None]
    return sum(found), len(found) - sum(found)


def _vote(chain: tuple[StepJudgement, ...]) -> bool | None:
    scores = [judgement.score for judgement in chain]
    if not scores or any(score is None for score in scores):
        return None
    return all(score is not None and score >= ACCEPTED for score in scores)
