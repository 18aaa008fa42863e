"""Running a stage: skip it when it is done, take up what was interrupted, commit it when it is whole."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tts_engine.errors import BackendError, DataError, GraderError, SandboxError
from tts_engine.together import end
from tts_engine.types import Problem, Usage
from tts_engine.verifiers.training.manifest import Folder, Record, differences

T = TypeVar("T")
Advance = Callable[[str, int, int], None]
"""Told the stage, how many units are done, and of how many."""
FAILURES = (BackendError, GraderError, SandboxError)
"""What costs one problem and not the stage."""


def _silent(stage: str, done: int, total: int) -> None:
    """No one watches."""


def _no_problems(source: str) -> list[Problem]:
    raise DataError(f"no problem set {source!r} can be read here")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What all stages share.

    Attributes:
        folder: where the stages leave their outputs.
        seed: of every random draw.
        concurrency: units (problems) at once; what is under way is lost when the work is interrupted.
        advance: progress.
        problems: reads a problem set by file or name.
    """

    folder: Folder
    seed: int = 0
    concurrency: int = 32
    advance: Advance = _silent
    problems: Callable[[str], list[Problem]] = _no_problems


@dataclass(frozen=True, slots=True)
class Done:
    """What a unit came to: its records, what it cost, and what was counted on the way (dropped, failed, ...)."""

    records: list[Record]
    usage: Usage = field(default_factory=Usage)
    counts: Counter[str] = field(default_factory=Counter)


Work = Callable[[T], Awaitable[Done]]


async def work_off(
    run: Run,
    stage: str,
    identity: Record,
    units: Mapping[str, T],
    work: Work[T],
    models: Mapping[str, str] | None = None,
) -> Done:
    """Work off the units, `run.concurrency` at once, keeping each result as it comes; returns all, in order of units.

    A unit whose model call, grading or check fails is left out and counted under `failed`; as long as the stage is not
    finished, the next run tries it again.

    Args:
        units: by name, in order; a unit's result must depend on it and on the identity alone.
        models: fingerprints by role; work that was begun with other models is refused.

    Raises:
        DataError: the partial work belongs to other settings or models, or the disk is full.
        BackendError: more than a tenth of the units failed; what succeeded is kept.
    """
    failed: dict[str, Exception] = {}
    with _partial(run.folder.partial(stage), identity | {"models": dict(models or {})}) as (known, keep):
        gate = asyncio.Semaphore(run.concurrency)
        run.advance(stage, len(known), len(units))

        async def one(name: str, unit: T) -> None:
            async with gate:
                try:
                    known[name] = await work(unit)
                except FAILURES as error:
                    failed[name] = error
                    return
            keep(name, known[name])
            run.advance(stage, len(known), len(units))

        tasks = [asyncio.create_task(one(name, unit)) for name, unit in units.items() if name not in known]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(*tasks)
    if len(failed) * 10 > len(units):
        raise BackendError(f"{len(failed)} of {len(units)} problems failed, such as: {next(iter(failed.values()))}")
    found = gathered([known[name] for name in units if name in known])
    found.counts.update({"failed": len(failed)} if failed else {})
    return found


def gathered(parts: Sequence[Done]) -> Done:
    """Many results as one."""
    records: list[Record] = []
    usage, counts = Usage(), Counter[str]()
    for part in parts:
        records += part.records
        usage += part.usage
        counts += part.counts
    return Done(records, usage, counts)


@contextmanager
def _partial(path: Path, identity: Record) -> Iterator[tuple[dict[str, Done], Callable[[str, Done], None]]]:
    """Results kept so far, and a function that keeps another; a line torn by a crash is dropped."""
    try:
        with path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = _kept(path, identity)
            if not path.stat().st_size:
                file.write(json.dumps(identity) + "\n")
                file.flush()

            def keep(name: str, done: Done) -> None:
                file.write(_line(name, done))
                file.flush()

            yield known, keep
    except BlockingIOError:
        raise DataError(f"another process is working on {path}; wait for it, or choose another --out") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot write {path} ({reason}); make room there, then run the same command again") from None


def _line(name: str, done: Done) -> str:
    entry = {"unit": name, "records": done.records, "usage": _plain(done.usage), "counts": done.counts}
    return json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(usage: Usage) -> dict[str, Any]:
    return {key: value for key, value in usage.asdict().items() if key != "tokens" and value}


def _kept(path: Path, identity: Record) -> dict[str, Done]:
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn or not whole:
        os.truncate(path, len(whole) + 1 if whole else 0)
    lines = whole.decode("utf-8").split("\n") if whole else []
    if not lines:
        return {}
    changes = differences(json.loads(lines[0]), identity)
    if changes:
        raise DataError(
            f"{path.parent} has begun the stage {identity['stage']} with other settings ({changes}); add --again to"
            " throw that away, or choose another --out"
        )
    entries = map(json.loads, lines[1:])
    return {e["unit"]: Done(e["records"], Usage(**e["usage"]), Counter(e["counts"])) for e in entries}
