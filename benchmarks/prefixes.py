"""What the local backend saves by keeping ended sequences for their prefix.

    python benchmarks/prefixes.py

Best-of-16 with 8 GenPRM chains a solution, 24 problems at once: thousands of calls wait for 256 places. The same run
with different numbers of kept sequences, in turns; outcomes are the same, tokens that are computed are not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from tts_engine import Engine, Outcome
from tts_engine.problems import load_problems
from tts_engine.types import Role


async def run(kept: int, limit: int) -> tuple[float, float, float, list[str | None]]:
    """Seconds, computed tokens of the policy and of the verifier a problem, and the answers."""
    options: dict[str, Any] = {"options": {"kept": kept}}
    config = {
        "strategy": {"name": "best-of-n", "n": 16},
        "policy": options,
        "verifier": {"name": "genprm", "samples": 8, **options},
        "run": {"concurrency": 24},
    }
    async with Engine.from_config(config) as engine:
        began = time.perf_counter()
        outcomes: list[Outcome] = [outcome async for outcome in engine.run(load_problems("arith-dev")[:limit])]
        seconds = time.perf_counter() - began
    outcomes.sort(key=lambda outcome: outcome.problem.id)
    policy, verifier = (
        sum(outcome.usage[role].tokens for outcome in outcomes) / limit for role in (Role.GENERATE, Role.VERIFY)
    )
    return seconds, policy, verifier, [outcome.answer for outcome in outcomes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=32, help="problems")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kept", type=int, nargs="+", default=[0, 128, 512])
    options = parser.parse_args()
    rounds = [{kept: asyncio.run(run(kept, options.limit)) for kept in options.kept} for _ in range(options.rounds)]
    if len({tuple(row[3]) for found in rounds for row in found.values()}) > 1:
        raise SystemExit("the answers differ: no fair comparison")
    heads = ("kept", "seconds", f"against {options.kept[0]}", "policy tokens", "verifier tokens")
    table = Table(*heads, title=f"{options.limit} problems, {options.rounds} rounds, tokens a problem")
    for kept in options.kept:
        rows = [found[kept] for found in rounds]
        ratios = [found[kept][0] / found[options.kept[0]][0] for found in rounds]
        seconds, policy, verifier = (statistics.median(row[column] for row in rows) for column in range(3))
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(str(kept), f"{seconds:.1f}", ratio, f"{policy:.0f}", f"{verifier:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
