"""The run folder: config.yaml, problems.jsonl, journal.sqlite, outcomes.jsonl, trees.jsonl, summary.json.

Every file is written beside its place and moved there, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tts_engine.config import Config
from tts_engine.errors import ConfigError, DataError
from tts_engine.files import occupied, write_text
from tts_engine.problems import parse_problems
from tts_engine.report.summary import outcome_record
from tts_engine.types import Outcome, Problem


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run, in one folder."""

    path: Path

    @property
    def journal(self) -> Path:
        """Finished calls; kept by the engine."""
        return self.path / "journal.sqlite"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def problems(self) -> Path:
        """The problems, so that the run can be resumed without their source."""
        return self.path / "problems.jsonl"

    def create(self, config: Config, problems: Sequence[Problem]) -> None:
        """Make the folder and write what identifies the run.

        Raises:
            DataError: there is something in it already, or it cannot be written.
        """
        if occupied(self.path):
            raise DataError(f"{self.path} is not empty; add --resume to continue that run, or choose another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, config.to_yaml())
            write_lines(self.problems, map(problem_record, problems))
        except OSError as error:
            raise DataError(f"cannot write to {self.path} ({error.strerror}); choose another --out") from None

    def discard(self) -> None:
        """Take back `create`, for a run that could not even start."""
        for name in ("config.yaml", "problems.jsonl", *(f"journal.sqlite{end}" for end in ("", "-wal", "-shm"))):
            (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()

    def has_calls(self) -> bool:
        """Whether a finished model call was kept: it was paid for."""
        if not self.journal.is_file():
            return False
        with closing(sqlite3.connect(self.journal)) as database:
            try:
                return database.execute("SELECT 1 FROM calls LIMIT 1").fetchone() is not None
            except sqlite3.DatabaseError:  # it was never laid
                return False

    def load(self) -> tuple[Config, list[Problem]]:
        """The configuration and the problems of the run.

        Raises:
            DataError: it is not a run folder.
        """
        if not self.config.is_file() or not self.problems.is_file():
            raise DataError(f"{self.path} is not a run folder; leave out --resume to start a run there")
        problems = parse_problems(self.problems.read_text(encoding="utf-8"), str(self.problems), lines=True)
        return Config.load(self.config), problems

    def check(self, before: Config, config: Config) -> None:
        """Refuse to continue the run, made with the configuration `before`, with another one.

        Raises:
            ConfigError: what changes results differs; names it.
        """
        if before.digest() != config.digest():
            changes = "; ".join(differences(before, config)) or "see config.yaml"
            raise ConfigError(
                f"{self.path} belongs to another configuration ({changes}); leave out the changed options to resume it,"
                " or choose another --out"
            )

    def write(self, outcomes: Sequence[Outcome], summary: Mapping[str, Any]) -> None:
        """Write the results, in program order."""
        write_lines(self.path / "outcomes.jsonl", map(outcome_record, outcomes))
        write_lines(self.path / "trees.jsonl", ({"id": o.problem.id, **o.tree} for o in outcomes))
        write_text(self.path / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")

    def write_load(self, series: Mapping[str, Any]) -> None:
        """Write how busy the models were (report/utilisation.py), unless they never were."""
        if series["roles"]:
            write_text(self.path / "utilisation.json", json.dumps(series, allow_nan=False) + "\n")


def problem_record(problem: Problem) -> dict[str, Any]:
    """A problem as `load_problems` reads it."""
    meta = {key: value for key, value in problem.meta.items() if key not in ("id", "problem", "answer")}
    return {"id": problem.id, "problem": problem.prompt, "answer": problem.answer, **meta}


def differences(first: Config, second: Config) -> list[str]:
    """`key: value there, value now` for every key whose value differs."""
    there, now = _flat(first.model_dump(mode="json")), _flat(second.model_dump(mode="json"))
    return [
        f"{key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key)
    ]


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, atomically."""
    write_text(path, "".join(json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in records))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
