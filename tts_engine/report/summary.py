"""From outcomes to numbers: pure functions, plain dictionaries out (the form of outcomes.jsonl and summary.json)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tts_engine.errors import GraderError
from tts_engine.formats.answers import grade
from tts_engine.report.intervals import paired_bootstrap, pass_at_k, wilson
from tts_engine.selection import select
from tts_engine.types import Judged, Outcome, Usage

Record = dict[str, Any]
CURVES = {"naive": "best", "weighted": "weighted", "maj": "majority"}
"""The field's names of the selectors."""


def powers(n: int) -> list[int]:
    """1, 2, 4, ... and `n` itself.

    >>> powers(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({2**i for i in range(n.bit_length())} | {n}) if n > 0 else []


def is_right(answer: str | None, reference: str | None) -> bool | None:
    """Whether an answer equals the reference; None when there is no reference or the grader fails on the pair."""
    try:
        return grade(answer, reference)
    except GraderError:
        return None


def outcome_record(outcome: Outcome) -> Record:
    """One line of outcomes.jsonl: what was generated, how it was scored, what would be chosen at each smaller N."""
    candidates, reference = outcome.candidates, outcome.problem.answer
    record: Record = {
        "id": outcome.problem.id,
        "problem": outcome.problem.prompt,
        "answer": reference,
        "pred": outcome.answer,
        "correct": outcome.correct,
        "chosen": outcome.chosen,
        "completions": [judged.candidate.text for judged in candidates],
        "answers": [judged.candidate.answer for judged in candidates],
        "scores": [judged.verdict.value if judged.verdict else None for judged in candidates],
        "step_scores": [list(judged.verdict.step_scores) if judged.verdict else None for judged in candidates],
    }
    for n in powers(len(candidates)):
        for name, how in CURVES.items():
            record[f"pred_{name}@{n}"] = _selected(candidates[:n], how)
    record |= {
        "usage": {str(role): usage.asdict() for role, usage in outcome.usage.items()},
        "stop_reason": outcome.stop_reason,
        "failures": [
            {"where": f.where, "error": f.error, "message": f.message, "key": f.key} for f in outcome.failures
        ],
        "retries": dict(outcome.retries),
        "seconds": outcome.seconds,
    }
    return record | {key: value for key, value in outcome.problem.meta.items() if key not in record}


def right_share(outcome: Outcome) -> float:
    """Share of right candidates: the problem's pass@1 when the candidates are independent samples."""
    return _right(outcome) / len(outcome.candidates) if outcome.candidates else 0.0


def is_plain(outcomes: Sequence[Outcome]) -> bool:
    """Whether all candidates are independent whole samples (children of the tree's root), as pass@k needs them."""
    return all(
        str(judged.candidate.parent) == outcome.tree["nodes"][0]["id"]
        for outcome in outcomes
        for judged in outcome.candidates
    )


def curves(outcomes: Sequence[Outcome]) -> Record:
    """Accuracy of each selector at N = 1, 2, 4, ... candidates, with Wilson intervals; `naive` is best score."""
    most = max((len(outcome.candidates) for outcome in outcomes), default=0)
    return {
        f"{name}@{n}": _accuracy(
            is_right(_selected(outcome.candidates[:n], how), outcome.problem.answer) for outcome in outcomes
        )
        for name, how in CURVES.items()
        for n in powers(most)
    }


def pass_curve(outcomes: Sequence[Outcome]) -> Record:
    """Mean unbiased pass@k at k = 1, 2, 4, ...; a problem with fewer samples counts with all it has."""
    most = max((len(outcome.candidates) for outcome in outcomes), default=0)
    counts = [(len(outcome.candidates), _right(outcome)) for outcome in outcomes]
    return {f"pass@{k}": math.fsum(pass_at_k(n, c, k) for n, c in counts) / len(counts) for k in powers(most)}


