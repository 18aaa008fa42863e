"""Measure the embedded models on held-out problems and write docs/results.md.

    python benchmarks/results.py                     # 500 problems, 3 seeds: a quarter of an hour on 2 cores
    python benchmarks/results.py --limit 30 --seeds 1 --out /tmp/results.md

Every problem is sampled N=16 times and every solution judged by K=8 GenPRM chains and by the discriminative PRM; the
samples of all seeds are pooled, and smaller N and K evaluated on subsets of them (tts_engine/report/subsample.py), so
that all configurations are paired. Intervals: percentile bootstrap over problems, 95 %. Calls are journalled below
--work (benchmarks/recorded.py): an interrupted measurement goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recorded import WORK, K, N, bars, recorded, settings

import tts_engine
from tts_engine.cli.training_eval import read_stories
from tts_engine.config import Config
from tts_engine.problems import load_problems
from tts_engine.report.compare import Comparison, Recording, compare
from tts_engine.report.points import Grid, Point, oracle_curve
from tts_engine.report.pools import Arm, Array, Pool, samples_of
from tts_engine.report.recordings import load_recordings, read_lines
from tts_engine.report.samplefile import header_key, read_samples, write_samples
from tts_engine.report.subsample import Draws
from tts_engine.report.words import bounded
from tts_engine.resolving import resolved
from tts_engine.types import Aggregation
from tts_engine.verifiers.training.domain import first_error

DATASET = "arith-test"
NS, KS = (1, 2, 4, 8, 16), (1, 2, 4, 8)
RISES = (*pairwise(KS), (KS[0], KS[-1]))
VERIFIERS = ("genprm", "prm")
AUC_DRAWS = 32
"""Random choices of chains over which an AUC is averaged."""


def arm(verifier: str) -> Arm:
    """The embedded policy with one of the embedded verifiers."""
    config = resolved(Config.build(settings(verifier)))
    return Arm(
        name=verifier,
        policy=config.policy.model,
        verifier=verifier,
        aggregation=config.verifier.params["aggregation"],
        config=config.model_dump(mode="json"),
    )


async def measure(limit: int, seeds: int, work: Path) -> list[Path]:
    """A file of samples for each seed and verifier, one after the other; those that are there are kept."""
    work.mkdir(parents=True, exist_ok=True)
    wanted = [(seed, verifier) for seed in range(seeds) for verifier in VERIFIERS]
    files = [(work / f"{verifier}-{seed}-{limit}.jsonl", seed, verifier) for seed, verifier in wanted]
    with bars() as progress:
        for path, seed, verifier in files:
            if header_key(path) != str(limit):
                found = await recorded(DATASET, verifier, seed, limit, work, progress)
                pairs = [(outcome.problem, samples_of(outcome)) for outcome in found]
                write_samples(path, arm(verifier), pairs, str(limit))
    return [path for path, *_ in files]


def auc(values: Sequence[Array], good: Sequence[NDArray[np.bool_]]) -> Array:
    """[problems] chance that a good solution is valued above another one of the same problem; nan where there are not
    both.

    Args:
        values: for each problem, [draws, N].
        good: for each problem, [N].
    """
    result = []
    for value, is_good in zip(values, good, strict=True):
        wins = np.sign(value[:, is_good, None] - value[:, None, ~is_good])
        result.append(np.mean(0.5 + 0.5 * wins) if wins.size else np.nan)
    return np.array(result)


def judged_values(pools: Sequence[Pool], aggregation: Aggregation, k: int) -> list[Array]:
    """For each problem, [draws, N] the values by k chains; 0 where a solution was not judged."""
    return [np.nan_to_num(Draws(pool, aggregation, AUC_DRAWS).values(k)) for pool in pools]


def sound_solutions(files: Sequence[Path], pools: Sequence[Pool]) -> list[NDArray[np.bool_]]:
    """For each problem, [N] whether the domain's exact checker finds no wrong step in a solution."""
    stories, prompts = read_stories(DATASET), {problem.id: problem.prompt for problem in load_problems(DATASET)}
    found: dict[str, list[bool]] = {}
    for path in files:
        for name, _, samples in read_samples(path, read_lines(path))[1]:
            story = stories[prompts[name]]
            found.setdefault(name, []).extend(first_error(story, s.text.split("\n")) is None for s in samples)
    return [np.array(found[pool.problem]) for pool in pools]


