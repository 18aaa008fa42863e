"""The recipe of the embedded models, stage by stage: problem sets, tokenizer, policy, and both verifiers.

Each stage reads what the earlier ones wrote into the output folder, so a stage can be run again by itself. The
verifiers come from the pipeline that anyone can run (`tts-train genprm`), with labels from rollouts. Equal seeds give
equal files on one machine; models are trained on one thread each, whatever the number of cores.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml

from tts_engine.errors import DataError
from tts_engine.files import write_text
from tts_engine.formats import policy as policy_form
from tts_engine.verifiers.training import model as checkpoints
from tts_engine.verifiers.training import policy_data, verifier_data, vocabulary
from tts_engine.verifiers.training.domain import first_error, gold_steps, rng_of
from tts_engine.verifiers.training.manifest import Folder
from tts_engine.verifiers.training.problem_sets import write_sets
from tts_engine.verifiers.training.sft import Schedule, train

VERIFIERS = "verifiers"
"""The last stage, and its folder: a pipeline of `tts-train genprm`."""
STAGES = ("problems", "tokenizer", "policy", VERIFIERS)
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

    def scaled(self, amount: float) -> int:
        """An amount of data of the recipe, times the scale."""
        return max(1, round(float(amount) * self.scale))


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
    if not isinstance(recipe, dict) or _keys(recipe) != _keys(own):
        raise DataError(f"{path} is no recipe: it must have the sections and keys of the package's assets/recipe.yaml")
    return recipe


def run(job: Job, stage: str) -> None:
    """Run one stage; the verifiers' are run by the command line, from `verifier_sections`.

    Raises:
        DataError: an earlier stage has not been run.
    """
    check_ready(job, stage)
    job.out.mkdir(parents=True, exist_ok=True)
    _STAGES[stage](job)


def _keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: set(section) if isinstance(section, Mapping) else section for name, section in recipe.items()}


def check_ready(job: Job, stage: str) -> None:
    """Raise `DataError` where an earlier stage has not been run."""
    missing = [need for need in _NEEDS.get(stage, ()) if not (job.out / need).exists()]
    if missing:
        raise DataError(f"{job.out} has no {missing[0]}: run the earlier stages first (or --stage all)")


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
    torch.set_num_threads(1)
    tokenizer = vocabulary.load(job.out / "tokenizer")
    schedule = Schedule(tokens=job.scaled(job.recipe["policy"]["tokens"]), rate=job.recipe["policy"]["rate"])
    model = checkpoints.new_model(tokenizer, job.seed, job.device)
    (job.out / "logs").mkdir(exist_ok=True)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    documents = policy_data.documents(tokenizer, job.seed)
    train(model, documents, schedule, seed=job.seed, pad=pad, log=job.out / "logs" / "policy.jsonl")
    facts = {"seed": job.seed, "tokens": schedule.tokens, "trained_on": "procedural stories (verifiers/training)"}
    checkpoints.save(
        model,
        tokenizer,
        job.out / "policy",
        form="policy",
        version=policy_form.FORMAT_VERSION,
        **facts,
        params=POLICY_PARAMS,
    )


def verifier_sections(job: Job) -> dict[str, dict[str, Any]]:
    """The stages of `tts-train genprm` that make the verifiers, on the policy and the tokenizer that this job made."""
    policy = str(job.out / "policy")
    sections = {name: dict(section) for name, section in job.recipe["verifiers"].items()}
    for name in ("sample", "rollouts"):
        sections[name]["model"] = {
            "model": policy,
            "options": {"device": job.device},
            **sections[name].get("model", {}),
        }
    for name in ("fit", "prm"):
        sections[name] |= {"tokens": job.scaled(sections[name]["tokens"]), "tokenizer": policy, "device": job.device}
    sections["problems"]["limit"] = job.scaled(sections["problems"]["limit"])
    return sections


def collect_verifiers(job: Job) -> None:
    """Put what the pipeline made where the package has it: both models, their logs, and what each stage came to."""
    made = job.out / VERIFIERS
    for form, stage in (("genprm", "fit"), ("prm", "prm")):
        shutil.copytree(made / form, job.out / form, dirs_exist_ok=True)
        shutil.copyfile(made / f"{stage}.log.jsonl", job.out / "logs" / f"{form}.jsonl")
    folder = Folder(made)
    facts = {name: folder.facts(name) for name in job.recipe["verifiers"]}
    kept = {
        name: {"counts": fact["counts"], "digest": fact["output"]["digest"], "usage": fact.get("usage")}
        for name, fact in facts.items()
    }
    write_text(job.out / "logs" / "verifiers.json", json.dumps(kept, indent=2) + "\n")


_STAGES: dict[str, Callable[[Job], None]] = {"problems": _problems, "tokenizer": _tokenizer, "policy": _policy}
_NEEDS = {"policy": ("tokenizer",), VERIFIERS: ("tokenizer", "policy")}