def summarize(outcomes: Sequence[Outcome], baseline: Sequence[Outcome] = (), seed: int = 0) -> Record:
    """Everything that is reported of a run.

    Args:
        outcomes: in program order.
        baseline: plain samples of the same problems, for the comparison with not searching; may be empty.
        seed: of the bootstrap.
    """
    graded = [outcome for outcome in outcomes if outcome.correct is not None]
    total = sum((outcome.total for outcome in outcomes), Usage())
    summary: Record = {
        "problems": len(outcomes),
        "graded": len(graded),
        "usage": usage_by_role(outcomes),
        "tokens_per_problem": total.tokens / max(len(outcomes), 1),
        "flops_per_problem": total.flops / max(len(outcomes), 1),
        "invalid_verdicts": invalid_share(outcomes),
        "failures": dict(Counter(failure.where for outcome in outcomes for failure in outcome.failures)),
        "retries": dict(sum((Counter(outcome.retries) for outcome in outcomes), Counter[str]())),
        "stop_reasons": dict(Counter(stop_kind(outcome.stop_reason) for outcome in outcomes)),
    }
    if graded:
        accuracy = wilson(sum(bool(outcome.correct) for outcome in graded), len(graded))
        oracle = wilson(sum(_right(outcome) > 0 for outcome in graded), len(graded))
        summary |= {"accuracy": accuracy.asdict(), "oracle": oracle.asdict()}
        summary |= {"selection_gap": oracle.value - accuracy.value, "curves": curves(graded)}
        summary["by_level"] = by_level(graded)
        plain = {outcome.problem.id: outcome for outcome in baseline}
        pairs = [(outcome, plain[outcome.problem.id]) for outcome in graded if outcome.problem.id in plain]
        if any(sampled.candidates for _, sampled in pairs):
            summary["baseline"] = _comparison(pairs, seed)
    return summary


def by_level(outcomes: Sequence[Outcome]) -> Record:
    """Accuracy for each value of the problems' `level`; empty where they have none."""
    levels = sorted({str(outcome.problem.meta["level"]) for outcome in outcomes if "level" in outcome.problem.meta})
    return {
        level: _accuracy(o.correct for o in outcomes if str(o.problem.meta.get("level")) == level) for level in levels
    }


def _comparison(pairs: Sequence[tuple[Outcome, Outcome]], seed: int) -> Record:
    """The same problems without a search: one sample, a majority vote; and how much better the search is."""
    plain = [baseline for _, baseline in pairs]
    search = [float(bool(outcome.correct)) for outcome, _ in pairs]
    single = [right_share(baseline) for baseline in plain]
    voted = [float(bool(baseline.correct)) for baseline in plain]
    total = sum((baseline.total for baseline in plain), Usage())
    samples = max(len(baseline.candidates) for baseline in plain)
    return {
        "samples": samples,
        "tokens_per_problem": total.tokens / len(plain),
        "flops_per_problem": total.flops / len(plain),
        **pass_curve(plain),
        "majority": wilson(int(sum(voted)), len(voted)).asdict(),
        "gain_over_one_sample": paired_bootstrap(search, single, seed=seed).asdict(),
        "gain_over_majority": paired_bootstrap(search, voted, seed=seed).asdict(),
    }


def usage_by_role(outcomes: Iterable[Outcome]) -> dict[str, dict[str, float]]:
    """Usage of all outcomes together."""
    totals: dict[str, Usage] = {}
    for outcome in outcomes:
        for role, usage in outcome.usage.items():
            totals[str(role)] = totals.get(str(role), Usage()) + usage
    return {role: usage.asdict() for role, usage in totals.items()}


def invalid_share(outcomes: Iterable[Outcome]) -> float | None:
    """Share of verifier samples that could not be parsed; None when nothing was judged."""
    verdicts = [judged.verdict for outcome in outcomes for judged in outcome.candidates if judged.verdict]
    samples = sum(len(verdict.samples) for verdict in verdicts)
    return sum(verdict.invalid_samples for verdict in verdicts) / samples if samples else None


def stop_kind(reason: str) -> str:
    """A stop reason without the problem's name.

    >>> stop_kind("budget: problem:gsm8k-12"), stop_kind("finished")
    ('budget: problem', 'finished')
    """
    return ":".join(reason.split(":")[:2])


def _selected(candidates: Sequence[Judged], how: str) -> str | None:
    try:
        return select(candidates, how).answer
    except GraderError:
        return None


def _right(outcome: Outcome) -> int:
    return sum(bool(is_right(judged.candidate.answer, outcome.problem.answer)) for judged in outcome.candidates)


def _accuracy(verdicts: Iterable[bool | None]) -> Record | None:
    known = [verdict for verdict in verdicts if verdict is not None]
    return wilson(sum(known), len(known)).asdict() if known else None
