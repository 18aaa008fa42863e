"""Solutions whose first wrong step is known: ProcessBench files and files in its form, PRMBench files.

ProcessBench (2412.06559): `id`, `problem`, `steps`, `label` (-1: all right, else 0-based index of the first wrong
step), optionally `generator` and `final_answer_correct`. PRMBench: `modified_question` (or `question`),
`modified_process`, `error_steps` (counted from 1; empty: all right).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tts_engine.errors import DataError
from tts_engine.problems import builtin_sets, list_items, read_text
from tts_engine.types import Key, Problem

ALL_RIGHT = -1
"""The label of a solution without a wrong step."""
FORM = 'write it like {"id": "1", "problem": "1+1?", "steps": ["1+1=3.", "So 3."], "label": 0}'
USED = ("id", "idx", "problem", "question", "modified_question", "steps", "modified_process", "label", "error_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A solution and the index of its first wrong step (`ALL_RIGHT` when there is none); the id is the problem's."""

    problem: Problem
    steps: tuple[str, ...]
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """What a file holds; `skipped` says where and why rows were left out."""

    items: tuple[Labelled, ...]
    skipped: tuple[str, ...] = ()


def load_labelled(source: str, *, skip_malformed: bool = False) -> LabelledSet:
    """Read a labelled set from a file (`.jsonl`, `.json` with a list, also `.gz`) or the package.

    Args:
        skip_malformed: leave malformed rows out and say so in the result.

    Raises:
        DataError: no such file, no usable row, or (unless they are skipped) a malformed row; names the line.
    """
    items: dict[str, Labelled] = {}
    skipped: list[str] = []
    for index, (place, row) in enumerate(read_rows(source)):
        try:
            item = _labelled(row, index)
            if item.problem.id in items:
                raise ValueError(f"the id {item.problem.id!r} was used before; ids must differ")
        except ValueError as error:
            if not skip_malformed:
                raise DataError(f"{place}: {error}; {FORM}, or add --skip-malformed") from None
            skipped.append(f"{place}: {error}")
        else:
            items[item.problem.id] = item
    if not items:
        raise DataError(f"{source} holds no labelled solution; {FORM}")
    return LabelledSet(items=tuple(items.values()), skipped=tuple(skipped))


def drawn(items: Sequence[Labelled], count: int) -> tuple[Labelled, ...]:
    """`count` of the items, in their order: files are sorted by label, so the first ones would not do.

    Which ones depends on their ids alone (`Key`), so every verifier gets the same and a larger `count` keeps them.
    """
    chosen = {item.problem.id for item in sorted(items, key=lambda item: Key(0, (item.problem.id,)).int())[:count]}
    return tuple(item for item in items if item.problem.id in chosen)


def read_rows(source: str) -> Iterator[tuple[str, Any]]:
    """Place and content of each row; what is not JSON comes as the `ValueError` it is."""
    path, known = Path(source), builtin_sets()
    if not path.is_file() and source not in known:
        raise DataError(f"there is no file or built-in set {source!r}; give a JSON or JSONL file")
    text = read_text(path) if path.is_file() else known[source].read_text(encoding="utf-8")
    if path.name.endswith((".json", ".json.gz")):
        return list_items(text, source, "row")
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    return ((f"{source} line {number}", _json(line)) for number, line in lines)


def record(item: Labelled) -> dict[str, Any]:
    """The item as a row in ProcessBench form."""
    row = {"id": item.problem.id, "problem": item.problem.prompt, "steps": list(item.steps), "label": item.label}
    return row | {key: value for key, value in item.problem.meta.items() if key not in row}


def _json(line: str) -> Any:  # noqa: ANN401  # any JSON value
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON ({error.msg} at column {error.colno})")


def _labelled(row: Any, index: int) -> Labelled:  # noqa: ANN401  # any JSON value
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, not an object")
    prompt = row.get("problem", row.get("modified_question", row.get("question")))
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("no text under 'problem'")
    steps = row.get("steps", row.get("modified_process"))
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise ValueError("'steps' must be a list of texts, not empty")
    name = row.get("id", row.get("idx", index))
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError("the id must be text or a whole number, or left out")
    meta = {key: value for key, value in row.items() if key not in USED}
    problem = Problem(id=str(name), prompt=prompt.strip(), meta=meta)
    return Labelled(problem=problem, steps=tuple(steps), label=_label(row, len(steps)))


def _label(row: Mapping[str, Any], steps: int) -> int:
    if "label" not in row and "error_steps" in row:
        errors = row["error_steps"]
        if not isinstance(errors, list) or not all(_whole(number) for number in errors):
            raise ValueError("'error_steps' must be a list of whole numbers, counted from 1")
        label = min(errors) - 1 if errors else ALL_RIGHT
    else:
        label = row.get("label")
    if not _whole(label) or not ALL_RIGHT <= label < steps or (label == ALL_RIGHT and row.get("error_steps")):
        raise ValueError(f"'label' must be -1 or the index of one of the {steps} steps, not {label!r}")
    return int(label)


def _whole(value: Any) -> bool:  # noqa: ANN401  # any JSON value
    return isinstance(value, int) and not isinstance(value, bool)
