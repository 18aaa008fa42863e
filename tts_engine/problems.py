"""Problem sets: JSON lines in the forms the field uses, and the sets that come with the package."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tts_engine.errors import DataError
from tts_engine.formats.answers import extract_answer
from tts_engine.types import Problem

FORM = 'write it like {"problem": "What is 1+1?", "answer": "2"}'
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
USED = ("id", "unique_id", "problem", "question", "answer", "solution")


def builtin_sets() -> dict[str, Traversable]:
    """The sets in the package by name."""
    folder = files("tts_engine") / "assets" / "problems"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(ENDINGS)] if folder.is_dir() else []
    return {_stem(entry.name): entry for entry in sorted(found, key=lambda entry: entry.name)}


def load_problems(source: str) -> list[Problem]:
    """Read a problem set.

    A problem has `problem` or `question`; optionally `answer` (text, a number, or GSM8K's `... #### n`), else
    `solution` whose last `\\boxed{}` is the answer (MATH); optionally `id`. Other fields become `meta`.

    Args:
        source: a file (`.jsonl` or `.json` with a list, also `.gz`), or the name of a built-in set.

    Raises:
        DataError: no such set, or a problem that cannot be read; names the file and the line.
    """
    path = Path(source)
    if path.is_file():
        return parse_problems(read_text(path), source, lines=not path.name.endswith((".json", ".json.gz")))
    known = builtin_sets()
    if source in known:
        return parse_problems(known[source].read_text(encoding="utf-8"), source, lines=True)
    names = ", ".join(known) or "none are installed"
    raise DataError(f"there is no file or problem set {source!r}; give a JSONL file, or a built-in set ({names})")


def parse_problems(text: str, source: str, *, lines: bool) -> list[Problem]:
    """The problems in `text`: JSON lines, or else one JSON list. `source` names them in ids and messages."""
    problems: dict[str, Problem] = {}
    places: dict[str, str] = {}
    for index, (place, record) in enumerate(_lines(text, source) if lines else list_items(text, source, "problem")):
        problem = _problem(record, place, f"{_stem(Path(source).name)}-{index}")
        if problem.id in problems:
            raise DataError(f"{place}: the id {problem.id!r} was used before, in {places[problem.id]}; ids must differ")
        problems[problem.id], places[problem.id] = problem, place
    if not problems:
        raise DataError(f"{source} holds no problem; {FORM}")
    return list(problems.values())


def reference_answer(record: Mapping[str, Any]) -> str | None:
    """The reference answer of a record, None when it has none.

    >>> reference_answer({"answer": "3+4=7 #### 7"}), reference_answer({"answer": 27.0})
    ('7', '27')
    """
    answer = record.get("answer")
    if isinstance(answer, bool):
        raise ValueError("the answer is true or false; it must be text or a number")
    if isinstance(answer, int | float):
        if not math.isfinite(answer):
            raise ValueError("the answer is not a finite number")
        return str(int(answer)) if float(answer).is_integer() else repr(answer)
    if isinstance(answer, str):
        return answer.rpartition("####")[2].strip() or None
    if answer is not None:
        raise ValueError("the answer must be text or a number")
    solution = record.get("solution")
    return extract_answer(solution) if isinstance(solution, str) else None


def _problem(record: Any, place: str, default_id: str) -> Problem:  # noqa: ANN401  # any JSON value
    if not isinstance(record, dict):
        raise DataError(f"{place} is a {type(record).__name__}, not an object; {FORM}")
    prompt = record.get("problem", record.get("question"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{place} has no text under 'problem' or 'question'; {FORM}")
    try:
        answer = reference_answer(record)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None
    name = record.get("id", record.get("unique_id", default_id))
    if not isinstance(name, str | int) or name == "":
        raise DataError(f"{place}: the id must be text or a whole number, or left out")
    meta = {key: value for key, value in record.items() if key not in USED}
    return Problem(id=str(name), prompt=prompt.strip(), answer=answer, meta=meta)


def _lines(text: str, source: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{source} line {number}"
        try:
            yield place, json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place} is not JSON ({error.msg} at column {error.colno}); {FORM}") from None


def list_items(text: str, source: str, what: str) -> Iterator[tuple[str, Any]]:
    """Place and content of each item of a JSON list; `what` names an item. `DataError` where the text is none."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{source} line {error.lineno} is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(data, list):
        raise DataError(f"{source} must hold a list of {what}s; for one {what} a line, name the file .jsonl")
    return ((f"{source} item {index}", item) for index, item in enumerate(data, start=1))


def read_text(path: Path) -> str:
    """The text of a file, unpacked where it is `.gz`; `DataError` where that fails."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error})") from None


def _stem(name: str) -> str:
    for ending in sorted(ENDINGS, key=len, reverse=True):
        name = name.removesuffix(ending)
    return name
