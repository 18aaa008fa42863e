"""What priorities are worth: when problems end that share few slots, with and without them, for the same calls.

    python benchmarks/priority.py [--problems 32] [--slots 16] [--rounds 10]

A beam over the simulated task, all problems at once, on a clock that leaps (backends/leaping.py): seconds are those of
the latency model. Without priorities every call is as urgent as any other. The outcomes must be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from peers_ours import Twin, use
from peers_server import TASK, backend
from rich.console import Console
from rich.table import Table

from tts_engine import Engine, Outcome, Problem
from tts_engine.backends import leaping
from tts_engine.backends.base import Backend
from tts_engine.report.intervals import paired_bootstrap
from tts_engine.types import Completion, Key, Request

Change = Callable[[Request], int]


def depth(request: Request) -> int:
    """How many steps of a solution a call continues or judges."""
    return len(request.prompt.continuation) // 2


WAYS: dict[str, Change] = {
    "none": lambda request: 0,
    "deeper calls first": lambda request: -depth(request),
    "program order (the engine's)": lambda request: request.priority,
    "program order, then deeper": lambda request: 8 * request.priority - depth(request),
}
"""The priority that a call gets: lower is more urgent."""


class Prioritised(Twin):
    """A model that sees other priorities."""

    def __init__(self, model: str, slots: int, change: Change) -> None:
        super().__init__(backend(model, slots))  # type: ignore[arg-type]
        self._change = change

    async def complete(self, request: Request) -> Completion:
        return await super().complete(replace(request, priority=self._change(request)))


async def search(problems: Sequence[Problem], strategy: str, n: int, seed: int) -> tuple[list[float], list[Outcome]]:
    """When problems ended, in seconds from the start, and their outcomes in program order."""
    model = {"backend": "simulated"}
    settings = {
        "policy": {**model, "model": "policy"},
        "verifier": {**model, "model": "judge", "name": "prm", "samples": 1},
        "run": {"seed": seed, "concurrency": len(problems)},
        "strategy": {"name": strategy, "n": n},
    }
    ends: list[float] = []
    outcomes: dict[str, Outcome] = {}
    async with Engine.from_config(settings) as engine:
        clock = asyncio.get_running_loop().time
        started = clock()
        async for outcome in engine.run(problems):
            ends.append(clock() - started)
            outcomes[outcome.problem.id] = outcome
    return ends, [outcomes[problem.id] for problem in problems]


def measure(options: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """When problems ended, for each way, over the same problems."""
    problems = [TASK.problem(Key(seed, (i,)), steps=5) for i in range(options.problems)]
    ends, outcomes = {}, []
    for name, change in WAYS.items():

        def made(model: str, change: Change = change) -> Backend:
            return Prioritised(model, options.slots, change)

        use(made)
        (ends[name], found), _ = leaping.run(search(problems, options.strategy, options.n, seed))
        outcomes.append([(outcome.answer, outcome.candidates, outcome.total.tokens) for outcome in found])
    if any(each != outcomes[0] for each in outcomes):
        raise SystemExit("priorities changed an outcome")
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--strategy", default="beam")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--slots", type=int, default=16, help="of each model")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    rounds = [measure(options, seed) for seed in range(options.rounds)]
    table = Table("priority", "first ends", "mean end", "last ends", "mean end, times that without")
    for name in WAYS:
        ends = [found[name] for found in rounds]
        shares = [statistics.mean(found[name]) / statistics.mean(found["none"]) for found in rounds]
        share = paired_bootstrap(shares, [0.0] * len(shares))
        seconds = (statistics.mean(each(one) for one in ends) for each in (min, statistics.mean, max))
        table.add_row(name, *(f"{s:.1f}" for s in seconds), f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})")
    Console().print(table)


if __name__ == "__main__":
    main()
