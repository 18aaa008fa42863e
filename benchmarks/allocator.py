"""Measure the adaptive allocator against every static configuration, on recorded draws, and write a table for docs/.

    python benchmarks/allocator.py --limit 200 --seeds 2 --fit tts_engine/assets/allocation-embedded.json
    python benchmarks/allocator.py --out docs/budget-results.md                          # on arith-test, 3 seeds

Every problem is drawn N=16 times and every solution judged by K=8 GenPRM chains (journalled below --work). A replay
then buys from these draws as the strategy `adaptive-allocation` would, with the same planner: a solution costs what it
took, a vote the turns of its chain that were not paid before. Static configurations (N, K, selector) pay in the same
way. Solutions are taken in order and, again, starting in the middle. Intervals: paired bootstrap over problems, 95 %.
The allocation is fitted on arith-dev and never on arith-test.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recorded import WORK, K, N, bars, recorded
from rich.progress import track

from tts_engine import Outcome
from tts_engine.allocation import Allocation, load_allocation
from tts_engine.compute.allocator import Beliefs, Planner
from tts_engine.compute.calibrating import fit_beliefs, fit_confidence, fit_steps
from tts_engine.compute.replay import (
    Recording,
    Solution,
    Turn,
    adaptive,
    answer_records,
    draw_histories,
    static,
    step_votes,
)
from tts_engine.judging import votes
from tts_engine.report.points import Bootstrap
from tts_engine.report.words import bounded
from tts_engine.types import Judged, Verdict

STARTS = (0, N // 2)
PRICES = (0.2, 0.14, 0.1, 0.07, 0.05, 0.04, 0.03, 0.02, 0.014, 0.01, 0.008, 0.006, 0.003, 0.001, 0.0004)
STATIC = [(n, k, how) for n in (1, 2, 3, 4, 6, 8, 12, 16) for k in (0, 1, 2, 4, 8) for how in ("vote", "best", "sure")]
Array = NDArray[np.float64]


async def record(name: str, seed: int, limit: int, work: Path) -> list[Recording]:
    """The recordings of one seed, from the journal below `work` as far as it goes."""
    cache = work / f"{name}-{seed}-{limit}.json"
    if cache.exists():
        return [load(item) for item in json.loads(cache.read_text())]
    with bars() as progress:
        recordings = [recording(found) for found in await recorded(name, "genprm", seed, limit, work, progress)]
    cache.write_text(json.dumps([dump(item) for item in recordings]))
    return recordings


def recording(outcome: Outcome) -> Recording:
    """What a replay has to know of an outcome."""
    texts: dict[str, int] = {}
    chains: dict[int, list[list[Turn]]] = {}
    solutions = []
    for judged in outcome.candidates:
        candidate = judged.candidate
        text = texts.setdefault(candidate.text, len(texts))
        right = candidate.answer is not None and candidate.answer == outcome.problem.answer
        logprob = candidate.mean_logprob * candidate.usage.completion
        solutions.append(
            Solution(
                candidate.answer,
                right,
                text,
                candidate.usage.flops,
                candidate.usage.tokens,
                logprob,
                len(candidate.steps),
            )
        )
        if judged.verdict and text not in chains:
            chains[text] = turns(judged)
    return Recording(outcome.problem.id, solutions, chains)


def turns(judged: Judged) -> list[list[Turn]]:
    """Each chain's turns: the prefix they judge (turns on equal prefixes are paid once), their cost, their vote."""
    assert judged.verdict is not None
    steps = [step.text for step in judged.candidate.steps]
    return [
        [
            Turn("\n".join(steps[: i + 1]), said.usage.flops, said.usage.tokens, accepts(judged.verdict, number))
            for i, said in enumerate(chain)
        ]
        for number, chain in enumerate(judged.verdict.samples)
    ]


def accepts(verdict: Verdict, number: int) -> bool:
    """Whether a sample says yes; an unparseable one does not."""
    return votes(replace(verdict, samples=verdict.samples[number : number + 1]))[0] == 1


def dump(item: Recording) -> Any:  # noqa: ANN401
    return [item.problem, [list(s) for s in item.solutions], {str(t): c for t, c in item.chains.items()}]


def load(data: Any) -> Recording:  # noqa: ANN401
    problem, solutions, chains = data
    loaded = {int(text): [[Turn(*turn) for turn in chain] for chain in found] for text, found in chains.items()}
    return Recording(problem, [Solution(*solution) for solution in solutions], loaded)


def fit(recordings: Sequence[Recording], levels: int, votes: int, source: str) -> Allocation:
    """Beliefs and the cost at each price."""
    beliefs = fit_beliefs([answer_records(item) for item in recordings])
    beliefs = fit_confidence(beliefs, [draw_histories(item) for item in recordings], levels)
    tokens = float(np.mean([solution.tokens for item in recordings for solution in item.solutions]))
    flops = float(np.mean([solution.flops for item in recordings for solution in item.solutions]))
    steps = [vote for item in recordings for vote in step_votes(item)]
    beliefs = fit_steps(beliefs, [vote[:3] for vote in steps], float(np.mean([vote[3] for vote in steps])) / flops)
    curve: list[tuple[float, float]] = []
    for price, rows in at_prices(recordings, beliefs, votes).items():
        cost = float(rows[:, 1].mean())
        if not curve or cost / flops > curve[-1][1]:
            curve.append((price, cost / flops))
    return Allocation.of(beliefs, solution_tokens=tokens, curve=tuple(curve), source=source)


