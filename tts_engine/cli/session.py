"""The work of `tts-run`: what to solve and how, solving it, and the report."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tts_engine import __version__, loop
from tts_engine.cli.common import given, models
from tts_engine.cli.sources import pick_problems, pick_run
from tts_engine.compute.budget import Budget
from tts_engine.config import Config, judges, lookup
from tts_engine.errors import ConfigError, UsageError
from tts_engine.garbage import collected_rarely
from tts_engine.report.progress import Progress
from tts_engine.report.summary import is_plain, is_right, outcome_record, summarize
from tts_engine.report.terminal import cost_report, make_console, set_report, solution_report
from tts_engine.report.utilisation import Timeline
from tts_engine.report.words import percent
from tts_engine.report.writer import RunFolder
from tts_engine.resolving import resolved
from tts_engine.run import Engine, Event, OnEvent
from tts_engine.scaleout.fleet import Fleet
from tts_engine.selection import select
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Outcome, Problem

MANY = 32
"""Problems from which on two local models are given a process each: that many earn back what starting them takes."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one run is asked to do."""

    config: Config
    problems: Sequence[Problem]
    folder: RunFolder
    resume: bool
    single: bool
    metrics: str | None = None
    """Where Prometheus finds metrics while it runs: `PORT` or `HOST:PORT`."""
    ray: str | None = None
    """Address of the Ray cluster whose workers solve the problems; None solves them in this process."""


@dataclass(kw_only=True)
class Results:
    """What a run has so far, by problem id."""

    found: dict[str, Outcome] = field(default_factory=dict)
    plain: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ray: dict[str, Any] = field(default_factory=dict)
    """What happened to the workers, where there were some."""


def execute(arguments: Namespace) -> int:
    """Do what the command line says; returns the exit code: 1 when not one problem could be worked on."""
    stderr = make_console(stderr=True)
    job = prepare(arguments, stderr)
    if arguments.explain is not None:
        from tts_engine.cli.explain import plan

        sys.stdout.write("\n".join([_plan(job), *plan(job.config, arguments.explain)]) + "\n")
        return 0
    results = Results()
    created = not job.resume
    if created:
        job.folder.create(job.config, job.problems)
    try:
        loop.run(solve(job, results, stderr, quiet=arguments.quiet))
    except UsageError:
        if results.found or job.folder.has_calls():
            _keep(job, results, complete=False)
        elif created:
            job.folder.discard()
        raise
    except KeyboardInterrupt:
        _keep(job, results, complete=False)
        stderr.print(f"interrupted; what was finished is kept. Go on with: {_resume_command(job)}", soft_wrap=True)
        raise
    summary = _keep(job, results, complete=True)
    show(job, results, summary, arguments)
    if not arguments.quiet:
        stderr.print(f"run folder: {job.folder.path}", style="dim", soft_wrap=True)
    return int(all(outcome.stop_reason.startswith("failed") for outcome in results.found.values()))


def prepare(arguments: Namespace, stderr: Console) -> Job:
    """Check everything that can be checked without loading a model.

    Raises:
        UsageError: with what is wrong and the fix; nothing has been written.
    """
    if arguments.ray_workers and not arguments.ray:
        raise ConfigError("--ray-workers needs a cluster: add --ray auto, or its address")
    resumed = pick_run(arguments)
    stored_config, stored = resumed.load() if resumed else (None, [])
    base = arguments.config or (resumed.config if resumed else None)
    config = resolved(_fitting(Config.load(base, arguments.set, overrides(arguments))))
    if resumed and stored_config:
        resumed.check(stored_config, config)
    problems = pick_problems(arguments, stderr, stored)
    if len(problems) >= MANY and not arguments.ray:
        config = _apart(config)
    folder = resumed or RunFolder(Path(arguments.out) if arguments.out else _new_folder(config.strategy.name))
    return Job(
        config=config,
        problems=problems,
        folder=folder,
        resume=resumed is not None,
        single=len(problems) == 1,
        metrics=arguments.metrics_port,
        ray=arguments.ray,
    )


