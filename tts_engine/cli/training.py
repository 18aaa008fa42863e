"""The work of `tts-train STAGE` and `tts-train genprm`: a YAML section a stage, whose signature is its schema."""

from __future__ import annotations

import inspect
import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from tts_engine import loop
from tts_engine.cli.training_eval import evaluate
from tts_engine.cli.training_eval import table as evaluation_table
from tts_engine.config import check_params, lookup
from tts_engine.configfile import load_mapping
from tts_engine.errors import ConfigError
from tts_engine.problems import load_problems
from tts_engine.report.terminal import make_console
from tts_engine.verifiers.training.collection import problems, sample
from tts_engine.verifiers.training.consensus import filter_, refinements
from tts_engine.verifiers.training.labels import label
from tts_engine.verifiers.training.manifest import Folder
from tts_engine.verifiers.training.rationales import rationales
from tts_engine.verifiers.training.rolling import rollouts
from tts_engine.verifiers.training.stages import Advance, Run

Stage = Callable[..., Any]
STAGES: Mapping[str, Stage] = {
    "problems": problems,
    "sample": sample,
    "rollouts": rollouts,
    "label": label,
    "rationales": rationales,
    "filter": filter_,
    "refinements": refinements,
}
"""The stages that make data, in order."""
OPTIONS = {"seed": 0, "concurrency": 32}
"""Keys beside the sections of the stages, with their defaults."""


def stages() -> dict[str, Stage]:
    """All stages in order; those that train import torch."""
    from tts_engine.verifiers.training.fitting import fit, prm_

    return {**STAGES, "fit": fit, "prm": prm_, "eval": evaluate}


def run_stages(arguments: Namespace) -> int:
    """Run one stage or all; returns the exit code."""
    known = stages()
    settings = load_settings(arguments.config, arguments.set, known)
    names = (
        [name for name in known if name in settings["stages"]] if arguments.command == "genprm" else [arguments.command]
    )
    folder = Folder(arguments.out)
    folder.make()
    if arguments.again:
        for name in list(known)[list(known).index(names[0]) :]:
            folder.forget(name)
    seed = settings["seed"] if arguments.seed is None else arguments.seed
    with bars() as (stderr, advance):
        run = Run(
            folder=folder, seed=seed, concurrency=settings["concurrency"], advance=advance, problems=load_problems
        )
        for name in names:
            execute(known[name], run, settings["stages"].get(name, {}), name)
            stderr.print(line(folder, name), style="dim", soft_wrap=True)
    if "eval" in names:
        make_console().print(evaluation_table(folder.read("eval")))
    return 0


def load_settings(path: Path | None, sets: Sequence[str], known: Mapping[str, Stage]) -> dict[str, Any]:
    """The settings of all stages, checked before anything is paid for.

    Without a configuration every stage runs with its defaults; with one, `genprm` runs the stages that it names.

    Raises:
        ConfigError: an unknown section or key, or a value that makes no sense.
    """
    data = load_mapping(path, sets)
    options = {name: data.pop(name, default) for name, default in OPTIONS.items()}
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < (name != "seed"):
            raise ConfigError(f"{name}={value!r} is wrong: give a whole number")
    for name, section in data.items():
        stage = lookup(name, known, "stage", also=tuple(OPTIONS))
        if not isinstance(section or {}, dict):
            raise ConfigError(f"the section {name} must hold keys such as `{next(_keys(stage))}:`")
        check_params(stage, section or {}, f"stage {name}", ("run",))
    sections = {name: section or {} for name, section in data.items()}
    return {**options, "stages": sections if path is not None else {name: sections.get(name, {}) for name in known}}


def execute(stage: Stage, run: Run, section: Mapping[str, Any], name: str) -> None:
    """Run a stage to its end."""
    work = stage(run, **check_params(stage, section, f"stage {name}", ("run",)))
    if inspect.isawaitable(work):
        loop.run(_awaited(work))


def line(folder: Folder, name: str) -> str:
    """What a stage came to, in a line."""
    facts = folder.facts(name)
    usage = f", {facts['usage']['tokens']:,.0f} tokens" if facts.get("usage") else ""
    return f"{name}: {json.dumps(facts['counts']).strip('{}')}{usage}".replace('"', "")


@contextmanager
def bars() -> Iterator[tuple[Console, Advance]]:
    """The terminal, and progress as bars on it: one for each thing that is counted."""
    stderr = make_console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    shown: dict[str, TaskID] = {}
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in shown:
                shown[stage] = progress.add_task(stage)
            progress.update(shown[stage], completed=done, total=total)

        yield stderr, advance


async def _awaited(work: Any) -> None:  # noqa: ANN401  # any awaitable
    await work


def _keys(stage: Stage) -> Any:  # noqa: ANN401
    return (name for name in inspect.signature(stage).parameters if name != "run")
