"""Scoring what other systems predicted: rows with an id and a prediction against the labels of a set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tts_engine.errors import DataError
from tts_engine.report.labelled import ALL_RIGHT, load_labelled, read_rows
from tts_engine.report.processbench import Record, localisation, majority

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
