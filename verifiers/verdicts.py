"""From samples to a verdict: the same for every verifier that judges step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tts_engine.types import Aggregation, StepJudgement, Usage, Verdict


def aggregate(scores: tuple[float, ...], how: Aggregation) -> float:
    """One value for a solution from the scores of its steps (the one definition).

    Args:
        scores: a score in [0, 1] for each judged step, in order; not empty.
    """
    if not scores:
        raise ValueError("no step scores to aggregate")
    match how:
        case "last":
            return scores[-1]
        case "mean":
            return math.fsum(scores) / len(scores)
        case "min":
            return min(scores)
        case "product":
            return math.prod(scores)
    raise ValueError(f"unknown aggregation {how!r}")


def make_verdict(samples: Sequence[tuple[StepJudgement, ...]], aggregation: Aggregation) -> Verdict:
    """Combine K samples.

    A step's score is the mean over the samples that reached it with a parseable judgement; early-stopped samples count
    only for the steps they reached (with `product` the value is the share of samples that would accept the whole
    solution, as in a survival table). The scores end at the first step that no valid judgement reached.

    Args:
        samples: for each sample the judgements of the steps it reached; an unparseable one (score None) is its last.
    """
    scores: list[float] = []
    for index in range(max(map(len, samples), default=0)):
        reached = [sample[index].score for sample in samples if len(sample) > index]
        valid = [score for score in reached if score is not None]
        if not valid:
            break
        scores.append(math.fsum(valid) / len(valid))
    return Verdict(
        step_scores=tuple(scores),
        value=aggregate(tuple(scores), aggregation) if scores else None,
        samples=tuple(samples),
        invalid_samples=sum(any(judgement.score is None for judgement in sample) for sample in samples),
        usage=sum((judgement.usage for sample in samples for judgement in sample), Usage()),
    )
