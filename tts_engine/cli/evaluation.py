"""The work of `tts-eval`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from tts_engine import __version__, loop
from tts_engine.calibration import NAME, fit
from tts_engine.cli.common import given
from tts_engine.cli.embedded_steps import sample_labelled
from tts_engine.cli.session import limits
from tts_engine.config import Config, StrategyConfig
from tts_engine.errors import ConfigError, DataError, TTSError, UsageError
from tts_engine.files import make_folder, occupied, write_text
from tts_engine.garbage import collected_rarely
from tts_engine.report.benchtable import bench_report, localisation_report
from tts_engine.report.labelled import Labelled, LabelledSet, drawn, load_labelled, record
from tts_engine.report.processbench import Record, item_record, summarize, total_usage
from tts_engine.report.recorded import cross_validated, judged_pairs
from tts_engine.report.recorded import score as score_recorded
from tts_engine.report.reliability import brier, expected_error, reliability
from tts_engine.report.summary import powers
from tts_engine.report.terminal import make_console
from tts_engine.report.words import percent
from tts_engine.report.writer import write_lines
from tts_engine.resolving import resolved
from tts_engine.run import Engine

EMBEDDED_SET = "embedded"
"""The source that stands for solutions of the embedded policy, labelled by the domain's exact checker."""


def processbench(arguments: Namespace) -> int:
    """Judge a labelled set; returns the exit code: 1 when not one item could be judged."""
    stderr = make_console(stderr=True)
    config = judging_config(Config.load(arguments.config, arguments.set, overrides(arguments)))
    folder = _folder(arguments)
    labelled = _labelled(arguments, folder)
    samples = arguments.verifier_samples or tuple(powers(config.verifier.samples))
    started = time.monotonic()
    try:
        records = loop.run(_judge(labelled.items, config, samples, folder, arguments, stderr))
    except KeyboardInterrupt:
        if folder:
            stderr.print(f"interrupted; go on with the same command and --resume ({folder})", soft_wrap=True)
        raise
    summary = _summary(arguments, config, labelled, records, samples) | {"seconds": time.monotonic() - started}
    if folder:
        _write(folder, config, records, summary, stderr)
    _show(summary, arguments, bench_report(summary), summary["samples"][str(samples[-1])]["mean"])
    failures = [found["failure"] for found in records if found["failure"]]
    if failures:
        text = f"{len(failures)} of {len(records)} items failed, the first with {failures[0]}"
        stderr.print(text, soft_wrap=True, markup=False)
    return int(len(failures) == len(records))


def score(arguments: Namespace) -> int:
    """Score recorded predictions."""
    table = score_recorded(arguments.source, arguments.gold, partial=arguments.partial, seed=arguments.seed)
    _show(table, arguments, localisation_report(table), table)
    return 0


def calibrate(arguments: Namespace) -> int:
    """Fit a calibration on a judged set; says what it is worth on examples that it was not fitted on."""
    k, pairs = judged_pairs(arguments.source, arguments.level, arguments.k)
    found = fit(pairs, arguments.method, arguments.level, k)
    out = Path(arguments.out)
    found.save(out / NAME if out.is_dir() else out)
    unseen = cross_validated(pairs, arguments.method, arguments.level, arguments.seed)
    before, after = (expected_error(reliability(each)) for each in (pairs, unseen))
    text = (
        f"{len(pairs)} {arguments.level} at K={k}: expected calibration error {before:.3f}, cross-validated {after:.3f}"
    )
    sys.stdout.write(f"{text} (Brier {brier(pairs):.3f}, {brier(unseen):.3f})\n")
    return 0


def make_embedded(arguments: Namespace) -> int:
    """Write a labelled set of the embedded domain."""
    items = sample_labelled(
        arguments.policy, arguments.problems, arguments.n, per_problem=arguments.per_problem, seed=arguments.seed
    )
    write_lines(Path(arguments.out), map(record, items))
    wrong = sum(item.label >= 0 for item in items)
    sys.stderr.write(f"{arguments.out}: {len(items)} solutions, {wrong} with a wrong step\n")
    return 0


def _labelled(arguments: Namespace, folder: Path | None) -> LabelledSet:
    """The set that is to be judged, or as much of it as was asked for."""
    if arguments.source == EMBEDDED_SET:
        found = _embedded(arguments.limit, folder)
    else:
        found = load_labelled(arguments.source, skip_malformed=arguments.skip_malformed)
    return replace(found, items=drawn(found.items, arguments.limit)) if arguments.limit else found


