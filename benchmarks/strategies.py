"""Accuracy against compute for every strategy, on the embedded models.

    python benchmarks/strategies.py --problems 300 --seeds 3 [--minutes 9]
    python benchmarks/strategies.py --only 1        # one seed's share and no report: several processes can work
    python benchmarks/strategies.py --report-only

All strategies of a seed share one journal: equal calls are made once and charged to each strategy that asks for them,
so that strategies are compared on the same draws. What was measured stays in the work folder, a line a problem; another
start goes on from there, and `--minutes` says when to begin no more. Writes docs/strategies-results.md and .png.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn

import tts_engine
from tts_engine import Engine, Outcome, Problem
from tts_engine.problems import load_problems
from tts_engine.report.intervals import paired_bootstrap
from tts_engine.report.words import bounded
from tts_engine.types import Role

K = 1
"""Judgements of a step: with the embedded verifier one buys nearly everything (docs/results.md)."""
BLOCK = 100
"""Problems that every setting has solved before any goes on to the next."""
AT_ONCE = 24
REFERENCE = "best-of-n N=8"
TICKS = (125, 250, 500, 1000, 2000, 4000, 8000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A strategy with its parameters; `line` joins the settings of one curve in the plot."""

    line: str
    strategy: str
    params: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For tables and files."""
        rest = [f"{key}={value}" for key, value in self.params.items() if key not in ("n", "control")]
        return " ".join([self.line, f"N={self.params['n']}", *rest, *(["control"] if self.controlled else [])])

    @property
    def controlled(self) -> bool:
        """Whether it also draws fresh solutions for what its refinements cost."""
        return bool(self.params.get("control"))


def setting(strategy: str, n: int, line: str = "", **params: Any) -> Setting:  # noqa: ANN401
    return Setting(line=line or strategy, strategy=strategy, params={"n": n, **params})


SETTINGS = (
    setting("self-consistency", 1),
    setting("self-consistency", 8),
    setting("self-consistency", 32),
    setting("adaptive-self-consistency", 32),
    setting("best-of-n", 4),
    setting("best-of-n", 8),
    setting("best-of-n", 16),
    setting("beam", 8),
    setting("dvts", 8),
    setting("mcts", 16),
    setting("particle-filter", 8),
    setting("refine", 1, rounds=3),
    setting("refine", 4, rounds=3),
    setting("beam-refine", 8, winners=2),
    setting("revise", 2, rounds=3),
    setting("budget-forcing", 8, rounds=1),
    setting("refine", 1, rounds=3, control=True),
    setting("refine", 4, rounds=3, control=True),
    setting("beam-refine", 8, winners=2, control=True),
    setting("beam", 4),
    setting("beam", 16),
    setting("dvts", 16),
    setting("mcts", 16, line="mcts, no rollouts", value="verifier"),
    setting("mcts", 32, line="mcts, no rollouts", value="verifier"),
    setting("mcts", 64, line="mcts, no rollouts", value="verifier"),
    setting("particle-filter", 16),
    setting("beam", 8, line="beam, diverse", diversity=0.2),
    setting("beam", 8, line="beam, lookahead", lookahead=1),
    setting("beam", 8, line="beam, every second", every=2),
)


class Rows:
    """What was measured: a file of JSON lines for every setting and seed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, setting: Setting, seed: int) -> dict[str, dict[str, Any]]:
        """The rows by problem id."""
        path = self._path(setting, seed)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {row["problem"]: row for row in map(json.loads, lines)}

    def add(self, setting: Setting, seed: int, row: Mapping[str, Any]) -> None:
        """Append one row."""
        with self._path(setting, seed).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _path(self, setting: Setting, seed: int) -> Path:
        return self._folder / f"{setting.name.replace(' ', '_')}-seed{seed}.jsonl"


def row_of(outcome: Outcome) -> dict[str, Any]:
    """What is kept of an outcome."""
    verify = outcome.usage.get(Role.VERIFY)
    return {
        "problem": outcome.problem.id,
        "level": outcome.problem.meta.get("level", 0),
        "right": outcome.correct is True,
        "flops": outcome.total.flops,
        "verify_flops": verify.flops if verify else 0.0,
        "tokens": outcome.total.tokens,
        "failures": len(outcome.failures),
        "control": outcome.tree["graph"].get("control"),
    }


