"""The stage `eval`: what a trained verifier is worth, on held-out problems whose steps the exact checker can judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import as_file
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.table import Table

from tts_engine import Engine, Outcome
from tts_engine.errors import DataError
from tts_engine.garbage import collected_rarely
from tts_engine.journal import Journal
from tts_engine.problems import builtin_sets, load_problems
from tts_engine.report.intervals import Interval, paired_bootstrap
from tts_engine.report.labelled import ALL_RIGHT
from tts_engine.report.processbench import localisation
from tts_engine.report.reliability import area
from tts_engine.report.words import bounded
from tts_engine.selection import select
from tts_engine.types import Judged, Problem
from tts_engine.verifiers.training.domain import Story, first_error
from tts_engine.verifiers.training.manifest import Record, digest
from tts_engine.verifiers.training.problem_sets import read_set
from tts_engine.verifiers.training.stages import Run

Positive = Annotated[int, Field(ge=1)]
MODELS = {"genprm": "genprm", "prm": "prm"}
"""Stage folders that hold models, and the verifiers that read them."""


async def evaluate(
    run: Run,
    *,
    problems: str = "arith-dev",
    limit: Positive = 100,
    n: Positive = 16,
    samples: Positive = 1,
    compare: dict[str, str] | None = None,
) -> None:
    """Stage `eval`: search with the trained verifiers; first-error F1, within-problem AUC and accuracy.

    Args:
        problems: a built-in set (its plans are what the exact checker needs).
        limit: problems; `n`: solutions to each; `samples`: judgements of each by a GenPRM.
        compare: other checkpoints to measure beside, folder or `embedded:NAME` to verifier (`genprm` or `prm`).
    """
    params = {"problems": problems, "limit": limit, "n": n, "samples": samples, "compare": compare or {}}
    stages = [stage for stage in ("fit", "prm") if run.folder.manifest(stage).exists()]
    identity = run.folder.identity("eval", params, run.seed, stages)
    if run.folder.finished("eval", identity):
        return
    own = {
        str(run.folder.path / name): verifier for name, verifier in MODELS.items() if (run.folder.path / name).is_dir()
    }
    if not own and not compare:
        raise DataError(f"{run.folder.path} holds no trained model: run `tts-train fit` first")
    stories = read_stories(problems)
    records = []
    for model, verifier in (own | (compare or {})).items():
        outcomes = await search(run, model, verifier, problems, limit, n, samples, _journal(run, model, verifier, n))
        records.append({"model": Path(model).name, "verifier": verifier, **measured(outcomes, stories, run.seed)})
    run.folder.commit("eval", identity, records, counts={"problems": limit, "solutions": n})


def read_stories(name: str) -> dict[str, Story]:
    """The stories of a built-in set by text; `DataError` where there is no such set."""
    known = builtin_sets()
    if name not in known:
        raise DataError(f"there is no built-in problem set {name!r}; use one of {', '.join(known)}")
    with as_file(known[name]) as path:
        return {story.text: story for story in read_set(path)}


def _journal(run: Run, model: str, verifier: str, n: int) -> Path:
    """A file for each checkpoint, whatever its folder is called."""
    weights = Path(model) / "model.safetensors"
    name = digest(weights) if weights.is_file() else Path(model).name.replace(":", "-")
    return run.folder.path / f"eval-{verifier}-{name}-{run.seed}-{n}.sqlite"


async def search(
    run: Run, model: str, verifier: str, problems: str, limit: int, n: int, samples: int, journal: Path | Journal
) -> list[Outcome]:
    """Best-of-n outcomes with a verifier, in order of problems; journalled, so that an interrupted search goes on."""
    config: Mapping[str, Any] = {
        "strategy": {"name": "best-of-n", "n": n},
        "verifier": {"name": verifier, "model": model, "samples": samples},
        "run": {"seed": run.seed, "concurrency": 24},
    }
    taken = load_problems(problems)[:limit]
    found: dict[str, Outcome] = {}
    async with Engine.from_config(config, journal=journal, resume=True) as engine:
        with collected_rarely():
            async for outcome in engine.run(taken):
                found[outcome.problem.id] = outcome
                run.advance(f"eval {Path(model).name}", len(found), len(taken))
    return [found[problem.id] for problem in taken]


def measured(outcomes: Sequence[Outcome], stories: Mapping[str, Story], seed: int) -> Record:
    """F1, AUC and accuracies with 95 % intervals over problems, and the tokens a problem of both models."""
    pools = [outcome.candidates for outcome in outcomes]
    pairs = [pair for outcome in outcomes for pair in localised(outcome, stories[outcome.problem.prompt])]
    areas = [
        found
        for outcome in outcomes
        if (found := area(valued(outcome, partial(right, problem=outcome.problem)))) is not None
    ]
    shares = {
        "pass@1": [
            mean([right(judged, o.problem) for judged in pool]) for o, pool in zip(outcomes, pools, strict=True)
        ],
        "majority": [chosen_right(o, "majority") for o in outcomes],
        "weighted": [chosen_right(o, "weighted") for o in outcomes],
        "best": [chosen_right(o, "best") for o in outcomes],
        "oracle": [chosen_right(o, "oracle") for o in outcomes],
        "auc": areas,
    }
    return {
        "first_error": localisation([label for label, _ in pairs], [said for _, said in pairs], seed),
        **{name: interval(values, seed).asdict() for name, values in shares.items() if values},
        "per_problem": {name: values for name, values in shares.items() if name != "auc"},
        "tokens": mean([outcome.total.tokens for outcome in outcomes]),
    }


def localised(outcome: Outcome, story: Story) -> list[tuple[int, int | None]]:
    """First wrong step, by the checker and by the verifier, of each different solution (ALL_RIGHT: none)."""
    different = {judged.candidate.text: judged for judged in outcome.candidates}
    pairs: list[tuple[int, int | None]] = []
    for judged in different.values():
        error = first_error(story, [step.text for step in judged.candidate.steps])
        verdict = judged.verdict
        said = None
        if verdict is not None and verdict.valid:
            found = verdict.first_error()
            said = ALL_RIGHT if found is None else found
        pairs.append((ALL_RIGHT if error is None else error, said))
    return pairs


def valued(outcome: Outcome, good: Callable[[Judged], bool]) -> list[tuple[float, bool]]:
    """Value of each judged candidate, and whether it is good."""
    return [(j.verdict.value, good(j)) for j in outcome.candidates if j.verdict and j.verdict.value is not None]


def chosen_right(outcome: Outcome, rule: str) -> float:
    """Whether the answer that a rule selects is right."""
    answer = select(outcome.candidates, rule, outcome.problem.answer).answer
    return float(answer == outcome.problem.answer)


def mean(values: Sequence[float]) -> float:
    """The mean of a sequence that is not empty."""
    return sum(values) / len(values)


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean over problems with its bootstrap interval."""
    return paired_bootstrap(values, [0.0] * len(values), seed=seed)


def right(judged: Judged, problem: Problem) -> bool:
    """Whether its answer is the reference answer."""
    return judged.candidate.answer == problem.answer


def table(records: Sequence[Record]) -> Table:
    """The evaluation for the terminal."""
    shown = Table("model", "F1 of first error", "AUC", "weighted vote", "majority", "one solution", "tokens a problem")
    for record in records:
        f1 = record["first_error"]["f1"]
        cells = [record.get(name) for name in ("auc", "weighted", "majority", "pass@1")]
        texts = [_cell(f1), *map(_cell, cells)]
        shown.add_row(record["model"], *texts, f"{record['tokens']:,.0f}")
    return shown


def _cell(found: Mapping[str, float] | None) -> str:
    return bounded(found, ".3f", 1) if found else "none"
