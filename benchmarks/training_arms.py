"""Part two of benchmarks/training.py: verifiers that differ from the recipe in one thing each, and how they do.

The data (problems, solutions, rollouts, labels, conversations) are drawn once, those of the recipe for all arms that
differ later; thresholds that need other rollouts draw only what the recipe's did not. Training and the searches are
repeated with each seed; in a search all arms of a seed judge the very same solutions, which are sampled once.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts_engine.cli.training import execute, line, load_settings, stages
from tts_engine.cli.training_eval import chosen_right, localised, read_stories, right, search, valued
from tts_engine.journal import Journal
from tts_engine.problems import load_problems
from tts_engine.report.intervals import Interval
from tts_engine.report.labelled import ALL_RIGHT
from tts_engine.report.points import TAILS, Bootstrap
from tts_engine.report.reliability import area
from tts_engine.report.words import bounded
from tts_engine.types import Judged
from tts_engine.verifiers.training.domain import Story, first_error
from tts_engine.verifiers.training.manifest import Folder, Record
from tts_engine.verifiers.training.stages import Run

CONFIG = Path("configs/train-embedded.yaml")
DATASET, N = "arith-dev", 16
Settings = dict[str, dict[str, Any]]
Array = NDArray[np.float64]
BASE, PRM, UNFILTERED = "recipe", "discriminative-prm", "no-consensus"
ARMS: Mapping[str, Settings] = {
    BASE: {},
    PRM: {},
    "exact-labels": {"label": {"method": "exact"}},
    UNFILTERED: {"filter": {"consensus": False}},
    "no-code": {"rationales": {"code": False}, "filter": {"consensus": False}},
    "half-of-the-data": {"fit": {"share": 0.5}},
    "quarter-of-the-data": {"fit": {"share": 0.25}},
    "hard-labels": {"rollouts": {"stop": "right"}, "label": {"method": "hard"}, "filter": {"consensus": False}},
    "rpe-0.5": {"rollouts": {"threshold": 0.5}, "label": {"threshold": 0.5}, "filter": {"consensus": False}},
    "rpe-1.0": {"rollouts": {"threshold": 1.0}, "label": {"threshold": 1.0}, "filter": {"consensus": False}},
}
"""What differs from the recipe, most wanted first. Labels are compared without the consensus filter, whose teacher
misreads nothing here: it would leave the same right labels of all of them."""
TRAINED = ("fit", "prm")
bootstrap = cache(Bootstrap.of)
"""Resamples of so many problems, drawn once."""


def settings_of(arm: str, options: argparse.Namespace) -> Settings:
    """The recipe's stages that an arm needs, with what it changes and what the options make smaller."""
    found: Settings = {name: dict(section) for name, section in load_settings(CONFIG, [], stages())["stages"].items()}
    for name, changes in ARMS[arm].items():
        found[name] |= changes
    found["problems"] |= {"limit": options.problems}
    if arm != BASE:
        found["rollouts"] |= {"reuse": str(data_folder(options, BASE).path)}
    for name in TRAINED:
        found[name] |= {"tokens": options.tokens}
    unneeded = {"refinements", "eval"} | ({"rationales", "filter", "fit"} if arm == PRM else {"prm"})
    unneeded |= {"rollouts"} if found["label"]["method"] == "exact" else set()
    return {name: section for name, section in found.items() if name not in unneeded}


def data_folder(options: argparse.Namespace, arm: str) -> Folder:
    """Where an arm's data are."""
    return Folder(options.work / "arms" / arm)


def model_folder(options: argparse.Namespace, arm: str, seed: int) -> Folder:
    """Where the verifier of a seed is, beside a copy of the data it is trained on."""
    return Folder(options.work / "arms" / arm / f"seed{seed}")


def work_off_arms(options: argparse.Namespace) -> None:
    """Data, training and search of all arms, as far as time goes; what is finished or recorded is skipped."""
    known = recorded(options)
    for arm, seed in [(arm, seed) for seed in options.seeds for arm in options.arms if (arm, seed) not in known]:
        for needed in dict.fromkeys((BASE, arm)):
            make_data(options, needed, settings_of(needed, options))
        folder = train(options, arm, seed, settings_of(arm, options))
        if not measured_file(folder).exists():
            record = asyncio.run(measure(options, folder, arm, seed))
            measured_file(folder).write_text(json.dumps(record) + "\n", encoding="utf-8")