class Measurement:
    """Solves what has not been solved yet, until the time is over."""

    def __init__(self, rows: Rows, deadline: float, progress: Progress, task: TaskID) -> None:
        self._rows = rows
        self._deadline = deadline
        self._progress = progress
        self._task = task
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def block(self, engine: Engine, problems: Sequence[Problem], seed: int) -> None:
        """Every setting on these problems, one setting after the other."""
        for one in SETTINGS:
            self._progress.update(self._task, description=f"seed {seed}: {one.name}")
            known = self._rows.read(one, seed)
            missing = [problem for problem in problems if problem.id not in known]
            self._progress.advance(self._task, len(problems) - len(missing))
            await asyncio.gather(*(self._solve(engine, one, problem, seed) for problem in missing))

    async def _solve(self, engine: Engine, one: Setting, problem: Problem, seed: int) -> None:
        async with self._gate:
            if time.monotonic() > self._deadline:
                return
            outcome = await engine.solve(
                problem, strategy=one.strategy, verifier_samples=K, seed=seed, **dict(one.params)
            )
        self._rows.add(one, seed, row_of(outcome))
        self._progress.advance(self._task)


async def measure(options: argparse.Namespace) -> None:
    """Block by block, seed by seed, so that every setting has been measured on as much as every other."""
    problems = load_problems("arith-test")[: options.problems]
    options.work.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        seeds = options.only or range(options.seeds)
        task = progress.add_task("", total=len(SETTINGS) * len(problems) * len(seeds))
        work = Measurement(Rows(options.work), deadline, progress, task)
        for seed in seeds:
            journal = options.work / f"seed{seed}.sqlite"
            async with Engine.from_config({"verifier": {"samples": K}}, journal=journal, resume=True) as engine:
                for start in range(0, len(problems), BLOCK):
                    await work.block(engine, problems[start : start + BLOCK], seed)


class Results:
    """The rows that all settings have in common, arranged by problem."""

    def __init__(self, rows: Rows, seeds: int) -> None:
        self._tables = [[rows.read(one, seed) for one in SETTINGS] for seed in range(seeds)]
        common = [set.intersection(*map(set, tables)) for tables in self._tables]
        self.seeds = sum(map(bool, common))
        self.problems = sorted(set.intersection(*common[: self.seeds])) if self.seeds else []
        self.levels = [int(self._tables[0][0][name]["level"]) for name in self.problems]

    def column(self, one: Setting, key: str) -> np.ndarray:
        """[problems] mean over seeds of a number in the rows."""
        return np.mean([[float(row[key]) for row in self._rows(one, seed)] for seed in range(self.seeds)], axis=0)

    def control(self, one: Setting, key: str) -> np.ndarray:
        """[problems] mean over seeds of a number in the resample control."""
        found = [[float(row["control"][key] or 0) for row in self._rows(one, seed)] for seed in range(self.seeds)]
        return np.mean(found, axis=0)

    def _rows(self, one: Setting, seed: int) -> Iterator[dict[str, Any]]:
        table = self._tables[seed][SETTINGS.index(one)]
        return (table[name] for name in self.problems)

    @cached_property
    def plain(self) -> tuple[Setting, ...]:
        """The settings without a control, cheapest first."""
        shown = [one for one in SETTINGS if not one.controlled]
        return tuple(sorted(shown, key=lambda one: self.column(one, "flops").mean()))


def points(first: np.ndarray, second: np.ndarray | None = None) -> str:
    """Mean (difference) in points with its 95 % interval over problems."""
    other = np.zeros_like(first) if second is None else second
    found = paired_bootstrap(first.tolist(), other.tolist())
    return bounded(found, ".1f" if second is None else "+.1f")


