"""The stage `label`: from rollout counts to the labels of steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from tts_engine.errors import ConfigError
from tts_engine.verifiers.training.collection import story_of
from tts_engine.verifiers.training.domain import first_error
from tts_engine.verifiers.training.manifest import Record
from tts_engine.verifiers.training.plans import Case, Counts, decided_labels
from tts_engine.verifiers.training.rolling import Root, case_of
from tts_engine.verifiers.training.rpe import Count, binary_search, exact_threshold, first_bad
from tts_engine.verifiers.training.stages import Run

Method = Literal["rpe", "hard", "soft", "omega", "exact"]
FITTING: Mapping[str, tuple[str, ...]] = {
    "rpe": ("rpe", "zero", "never"),
    "hard": ("right", "zero", "never"),
    "soft": ("zero", "never"),
    "omega": ("halves", "never"),
}
"""Kinds of rollouts (`rollouts.stop`) that have what a method needs."""


def label(run: Run, *, method: Method = "rpe", threshold: float | None = None) -> None:
    """Stage `label`: for each solution its steps up to the first bad one, each good or bad.

    Args:
        method: `rpe` relative progress; `hard` a right rollout exists (Math-Shepherd's hard estimation, with
            `rollouts: {k: 8}`); `soft` the share of right rollouts; `omega` the binary search of OmegaPRM; `exact` the
            checker of the embedded domain, to measure the others by.
        threshold: of `rpe` (0.8) and `soft` (0.5).
    """
    threshold = threshold if threshold is not None else 0.5 if method == "soft" else 0.8
    params: Record = {"method": method} | ({"threshold": threshold} if method in ("rpe", "soft") else {})
    needed = ("problems", "sample") if method == "exact" else ("problems", "sample", "rollouts")
    identity = run.folder.identity("label", params, run.seed, needed)
    if run.folder.finished("label", identity):
        return
    solutions = run.folder.read("sample")
    if method == "exact":
        found = exact_labels(run.folder.read("problems"), solutions)
    else:
        _check_fit(run, method, threshold)
        root = run.folder.facts("rollouts")["identity"]["params"]["root"]
        found = counted_labels(run.folder.read("rollouts"), solutions, method, exact_threshold(threshold), root)
    records = [_record(solution, found[solution["id"]]) for solution in solutions if solution["id"] in found]
    counts = Counter(solutions=len(records), without_rollouts=len(solutions) - len(records))
    counts += Counter(with_a_bad_step=sum(not all(record["labels"]) for record in records))
    counts["right answer, bad step"] = sum(s["correct"] and not all(found.get(s["id"], ())) for s in solutions)
    counts["wrong answer, no bad step"] = sum(not s["correct"] and all(found.get(s["id"], (False,))) for s in solutions)
    run.folder.commit("label", identity, records, counts=counts)


def counted_labels(
    rollouts: Sequence[Record], solutions: Sequence[Record], method: Method, threshold: Fraction, root: Root
) -> dict[str, tuple[bool, ...]]:
    """The labels of each solution that has rollouts, up to its first bad step."""
    known = {name: (entry["k"], counts) for entry in rollouts for name, counts in entry["counts"].items()}
    found = {}
    for solution in solutions:
        if solution["id"] in known:
            k, raw = known[solution["id"]]
            counts = tuple(None if pair is None else Count(*pair) for pair in raw)
            found[solution["id"]] = labels_of(case_of(solution, k, root), counts, method, threshold)
    return found


def labels_of(case: Case, counts: Counts, method: Method, threshold: Fraction) -> tuple[bool, ...]:
    """Labels up to the first bad step, from the counts that a plan left (None: never looked at)."""
    if method == "rpe":
        return decided_labels(case, counts, threshold)
    if method == "omega":
        error = None if case.correct else binary_search(lambda step: _right(counts[step + 1]) > 0, case.steps)
        return _up_to(error, case.steps)
    need = threshold if method == "soft" else Fraction(0)
    good = [
        c is not None and c.right > 0 and need.denominator * c.right >= need.numerator * c.total for c in counts[1:]
    ]
    return _up_to(first_bad(good), case.steps)


def exact_labels(problems: Sequence[Record], solutions: Sequence[Record]) -> dict[str, tuple[bool, ...]]:
    """What the checker of the embedded domain says."""
    stories = {problem["id"]: story_of(problem) for problem in problems}
    return {s["id"]: _up_to(first_error(stories[s["problem_id"]], s["steps"]), len(s["steps"])) for s in solutions}


def _up_to(error: int | None, steps: int) -> tuple[bool, ...]:
    return (True,) * steps if error is None else (*(True,) * error, False)


def _right(count: Count | None) -> int:
    return count.right if count else 0


def _record(solution: Record, labels: tuple[bool, ...]) -> Record:
    return {
        "id": solution["id"],
        "problem_id": solution["problem_id"],
        "labels": list(labels),
        "error": first_bad(labels),
    }


def _check_fit(run: Run, method: Method, threshold: float) -> None:
    """Refuse labels that the rollouts were not made for."""
    made = run.folder.facts("rollouts")["identity"]["params"]
    if made["stop"] not in FITTING[method]:
        fitting = ", ".join(FITTING[method])
        raise ConfigError(f"{method} labels need rollouts with stop: {fitting}; these have stop: {made['stop']}")
    if made["stop"] == "rpe" and made["threshold"] != threshold:
        raise ConfigError(
            f"these rollouts stopped when labels at threshold {made['threshold']} were decided, which says nothing"
            f" about {threshold}; give both stages the same threshold, or rollouts stop: zero"
        )