def _embedded(count: int | None, folder: Path | None) -> LabelledSet:
    """So many (300) solutions of the embedded policy, kept in the folder for the next time.

    Raises:
        DataError: those that were kept are fewer; a larger set is another one.
    """
    kept = folder / "labelled.jsonl" if folder else None
    if kept and kept.is_file():
        found = load_labelled(str(kept))
        if count and len(found.items) < count:
            raise DataError(f"{kept} holds {len(found.items)} solutions, not {count}; choose another --out")
        return found
    items = sample_labelled("embedded:policy", "arith-dev", count or 300, per_problem=3, seed=0)
    if kept:
        write_lines(kept, map(record, items))
    return LabelledSet(items=tuple(items))


def judging_config(config: Config) -> Config:
    """The resolved configuration, whatever strategy stood in it; `ConfigError` where there is no verifier."""
    if config.verifier.name == "none":
        raise ConfigError("there is no verifier to evaluate: choose one with --verifier")
    return resolved(config.model_copy(update={"strategy": StrategyConfig(name="self-consistency")}))


def overrides(arguments: Namespace) -> dict[str, Any]:
    """The options of `processbench` as a nested configuration."""
    options = {
        "verifier": {
            "name": arguments.verifier,
            "model": arguments.verifier_model,
            "samples": max(arguments.verifier_samples or (), default=None),
        },
        "run": {"seed": arguments.seed, "concurrency": arguments.concurrency},
        "sandbox": {"unsafe": arguments.unsafe_sandbox},
        "budget": limits(arguments.budget),
    }
    return given(options)


def _folder(arguments: Namespace) -> Path | None:
    """The output folder, made if need be; None when nothing is to be kept."""
    if not arguments.out:
        if arguments.resume:
            raise DataError("--resume needs the folder to go on with: --out DIR")
        return None
    folder = Path(arguments.out)
    if not arguments.resume and occupied(folder):
        raise DataError(f"{folder} is not empty; add --resume to go on with it, or choose another --out")
    make_folder(folder)
    return folder


async def _judge(
    items: Sequence[Labelled],
    config: Config,
    samples: Sequence[int],
    folder: Path | None,
    arguments: Namespace,
    stderr: Console,
) -> list[Record]:
    """The records of all items, in order."""
    journal = folder / "journal.sqlite" if folder and config.run.journal else None
    async with Engine(config, journal=journal, resume=arguments.resume, judge_only=True) as engine:
        for line in () if arguments.quiet else engine.explain():
            stderr.print(line, style="dim", soft_wrap=True)
        gate = asyncio.Semaphore(config.run.concurrency)
        hidden = arguments.quiet or not stderr.is_terminal
        with collected_rarely(), Progress(console=stderr, transient=True, disable=hidden) as progress:
            bar = progress.add_task("judging", total=len(items))

            async def one(index: int, item: Labelled) -> Record:
                async with gate:
                    found = await _item(engine, item, samples, index)
                progress.advance(bar)
                return found

            return await asyncio.gather(*(one(index, item) for index, item in enumerate(items)))


async def _item(engine: Engine, item: Labelled, samples: Sequence[int], index: int) -> Record:
    """A failure of one item is recorded on it."""
    try:
        return item_record(item, await engine.judge(item.problem, item.steps, samples, priority=index))
    except UsageError:
        raise
    except TTSError as error:
        return item_record(item, {}, failure=f"{type(error).__name__}: {error}")


def _summary(
    arguments: Namespace, config: Config, labelled: LabelledSet, records: Sequence[Record], samples: Sequence[int]
) -> Record:
    verifier = config.verifier
    return {
        "version": __version__,
        "source": arguments.source,
        "config": config.digest(),
        "seed": config.run.seed,
        "verifier": {"name": verifier.name, "model": verifier.model, "params": verifier.params},
        "skipped_rows": list(labelled.skipped),
        "usage": total_usage(records),
        **summarize(records, samples, config.run.seed),
    }


def _write(folder: Path, config: Config, records: Sequence[Record], summary: Record, stderr: Console) -> None:
    write_text(folder / "config.yaml", config.to_yaml())
    write_lines(folder / "items.jsonl", records)
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    try:
        from tts_engine.report.benchplot import draw
    except ModuleNotFoundError:
        stderr.print("no plots: they need matplotlib (pip install 'tts-engine[plot]')", style="dim")
    else:
        draw(summary, folder)


def _show(summary: Record, arguments: Namespace, report: Any, localised: Record) -> None:  # noqa: ANN401
    """The report on standard output: a table, JSON, or the F1 alone."""
    if arguments.json:
        sys.stdout.write(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    elif arguments.quiet:
        sys.stdout.write(f"{percent(localised['f1']['value']) if localised['f1'] else 'none'}\n")
    else:
        make_console().print(report)