def replayed(recordings: Sequence[Recording], planner: Planner) -> Array:
    """[recordings, 4] right, FLOPs, solutions, votes; the mean over the starts."""
    return np.array([np.mean([adaptive(item, start, planner) for start in STARTS], axis=0) for item in recordings])


def at_prices(recordings: Sequence[Recording], beliefs: Beliefs, votes: int) -> dict[float, Array]:
    """`replayed` at each price, some of them at once."""
    planners = [Planner(beliefs=beliefs, price=price, votes=votes, horizon=1) for price in PRICES]
    with ProcessPoolExecutor(initializer=gc.disable) as pool:  # planners remember millions of states and drop none
        rows = pool.map(replayed, repeat(recordings), planners)
        return dict(zip(PRICES, track(rows, "prices", len(PRICES)), strict=True))


def fixed(recordings: Sequence[Recording], n: int, k: int, how: str) -> Array:
    """[recordings, 2] right and FLOPs of a static configuration."""
    starts = range(0, N, n) if N % n == 0 else STARTS
    return np.array([np.mean([static(item, start, n, k, how) for start in starts], axis=0) for item in recordings])


def report(recordings: Sequence[Recording], allocation: Allocation, votes: int, seeds: int) -> str:
    """The table of docs/budget.md."""
    boot = Bootstrap.grouped([item.problem for item in recordings])
    found = at_prices(recordings, allocation.beliefs, votes)
    statics = {setting: fixed(recordings, *setting) for setting in STATIC if setting[1] or setting[2] != "best"}
    problems = len({item.problem for item in recordings})
    lines = [
        f"{problems} problems, {seeds} seeds. FLOPs of both models, a problem. 95 % bootstrap intervals over problems.",
        "",
        "| price | solutions | votes | MFLOPs | accuracy |",
        "|---|---|---|---|---|",
    ]
    for price, rows in found.items():
        _, flops, drawn, asked = rows.mean(axis=0)
        right = bounded(boot.interval(rows[:, 0]))
        lines.append(f"| {price:g} | {drawn:.1f} | {asked:.1f} | {flops / 1e6:.0f} | {right} |")
    usual = {setting: rows for setting, rows in statics.items() if setting[2] != "sure"}
    lines += ["", *frontier(statics), "", "Against all static configurations:", "", *comparison(boot, found, statics)]
    lines += ["", "Against those that leave the policy's confidence out:", "", *comparison(boot, found, usual)]
    return "\n".join(lines)


def frontier(statics: dict[tuple[int, int, str], Array]) -> list[str]:
    """The static configurations that no cheaper one beats."""
    lines = ["| N | K | selection | MFLOPs | accuracy |", "|---|---|---|---|---|"]
    best = -1.0
    for (n, k, how), rows in sorted(statics.items(), key=lambda item: item[1][:, 1].mean()):
        if rows[:, 0].mean() > best:
            best = float(rows[:, 0].mean())
            lines.append(f"| {n} | {k} | {how} | {rows[:, 1].mean() / 1e6:.0f} | {100 * best:.1f} |")
    return lines


def comparison(boot: Bootstrap, found: dict[float, Array], statics: dict[tuple[int, int, str], Array]) -> list[str]:
    """At each budget: the best static configuration in hindsight, and the cheapest price that reaches its accuracy."""
    lines = [
        "| budget, MFLOPs | best static (N, K, selection) | accuracy | adaptive MFLOPs | accuracy | difference |"
        " share of the FLOPs |",
        "|---|---|---|---|---|---|---|",
    ]
    for budget in (500e6, 1000e6, 2000e6, 3000e6, 4000e6):
        fitting = {s: rows for s, rows in statics.items() if rows[:, 1].mean() <= budget}
        setting, best = max(fitting.items(), key=lambda item: (item[1][:, 0].mean(), -item[1][:, 1].mean()))
        reaching = [rows for rows in found.values() if rows[:, 0].mean() >= best[:, 0].mean()]
        rows = min(reaching or found.values(), key=lambda r: r[:, 1].mean() if reaching else -r[:, 0].mean())
        gain, share = boot.interval(rows[:, 0] - best[:, 0]), boot.ratio(rows[:, 1], best[:, 1])
        lines.append(
            f"| {budget / 1e6:.0f} | {', '.join(map(str, setting))}: {best[:, 1].mean() / 1e6:.0f} MFLOPs |"
            f" {100 * best[:, 0].mean():.1f} | {rows[:, 1].mean() / 1e6:.0f} | {100 * rows[:, 0].mean():.1f} |"
            f" {bounded(gain)} | {bounded(share, '.2f', 1)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="problems")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--levels", type=int, default=3, help="levels of the policy's confidence, for --fit")
    parser.add_argument("--fit", type=Path, metavar="FILE", help="fit an allocation on arith-dev instead")
    parser.add_argument("--allocation", default="embedded")
    parser.add_argument("--votes", type=int, default=1, help="on an answer at most")
    parser.add_argument("--dataset", default="arith-test")
    parser.add_argument("--work", type=Path, default=WORK, help="journals")
    parser.add_argument("--out", type=Path, help="where to write the tables (default: print them)")
    options = parser.parse_args()
    name = "arith-dev" if options.fit else options.dataset
    each = [asyncio.run(record(name, seed, options.limit, options.work)) for seed in range(options.seeds)]
    recordings = [item for found in each for item in found]
    if options.fit:
        source = f"{name}, {options.limit} problems x {options.seeds} seeds, best-of-n N={N} K={K}"
        fit(recordings, options.levels, options.votes, source).save(options.fit)
        return
    text = report(recordings, load_allocation(options.allocation), options.votes, options.seeds)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