def overrides(arguments: Namespace) -> dict[str, Any]:
    """The options of the command line as a nested configuration."""
    shared = models(arguments)
    options = {
        "strategy": {"name": _strategy_name(arguments), "n": arguments.n, "select": arguments.select},
        "verifier": shared["verifier"] | {"samples": arguments.verifier_samples},
        "budget": limits(arguments.budget) | {"per_problem": limits(arguments.budget_per_problem)},
        "run": {
            "seed": arguments.seed,
            "concurrency": arguments.concurrency,
            "allocate": None if arguments.allocate == "even" else arguments.allocate,
            "baseline": False if arguments.no_baseline else None,
        },
        "ray": {"workers": arguments.ray_workers},
    }
    return given(shared | options)


def _strategy_name(arguments: Namespace) -> str | None:
    """The strategy asked for; an adaptive allocation asks for the one that follows a price."""
    adaptive = arguments.allocate == "adaptive" and not arguments.config
    return arguments.strategy or ("adaptive-allocation" if adaptive else None)


def limits(text: str | None) -> dict[str, Any]:
    """`tokens=20k` as the keys of a budget."""
    budget = Budget.parse(text) if text else Budget()
    return {unit: getattr(budget, unit) for unit in ("tokens", "flops", "seconds", "dollars")}


async def solve(job: Job, results: Results, stderr: Console, *, quiet: bool) -> None:
    """Fill `results`; a cancellation leaves what was finished in it."""
    started = time.monotonic()
    if not quiet:
        stderr.print(_plan(job))
    async with _engine(job, results, stderr, quiet=quiet) as engine:
        results.seconds["load"] = time.monotonic() - started
        if not quiet:
            for line in engine.explain():
                stderr.print(line, style="dim")
        budget = job.config.budget.build()
        timeline = Timeline()
        with ExitStack() as stack, Progress(len(job.problems), engine.ledger, budget, stderr, quiet=quiet) as progress:
            on_event = _together(progress.on_event, timeline.on_event, *_telemetry(stack, job.metrics))
            try:
                async for outcome in engine.run(job.problems, on_event=on_event):
                    results.found[outcome.problem.id] = outcome
            finally:
                job.folder.write_load(timeline.series())
        results.seconds["search"] = time.monotonic() - started - results.seconds["load"]
        await _compare(job, engine, results, stderr, quiet=quiet)
        results.seconds["total"] = time.monotonic() - started


@asynccontextmanager
async def _engine(job: Job, results: Results, stderr: Console, *, quiet: bool) -> AsyncIterator[Engine | Fleet]:
    """What solves the problems: an engine here, or workers on a cluster."""
    journal = job.folder.journal if job.config.run.journal else None
    if job.ray is None:
        async with Engine(job.config, journal=journal, resume=job.resume) as engine:
            with collected_rarely():
                yield engine
        return

    def say(line: str) -> None:
        if not quiet:
            stderr.print(line, style="yellow", soft_wrap=True)

    count = len(job.problems)
    fleet = Fleet(job.config, job.ray, journal=journal, resume=job.resume, problems=count, say=say)
    try:
        async with fleet:
            yield fleet
    finally:
        results.ray = fleet.report()


