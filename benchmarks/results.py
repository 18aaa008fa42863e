"""Measure the embedded models on held-out problems and write docs/results.md.

    python benchmarks/results.py                     # 300 problems, 3 seeds: about an hour on 2 cores
    python benchmarks/results.py --limit 30 --seeds 1 --out /tmp/results.md

Every problem is sampled N=16 times and every solution judged by K=8 GenPRM chains and by the discriminative PRM;
smaller N and K are evaluated on blocks of the same draws (n solutions: 16/n disjoint blocks; k chains: 8/k), so that
all configurations are paired. Intervals: percentile bootstrap over problems (a problem's seeds stay together), 95 %.
Calls are journalled below --work: an interrupted measurement goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

import tts_engine
from tts_engine import Engine, Outcome
from tts_engine.problems import load_problems
from tts_engine.types import Judged
from tts_engine.verifiers.verdicts import make_verdict

N, K = 16, 8
DRAWS = 10_000
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One problem under one seed: per candidate whether it is right, its answer's number, and its verdicts.

    Attributes:
        right: [N] bool.
        group: [N] number of the answer's class (-1: no answer).
        text: [N] number of the solution's text: equal texts are judged, and paid, once.
        judged: [N] candidates with their GenPRM verdicts (K chains).
        prm: [N] value of the discriminative PRM.
        generate, verify, prm_cost: FLOPs and tokens: [N, 2], [N, K, 2], [N, 2].
    """

    problem: str
    level: int
    right: NDArray[np.bool_]
    group: NDArray[np.int64]
    text: NDArray[np.int64]
    judged: list[Judged]
    prm: Array
    generate: Array
    verify: Array
    prm_cost: Array


async def outcomes(seed: int, verifier: str, limit: int, work: Path, progress: Progress) -> dict[str, Outcome]:
    """Best-of-N outcomes of one seed by problem id, journalled."""
    problems = load_problems("arith-test")[:limit]
    config = {
        "strategy": {"name": "best-of-n", "n": N},
        "verifier": {"name": verifier, "samples": K},
        "run": {"seed": seed, "concurrency": 24},
    }
    task = progress.add_task(f"seed {seed}, {verifier}", total=len(problems))
    results = {}
    journal = work / f"{verifier}-{seed}.sqlite"
    async with Engine.from_config(config, journal=journal, resume=True) as engine:
        async for outcome in engine.run(problems):
            results[outcome.problem.id] = outcome
            progress.advance(task)
    return results


