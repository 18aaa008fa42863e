"""Check subsampled estimates against actual runs at six configurations and write the table into docs/comparing.md.

    python benchmarks/spotcheck.py --work runs/results     # after benchmarks/compare.py, whose sample files it reads

Each configuration is run on the same problems under a seed of its own, which no recorded sample has. The difference of
the run to the estimate is paired by problem; an interval that holds 0 is agreement. Calls are journalled: an
interrupted check goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from compare import percent, put
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from tts_engine import Engine, Outcome
from tts_engine.problems import load_problems
from tts_engine.report.compare import compare
from tts_engine.report.comparetable import points_of
from tts_engine.report.points import Bootstrap, Grid, Point
from tts_engine.report.pools import UNITS
from tts_engine.report.recordings import load_recordings
from tts_engine.types import Problem

CHECKED = (
    ("self-consistency", 4, 0, "majority"),
    ("self-consistency", 16, 0, "majority"),
    ("best-of-n", 4, 1, "weighted"),
    ("best-of-n", 16, 1, "weighted"),
    ("best-of-n", 8, 2, "best"),
    ("best-of-n", 8, 4, "pessimistic"),
)
SHARES = (1.0, 1.0, 1.0, 1.0, 1.0, 0.3)
"""Of the problems that each is run on: the dearest on fewer."""
FIRST_SEED = 100


async def run(number: int, problems: list[Problem], work: Path, progress: Progress) -> dict[str, Outcome]:
    """The outcomes of one configuration by problem, journalled."""
    strategy, n, k, select = CHECKED[number]
    config: dict[str, Any] = {
        "strategy": {"name": strategy, "n": n} | ({"select": select} if k else {}),
        "verifier": {"name": "genprm", "samples": k} if k else {"name": "none"},
        "run": {"seed": FIRST_SEED + number, "concurrency": 24},
    }
    task = progress.add_task(f"{strategy} N={n} K={k} {select}", total=len(problems))
    found = {}
    async with Engine.from_config(config, journal=work / f"spot-{number}.sqlite", resume=True) as engine:
        async for outcome in engine.run(problems):
            found[outcome.problem.id] = outcome
            progress.advance(task)
    return found


async def runs(limit: int, work: Path) -> list[dict[str, Outcome]]:
    problems = load_problems("arith-test")[:limit]
    counts = [round(limit * share) for share in SHARES]
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        return [await run(i, problems[:count], work, progress) for i, count in enumerate(counts)]


def estimates(files: list[Path]) -> tuple[list[Point], tuple[str, ...]]:
    """The subsampled points of the checked configurations, in their order, and the problems."""
    grid = Grid(n=sorted({c[1] for c in CHECKED}), k=sorted({c[2] for c in CHECKED if c[2]}))
    found = compare(load_recordings(files), (), grid)
    by_setting = {(p.setting.strategy, p.setting.n, p.setting.k, p.setting.select): p for p in found.points}
    return [by_setting[checked] for checked in CHECKED], found.problems


def table(points: list[Point], problems: tuple[str, ...], actual: list[dict[str, Outcome]]) -> str:
    tokens = UNITS.index("tokens")
    lines = [
        "A fresh seed for each configuration; accuracy in percent with 95 % intervals, tokens a problem.",
        "",
        "| configuration | problems | estimated | run | run minus estimate | tokens estimated | tokens run |",
        "|---|---|---|---|---|---|---|",
    ]
    for point, outcomes in zip(points, actual, strict=True):
        ran = [i for i, name in enumerate(problems) if name in outcomes]
        right = np.array([float(bool(outcomes[problems[i]].correct)) for i in ran])
        spent = np.mean([outcomes[problems[i]].total.tokens for i in ran])
        bootstrap, expected = Bootstrap.of(len(ran)), point.accuracy[ran]
        shown = [
            point.setting.name,
            f"{len(ran)}",
            percent(bootstrap.interval(expected).asdict()),
            percent(bootstrap.interval(right).asdict()),
            points_of(bootstrap.interval(right - expected).asdict()),
            f"{point.cost[ran, tokens].mean():.0f}",
            f"{spent:.0f}",
        ]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=300, help="problems")
    parser.add_argument("--seeds", type=int, default=3, help="of the recorded samples")
    parser.add_argument("--work", type=Path, default=Path("runs/results"), help="sample files and journals")
    parser.add_argument("--docs", type=Path, default=Path("docs/comparing.md"))
    options = parser.parse_args()
    files = [options.work / f"genprm-{seed}-{options.limit}.jsonl" for seed in range(options.seeds)]
    actual = asyncio.run(runs(options.limit, options.work))
    text = table(*estimates(files), actual)
    put(options.docs, "spotcheck", text)
    print(text)


if __name__ == "__main__":
    main()