class Results:
    """All configurations of the two verifiers, and how their figures are written."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.genprm, self.prm = _by_name(load_recordings(files))
        self.sound = sound_solutions([path for path in files if path.name.startswith("genprm")], self.genprm.pools)
        self.right = [pool.right for pool in self.genprm.pools]
        grid = Grid(n=NS, k=KS, selectors=("majority", "weighted", "best"))
        self.found: Comparison = compare([self.genprm, self.prm], (), grid)
        self._points = {
            (s.arm.name if s.verified else "none", s.n, s.k, s.select): p
            for p in self.found.points
            for s in [p.setting]
        }

    def majority(self, n: int) -> Point:
        return self._points["none", n, 0, "majority"]

    def judged(self, name: str, n: int, k: int, select: str = "weighted") -> Point:
        return self._points[name, n, k, select]

    def points(self, statistic: Array) -> str:
        """A share in percent with its interval."""
        return bounded(self.found.bootstrap.interval(statistic))

    def measures(self, name: str, k: int) -> tuple[Array, ...]:
        """By problem: best of N, score-weighted vote, AUC by right answer and by all steps right."""
        source: Recording = self.genprm if name == "genprm" else self.prm
        best, vote = (self.judged(name, N, k, select).accuracy for select in ("best", "weighted"))
        values = judged_values(source.pools, source.arm.aggregation, k)
        return best, vote, auc(values, self.right), auc(values, self.sound)

    def row(self, label: str, measures: Sequence[Array]) -> str:
        """A line of the table of selectors."""
        best, vote, *areas = measures
        figures = (self.points(best), self.points(vote), self.points(vote - self.majority(N).accuracy))
        return f"| {label} | {' | '.join((*figures, *map(self.area, areas)))} |"

    def rise(self, label: str, less: Sequence[Array], more: Sequence[Array]) -> str:
        """A line of the table of what more chains of the GenPRM add."""
        added = [self.found.bootstrap.interval(after - before) for before, after in zip(less, more, strict=True)]
        return f"| {label} | {' | '.join(bounded(interval, '.2f') for interval in added)} |"

    def checker_row(self) -> str:
        """The exact checker as a verifier: what is left of its AUC are right answers behind a wrong step."""
        values = [sound[None].astype(float) for sound in self.sound]
        area = self.area(auc(values, self.right))
        return f"| the domain's exact checker (1 or 0) |  |  |  | {area} | 1 |"

    def area(self, found: Array) -> str:
        """An AUC with its interval."""
        return bounded(self.found.bootstrap.interval(found), ".3f", 1)


def _by_name(found: Sequence[Recording]) -> list[Recording]:
    named = {recording.arm.name: recording for recording in found}
    return [named[name] for name in VERIFIERS]


def report(results: Results, seeds: int, seconds: float) -> str:
    """docs/results.md."""
    pools, points = results.found.recordings[0].pools, results.points
    measures = {k: results.measures("genprm", k) for k in KS}
    most = oracle_curve(pools, Grid(n=(N,)))[N]
    lines = [
        "# Results on the embedded models",
        "",
        f"Written by `python benchmarks/results.py` (version {tts_engine.__version__}, {platform.machine()}, CPU); do"
        f" not edit. {len(pools)} held-out problems of `arith-test`, {seeds} seeds, N={N},"
        f" K={K}, policy at the temperature its checkpoint asks for. Accuracy in percent with 95 % bootstrap intervals"
        " over problems; differences are paired. A model of half a billion parameters on GSM8K:"
        " [real-model.md](real-model.md).",
        "",
        f"pass@1 {points(np.array([pool.right.mean() for pool in pools]))},"
        f" pass@{N} (oracle) {points(most)},"
        f" majority of {N} {points(results.majority(N).accuracy)}.",
        "",
        f"## Selection among {N} solutions",
        "",
        "| verifier | best of N | score-weighted vote | vote minus majority | AUC, answer right"
        " | AUC, all steps right |",
        "|---|---|---|---|---|---|",
        f"| none (majority) |  | {points(results.majority(N).accuracy)} |  |  |  |",
        results.row("discriminative PRM", results.measures("prm", 1)),
        *(results.row(f"GenPRM with code, K={k}", measures[k]) for k in KS),
        results.checker_row(),
        "",
        "AUC: chance that a good solution is valued above another one of the same problem (ties count half). Good is"
        " one whose answer is right, which is what selection needs, or one without a wrong step, which is what a"
        " verifier of steps is asked; some right answers stand behind a wrong step, so that even the checker misses"
        " them.",
        "",
        "What more chains add (paired differences, in points):",
        "",
        "| K | best of N | score-weighted vote | AUC x 100, answer right | AUC x 100, all steps right |",
        "|---|---|---|---|---|",
        *(results.rise(f"{less} to {more}", measures[less], measures[more]) for less, more in RISES),
        *_cost_table(results),
        *_level_table(results, results.judged("genprm", N, K).accuracy),
    ]
    lines += ["", f"Measured in {seconds / 60:.0f} minutes (journalled parts of earlier runs not included).", ""]
    return "\n".join(lines)


def _cost_table(results: Results) -> list[str]:
    """Every (N, K) with its cost, dearest last, the frontier marked: plain voting is allowed to win."""
    rows = [(n, "0", results.majority(n)) for n in NS]
    rows += [(n, "PRM", results.judged("prm", n, 1)) for n in NS]
    rows += [(n, str(k), results.judged("genprm", n, k)) for n in NS for k in KS]
    rows.sort(key=lambda row: row[2].mean_cost("flops"))
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
    for n, k, point in rows:
        mean = float(point.accuracy.mean())
        front, best = "*" if mean > best else "", max(best, mean)
        costs = f"{point.mean_cost('tokens'):.0f} | {point.mean_cost('flops') / 1e6:.0f}"
        lines.append(f"| {n} | {k} | {costs} | {results.points(point.accuracy)} | {front} |")
    return lines


def _level_table(results: Results, vote: Array) -> list[str]:
    pools, seeds = results.found.recordings[0].pools, results.found.recordings[0].pools[0].size // N
    lines = ["", "## By difficulty", "", "| level | problems x seeds | pass@1 | majority | GenPRM vote K=8 |"]
    lines.append("|---|---|---|---|---|")
    first, majority = np.array([pool.right.mean() for pool in pools]), results.majority(N).accuracy
    for level in sorted({pool.level for pool in pools}):
        here = np.array([pool.level == level for pool in pools])
        figures = " | ".join(f"{100 * column[here].mean():.1f}" for column in (first, majority, vote))
        lines.append(f"| {level} | {seeds * here.sum()} | {figures} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="problems")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=WORK, help="journals and sample files")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    options = parser.parse_args()
    started = time.monotonic()
    files = asyncio.run(measure(options.limit, options.seeds, options.work))
    results = Results(files)
    text = report(results, options.seeds, time.monotonic() - started)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps({"problems": len(results.found.problems), "written": str(options.out)}))


if __name__ == "__main__":
    main()
