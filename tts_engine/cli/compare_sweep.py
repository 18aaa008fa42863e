"""The runs of a sweep: every model call in one journal for each policy, every finished run in a file of its own.

What an interrupted sweep had finished is read from the files; of what was under way, the journal has every call. The
journal is common to all settings of a policy: solutions that are drawn for one are found again by the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from tts_engine.cli.compare_grid import Task
from tts_engine.config import Config, VerifierConfig
from tts_engine.errors import DataError
from tts_engine.garbage import collected_rarely
from tts_engine.report.compare import Measured, Recording
from tts_engine.report.points import Setting
from tts_engine.report.pools import Arm, Array, reproducible, samples_of, units
from tts_engine.report.recordings import read_lines
from tts_engine.report.samplefile import Rows, header_key, read_samples, recorded, write_samples
from tts_engine.report.sharing import known_units
from tts_engine.report.summary import stop_kind
from tts_engine.report.writer import write_lines
from tts_engine.run import Engine
from tts_engine.together import each
from tts_engine.types import Outcome, Problem

CROWD = 256
"""Chains of judgements, or solutions, of all problems that are recorded at once."""
Seeds = dict[str, list[tuple[float, Array]]]
"""By problem, for each seed whether it was right and its [units] cost."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The runs of one policy.

    Attributes:
        config: its configuration, with neither verifier nor strategy.
        folder: `journal` and results go here.
        several: there are other policies, so arms are named after both models.
    """

    config: Config
    verifiers: Sequence[VerifierConfig]
    problems: Sequence[Problem]
    tasks: Sequence[Task]
    folder: Path
    several: bool = False

    @property
    def journal(self) -> Path:
        """Every call of every run."""
        return self.folder / "journal.sqlite"

    def key(self, task: Task) -> str:
        """What a run's results depend on, in 16 hexadecimal digits."""
        verifier = next((v.model_dump(mode="json") for v in self.verifiers if v.name == task.verifier), None)
        problems = [(problem.id, problem.prompt, problem.answer) for problem in self.problems]
        text = json.dumps([self.config.digest(), verifier, repr(task), problems], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def path(self, task: Task) -> Path:
        """The file of a run's results."""
        return self.folder / ("samples" if task.independent else "searches") / task.file

    def done(self, task: Task) -> bool:
        """Whether its results are there."""
        return header_key(self.path(task)) == self.key(task)

    def arm(self, task: Task, single: bool = False, vocabularies: tuple[int, ...] = ()) -> Arm:
        """The policy with the verifier of a run."""
        verifier = next((v for v in self.verifiers if v.name == task.verifier), None)
        changes = {"verifier": verifier} if verifier else {}
        return Arm(
            name=f"{self.config.policy.model} + {task.verifier}" if self.several else str(task.verifier),
            policy=self.config.policy.model,
            verifier=task.verifier,
            aggregation=verifier.params.get("aggregation", "product") if verifier and not single else "product",
            each=task.k if single else 1,
            config=self.config.model_copy(update=changes).model_dump(mode="json"),
            vocabularies=vocabularies,
        )


async def perform(sweep: Sweep, stderr: Console, *, quiet: bool) -> None:
    """Do what is not done yet.

    Raises:
        UsageError: a problem without a reference, or something that does not fit; what was finished is kept.
    """
    missing = [task for task in sweep.tasks if not sweep.done(task)]
    if not missing:
        return
    for name in ("samples", "searches"):
        (sweep.folder / name).mkdir(parents=True, exist_ok=True)
    async with Engine(sweep.config, journal=sweep.journal, resume=True, verifiers=sweep.verifiers) as engine:
        columns = (
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with collected_rarely(), Progress(*columns, console=stderr, disable=quiet) as progress:
            bar = progress.add_task("solving", total=len(missing) * len(sweep.problems))
            for task in missing:
                progress.update(bar, description=task.file.removesuffix(".jsonl"))
                outcomes = []
                async for outcome in each(_solver(engine, task), sweep.problems, _at_once(sweep, task)):
                    outcomes.append(outcome)
                    progress.advance(bar)
                _write(sweep, task, engine, outcomes)


def _at_once(sweep: Sweep, task: Task) -> int:
    """Problems at once: so few that the beginnings of all prompts stay in the caches. What is estimated for smaller
    configurations is what runs pay that are not crowded."""
    return max(1, min(sweep.config.run.concurrency, CROWD // (max(task.n, 1) * max(task.k, 1))))


def _solver(engine: Engine, task: Task) -> Callable[[Problem], Awaitable[Outcome]]:
    """Solves a problem as the task asks for."""
    params = dict(task.params) | ({"n": task.n} if task.n else {})
    return partial(
        engine.solve,
        strategy=task.strategy,
        verifier=task.verifier or "none",
        verifier_samples=task.k or None,
        seed=task.seed,
        **params,
    )


def _write(sweep: Sweep, task: Task, engine: Engine, outcomes: Sequence[Outcome]) -> None:
    """The results, in the order of the problems. A problem in which something failed is left out, and counted."""
    place = {problem.id: i for i, problem in enumerate(sweep.problems)}
    whole = sorted((o for o in outcomes if not o.failures), key=lambda outcome: place[outcome.problem.id])
    if not whole:
        failure = outcomes[0].failures[0]
        raise DataError(f"every problem of {task.file} failed ({failure.where}: {failure.message}); nothing was kept")
    sizes = {b.info.shape.vocabulary for b in engine.backends.values() if b.info.shape is not None}
    aggregation = sweep.arm(task).aggregation
    single = task.independent and not reproducible(whole, aggregation)
    arm = sweep.arm(task, single, tuple(sorted(sizes)))
    if task.independent:
        pairs = [(outcome.problem, samples_of(outcome, single=single)) for outcome in whole]
        write_samples(sweep.path(task), arm, pairs, sweep.key(task))
    else:
        write_lines(sweep.path(task), [{"key": sweep.key(task)}, *map(_result, whole)])


def _result(outcome: Outcome) -> dict[str, object]:
    """A line of a search's results."""
    chars = sum(len(judged.candidate.text) for judged in outcome.candidates)
    cost = known_units(outcome.total, chars)
    cost.pop("chars")  # of what was pruned, and of what the verifier wrote, nothing is known here
    return {
        "problem": outcome.problem.id,
        "right": bool(outcome.correct),
        "cost": cost,
        "end": stop_kind(outcome.stop_reason),
    }


def results(sweep: Sweep) -> tuple[list[Recording], list[Measured], list[str]]:
    """What all runs found, the seeds of a setting together; and what of it was left out."""
    notes = []
    rows: dict[str, tuple[Arm, Rows]] = {}
    searches: dict[str, tuple[Setting, Seeds]] = {}
    for task in sweep.tasks:
        lines = read_lines(sweep.path(task))
        if missing := len(sweep.problems) - (len(lines) - 1):
            notes.append(f"{task.file}: {missing} problems in which something failed are left out")
        if task.independent:
            arm, found = read_samples(sweep.path(task), lines)
            rows.setdefault(arm.name, (arm, []))[1].extend(found)
        else:
            setting = task.file.rpartition("-seed")[0]
            _, by_problem = searches.setdefault(setting, (_setting(sweep, task), {}))
            for _, line in lines[1:]:
                by_problem.setdefault(line["problem"], []).append((line["right"], units(line["cost"])))
    measured = [Measured(setting=setting, problems=_means(found)) for setting, found in searches.values()]
    return [recorded(arm, found) for arm, found in rows.values()], measured, notes


def _means(found: Seeds) -> dict[str, tuple[float, Array]]:
    return {
        problem: (float(np.mean([right for right, _ in seeds])), np.mean([cost for _, cost in seeds], axis=0))
        for problem, seeds in found.items()
    }


def _setting(sweep: Sweep, task: Task) -> Setting:
    select = str(dict(task.params).get("select", "weighted"))
    params = tuple((key, value) for key, value in task.params if key != "select")
    arm = sweep.arm(task)
    return Setting(arm=arm, strategy=task.strategy, n=task.n, k=task.k, select=select, params=params)
