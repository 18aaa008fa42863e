"""The work of `tts-compare`: recorded samples or a sweep, the comparison, and what is written of it."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from tts_engine import __version__, loop
from tts_engine.cli.compare_grid import SweepConfig, base_configs, planned, tasks, verifier_configs
from tts_engine.cli.compare_sweep import Sweep, perform, results
from tts_engine.compute.budget import Budget
from tts_engine.config import Config
from tts_engine.configfile import load_mapping
from tts_engine.errors import DataError
from tts_engine.files import make_folder, occupied, write_text
from tts_engine.problems import load_problems
from tts_engine.report.compare import Measured, Recording, compare, main_unit, recommendation, summarize
from tts_engine.report.comparehtml import page
from tts_engine.report.comparetable import advice_lines, compare_report
from tts_engine.report.frontier import Recommendation, limits_of
from tts_engine.report.points import SELECTORS, Grid
from tts_engine.report.recordings import load_recordings
from tts_engine.report.terminal import make_console
from tts_engine.report.writer import write_lines

DEFAULT_SET, DEFAULT_LIMIT = "arith-test", 20
STORED = "sweep.yaml"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is compared, and on which grid."""

    recordings: Sequence[Recording]
    measured: Sequence[Measured]
    grid: Grid
    notes: Sequence[str] = ()


