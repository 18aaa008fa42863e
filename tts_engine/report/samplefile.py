"""Recorded samples in our own form: JSON lines, a header that describes the arm, then a line a problem and seed.

{"arm": {"name": "genprm", "policy": "...", "verifier": "...", ...}, "key": "..."}
{"problem": "p1", "level": "2", "samples": [{"text": ..., "answer": ..., "right": true, "chains": [[0.9, 0.8]], ...}]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tts_engine.errors import DataError
from tts_engine.report.compare import Recording
from tts_engine.report.pools import Arm, Sample, make_pool
from tts_engine.report.writer import write_lines
from tts_engine.types import Problem

Rows = list[tuple[str, str, list[Sample]]]
"""Problem, level and samples; a problem comes once for every seed."""


def write_samples(path: Path, arm: Arm, problems: Iterable[tuple[Problem, Sequence[Sample]]], key: str = "") -> None:
    """Write the samples of one arm; `key` names what they depend on."""
    lines = [
        {"problem": problem.id, "level": str(problem.meta.get("level", "")), "samples": [_row(s) for s in samples]}
        for problem, samples in problems
    ]
    write_lines(path, [{"arm": asdict(arm), "key": key}, *lines])


def _row(sample: Sample) -> Mapping[str, Any]:
    return asdict(sample) | {"sure": None if math.isnan(sample.sure) else sample.sure}


def read_samples(path: Path, lines: Sequence[tuple[str, Any]]) -> tuple[Arm, Rows]:
    """The arm and its samples.

    Args:
        lines: place and JSON value of each line, the header first.

    Raises:
        DataError: a malformed line; names it.
    """
    try:
        arm = dict(lines[0][1]["arm"])
        arm["vocabularies"] = tuple(arm.get("vocabularies", ()))
        header = Arm(**arm)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has no header that describes its arm ({error}); write it with tts-compare") from None
    return header, list(_rows(lines[1:]))


def _rows(lines: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, str, list[Sample]]]:
    for place, row in lines:
        try:
            samples = [Sample(**sample | {"sure": _nan(sample.get("sure"))}) for sample in row["samples"]]
            yield str(row["problem"]), str(row.get("level", "")), samples
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{place} is no line of samples ({error}); write it with tts-compare") from None


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def recorded(arm: Arm, rows: Iterable[tuple[str, str, Sequence[Sample]]]) -> Recording:
    """A pool for each problem, its seeds together. Problems with fewer samples than others are left out, and noted.

    Raises:
        DataError: there is none, or a sample has no verdict.
    """
    found: dict[str, tuple[str, list[Sample]]] = {}
    for problem, level, samples in rows:
        found.setdefault(problem, (level, []))[1].extend(samples)
    if not found:
        raise DataError(f"the recording {arm.name} holds no samples; give another one")
    most = max(len(samples) for _, samples in found.values())
    whole = {name: entry for name, entry in found.items() if len(entry[1]) == most}
    pools = [make_pool(name, samples, level) for name, (level, samples) in whole.items()]
    missing = len(found) - len(whole)
    notes = (f"{arm.name}: {missing} problems with fewer than {most} samples are left out",) if missing else ()
    return Recording(arm=arm, pools=pools, notes=notes)


def header_key(path: Path) -> str | None:
    """The key in a file of ours; None where there is no such file."""
    try:
        with path.open(encoding="utf-8") as file:
            return str(json.loads(file.readline())["key"])
    except (OSError, ValueError, KeyError):
        return None
