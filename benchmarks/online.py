"""The adaptive allocator at work against a fixed N and K: the embedded models, the same problems, both from scratch.

    python benchmarks/online.py --limit 100 --n 8 --k 1 --price 0.004

Each run is timed as a whole; a finished one is kept below --work and not made again. `one by one` is the adaptive
run with a single problem at a time: what it loses is the overlap of purchases for different problems. Differences are
paired by problem; 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from tts_engine import Engine
from tts_engine.problems import load_problems
from tts_engine.report.points import Bootstrap
from tts_engine.report.words import bounded

AT_ONCE = 24
Row = dict[str, Any]


def configs(n: int, k: int, price: float, seed: int) -> dict[str, dict[str, Any]]:
    """The configuration of each run."""
    strategy = {"name": "adaptive-allocation", "price": price}
    adaptive = {"strategy": strategy, "run": {"seed": seed, "concurrency": AT_ONCE}}
    return {
        f"fixed N={n} K={k}": {
            "strategy": {"name": "best-of-n", "n": n},
            "verifier": {"name": "genprm", "samples": k},
            "run": {"seed": seed, "concurrency": AT_ONCE},
        },
        f"adaptive, price {price:g}": adaptive,
        f"adaptive, price {price:g}, one by one": adaptive | {"run": {"seed": seed, "concurrency": 1}},
    }


async def run(name: str, config: dict[str, Any], dataset: str, limit: int, kept: Path, progress: Progress) -> Row:
    """What a run gave and took, problem by problem, and its seconds; from `kept` if it is there."""
    if kept.exists():
        found: Row = json.loads(kept.read_text(encoding="utf-8"))
        return found
    problems = load_problems(dataset)[:limit]
    bar = progress.add_task(name, total=len(problems))
    rows: dict[str, list[float]] = {}
    async with Engine.from_config(config) as engine:
        started = time.monotonic()
        async for outcome in engine.run(problems):
            rows[outcome.problem.id] = [bool(outcome.correct), outcome.total.tokens, outcome.total.flops / 1e6]
            progress.advance(bar)
        seconds = time.monotonic() - started
    found = {"name": name, "seconds": seconds, "rows": [rows[problem.id] for problem in problems]}
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


async def runs(options: argparse.Namespace) -> list[Row]:
    options.work.mkdir(parents=True, exist_ok=True)
    found = []
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        for name, config in configs(options.n, options.k, options.price, options.seed).items():
            limit = min(options.limit, options.alone) if config["run"]["concurrency"] == 1 else options.limit
            kept = options.work / f"{name.replace(' ', '-')}-{options.dataset}-{limit}-{options.seed}.json"
            found.append(await run(name, config, options.dataset, limit, kept, progress))
    return found


def table(found: list[Row]) -> str:
    lines = [
        "| run | problems | accuracy | minus the first | tokens | MFLOPs | share of the first's | seconds a problem |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first = np.array(found[0]["rows"])
    for entry in found:
        rows = np.array(entry["rows"])
        beside, bootstrap = first[: len(rows)], Bootstrap.of(len(rows))
        paired = ["", ""]
        if entry is not found[0]:
            gain, share = bootstrap.interval(rows[:, 0] - beside[:, 0]), bootstrap.ratio(rows[:, 2], beside[:, 2])
            paired = [bounded(gain, "+.1f"), bounded(share, ".2f", 1)]
        cells = [entry["name"], f"{len(rows)}", bounded(bootstrap.share(rows[:, 0])), paired[0]]
        cells += [f"{rows[:, 1].mean():.0f}", f"{rows[:, 2].mean():.0f}", paired[1]]
        lines.append(f"| {' | '.join(cells)} | {entry['seconds'] / len(rows):.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="arith-test")
    parser.add_argument("--limit", type=int, default=100, help="problems")
    parser.add_argument("--alone", type=int, default=20, help="problems that are solved one by one too")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--k", type=int, default=1)
    parser.add_argument("--price", type=float, default=0.004)
    parser.add_argument("--seed", type=int, default=200)
    parser.add_argument("--work", type=Path, default=Path("runs/online"))
    print(table(asyncio.run(runs(parser.parse_args()))))


if __name__ == "__main__":
    main()