def execute(arguments: Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    stderr = make_console(stderr=True)
    budget = Budget.parse(arguments.budget) if arguments.budget else None
    if budget is not None:
        limits_of(budget)
    folder = _folder(arguments)
    sources = _recorded(arguments) if arguments.recorded else _swept(arguments, folder, stderr)
    found = compare(sources.recordings, sources.measured, sources.grid, sources.notes)
    summary = {"version": __version__, **summarize(found, main_unit(found.points, arguments.unit))}
    write_report(folder, summary)
    chosen, advice = recommendation(found, budget) if budget else (None, None)
    if chosen is not None and advice is not None:
        summary["recommendation"] = advice
        write_report(folder, summary)
        write_text(folder / "recommended.yaml", recommended(chosen, advice))
    _show(arguments, summary, advice, folder, stderr)
    return 0


def _folder(arguments: Namespace) -> Path:
    """The output folder.

    Raises:
        DataError: it is not a sweep's that could be resumed, or is in use, or cannot be made.
    """
    if arguments.resume is not None:
        folder = Path(arguments.resume)
        if arguments.out and Path(arguments.out) != folder:
            raise DataError("--resume and --out name different folders; give one of them")
        if not (folder / STORED).is_file():
            raise DataError(f"{folder} holds no sweep to resume; start one with --out {folder}")
        return folder
    folder = Path(arguments.out) if arguments.out else Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-compare"
    if occupied(folder):
        raise DataError(f"{folder} is not empty; go on with it by --resume {folder}, or choose another --out")
    return folder


def _recorded(arguments: Namespace) -> Sources:
    given = {"--dataset": arguments.dataset, "--grid": arguments.grid, "--search": arguments.search}
    if clash := [name for name, value in given.items() if value]:
        raise DataError(f"{clash[0]} is for new samples; leave it out with --recorded")
    recordings = load_recordings(map(Path, arguments.recorded), arguments.verify_ratio)
    if arguments.limit:
        recordings = [Recording(arm=r.arm, pools=r.pools[: arguments.limit], notes=r.notes) for r in recordings]
    grid = Grid(
        n=arguments.n or (), k=arguments.k or (), selectors=arguments.select or SELECTORS, draws=arguments.draws
    )
    return Sources(recordings=recordings, measured=(), grid=grid)


def _swept(arguments: Namespace, folder: Path, stderr: Console) -> Sources:
    """Run what is missing of the sweep."""
    wanted = sweep_config(arguments, folder)
    limit = wanted.limit or (None if wanted.dataset else DEFAULT_LIMIT)
    problems = load_problems(wanted.dataset or DEFAULT_SET)[:limit]
    if (unknown := next((p.id for p in problems if p.answer is None), None)) is not None:
        raise DataError(f"problem {unknown} has no reference answer, so nothing can be compared; add it")
    verifiers = verifier_configs(wanted)
    found = tasks(wanted, verifiers)
    policies = base_configs(wanted)
    make_folder(folder)
    write_text(folder / STORED, yaml.safe_dump(wanted.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    recordings: list[Recording] = []
    measured: list[Measured] = []
    notes: list[str] = []
    for number, config in enumerate(policies):
        place = folder / f"policy-{number}" if number else folder
        sweep = Sweep(
            config=config,
            verifiers=verifiers,
            problems=problems,
            tasks=found,
            folder=place,
            several=len(policies) > 1,
        )
        if not arguments.quiet:
            stderr.print(f"{config.policy.model}: {planned(found, problems)}", soft_wrap=True)
        _run(sweep, folder, stderr, quiet=arguments.quiet)
        more, ran, said = results(sweep)
        recordings += more
        measured += ran
        notes += said
    return Sources(recordings=recordings, measured=measured, grid=wanted.grid(arguments.draws), notes=notes)


def _run(sweep: Sweep, folder: Path, stderr: Console, *, quiet: bool) -> None:
    try:
        loop.run(perform(sweep, stderr, quiet=quiet))
    except KeyboardInterrupt:
        stderr.print(
            f"interrupted; what was finished is kept. Go on with: tts-compare --resume {folder}", soft_wrap=True
        )
        raise


def sweep_config(arguments: Namespace, folder: Path) -> SweepConfig:
    """The grid: that of the resumed sweep or of the file, changed by the command line.

    Raises:
        ConfigError: a wrong key or value.
    """
    base = Path(arguments.grid) if arguments.grid else folder / STORED if arguments.resume is not None else None
    changes = {
        "dataset": arguments.dataset,
        "limit": arguments.limit,
        "seeds": arguments.seeds,
        "n": arguments.n,
        "k": arguments.k,
        "select": arguments.select,
        "policies": arguments.policy,
        "verifiers": arguments.verifier,
        "searches": [{"name": name} for name in arguments.search] if arguments.search else None,
        "engine": load_mapping(arguments.config, arguments.set) if arguments.config or arguments.set else None,
    }
    return SweepConfig.load(base, {key: value for key, value in changes.items() if value is not None})


def recommended(chosen: Recommendation, advice: Mapping[str, Any]) -> str:
    """A configuration that `tts-run --config` takes, with the reasons as comments.

    Where the recording does not name its models, only the strategy and the numbers are set.
    """
    setting = chosen.point.setting
    base = Config.build(setting.arm.config) if setting.arm.config else Config()
    params = dict(setting.params) | ({"n": setting.n} if setting.n else {})
    verifier = base.verifier.model_dump(mode="json")
    if setting.plain:
        strategy = {"name": "self-consistency", "n": setting.n}
        verifier = {"name": "none"}
    elif setting.select == "confidence":
        strategy = {"name": "best-of-n", "n": setting.n, "select": "weighted"}
        verifier = {"name": "confidence", "samples": 1}
    elif setting.verified:
        strategy = {"name": setting.strategy, **params, "select": setting.select}
        verifier |= {"samples": setting.k}
    else:
        strategy, verifier = {"name": setting.strategy, **params}, {"name": "none"}
    config = Config.build(base.model_dump(mode="json") | {"strategy": strategy, "verifier": verifier})
    comments = "".join(f"# {line.strip()}\n" for line in advice_lines(advice))
    unknown = "" if setting.arm.config else "# The recording does not name its models: fill in policy and verifier.\n"
    return comments + unknown + config.to_yaml()


def write_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """summary.json, points.jsonl, points.csv, report.html and, with matplotlib, the plots."""
    make_folder(folder)
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    rows = [{"name": name, **row} for name, row in zip(summary["names"], summary["points"], strict=True)]
    write_lines(folder / "points.jsonl", rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "points.csv", text.getvalue())
    write_text(folder / "report.html", page(summary))
    if importlib.util.find_spec("matplotlib"):
        from tts_engine.report.compareplot import draw

        draw(summary, folder)


def _show(
    arguments: Namespace, summary: Mapping[str, Any], advice: Mapping[str, Any] | None, folder: Path, stderr: Console
) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    elif arguments.quiet:
        sys.stdout.write("".join(f"{line}\n" for line in advice_lines(advice)) if advice else "")
    else:
        console = make_console()
        console.print()
        console.print(compare_report(summary, advice))
    if not arguments.quiet:
        plots = "" if importlib.util.find_spec("matplotlib") else "; for plots: pip install 'tts-engine[plot]'"
        stderr.print(f"written to {folder}{plots}", style="dim", soft_wrap=True)
