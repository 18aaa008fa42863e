"""Recorded results: what other systems predicted against the labels of a set, and the pairs of a judged set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tts_engine.calibration import Level, Pair, fit
from tts_engine.errors import DataError
from tts_engine.report.labelled import ALL_RIGHT, load_labelled, read_rows
from tts_engine.report.processbench import Record, localisation, majority, solution_pairs, step_pairs
from tts_engine.types import Key

FORM = 'write it like {"id": "1", "prediction": 0} (-1: no error, null: none was found in the output)'


def read_predictions(source: str) -> dict[str, tuple[int | None, Any]]:
    """Prediction and own label (None when it has none) of each row by id.

    A row has `prediction`, or `predictions`: those of K samples, of which the majority is taken.

    Raises:
        DataError: a row that has no prediction, or an id twice; names the line.
    """
    found: dict[str, tuple[int | None, Any]] = {}
    for place, row in read_rows(source):
        if not isinstance(row, dict) or "id" not in row:
            raise DataError(f"{place} is no row with an 'id'; {FORM}")
        name = str(row["id"])
        if name in found:
            raise DataError(f"{place}: the id {name!r} was used before; ids must differ")
        found[name] = _prediction(row, place), row.get("label")
    if not found:
        raise DataError(f"{source} holds no prediction; {FORM}")
    return found


def score(source: str, gold: str | None, *, partial: bool = False, seed: int = 0) -> Record:
    """err-acc, corr-acc and F1 of recorded predictions (`processbench.localisation`).

    Args:
        gold: the labelled set; None takes the labels in the rows themselves.
        partial: items of the set that have no prediction do not count; otherwise they are an error.

    Raises:
        DataError: a malformed row, a prediction for an unknown item, or a missing one.
    """
    predictions = read_predictions(source)
    labels = _gold(gold, predictions, partial) if gold else _own(source, predictions)
    return localisation(list(labels.values()), [predictions[name][0] for name in labels], seed) | {"items": len(labels)}


def judged_pairs(source: str, level: Level, k: int | None = None) -> tuple[int, list[Pair]]:
    """The (score, right?) pairs of a judged set (items.jsonl), and the number of samples they belong to.

    Args:
        level: values of `solutions` (right: without an error), or scores of `steps` up to the first error.
        k: number of samples; None takes the largest that the first item has.

    Raises:
        DataError: it is no judged set, or was not judged with that number of samples.
    """
    records = [row for _, row in read_rows(source)]
    if not all(isinstance(row, dict) and isinstance(row.get("samples"), dict) for row in records):
        raise DataError(f"{source} is no judged set; give the items.jsonl that tts-eval processbench wrote")
    known = {int(name) for row in records for name in row["samples"]}
    if not known or (k is not None and k not in known):
        raise DataError(f"{source} has no judgements with {k or 'any'} samples; it has {sorted(known) or 'none'}")
    number = k or max(known)
    if level == "steps":
        return number, step_pairs(records, str(number))
    return number, [pair for row in records for pair in solution_pairs(row, str(number))]


def cross_validated(pairs: Sequence[Pair], method: str, level: Level, seed: int = 0, folds: int = 5) -> list[Pair]:
    """The pairs with calibrated scores, each by a calibration that was fitted on the other folds.

    Folds in which one kind is missing from the rest cannot be fitted; their pairs keep their scores.
    """
    order = sorted(range(len(pairs)), key=lambda i: Key(seed, ("fold", i)).int())
    found: list[Pair] = []
    for fold in range(folds):
        held = [pairs[i] for i in order[fold::folds]]
        rest = [pairs[i] for place, i in enumerate(order) if place % folds != fold]
        mapped = fit(rest, method, level) if len({ok for _, ok in rest}) == 2 else float
        found += [(mapped(score), ok) for score, ok in held]
    return found


def _prediction(row: Mapping[str, Any], place: str) -> int | None:
    given = row["predictions"] if "predictions" in row else [row.get("prediction", "")]
    if not isinstance(given, list) or not all(_is_prediction(one) for one in given):
        raise DataError(f"{place} has no usable 'prediction' or 'predictions'; {FORM}")
    return majority(given)


def _is_prediction(value: Any) -> bool:  # noqa: ANN401  # any JSON value
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= ALL_RIGHT)


def _own(source: str, predictions: Mapping[str, tuple[int | None, Any]]) -> dict[str, int]:
    for name, (_, label) in predictions.items():
        if label is None or not _is_prediction(label):
            raise DataError(f"{source}: the row {name!r} has no label; give the labelled set with --gold FILE")
    return {name: int(label) for name, (_, label) in predictions.items()}


def _gold(gold: str, predictions: Mapping[str, tuple[int | None, Any]], partial: bool) -> dict[str, int]:
    labels = {item.problem.id: item.label for item in load_labelled(gold).items}
    unknown = [name for name in predictions if name not in labels]
    if unknown:
        raise DataError(f"{len(unknown)} predictions are for items that {gold} does not have, such as {unknown[0]!r}")
    missing = [name for name in labels if name not in predictions]
    if missing and not partial:
        raise DataError(
            f"{len(missing)} items have no prediction, such as {missing[0]!r}; add --partial to leave them out"
        )
    return {name: label for name, label in labels.items() if name in predictions}
