"""Recorded predictions of other systems are scored exactly, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tts_engine.errors import DataError
from tts_engine.report.recorded import score

LABELS = {"a": 0, "b": 1, "c": -1, "d": -1}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.fixture
def gold(tmp_path: Path) -> str:
    rows = [{"id": name, "problem": "q", "steps": ["x", "y"], "label": label} for name, label in LABELS.items()]
    return write(tmp_path / "gold.jsonl", rows)


def test_predictions_against_a_labelled_set(tmp_path: Path, gold: str) -> None:
    rows = [{"id": "a", "prediction": 0}, {"id": "b", "prediction": None}, {"id": "c", "prediction": -1}]
    rows.append({"id": "d", "predictions": [1, -1, -1, None]})
    found = score(write(tmp_path / "p.jsonl", rows), gold)
    assert (found["err_acc"]["value"], found["corr_acc"]["value"]) == (0.5, 1.0)
    assert found["f1"]["value"] == pytest.approx(2 / 3)
    assert (found["items"], found["invalid"]) == (4, 1)


def test_rows_that_bring_their_labels(tmp_path: Path) -> None:
    rows = [{"id": name, "prediction": label, "label": label} for name, label in LABELS.items()]
    assert score(write(tmp_path / "p.jsonl", rows), None)["f1"]["value"] == 1.0


def test_a_part_of_the_set_must_be_asked_for(tmp_path: Path, gold: str) -> None:
    part = write(tmp_path / "p.jsonl", [{"id": "a", "prediction": 0}, {"id": "c", "prediction": -1}])
    with pytest.raises(DataError, match=r"2 items have no prediction, such as 'b'; add --partial"):
        score(part, gold)
    assert score(part, gold, partial=True)["f1"]["value"] == 1.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prediction": 0}], "p.jsonl line 1 is no row with an 'id'"),
        ([{"id": "a"}], "no usable 'prediction'"),
        ([{"id": "a", "prediction": "0"}], "no usable 'prediction'"),
        ([{"id": "a", "prediction": -2}], "no usable 'prediction'"),
        ([{"id": "a", "prediction": 0}] * 2, "used before"),
        ([{"id": "z", "prediction": 0}], "does not have, such as 'z'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, gold: str, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(write(tmp_path / "p.jsonl", rows), gold)


def test_without_labels_there_is_nothing_to_score(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no label; give the labelled set"):
        score(write(tmp_path / "p.jsonl", [{"id": "a", "prediction": 0}]), None)
