"""The work of `tts-train embedded`: problem sets, tokenizer and policy, then the pipeline that makes both verifiers."""

from __future__ import annotations

import multiprocessing
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch

from tts_engine.cli.training import bars, execute, line, stages
from tts_engine.config import check_params, lookup
from tts_engine.verifiers.training import embedded
from tts_engine.verifiers.training.embedded import STAGES, VERIFIERS, Job
from tts_engine.verifiers.training.manifest import Folder
from tts_engine.verifiers.training.stages import Run

TRAINED = ("fit", "prm")
"""The pipeline's stages that train on one thread each, and so run side by side."""
Sections = Mapping[str, Mapping[str, Any]]


def make_embedded(arguments: Namespace) -> int:
    """Run one stage or all; returns the exit code. Stages of the pipeline that are finished are not made again.

    Raises:
        DataError: no recipe, or an earlier stage is missing.
        ConfigError: a value of the recipe makes no sense.
    """
    device = arguments.device if arguments.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    recipe = embedded.load_recipe(arguments.recipe)
    job = Job(out=arguments.out, seed=arguments.seed, recipe=recipe, scale=arguments.scale, device=device)
    sections = embedded.verifier_sections(job)
    known = stages()
    for name, section in sections.items():
        check_params(lookup(name, known, "stage"), section, f"stage {name}", ("run",))
    for stage in STAGES if arguments.stage == "all" else (arguments.stage,):
        if stage == VERIFIERS:
            embedded.check_ready(job, stage)
            _make_verifiers(job, sections)
        else:
            embedded.run(job, stage)
    return 0


def _make_verifiers(job: Job, sections: Sections) -> None:
    folder = Folder(job.out / VERIFIERS)
    folder.make()
    known = stages()
    with bars() as (stderr, advance):
        run = Run(folder=folder, seed=job.seed, advance=advance)
        for name, section in sections.items():
            if name not in TRAINED:
                execute(known[name], run, section, name)
                stderr.print(line(folder, name), style="dim", soft_wrap=True)
    with multiprocessing.get_context("spawn").Pool(len(TRAINED)) as pool:
        pool.starmap(_train, [(folder, job.seed, name, sections[name]) for name in TRAINED])
    embedded.collect_verifiers(job)


def _train(folder: Folder, seed: int, name: str, section: Mapping[str, Any]) -> None:
    execute(stages()[name], Run(folder=folder, seed=seed), section, name)