def record(genprm: Outcome, prm: Outcome) -> Record:
    """Arrange the two outcomes of one problem; both hold the same solutions."""
    pool, others = genprm.candidates, prm.candidates
    texts = [judged.candidate.text for judged in pool]
    if texts != [judged.candidate.text for judged in others] or len(pool) != N:
        raise SystemExit(f"{genprm.problem.id}: the two verifiers saw different solutions; delete the work folder")
    answers = [judged.candidate.answer for judged in pool]
    classes = {answer: i for i, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return Record(
        problem=genprm.problem.id,
        level=int(genprm.problem.meta.get("level", 0)),
        right=np.array([answer == genprm.problem.answer for answer in answers]),
        group=np.array([-1 if answer is None else classes[answer] for answer in answers]),
        text=np.array([numbers[text] for text in texts]),
        judged=list(pool),
        prm=np.array([_value(judged) for judged in others]),
        generate=np.array([_cost(judged.candidate.usage) for judged in pool]),
        verify=np.array([_chain_costs(judged) for judged in pool]),
        prm_cost=np.array([_cost(judged.verdict.usage) if judged.verdict else (0.0, 0.0) for judged in others]),
    )


def _cost(usage: Any) -> tuple[float, float]:  # noqa: ANN401
    return float(usage.tokens), float(usage.flops)


def _value(judged: Judged) -> float:
    return judged.verdict.value if judged.verdict and judged.verdict.value is not None else 0.0


def _chain_costs(judged: Judged) -> list[tuple[float, float]]:
    chains = judged.verdict.samples if judged.verdict else ()
    costs = [tuple(np.sum([_cost(turn.usage) for turn in chain], axis=0)) for chain in chains]
    return costs + [(0.0, 0.0)] * (K - len(costs))


def values(records: Sequence[Record], k: int, block: int) -> list[Array]:
    """[N] GenPRM values of every record with the `block`-th k of the K chains."""
    result = []
    for item in records:
        part = slice(block * k, (block + 1) * k)
        chosen = [judged.verdict.samples[part] if judged.verdict else () for judged in item.judged]
        verdicts = [make_verdict(samples, "product").value for samples in chosen]
        result.append(np.array([0.0 if value is None else value for value in verdicts]))
    return result


def chosen_right(item: Record, weight: Array, part: slice, how: str) -> float:
    """Whether the selected answer among the candidates of `part` is right; an even tie counts by its share."""
    group, right, w = item.group[part], item.right[part], weight[part]
    known = group >= 0
    if not known.any():
        return 0.0
    group, right, w = group[known], right[known], w[known]
    if how == "best":
        top = w >= w.max() - 1e-12
        return float(right[top].mean())
    votes = np.bincount(group, weights=np.ones_like(w) if how == "majority" else w)
    if how == "weighted" and votes.max() <= 0:
        votes = np.bincount(group).astype(float)
    winners = np.flatnonzero(votes >= votes.max() - 1e-12)
    return float(np.mean([right[group == winner][0] for winner in winners]))


def accuracy(records: Sequence[Record], weights: Sequence[Array], n: int, how: str) -> Array:
    """[records] accuracy at n candidates, averaged over the 16/n blocks."""
    parts = [slice(b * n, (b + 1) * n) for b in range(N // n)]
    pairs = zip(records, weights, strict=True)
    return np.array([np.mean([chosen_right(item, w, part, how) for part in parts]) for item, w in pairs])


def genprm_accuracy(records: Sequence[Record], n: int, k: int, how: str) -> Array:
    """[records] accuracy with k chains, averaged over the 8/k blocks of chains."""
    return np.mean([accuracy(records, values(records, k, b), n, how) for b in range(K // k)], axis=0)


def auc(records: Sequence[Record], weights: Sequence[Array]) -> Array:
    """[records] chance that a right solution is valued above a wrong one of the same problem; nan where undefined."""
    result = []
    for item, w in zip(records, weights, strict=True):
        good, bad = w[item.right], w[~item.right]
        wins = np.sign(good[:, None] - bad[None, :])
        result.append(np.mean(0.5 + 0.5 * wins) if wins.size else np.nan)
    return np.array(result)


def cost(records: Sequence[Record], n: int, k: int, unit: int, prm: bool = False) -> float:
    """Mean tokens (unit 0) or FLOPs (unit 1) a problem: n solutions, each distinct text judged once by k chains."""
    totals = []
    for item in records:
        for b in range(N // n):
            part = np.arange(b * n, (b + 1) * n)
            first = part[np.unique(item.text[part], return_index=True)[1]]
            judge = item.prm_cost[first, unit].sum() if prm else item.verify[first, :, unit].sum() * k / K
            totals.append(item.generate[part, unit].sum() + judge)
    return float(np.mean(totals))


class Bootstrap:
    """Percentile intervals over problems; the same resamples for every statistic, so differences are paired."""

    def __init__(self, records: Sequence[Record]) -> None:
        names = sorted({item.problem for item in records})
        place = {name: i for i, name in enumerate(names)}
        self._problem = np.array([place[item.problem] for item in records])
        draws = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
        self._counts = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws]).astype(float)

    def __call__(self, statistic: Array) -> tuple[float, float, float]:
        """Mean of a per-record statistic (nan: not defined there) and its 95 % interval."""
        defined = ~np.isnan(statistic)
        size = self._counts.shape[1]
        sums = np.bincount(self._problem[defined], weights=statistic[defined], minlength=size)
        sizes = np.bincount(self._problem[defined], minlength=size).astype(float)
        means = (self._counts @ sums) / (self._counts @ sizes)
        low, high = np.percentile(means, [2.5, 97.5])
        return float(statistic[defined].mean()), float(low), float(high)


def report(records: Sequence[Record], seeds: int, seconds: float) -> str:
    """docs/results.md."""
    interval = Bootstrap(records)
    ones = [np.ones(N) for _ in records]
    prm = [item.prm for item in records]
    majority = accuracy(records, ones, N, "majority")

    def points(statistic: Array) -> str:
        mean, low, high = (100 * x for x in interval(statistic))
        return f"{mean:.1f} [{low:.1f}, {high:.1f}]"

    def row(name: str, weights: Callable[[str], Array], area: Array | None) -> str:
        vote = weights("weighted")
        return (
            f"| {name} | {points(weights('best'))} | {points(vote)} | {points(vote - majority)} |"
            f" {'' if area is None else '{:.3f} [{:.3f}, {:.3f}]'.format(*interval(area))} |"
        )

    lines = [
        "# Results on the embedded models",
        "",
        f"Written by `python benchmarks/results.py` (version {tts_engine.__version__}, {platform.machine()}, CPU); do"
        f" not edit. {len({item.problem for item in records})} held-out problems of `arith-test`, {seeds} seeds, N={N},"
        f" K={K}, policy at the temperature its checkpoint asks for. Accuracy in percent with 95 % bootstrap intervals"
        " over problems; differences are paired.",
        "",
        f"pass@1 {points(np.array([item.right.mean() for item in records]))},"
        f" pass@{N} (oracle) {points(np.array([float(item.right.any()) for item in records]))},"
        f" majority of {N} {points(majority)}.",
        "",
        f"## Selection among {N} solutions",
        "",
        "| verifier | best of N | score-weighted vote | vote minus majority | within-problem AUC |",
        "|---|---|---|---|---|",
        f"| none (majority) |  | {points(majority)} |  |  |",
        row("discriminative PRM", lambda how: accuracy(records, prm, N, how), auc(records, prm)),
    ]
    for k in (1, 2, 4, 8):
        area = np.mean([auc(records, values(records, k, b)) for b in range(K // k)], axis=0)
        lines.append(row(f"GenPRM with code, K={k}", lambda how, k=k: genprm_accuracy(records, N, k, how), area))  # type: ignore[misc]
    lines += ["", "Rising with K (score-weighted vote, paired differences):", ""]
    for k in (2, 4, 8):
        rise = genprm_accuracy(records, N, k, "weighted") - genprm_accuracy(records, N, k // 2, "weighted")
        lines.append(f"- K={k // 2} to K={k}: {points(rise)} points")
    lines += _cost_table(records, prm, points)
    lines += _level_table(records, ones)
    lines += ["", f"Measured in {seconds / 60:.0f} minutes (journalled parts of earlier runs not included).", ""]
    return "\n".join(lines)


def _cost_table(records: Sequence[Record], prm: list[Array], points: Callable[[Array], str]) -> list[str]:
    """Every (N, K) with its cost, dearest last, the frontier marked: plain voting is allowed to win."""
    rows = []
    for n in (1, 2, 4, 8, 16):
        ones = [np.ones(N) for _ in records]
        plain, voted = accuracy(records, ones, n, "majority"), accuracy(records, prm, n, "weighted")
        rows.append((cost(records, n, 0, 1), cost(records, n, 0, 0), f"{n}", "0", plain))
        rows.append((cost(records, n, 0, 1, True), cost(records, n, 0, 0, True), f"{n}", "PRM", voted))
        for k in (1, 2, 4, 8):
            found = genprm_accuracy(records, n, k, "weighted")
            rows.append((cost(records, n, k, 1), cost(records, n, k, 0), f"{n}", f"{k}", found))
    rows.sort(key=lambda row: row[0])
    lines = [
        "",
        "## Accuracy against cost",
        "",
        "Score-weighted vote of N solutions with K GenPRM chains each (K=0: majority; PRM: the discriminative one)."
        " Tokens computed by both models (prompt tokens from a cache are free) and FLOPs, a problem. `*`: on the"
        " frontier (no cheaper configuration is as accurate).",
        "",
        "| N | K | tokens | MFLOPs | accuracy | |",
        "|---|---|---|---|---|---|",
    ]
    best = -1.0
    for flops, tokens, n, k, found in rows:
        front = found.mean() > best
        best = max(best, float(found.mean()))
        lines.append(f"| {n} | {k} | {tokens:.0f} | {flops / 1e6:.0f} | {points(found)} | {'*' if front else ''} |")
    return lines


def _level_table(records: Sequence[Record], ones: list[Array]) -> list[str]:
    lines = ["", "## By difficulty", "", "| level | problems x seeds | pass@1 | majority | GenPRM vote K=8 |"]
    lines.append("|---|---|---|---|---|")
    vote = genprm_accuracy(records, N, K, "weighted")
    majority = accuracy(records, ones, N, "majority")
    for level in sorted({item.level for item in records}):
        here = np.array([item.level == level for item in records])
        first = np.array([item.right.mean() for item in records])
        figures = " | ".join(f"{100 * column[here].mean():.1f}" for column in (first, majority, vote))
        lines.append(f"| {level} | {here.sum()} | {figures} |")
    return lines


async def measure(limit: int, seeds: int, work: Path) -> list[Record]:
    """All records; a seed after the other, the verifiers one after the other."""
    work.mkdir(parents=True, exist_ok=True)
    records = []
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        for seed in range(seeds):
            genprm = await outcomes(seed, "genprm", limit, work, progress)
            prm = await outcomes(seed, "prm", limit, work, progress)
            records += [record(genprm[name], prm[name]) for name in genprm]
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=300, help="problems")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/results"), help="journals")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    options = parser.parse_args()
    started = time.monotonic()
    records = asyncio.run(measure(options.limit, options.seeds, options.work))
    text = report(records, options.seeds, time.monotonic() - started)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps({"records": len(records), "written": str(options.out)}))


if __name__ == "__main__":
    main()
