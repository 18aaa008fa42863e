"""Labelled solutions: the forms of ProcessBench and PRMBench, and what is wrong with malformed rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tts_engine.errors import DataError
from tts_engine.report.labelled import Labelled, drawn, load_labelled, record
from tts_engine.types import Problem

ROW: dict[str, Any] = {"id": "a", "problem": "1+1?", "steps": ["1+1=3.", "So 3."], "label": 0, "generator": "me"}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_processbench_rows_as_lines_and_as_a_list(tmp_path: Path) -> None:
    right = ROW | {"id": 7, "label": -1}
    lines = load_labelled(write(tmp_path / "a.jsonl", [ROW, "", right]))
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps([ROW, right]))
    assert load_labelled(str(whole)) == lines
    first, second = lines.items
    assert (first.problem.id, first.label, first.steps) == ("a", 0, ("1+1=3.", "So 3."))
    assert (second.problem.id, second.label) == ("7", -1)
    assert record(first) == ROW


def test_prmbench_rows_count_errors_from_one(tmp_path: Path) -> None:
    row = {"idx": "x", "question": "q", "modified_question": "m", "modified_process": ["a", "b", "c"]}
    rows = [row | {"error_steps": [3, 2]}, row | {"idx": "y", "error_steps": []}]
    found = load_labelled(write(tmp_path / "p.jsonl", rows)).items
    assert [(item.problem.prompt, item.label) for item in found] == [("m", 1), ("m", -1)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{nope", "not JSON"),
        ([1], "a list, not an object"),
        (ROW | {"problem": " "}, "no text under 'problem'"),
        (ROW | {"steps": []}, "'steps' must be"),
        (ROW | {"steps": ["a", 1]}, "'steps' must be"),
        (ROW | {"label": 2}, "'label' must be -1 or the index of one of the 2 steps, not 2"),
        (ROW | {"label": True}, "'label' must be"),
        ({key: value for key, value in ROW.items() if key != "label"}, "'label' must be"),
        (ROW | {"id": 1.5}, "the id must be"),
        (ROW, "the id 'a' was used before"),
    ],
)
def test_a_malformed_row_is_an_error_with_its_line_or_skipped_with_a_count(
    tmp_path: Path, row: object, message: str
) -> None:
    source = write(tmp_path / "bad.jsonl", [ROW, row])
    with pytest.raises(DataError, match=r"bad\.jsonl line 2") as caught:
        load_labelled(source)
    assert message in str(caught.value)
    found = load_labelled(source, skip_malformed=True)
    assert len(found.items) == 1
    assert len(found.skipped) == 1
    assert message in found.skipped[0]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or built-in set"):
        load_labelled("nowhere.jsonl")
    with pytest.raises(DataError, match="no labelled solution"):
        load_labelled(write(tmp_path / "bad.jsonl", ["{"]), skip_malformed=True)
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(DataError, match="must hold a list"):
        load_labelled(str(tmp_path / "one.json"))


def test_a_part_is_drawn_by_id_and_a_larger_one_keeps_it() -> None:
    items = [
        Labelled(problem=Problem(id=str(i), prompt="?"), steps=("a",), label=0 if i < 50 else -1) for i in range(100)
    ]
    few, more = drawn(items, 20), drawn(items, 40)
    assert (len(few), len(more)) == (20, 40)
    assert set(few) < set(more)
    assert {item.label for item in few} == {0, -1}, "sets are sorted by label, the part must not be"
    assert sorted(few, key=items.index) == list(few)
    assert set(drawn(items[::-1], 20)) == set(few)
    assert drawn(items, 1000) == tuple(items)
