"""How well a verifier finds the first wrong step (ProcessBench, 2412.06559): pure functions on per-item records.

Two definitions of K votes are in use, and they are different metrics:

    mean    a step's score is the mean reward of the samples that reached it; the prediction is the first step below
            0.5 (the Maj@K of GenPRM, 2504.00891)
    vote    every sample predicts an index; the prediction is the most frequent one, the first seen of equals
            (ProcessBench's own)

An item that got no valid judgement has the prediction None: it counts as wrong and as invalid.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tts_engine.report.intervals import Interval, paired_bootstrap, wilson
from tts_engine.report.labelled import ALL_RIGHT, Labelled
from tts_engine.report.reliability import area, brier, expected_error, reliability
from tts_engine.types import StepJudgement, Usage, Verdict

Record = dict[str, Any]
THRESHOLD = 0.5
RULES = {"mean": "mean reward per step (GenPRM's Maj@K)", "vote": "majority of predicted indices (ProcessBench's)"}
RESAMPLES = 10_000


def sample_prediction(sample: Sequence[StepJudgement], steps: int) -> int | None:
    """What one sample predicts of a solution of so many steps: the first step below the threshold, or `ALL_RIGHT`; None
    where it became unparseable before it found an error."""
    for index, judgement in enumerate(sample):
        if judgement.score is None:
            return None
        if judgement.score < THRESHOLD:
            return index
    return ALL_RIGHT if len(sample) == steps else None


def majority(predictions: Sequence[int | None]) -> int | None:
    """The most frequent valid prediction, the first seen of equals; None when none is valid.

    >>> majority([2, None, -1, -1, None, None])
    -1
    """
    counts = Counter(prediction for prediction in predictions if prediction is not None)
    return counts.most_common(1)[0][0] if counts else None


def mean_prediction(verdict: Verdict, steps: int) -> int | None:
    """The first of so many steps whose mean score is below the threshold, or `ALL_RIGHT`; None where no error was found
    and some step has no valid judgement."""
    found = verdict.first_error(THRESHOLD)
    if found is None and len(verdict.step_scores) == steps:
        return ALL_RIGHT
    return found


def item_record(item: Labelled, verdicts: Mapping[int, Verdict], failure: str | None = None) -> Record:
    """One line of items.jsonl: what each number of samples says of the item.

    Args:
        verdicts: by number of samples; empty where the verifier failed, `failure` says how.
    """
    return {
        "id": item.problem.id,
        "problem": item.problem.prompt,
        "steps": len(item.steps),
        "label": item.label,
        "failure": failure,
        "samples": {str(k): _verdict_record(verdicts[k], len(item.steps)) for k in sorted(verdicts)},
    }


def _verdict_record(verdict: Verdict, steps: int) -> Record:
    predictions = [sample_prediction(sample, steps) for sample in verdict.samples]
    return {
        "mean": mean_prediction(verdict, steps),
        "vote": majority(predictions),
        "value": verdict.value,
        "step_scores": list(verdict.step_scores),
        "predictions": predictions,
        "invalid": verdict.invalid_samples,
        "usage": verdict.usage.asdict(),
    }


def localisation(labels: Sequence[int], predictions: Sequence[int | None], seed: int = 0) -> Record:
    """err-acc, corr-acc and F1 with 95 % intervals: Wilson's for the shares, from Jeffreys' posteriors for F1.

    Args:
        labels, predictions: one for each item; None is a missing or unparseable prediction.

    Returns:
        `err_acc` over the items with an error, `corr_acc` over those without, `f1` their harmonic mean (None where one
        of the groups is empty), `counts` and `invalid`.
    """
    hits = {True: [0, 0], False: [0, 0]}
    for label, prediction in zip(labels, predictions, strict=True):
        group = hits[label == ALL_RIGHT]
        group[0] += prediction == label
        group[1] += 1
    (err, n_err), (corr, n_corr) = hits[False], hits[True]
    return {
        "err_acc": wilson(err, n_err).asdict() if n_err else None,
        "corr_acc": wilson(corr, n_corr).asdict() if n_corr else None,
        "f1": _f1_interval(err, n_err, corr, n_corr, seed).asdict() if n_err and n_corr else None,
        "counts": {"err": n_err, "corr": n_corr},
        "invalid": sum(prediction is None for prediction in predictions),
    }


def f1(err_acc: float, corr_acc: float) -> float:
    """The harmonic mean 2ab/(a+b), 0 where both are 0.

    >>> round(f1(0.37, 0.927), 3)
    0.529
    """
    total = err_acc + corr_acc
    return 2 * err_acc * corr_acc / total if total else 0.0


def _f1_interval(err: int, n_err: int, corr: int, n_corr: int, seed: int) -> Interval:
    """Both shares are drawn from their posteriors under Jeffreys' prior: unlike a bootstrap, these do not take 50 of
    50 for certainty."""
    random = np.random.default_rng(seed)
    a = random.beta(err + 0.5, n_err - err + 0.5, RESAMPLES)
    b = random.beta(corr + 0.5, n_corr - corr + 0.5, RESAMPLES)
    low, high = np.quantile(2 * a * b / (a + b), [0.025, 0.975])
    value = f1(err / n_err, corr / n_corr)
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def summarize(records: Sequence[Record], samples: Sequence[int], seed: int = 0) -> Record:
    """Everything that is reported of an evaluation, for each number of samples.

    Args:
        records: of `item_record`, one for each item.
        samples: the numbers of samples that were asked for.
        seed: of the bootstraps.
    """
    failures = Counter(record["failure"].partition(":")[0] for record in records if record["failure"])
    return {
        "items": len(records),
        "failures": dict(failures),
        "samples": {str(k): _at(records, str(k), seed) for k in sorted(samples)},
    }


def _at(records: Sequence[Record], k: str, seed: int) -> Record:
    labels = [record["label"] for record in records]
    got = [record["samples"].get(k) for record in records]
    judged = [one for one in got if one is not None]
    drawn = sum(len(one["predictions"]) for one in judged)
    report: Record = {rule: localisation(labels, [one and one[rule] for one in got], seed) for rule in RULES}
    report |= {
        "invalid_share": sum(one["invalid"] for one in judged) / drawn if drawn else None,
        "auc_within": within_problem_auc(records, k, seed),
        "auc_pooled": area(_values(records, k)),
        "per_solution": _cost([one["usage"] for one in judged]),
    }
    pairs = {"steps": step_pairs(records, k), "solutions": _values(records, k)}
    return report | {"calibration": {name: calibration(found) for name, found in pairs.items() if found}}


def step_pairs(records: Sequence[Record], k: str) -> list[tuple[float, bool]]:
    """(score, right?) of every judged step up to the first wrong one; what follows an error has no label."""
    return [
        (score, index != record["label"])
        for record in records
        if k in record["samples"]
        for index, score in enumerate(record["samples"][k]["step_scores"])
        if record["label"] == ALL_RIGHT or index <= record["label"]
    ]


def _values(records: Sequence[Record], k: str) -> list[tuple[float, bool]]:
    return [pair for record in records for pair in solution_pairs(record, k)]


def solution_pairs(record: Record, k: str) -> list[tuple[float, bool]]:
    """(value, without error?) of the item; nothing where it has no valid verdict."""
    one = record["samples"].get(k)
    return [] if one is None or one["value"] is None else [(one["value"], record["label"] == ALL_RIGHT)]


def within_problem_auc(records: Sequence[Record], k: str, seed: int = 0) -> Record | None:
    """Mean over problems of the chance that a right solution outscores a wrong one to the same problem.

    Problems that do not have both kinds say nothing; None where no problem has. The interval resamples problems.
    """
    groups: dict[str, list[tuple[float, bool]]] = {}
    for record in records:
        groups.setdefault(record["problem"], []).extend(solution_pairs(record, k))
    areas = [found for group in groups.values() if (found := area(group)) is not None]
    if not areas:
        return None
    return paired_bootstrap(areas, [0.0] * len(areas), seed=seed).asdict() | {"problems": len(areas)}


def calibration(pairs: Sequence[tuple[float, bool]]) -> Record:
    """Reliability bins, expected calibration error and Brier score of (score, right?) pairs."""
    bins = reliability(pairs)
    return {"pairs": len(pairs), "ece": expected_error(bins), "brier": brier(pairs), "bins": bins}


def _cost(usages: Sequence[Mapping[str, float]]) -> Record:
    keys = ("tokens", "completion", "flops", "calls", "code_runs", "dollars")
    return {key: math.fsum(usage[key] for usage in usages) / len(usages) for key in keys} if usages else {}


def total_usage(records: Sequence[Record]) -> Record:
    """What all items cost at the largest number of samples, which is all that was paid."""
    names = Usage().asdict()
    last = [record["samples"][max(record["samples"], key=int)]["usage"] for record in records if record["samples"]]
    return {name: sum(usage[name] for usage in last) for name in names}
