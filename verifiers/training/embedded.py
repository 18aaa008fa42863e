"""The recipe of the embedded models, stage by stage: problem sets, tokenizer, policy, rollouts, GenPRM, PRM.

Each stage reads what the earlier ones wrote into the output folder, so a stage can be run again by itself. Equal seeds
give equal files on one machine; models are trained on one thread each, whatever the number of cores.
"""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedTokenizerFast

from tts_engine.errors import DataError
from tts_engine.formats import genprm, prm
from tts_engine.formats import policy as policy_form
from tts_engine.verifiers.training import model as checkpoints
from tts_engine.verifiers.training import policy_data, verifier_data, vocabulary
from tts_engine.verifiers.training.domain import LEVELS, Story, first_error, gold_steps, rng_of
from tts_engine.verifiers.training.encode import Document
from tts_engine.verifiers.training.problem_sets import write_sets
from tts_engine.verifiers.training.sft import Schedule, train
from tts_engine.verifiers.training.stories import generate
from tts_engine.verifiers.training.verifier_data import Attempt

STAGES = ("problems", "tokenizer", "policy", "rollouts", "genprm", "prm")
ROLLOUTS = "rollouts.jsonl"
GENPRM_PARAMS = {"generation_prompt": True, "analysis_tokens": 48, "check_tokens": 48}
"""How the embedded GenPRM wants to be asked: the assistant tag stands before its turns, and its turns are short."""
POLICY_PARAMS = {"temperature": 1.25}
"""How the embedded policy wants to be sampled: so that about half of its solutions are right, and many differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a stage needs to know.

    Attributes:
        out: output folder, laid out like the package's assets.
        scale: factor on all amounts of data (for trying a recipe out).
        device: where models are trained and sampled.
    """

    out: Path
    seed: int
    recipe: Mapping[str, Mapping[str, Any]]
    scale: float = 1.0
    device: str = "cpu"

    def amount(self, section: str, name: str) -> int:
        """A number of the recipe, scaled."""
        return max(1, round(float(self.recipe[section][name]) * self.scale))


def load_recipe(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """The recipe of the package, or another one.

    Raises:
        DataError: the file is missing or is no recipe.
    """
    own: dict[str, dict[str, Any]] = yaml.safe_load((files("tts_engine") / "assets" / "recipe.yaml").read_text("utf-8"))
    if path is None:
        return own
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path} is no recipe: {error}") from None
    if not isinstance(recipe, dict) or {k: set(v) for k, v in recipe.items()} != {k: set(v) for k, v in own.items()}:
        raise DataError(f"{path} is no recipe: it must have the sections and keys of the package's assets/recipe.yaml")
    return recipe


def run(job: Job, stage: str = "all") -> None:
    """Run one stage, or all of them (the two verifiers side by side)."""
    job.out.mkdir(parents=True, exist_ok=True)
    if stage != "all":
        missing = [need for need in _NEEDS.get(stage, ()) if not (job.out / need).exists()]
        if missing:
            raise DataError(f"{job.out} has no {missing[0]}: run the earlier stages first (or --stage all)")
        _STAGES[stage](job)
        return
    for name in ("problems", "tokenizer", "policy", "rollouts"):
        _STAGES[name](job)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.starmap(run, [(job, "genprm"), (job, "prm")])


def vocabulary_texts(seed: int, count: int) -> Iterator[str]:
    """A little of everything that the models read and write."""
    rng = rng_of(seed, "vocabulary")
    for _ in range(count):
        attempt = verifier_data.synthetic(rng)
        index = first_error(attempt.story, attempt.steps)
        turn = verifier_data.turn_of(rng, attempt.story, attempt.steps, 0 if index is None else index)
        yield attempt.story.text
        yield from (f"{step} " for step in gold_steps(attempt.story))
        yield from (turn.analysis, turn.code, turn.output, verifier_data.critique(rng, turn))
        yield f"What is {policy_data.drill(rng)}?"


