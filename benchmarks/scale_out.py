"""What workers on a Ray cluster cost and bring on this machine: problems a second, against one engine in this process.

    python -m benchmarks.scale_out --problems 16 --repeats 5

To be called in the root of the repository. Every way solves the same problems, other ones in every repeat, and keeps a
journal; one repeat before warms up. Starting (cluster, processes, models) is measured apart. Prints the mean over the
repeats, and the lowest and highest of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tts_engine import Engine, Problem
from tts_engine.backends.arithmetic import Task
from tts_engine.config import Config
from tts_engine.problems import load_problems
from tts_engine.resolving import resolved
from tts_engine.scaleout.fleet import Fleet
from tts_engine.types import Key

WAYS = {"one engine": None, "1 worker": 1, "2 workers": 2}
SIMULATED = {"backend": "simulated", "options": {"task": {"error_rate": 0.25}}}
CONFIGS: dict[str, dict[str, Any]] = {
    "simulated": {
        "policy": SIMULATED | {"model": "policy"},
        "verifier": SIMULATED | {"model": "verifier", "samples": 4},
        "strategy": {"name": "beam", "n": 8},
    },
    "embedded": {"verifier": {"samples": 2}, "strategy": {"name": "beam", "n": 4}},
}


def problem_sets(models: str, sets: int, size: int) -> list[list[Problem]]:
    """Different problems for every repeat."""
    if models == "simulated":
        problems = [Task().problem(Key(3, (i,)), steps=5) for i in range(sets * size)]
    else:
        problems = load_problems("arith-test")[: sets * size]
    return [problems[i * size : (i + 1) * size] for i in range(sets)]


async def measure(models: str, workers: int | None, sets: Sequence[list[Problem]]) -> tuple[float, list[float]]:
    """Seconds to start, and problems a second of each set but the first."""
    options = {"ray": {"workers": workers, "cpus_per_worker": 1.0}} if workers else {}
    config = resolved(Config.build(CONFIGS[models] | options))
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "journal.sqlite")
        began = time.monotonic()
        engine = (
            Fleet(config, "auto", journal=journal, problems=len(sets[0]))
            if workers
            else Engine(config, journal=journal)
        )
        async with engine:
            while isinstance(engine, Fleet) and len(engine.workers) < (workers or 0):
                await asyncio.sleep(0.01)
            started = time.monotonic() - began
            return started, [await rate(engine, problems) for problems in sets][1:]


async def rate(engine: Engine | Fleet, problems: list[Problem]) -> float:
    began = time.monotonic()
    async for _ in engine.run(problems):
        pass
    return len(problems) / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=16, help="in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", choices=CONFIGS, nargs="*", default=list(CONFIGS))
    arguments = parser.parse_args()
    table = Table("models", "way", "problems/s", "start, s")
    for models in arguments.models:
        sets = problem_sets(models, arguments.repeats + 1, arguments.problems)
        for way, workers in WAYS.items():
            started, rates = asyncio.run(measure(models, workers, sets))
            spread = f"{statistics.mean(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"
            table.add_row(models, way, spread, f"{started:.1f}")
            print(json.dumps({"models": models, "way": way, "start": started, "rates": rates}), flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()
