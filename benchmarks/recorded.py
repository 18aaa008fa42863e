"""Draws that several benchmarks evaluate: N=16 solutions to each problem, each judged K=8 times, journalled.

benchmarks/results.py, compare.py, votes.py and allocator.py read the same journals below their --work, so that what one
of them has paid for is free for the others; an interrupted recording goes on where it stopped. There is one journal a
set and seed: all verifiers judge the same solutions, which are sampled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn

from tts_engine import Engine, Outcome
from tts_engine.backends.embedded import embedded_path
from tts_engine.backends.local_model import fingerprint
from tts_engine.journal import Journal
from tts_engine.problems import load_problems
from tts_engine.types import Problem

N, K = 16, 8
WORK = Path("runs/recorded")
"""Where the journals are kept unless --work says otherwise."""


def settings(verifier: str, seed: int = 0) -> dict[str, Any]:
    """The configuration of one recording; each model in a process of its own, which is faster and changes nothing."""
    apart = {"options": {"process": True}}
    return {
        "strategy": {"name": "best-of-n", "n": N},
        "policy": apart,
        "verifier": {"name": verifier, "samples": K, **apart},
        "run": {"seed": seed, "concurrency": 24},
    }


async def recorded(dataset: str, verifier: str, seed: int, limit: int, work: Path, progress: Progress) -> list[Outcome]:
    """The best-of-N outcomes of one seed on the first problems of a set, in their order."""
    problems = load_problems(dataset)[:limit]
    bar = progress.add_task(f"{dataset}, {verifier}, seed {seed}", total=len(problems))
    work.mkdir(parents=True, exist_ok=True)
    with Journal.open(
        work / f"{dataset}-{seed}.sqlite", {"seed": seed, "models": checkpoints()}, resume=True
    ) as journal:
        found = await solved(settings(verifier, seed), problems, journal, progress, bar)
    return [found[problem.id] for problem in problems]


def checkpoints() -> dict[str, str]:
    """What the embedded models are, so that no journal of others is taken up."""
    return {name: fingerprint(embedded_path(f"embedded:{name}")) for name in ("policy", "genprm", "prm")}


async def solved(
    config: dict[str, Any], problems: Sequence[Problem], journal: Path | Journal, progress: Progress, bar: TaskID
) -> dict[str, Outcome]:
    """Outcomes by problem id; what the journal has is not paid again."""
    found = {}
    async with Engine.from_config(config, journal=journal, resume=True) as engine:
        async for outcome in engine.run(problems):
            found[outcome.problem.id] = outcome
            progress.advance(bar)
    return found


def bars() -> Progress:
    """Progress on the terminal, with how many problems are done."""
    return Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