def make_data(options: argparse.Namespace, arm: str, settings: Settings) -> None:
    """An arm's data; stages in which it does not differ from the recipe are taken over."""
    folder, base = data_folder(options, arm), data_folder(options, BASE)
    folder.make()
    differs = arm == BASE
    for name in [name for name in settings if name not in TRAINED]:
        differs = differs or name in ARMS[arm] or not base.manifest(name).exists()
        if not differs:
            take_over(base, folder, name)
        else:
            run_stage(folder, options.data_seed, name, settings[name])


def take_over(source: Folder, target: Folder, name: str) -> None:
    """Copy a stage's output and manifest."""
    if not target.manifest(name).exists():
        for path in (source.output(name), source.manifest(name)):
            shutil.copy(path, target.path / path.name)


def train(options: argparse.Namespace, arm: str, seed: int, settings: Settings) -> Folder:
    """The folder of the arm's verifier for one seed."""
    folder, data = model_folder(options, arm, seed), data_folder(options, arm)
    folder.make()
    for name in settings:
        if name in TRAINED:
            run_stage(folder, seed, name, settings[name])
        else:
            take_over(data, folder, name)
    return folder


def run_stage(folder: Folder, seed: int, name: str, section: Mapping[str, Any]) -> None:
    """One stage; what it came to is printed when it was not done before."""
    done = folder.manifest(name).exists()
    execute(stages()[name], Run(folder=folder, seed=seed, problems=load_problems), section, name)
    if not done:
        print(f"{folder.path}: {line(folder, name)}", flush=True)


def measured_file(folder: Folder) -> Path:
    """What was measured of a verifier."""
    return folder.path / "measured.json"


async def measure(options: argparse.Namespace, folder: Folder, arm: str, seed: int) -> Record:
    """Searches with a verifier, problem by problem; the solutions of a seed are sampled once for all arms."""
    name = "prm" if arm == PRM else "genprm"
    run = Run(folder=folder, seed=seed)
    with Journal.open(options.work / "arms" / f"searches-{seed}.sqlite", {"seed": seed}, resume=True) as journal:
        outcomes = await search(run, str(folder.path / name), name, DATASET, options.limit, N, 1, journal)
    stories = read_stories(DATASET)
    return {
        "seed": seed,
        "documents": folder.facts("prm" if arm == PRM else "fit")["counts"]["documents"],
        "tokens": sum(outcome.total.tokens for outcome in outcomes) / len(outcomes),
        "problems": [
            {
                "localised": localised(outcome, stories[outcome.problem.prompt]),
                "auc": area(valued(outcome, partial(right, problem=outcome.problem))),
                "auc steps": area(valued(outcome, partial(sound, story=stories[outcome.problem.prompt]))),
                **{rule: chosen_right(outcome, rule) for rule in ("majority", "weighted")},
            }
            for outcome in outcomes
        ],
    }


def sound(judged: Judged, story: Story) -> bool:
    """Whether the exact checker finds no wrong step."""
    return first_error(story, [step.text for step in judged.candidate.steps]) is None