def _problems(job: Job) -> None:
    write_sets(job.out / "problems", job.seed)


def _tokenizer(job: Job) -> None:
    made = vocabulary.train(vocabulary_texts(job.seed, job.recipe["vocabulary"]["stories"]))
    made.save_pretrained(job.out / "tokenizer")


def _policy(job: Job) -> None:
    tokenizer = vocabulary.load(job.out / "tokenizer")
    documents = policy_data.documents(tokenizer, job.seed)
    _fit(job, "policy", tokenizer, documents, version=policy_form.FORMAT_VERSION, params=POLICY_PARAMS)


def rollout_story(seed: int, number: int) -> Story:
    """The story of that number among those the policy is sampled on."""
    return generate(seed, LEVELS[number % len(LEVELS)], "rollouts", number)


def _rollouts(job: Job) -> None:
    from tts_engine.verifiers.training.rollouts import sample_solutions

    stories = [rollout_story(job.seed, number) for number in range(job.amount("rollouts", "stories"))]
    texts = [story.text for story in stories]
    per_story = job.recipe["rollouts"]["per_story"]
    sampled = sample_solutions(job.out / "policy", texts, per_story, seed=job.seed, device=job.device)
    entries = ({"number": i, "id": stories[i].id, "steps": steps} for i, each in enumerate(sampled) for steps in each)
    (job.out / ROLLOUTS).write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def read_rollouts(path: Path, seed: int) -> list[Attempt]:
    """The sampled attempts, with their stories.

    Raises:
        DataError: they were sampled on other stories than this seed and version of the domain give.
    """
    attempts = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        story = rollout_story(seed, entry["number"])
        if story.id != entry["id"]:
            raise DataError(f"{path} was sampled on other stories: run the stage rollouts again with this seed")
        attempts.append(Attempt(story, tuple(entry["steps"])))
    return attempts


def _genprm(job: Job) -> None:
    _verifier(job, "genprm", verifier_data.chains, version=genprm.FORMAT_VERSION, params=GENPRM_PARAMS)


def _prm(job: Job) -> None:
    _verifier(job, "prm", verifier_data.labels, version=prm.FORMAT_VERSION)


Stream = Callable[[PreTrainedTokenizerFast, int, list[Attempt]], Iterator[Document]]


def _verifier(job: Job, name: str, stream: Stream, **facts: Any) -> None:  # noqa: ANN401
    tokenizer = vocabulary.load(job.out / "tokenizer")
    attempts = read_rollouts(job.out / ROLLOUTS, job.seed)
    random.Random(job.seed).shuffle(attempts)
    _fit(job, name, tokenizer, stream(tokenizer, job.seed, attempts), rollouts=len(attempts), **facts)


def _fit(
    job: Job,
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    documents: Iterator[Document],
    *,
    version: int,
    **facts: Any,  # noqa: ANN401
) -> None:
    torch.set_num_threads(1)
    settings = job.recipe[name]
    schedule = Schedule(tokens=job.amount(name, "tokens"), rate=settings["rate"])
    model = checkpoints.new_model(tokenizer, job.seed, job.device)
    (job.out / "logs").mkdir(exist_ok=True)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    train(model, documents, schedule, seed=job.seed, pad=pad, log=job.out / "logs" / f"{name}.jsonl")
    facts |= {"seed": job.seed, "tokens": schedule.tokens, "trained_on": "procedural stories (verifiers/training)"}
    checkpoints.save(model, tokenizer, job.out / name, form=name, version=version, **facts)


_NEEDS = {
    "policy": ("tokenizer",),
    "rollouts": ("policy",),
    "genprm": ("tokenizer", ROLLOUTS),
    "prm": ("tokenizer", ROLLOUTS),
}
_STAGES: dict[str, Callable[[Job], None]] = {
    "problems": _problems,
    "tokenizer": _tokenizer,
    "policy": _policy,
    "rollouts": _rollouts,
    "genprm": _genprm,
    "prm": _prm,
}
