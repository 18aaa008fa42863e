"""How much of the models' own speed a search keeps.

    python benchmarks/search_throughput.py --problems 96

Runs a search over the embedded models and notes every model call. Then the very same calls go straight to fresh
backends, as fast as these take them: no search, no sandbox, no ledger, no journal. The seeds are in the calls, so both
generate the same tokens; the fraction is the ratio of the wall-clock times. Search and raw run take turns (--rounds),
which cancels slow drifts of the machine. `--where` tells where the time of one round goes in the engines of the models.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bare import Calls, bare, noting
from rich.console import Console
from rich.table import Table

from tts_engine import Engine, Problem
from tts_engine.problems import load_problems
from tts_engine.types import Request


def settings(strategy: str, n: int, samples: int, concurrency: int, processes: bool = False) -> dict[str, Any]:
    return {
        "strategy": {"name": strategy, "n": n},
        "policy": {"options": {"process": processes}},
        "verifier": {"name": "genprm", "samples": samples, "options": {"process": processes}},
        "run": {"concurrency": concurrency},
    }


Counters = dict[str, dict[str, float]]


async def search(config: dict[str, Any], problems: Sequence[Problem]) -> tuple[float, int, list[Request], Counters]:
    """Seconds, generated tokens and the calls of one search, and what the backends counted."""
    calls: Calls = []
    async with Engine.from_config(config) as engine:
        started = time.perf_counter()
        async for _ in engine.run(problems, noting(calls)):
            pass
        took, counted = time.perf_counter() - started, engine.counters()
    return took, sum(completion.tokens for _, completion in calls), [request for request, _ in calls], counted


async def raw(config: dict[str, Any], requests: Sequence[Request], at_once: int) -> tuple[float, int, Counters]:
    """Seconds and generated tokens of the same calls, `at_once` in flight per model, in the order of the search; and
    what the backends counted."""
    async with Engine.from_config(config) as engine:
        seconds, tokens = await bare(engine.backends, requests, dict.fromkeys(engine.backends, at_once))
        return seconds, tokens, engine.counters()


def where(table: Table, run: str, seconds: float, counters: Counters) -> None:
    """A row for each model: what its engine's thread did in that time."""
    for model, found in counters.items():
        busy, cpu = found["busy_seconds"], found["cpu_seconds"]
        rows = found["drawn"] / found["steps"]
        numbers = (seconds, seconds - busy, busy - cpu, cpu)
        table.add_row(run, model, f"{found['steps']:.0f}", f"{rows:.0f}", *(f"{number:.2f}" for number in numbers))


async def compare(options: argparse.Namespace) -> None:
    problems = load_problems("arith-dev")[: options.problems]
    columns = ("strategy", "calls", "tokens", "search tok/s", "raw tok/s", "fraction")
    table = Table(*columns, title="search against raw backends")
    heads = ("run", "model", "steps", "tokens a step", "seconds", "between steps", "waiting in steps", "computing")
    places = Table(*heads, title="where the engines' time goes")
    for strategy in options.strategies:
        config = settings(strategy, options.n, options.samples, options.concurrency, options.processes)
        fractions, speeds = [], Counter[str]()
        for _ in range(options.rounds):
            took, tokens, requests, counted = await search(config, problems)
            alone, same, counted_alone = await raw(config, requests, options.at_once)
            if same != tokens:
                raise SystemExit(f"the raw run generated {same} tokens, the search {tokens}: no fair comparison")
            fractions.append(alone / took)
            speeds.update({"search": int(tokens / took), "raw": int(tokens / alone)})
        table.add_row(
            strategy,
            str(len(requests)),
            str(tokens),
            str(speeds["search"] // options.rounds),
            str(speeds["raw"] // options.rounds),
            f"{statistics.median(fractions):.2f} ({min(fractions):.2f} to {max(fractions):.2f})",
        )
        if options.where:
            where(places, f"{strategy}, search", took, counted)
            where(places, f"{strategy}, raw", alone, counted_alone)
    Console().print(table)
    if options.where:
        Console().print(places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=96)
    parser.add_argument("--strategies", nargs="+", default=["self-consistency", "best-of-n", "beam"])
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=48, help="problems at once in the search")
    parser.add_argument("--at-once", type=int, default=512, help="calls in flight per model in the raw run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", action="store_true", help="each model in a process of its own")
    parser.add_argument("--where", action="store_true", help="of the last round; not with --processes")
    options = parser.parse_args()
    if options.where and options.processes:
        parser.error("--where reads the engines' own clocks, which are not in this process with --processes")
    asyncio.run(compare(options))


if __name__ == "__main__":
    main()
