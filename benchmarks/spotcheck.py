"""Check subsampled estimates against actual runs at six configurations and write the table into docs/comparing.md.

    python benchmarks/spotcheck.py --work runs/recorded     # after benchmarks/compare.py, whose sample files it reads

Each configuration is run on the same problems under a seed of its own, which no recorded sample has. The difference of
the run to the estimate is paired by problem; an interval that holds 0 is agreement, in accuracy and in cost. Calls are
journalled: an interrupted check goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from compare import put
from recorded import WORK, bars, solved
from rich.progress import Progress

from tts_engine import Outcome
from tts_engine.problems import load_problems
from tts_engine.report.compare import compare
from tts_engine.report.points import Bootstrap, Grid, Point, Setting
from tts_engine.report.pools import UNITS, Pool
from tts_engine.report.recordings import load_recordings
from tts_engine.report.subsample import cost
from tts_engine.report.words import bounded
from tts_engine.types import Problem, Role

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
    bar = progress.add_task(f"{strategy} N={n} K={k} {select}", total=len(problems))
    return await solved(config, problems, work / f"spot-{number}.sqlite", progress, bar)


async def runs(limit: int, work: Path) -> list[dict[str, Outcome]]:
    problems = load_problems("arith-test")[:limit]
    counts = [round(limit * share) for share in SHARES]
    with bars() as progress:
        return [await run(i, problems[:count], work, progress) for i, count in enumerate(counts)]


def estimates(files: list[Path]) -> tuple[list[Point], dict[str, Pool]]:
    """The subsampled points of the checked configurations, in their order, and the samples of each problem."""
    grid = Grid(n=sorted({c[1] for c in CHECKED}), k=sorted({c[2] for c in CHECKED if c[2]}))
    found = compare(load_recordings(files), (), grid)
    by_setting = {(p.setting.strategy, p.setting.n, p.setting.k, p.setting.select): p for p in found.points}
    pools = {pool.problem: pool for recording in found.recordings for pool in recording.pools if pool.depth}
    return [by_setting[checked] for checked in CHECKED], {name: pools[name] for name in found.problems}


def accuracies(points: list[Point], problems: list[str], actual: list[dict[str, Outcome]]) -> list[str]:
    lines = ["| configuration | problems | estimated | run | run minus estimate |", "|---|---|---|---|---|"]
    for point, outcomes in zip(points, actual, strict=True):
        ran = [i for i, name in enumerate(problems) if name in outcomes]
        right = np.array([float(bool(outcomes[problems[i]].correct)) for i in ran])
        expected, bootstrap = point.accuracy[ran], Bootstrap.of(len(ran))
        figures = [bounded(bootstrap.interval(array)) for array in (expected, right)]
        difference = bounded(bootstrap.interval(right - expected), "+.1f")
        lines.append(f"| {point.setting.name} | {len(ran)} | {' | '.join(figures)} | {difference} |")
    return lines


def costs(points: list[Point], pools: dict[str, Pool], actual: list[dict[str, Outcome]]) -> list[str]:
    """What was estimated and what was paid: tokens of each role, and FLOPs of both."""
    names = ("policy tokens", "verifier tokens", "MFLOPs")
    heads = " | ".join(f"{name}, estimated | run minus estimate" for name in names)
    lines = [f"| configuration | {heads} |", "|---" * (1 + 2 * len(names)) + "|"]
    for point, outcomes in zip(points, actual, strict=True):
        expected = np.array([estimated(pools[name], point.setting) for name in outcomes])
        paid = np.array([spent(outcome) for outcome in outcomes.values()])
        bootstrap, cells = Bootstrap.of(len(outcomes)), []
        for column, _ in enumerate(names):
            if expected[:, column].any():
                found = bootstrap.interval(paid[:, column] - expected[:, column])
                cells += [f"{expected[:, column].mean():.0f}", bounded(found, "+.1f", 1)]
            else:
                cells += ["", ""]
        lines.append(f"| {point.setting.name} | {' | '.join(cells)} |")
    return lines


def estimated(pool: Pool, setting: Setting) -> list[float]:
    """Policy tokens, verifier tokens, MFLOPs."""
    drawn, both = cost(pool, setting.n, 0), cost(pool, setting.n, setting.k)
    tokens, flops = UNITS.index("tokens"), UNITS.index("flops")
    return [float(drawn[tokens]), float(both[tokens] - drawn[tokens]), float(both[flops]) / 1e6]


def spent(outcome: Outcome) -> list[float]:
    """The same of a run."""
    tokens = [
        float(outcome.usage[role].tokens) if role in outcome.usage else 0.0 for role in (Role.GENERATE, Role.VERIFY)
    ]
    return [*tokens, outcome.total.flops / 1e6]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="problems")
    parser.add_argument("--seeds", type=int, default=3, help="of the recorded samples")
    parser.add_argument("--work", type=Path, default=WORK, help="sample files and journals")
    parser.add_argument("--docs", type=Path, default=Path("docs/comparing.md"))
    options = parser.parse_args()
    files = [options.work / f"genprm-{seed}-{options.limit}.jsonl" for seed in range(options.seeds)]
    actual = asyncio.run(runs(options.limit, options.work))
    points, pools = estimates(files)
    text = "\n".join([
        "A fresh seed for each configuration; accuracy in percent, cost a problem, 95 % intervals.",
        "",
        *accuracies(points, list(pools), actual),
        "",
        *costs(points, pools, actual),
    ])  # fmt: skip
    put(options.docs, "spotcheck", text)
    print(text)


if __name__ == "__main__":
    main()
