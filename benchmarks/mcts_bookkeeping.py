"""What Monte Carlo tree search costs besides the models: time and memory of its bookkeeping as the tree grows.

    python benchmarks/mcts_bookkeeping.py [--nodes 100000]

`counts` is strategies/visits.py alone: pick, add a node, back up. `search` is the whole way through the engine's handle
with a policy and a verifier that answer at once: tasks, ledger, keys, candidates and the exportable tree included.
A step is one level of the path that a simulation walks down and up again. Time is that of the processor; memory is the
growth of the process, to which only what is more than ever before adds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import time
from collections.abc import Callable
from functools import partial

from tts_engine.calls import Calls
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.journal import Journal
from tts_engine.search import Search
from tts_engine.strategies.mcts import mcts
from tts_engine.strategies.visits import Rule, Visits, scoring
from tts_engine.types import Candidate, Key, Problem, Step, Verdict

WORDS = 6
DEPTH = 12
Row = tuple[str, int, float, float, float]


def grow(nodes: int, rule: Rule, depth: int) -> float:
    """Grow a tree of `nodes` by random values; returns the mean depth of a simulation."""
    tree, draw, score = Visits(), random.Random(0), scoring(rule, 0.5)
    level = [0]
    walked = simulations = 0
    while len(tree) < nodes:
        leaf = tree.pick(score, 2.0, 0.5)
        walked += level[leaf] + 1
        simulations += 1
        if tree.closed[leaf]:
            tree.land(leaf, None, tree.mean(leaf))
            continue
        level.append(level[leaf] + 1)
        tree.land(leaf, tree.add(leaf, closed=level[-1] >= depth), draw.random())
    return walked / simulations


class Policy:
    """Answers at once: one of a few words a step."""

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        steps = (*node.steps, Step(text=f"word {key.int() % WORDS}"))
        done = len(steps) >= DEPTH
        return Candidate(
            problem=node.problem, key=key, steps=steps, done=done, answer="1" if done else None, parent=node.key
        )


class Judge:
    """Answers at once: a number that depends on the text."""

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        return Verdict(step_scores=(), value=hash(steps[-1]) % 1000 / 1000)

    def publish(self) -> None:
        """Nothing is remembered."""

    async def close(self) -> None:
        """Nothing is open."""


def searched(simulations: int, rule: Rule) -> float:
    """The strategy itself, through the engine's handle; returns no depth."""
    asyncio.run(search(simulations, rule))
    return 0.0


async def search(simulations: int, rule: Rule) -> None:
    calls = Calls(
        models={}, journal=Journal.open(None, {}, resume=False), scope=Scope.root(Budget(), "bench"), problem="bench"
    )
    handle = Search(Problem(id="bench", prompt="?"), policy=Policy(), judge=Judge(), calls=calls, key=Key(0, ("b",)))
    await mcts(handle, n=simulations, samples=1, rule=rule, value="verifier", parallel=32, width=2.0, growth=0.5)


def measured(name: str, nodes: int, work: Callable[[], float]) -> Row:
    """Name, nodes, microseconds a simulation, mean depth (0: not told), growth of the process in MB."""
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    told = work()
    seconds = time.process_time() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return name, nodes, seconds / nodes * 1e6, told, grown


def main() -> None:
    """Print the table."""
    command = argparse.ArgumentParser(description="Time and memory of MCTS bookkeeping.")
    command.add_argument("--nodes", type=int, default=100_000, help="size of the largest tree")
    most = command.parse_args().nodes
    print(f"{'part':<14}{'nodes':>9}{'us a simulation':>17}{'depth':>7}{'us a step':>11}{'MB more':>9}")
    for nodes in (most // 100, most // 10, most):
        for rule in ("uct", "puct"):
            show(measured(f"counts {rule}", nodes, partial(grow, nodes, rule, 64)))
    for nodes in (most // 100, most // 10, most):
        show(measured("search puct", nodes, partial(searched, nodes, "puct")))


def show(row: Row) -> None:
    name, nodes, microseconds, depth, grown = row
    steps = f"{depth:>7.1f}{microseconds / depth:>11.2f}" if depth else f"{'':>18}"
    print(f"{name:<14}{nodes:>9,}{microseconds:>17.1f}{steps}{grown:>9.0f}")


if __name__ == "__main__":
    main()
