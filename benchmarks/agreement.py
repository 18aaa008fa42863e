"""Do backends agree? The same problems and seeds under several configurations that differ in what runs the models.

    python benchmarks/agreement.py local.yaml vllm.yaml endpoint.yaml --dataset arith-test --limit 100

Prints the accuracy of each and its paired difference to the first, with 95 % bootstrap intervals over problems: they
agree where the interval holds 0. Calls are journalled below --work; the same command goes on with an interrupted run.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import numpy as np

from tts_engine import Engine, Problem
from tts_engine.problems import load_problems
from tts_engine.report.points import Bootstrap
from tts_engine.report.pools import Array


async def accuracy(config: Path, problems: list[Problem], work: Path) -> Array:
    """[problems] whether the answer was right."""
    work.mkdir(parents=True, exist_ok=True)
    right: dict[str, bool] = {}
    async with Engine.from_config(config, journal=work / f"{config.stem}.sqlite", resume=True) as engine:
        async for outcome in engine.run(problems):
            right[outcome.problem.id] = bool(outcome.correct)
            for failure in outcome.failures:
                print(f"{config.stem}, {outcome.problem.id}: {failure.where}: {failure.message}")
    return np.array([right[problem.id] for problem in problems], dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--dataset", default="arith-test")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("runs/agreement"))
    options = parser.parse_args()
    problems = load_problems(options.dataset)[: options.limit]
    found = {path.stem: asyncio.run(accuracy(path, problems, options.work)) for path in options.configs}
    bootstrap, first = Bootstrap.of(len(problems)), found[options.configs[0].stem]
    print(f"{len(problems)} problems; percent with 95 % intervals")
    for name, right in found.items():
        whole, gap = bootstrap.interval(right), bootstrap.interval(right - first)
        shown = [f"{100 * i.value:.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]" for i in (whole, gap)]
        print(f"{name}: {shown[0]}, difference {shown[1]}")


if __name__ == "__main__":
    main()