def _together(*listeners: OnEvent) -> OnEvent:
    def on_event(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return on_event


def _telemetry(stack: ExitStack, metrics: str | None) -> list[OnEvent]:
    """Traces and metrics, where they are asked for on the command line or by OpenTelemetry's own variable."""
    if metrics is None and not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return []
    try:
        from tts_engine.telemetry import open_telemetry
    except ImportError as error:
        if metrics is None:  # the variable may be meant for other programs
            return []
        raise ConfigError(f"--metrics-port needs {error.name}: pip install 'tts-engine[telemetry]'") from None
    return [open_telemetry(stack, metrics).on_event]


async def _compare(job: Job, engine: Engine | Fleet, results: Results, stderr: Console, *, quiet: bool) -> None:
    """Plain samples of the problems that have a reference; the search's own where it drew plain samples anyway."""
    graded = [outcome.problem for outcome in results.found.values() if outcome.correct is not None]
    if not job.config.run.baseline or not graded or job.single:
        return
    if is_plain(list(results.found.values())):
        results.plain = {problem.id: _voted(results.found[problem.id]) for problem in graded}
        return
    n = job.config.strategy.params.get("n", 16)
    if not quiet:
        stderr.print(f"for comparison: {n} plain samples a problem, not charged to the budget", style="dim")
    async for outcome in engine.baseline(graded, n):
        results.plain[outcome.problem.id] = outcome


def _voted(outcome: Outcome) -> Outcome:
    """The outcome that a majority vote over the same samples gives, without the verifier's cost."""
    choice = select(outcome.candidates, "majority")
    usage = {role: usage for role, usage in outcome.usage.items() if role == "generate"}
    correct = is_right(choice.answer, outcome.problem.answer)
    return replace(outcome, answer=choice.answer, chosen=choice.chosen, correct=correct, usage=usage)


def _keep(job: Job, results: Results, *, complete: bool) -> dict[str, Any]:
    """Write the run folder; returns the summary."""
    ordered = [results.found[problem.id] for problem in job.problems if problem.id in results.found]
    plain = [results.plain[problem.id] for problem in job.problems if problem.id in results.plain]
    config = job.config
    summary = {
        "version": __version__,
        "config": config.digest(),
        "seed": config.run.seed,
        "strategy": {"name": config.strategy.name, **config.strategy.params},
        "verifier": {"name": config.verifier.name, "model": config.verifier.model, "samples": config.verifier.samples},
        "policy": config.policy.model,
        "complete": complete,
        **summarize(ordered, plain if len(plain) == len(ordered) or complete else (), seed=config.run.seed),
        "seconds": {name: round(value, 3) for name, value in results.seconds.items()},
        **({"ray": results.ray} if results.ray else {}),
    }
    job.folder.write(ordered, summary)
    return summary


def show(job: Job, results: Results, summary: dict[str, Any], arguments: Namespace) -> None:
    """The report on standard output."""
    ordered = [results.found[problem.id] for problem in job.problems]
    if arguments.json:
        sys.stdout.write(json.dumps(_json(job, ordered, summary), indent=2, ensure_ascii=False) + "\n")
        return
    if arguments.quiet:
        accuracy = summary.get("accuracy")
        lines = [percent(accuracy["value"])] if accuracy else [outcome.answer or "" for outcome in ordered]
        sys.stdout.write("\n".join(lines) + "\n")
        return
    console = make_console()
    console.print()
    console.print(solution_report(ordered[0]))
    console.print()
    if not job.single:
        console.print(set_report(summary, job.config.strategy.name))
        console.print()
    console.print(cost_report(ordered))
    console.print(f"{summary['seconds']['total']:.1f} s in all", style="dim")


def _json(job: Job, ordered: Sequence[Outcome], summary: dict[str, Any]) -> dict[str, Any]:
    keys = ("id", "answer", "pred", "correct", "stop_reason")
    records = (outcome_record(outcome) for outcome in ordered)
    return summary | {"run": str(job.folder.path), "outcomes": [{key: r[key] for key in keys} for r in records]}


def _plan(job: Job) -> str:
    strategy, verifier = job.config.strategy, job.config.verifier
    what = "1 problem" if job.single else f"{len(job.problems)} problems"
    params = ", ".join(f"{key}={value}" for key, value in strategy.params.items())
    judged = "" if verifier.name == "none" else f", verified by {verifier.name} with {verifier.samples} samples"
    return f"solving {what} with {strategy.name} ({params}){judged}"


def _fitting(config: Config) -> Config:
    """Without the verifier where the strategy has no use for it: its model need not be loaded."""
    strategy = lookup(config.strategy.name, STRATEGIES, "strategy")
    if judges(strategy):
        return config
    return config.model_copy(update={"verifier": config.verifier.model_copy(update={"name": "none"})})


def _apart(config: Config) -> Config:
    """Each local model in a process of its own, where nothing else is said: faster, and the outcomes are the same."""
    changes = {
        role: section.model_copy(update={"options": {"process": True, **section.options}})
        for role, section in (("policy", config.policy), ("verifier", config.verifier))
        if section.backend == "local" and config.verifier.name != "none"
    }
    return config.model_copy(update=changes)


def _new_folder(strategy: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    paths = (Path("runs") / f"{stamp}-{strategy}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(path for path in paths if not path.exists())


def _resume_command(job: Job) -> str:
    return f"tts-run --resume {job.folder.path}" if job.config.run.journal else "the same command (no journal was kept)"