def report(results: Results) -> str:
    """docs/strategies-results.md."""
    lines = [
        "# Strategies on the embedded models",
        "",
        f"Written by `python benchmarks/strategies.py` (version {tts_engine.__version__}, {platform.machine()}, CPU);"
        f" do not edit. {len(results.problems)} held-out problems of `arith-test`, {results.seeds} seed(s), K={K}"
        " judgement of each step by the embedded GenPRM; other parameters as by default. All settings share their"
        " draws, so differences are paired; intervals are 95 % bootstrap over problems. MFLOPs are those of both"
        " models, a problem; `*`: no cheaper setting is as accurate.",
        "",
        "![accuracy against FLOPs](strategies-results.png)",
        "",
        f"| setting | MFLOPs | verifier's share | tokens | accuracy | minus {REFERENCE} | |",
        "|---|---|---|---|---|---|---|",
        *_table(results),
        "",
        "## Does refinement beat trying again?",
        "",
        "For what its refinements cost, both models, as many fresh solutions are drawn and judged instead (the resample"
        " control); they are chosen from together with the first solutions, by the same rule.",
        "",
        "| setting | refined | resampled | refined minus resampled | cost of control / refinements |",
        "|---|---|---|---|---|",
        *_controls(results),
        "",
        "## By difficulty",
        "",
        *_levels(results),
        "",
    ]
    return "\n".join(lines)


def _table(results: Results) -> Iterator[str]:
    reference = next(results.column(one, "right") for one in results.plain if one.name == REFERENCE)
    best = -1.0
    for one in results.plain:
        right, flops = results.column(one, "right"), results.column(one, "flops").mean()
        share = results.column(one, "verify_flops").mean() / flops
        front, best = right.mean() > best, max(best, float(right.mean()))
        yield (
            f"| {one.name} | {flops / 1e6:.0f} | {share:.0%} | {results.column(one, 'tokens').mean():.0f} |"
            f" {points(right)} | {points(right, reference)} | {'*' if front else ''} |"
        )


def _controls(results: Results) -> Iterator[str]:
    for one in SETTINGS:
        if one.controlled:
            refined, resampled = results.column(one, "right"), results.control(one, "correct")
            cost = results.control(one, "cost_resampled").sum() / max(results.control(one, "cost_refined").sum(), 1.0)
            name = one.name.removesuffix(" control")
            yield f"| {name} | {points(refined)} | {points(resampled)} | {points(refined, resampled)} | {cost:.2f} |"


def _levels(results: Results) -> Iterator[str]:
    levels = sorted(set(results.levels))
    where = {level: np.array(results.levels) == level for level in levels}
    yield "| setting | " + " | ".join(f"level {level} ({where[level].sum()})" for level in levels) + " |"
    yield "|---" * (1 + len(levels)) + "|"
    for one in results.plain:
        right = results.column(one, "right")
        yield f"| {one.name} | " + " | ".join(f"{100 * right[where[level]].mean():.1f}" for level in levels) + " |"


def draw(results: Results, path: Path) -> None:
    """Accuracy against FLOPs, a line for every strategy, over all problems and for the easy and the hard half."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    tab20 = colormaps["tab20"]

    lines: dict[str, list[Setting]] = defaultdict(list)
    for one in results.plain:
        lines[one.line].append(one)
    levels = np.array(results.levels)
    parts = {"all levels": levels > 0, "levels 1 and 2": levels <= 2, "levels 4 and 5": levels >= 4}
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    for axes, (title, here) in zip(figure.subplots(1, 3, sharey=True), parts.items(), strict=True):
        for number, (line, settings) in enumerate(lines.items()):
            x = [results.column(one, "flops")[here].mean() / 1e6 for one in settings]
            y = [100 * results.column(one, "right")[here].mean() for one in settings]
            axes.plot(x, y, marker="os^"[number % 3], color=tab20(number % 20), label=line)
        axes.set(title=f"{title} (n={here.sum()})", xlabel="MFLOPs a problem, both models", xscale="log")
        axes.set_xticks(TICKS, map(str, TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy in %")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="+", metavar="SEED", help="measure no other seeds, and write nothing")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no problem after so many minutes")
    parser.add_argument("--work", type=Path, default=Path("runs/strategies"), help="journals and rows")
    parser.add_argument("--out", type=Path, default=Path("docs/strategies-results.md"))
    parser.add_argument("--report-only", action="store_true", help="measure nothing, write what is there")
    options = parser.parse_args()
    if not options.report_only:
        asyncio.run(measure(options))
    if options.only:
        return
    results = Results(Rows(options.work), options.seeds)
    if not results.problems:
        raise SystemExit("no problem has been measured with every setting yet; start again to go on")
    text = report(results)
    options.out.write_text(text, encoding="utf-8")
    draw(results, options.out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