class Arm:
    """What was measured of an arm: [seeds, problems] statistics."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.seeds = [record["seed"] for record in records]

    def column(self, name: str, seeds: Sequence[int] | None = None) -> Array:
        """[problems] mean over seeds; nan where no seed has it."""
        rows = [
            [np.nan if entry[name] is None else float(entry[name]) for entry in record["problems"]]
            for record in self.records
            if seeds is None or record["seed"] in seeds
        ]
        table = np.array(rows)
        known = ~np.isnan(table)
        found: Array = np.where(known, table, 0.0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
        return found

    def f1(self) -> Interval:
        """First-error F1 over the solutions of all seeds; problems are resampled."""
        hits = np.zeros((len(self.records[0]["problems"]), 4))
        for record in self.records:
            for row, entry in zip(hits, record["problems"], strict=True):
                for label, said in entry["localised"]:
                    kind = 0 if label == ALL_RIGHT else 2
                    row[kind] += label == said
                    row[kind + 1] += 1
        sums = bootstrap(len(hits)).counts @ hits
        low, high = np.quantile(_harmonic(sums), TAILS)
        return Interval(value=float(_harmonic(hits.sum(0)[None])[0]), low=float(low), high=float(high))


def _harmonic(sums: Array) -> Array:
    right, wrong = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    return np.divide(2 * right * wrong, right + wrong, out=np.zeros_like(right), where=right + wrong > 0)


def read_arms(options: argparse.Namespace) -> dict[str, Arm]:
    """The arms of which something of this size is recorded."""
    known = recorded(options)
    found = {
        arm: [known[name] for name in sorted(known) if name[0] == arm and name[1] in options.seeds] for arm in ARMS
    }
    return {arm: Arm(records) for arm, records in found.items() if records}


def record_arms(options: argparse.Namespace) -> None:
    """Add what was measured in the work folder to the recording, in place of what that has of the same arms."""
    known = recorded(options)
    for arm in ARMS:
        for seed in options.seeds:
            path = measured_file(model_folder(options, arm, seed))
            if path.exists():
                entry = json.loads(path.read_text(encoding="utf-8"))
                known[arm, seed] = {"arm": arm, "size": size_of(options), **entry}
    others = [entry for entry in read_recording(options.recording) if entry["size"] != size_of(options)]
    write_recording(options.recording, [*others, *(known[name] for name in sorted(known))])


def size_of(options: argparse.Namespace) -> Record:
    """What records must have in common to stand in one table."""
    return {name: getattr(options, name) for name in ("problems", "tokens", "limit", "data_seed")}


def recorded(options: argparse.Namespace) -> dict[tuple[str, int], Record]:
    """What the recording has of this size, by arm and seed."""
    entries = read_recording(options.recording)
    return {(entry["arm"], entry["seed"]): entry for entry in entries if entry["size"] == size_of(options)}


def read_recording(path: Path) -> list[Record]:
    """What was measured, a line of JSON for each arm and seed."""
    return list(map(json.loads, gzip.decompress(path.read_bytes()).splitlines())) if path.exists() else []


def write_recording(path: Path, entries: Sequence[Record]) -> None:
    """Equal entries give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(entry) + "\n" for entry in entries).encode(), mtime=0))


def arm_report(options: argparse.Namespace) -> list[str]:
    """Table of the trained verifiers, means over seeds."""
    arms = read_arms(options)
    if BASE not in arms:
        return []
    problems = len(arms[BASE].records[0]["problems"])
    return [
        f"### Trained verifiers: {options.tokens / 1e6:g} M tokens each, {problems} problems of `{DATASET}`,"
        f" {N} solutions, K=1",
        "",
        "| | seeds | find errors | learnt from | first-error F1, % | AUC, answer right | AUC, all steps right |"
        " weighted vote, % | points more than | tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(row(name, arms) for name in arms),
        "",
        f"Majority of {N}: {interval(arms[BASE].column('majority'))} %. The same solutions for all arms; differences"
        f" are paired, over the seeds that both have. Arms without the filter are held against `{UNFILTERED}`."
        " `find errors`: seeds whose verifier located at least one first error; the others say Yes to everything, and"
        " intervals, which are over problems, do not contain that this is a matter of luck.",
    ]


def row(name: str, arms: Mapping[str, Arm]) -> str:
    """One arm, held against the one that differs from it in one thing."""
    arm, other = arms[name], UNFILTERED if "filter" in ARMS[name] and name != UNFILTERED else BASE
    common = [seed for seed in arm.seeds if other in arms and seed in arms[other].seeds]
    gain = ""
    if common and name != other:
        difference = arm.column("weighted", common) - arms[other].column("weighted", common)
        gain = f"{other}: {interval(difference, '+.1f')}"
    cells = [
        name,
        f"{len(arm.seeds)}",
        f"{sum(Arm([record]).f1().value > 0 for record in arm.records)}",
        f"{np.mean([record['documents'] for record in arm.records]):,.0f}",
        bounded(arm.f1()),
        interval(arm.column("auc"), ".3f", 1),
        interval(arm.column("auc steps"), ".3f", 1),
        interval(arm.column("weighted")),
        gain,
        f"{np.mean([record['tokens'] for record in arm.records]):,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def interval(statistic: Array, form: str = ".1f", unit: float = 100.0) -> str:
    """A mean over problems with its interval."""
    return bounded(bootstrap(len(statistic)).interval(statistic), form, unit)
