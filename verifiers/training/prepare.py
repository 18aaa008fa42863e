"""From the options of `tts-train sft` to a job: everything that can be wrong is found before a model is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tts_engine.backends.cores import pick_dtype
from tts_engine.backends.embedded import EMBEDDED, embedded_path
from tts_engine.backends.local import resolve
from tts_engine.backends.local_model import fingerprint, pick_device
from tts_engine.errors import ConfigError, DataError, UsageError
from tts_engine.files import occupied
from tts_engine.verifiers.training import estimate
from tts_engine.verifiers.training.adapters import load_tokenizer, read_card
from tts_engine.verifiers.training.finetune import MODEL, Job
from tts_engine.verifiers.training.masks import Encoded, encode_examples, read_examples
from tts_engine.verifiers.training.packing import Rows, shares
from tts_engine.verifiers.training.recipe import Recipe

RUN, RECIPE = "run.json", "recipe.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is known before training: the recipe with its defaults settled, the plan, and the encoded data."""

    model: Path
    recipe: Recipe
    plan: estimate.Plan
    bf16: bool
    card: dict[str, Any]
    tokenizer: Any = None
    train: Rows | None = None
    held_out: Rows | None = None
    skipped: Mapping[str, int] | None = None


def devices() -> int:
    """Processes that `accelerate launch` has started, one a device; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def model_folder(model: str) -> Path:
    """The folder of `embedded:NAME`, of a path, or of a name in the hub."""
    return embedded_path(model) if model.startswith(EMBEDDED) else resolve(model)


def prepare(model: str, data: Path | None, recipe: Recipe, *, tokenizer: str | None, count: int) -> Prepared:
    """Read and encode the data and plan the run.

    Args:
        data: None plans with what the recipe expects.
        tokenizer: folder of another tokenizer than the model's (dry runs only).
        count: devices.

    Raises:
        DataError: model or data cannot be used.
        ConfigError: the recipe does not fit them.
    """
    folder = model_folder(model)
    config = estimate.read_shape(folder)
    card = read_card(folder, recipe.format)
    if recipe.generation_prompt is None:
        known = card.get("params", {}).get("generation_prompt", True)
        recipe = recipe.model_copy(update={"generation_prompt": bool(known)})
    bf16 = recipe.precision == "bf16"
    if recipe.precision == "auto":
        bf16 = pick_dtype("auto", pick_device("auto")) == torch.bfloat16
    found = _Data() if data is None else _encode(data, config, recipe, model_folder(tokenizer) if tokenizer else folder)
    load = estimate.expected(recipe) if found.train is None else found.load
    plan = estimate.make_plan(config, recipe, load, devices=count, bf16=bf16)
    return Prepared(
        model=folder,
        recipe=recipe,
        plan=plan,
        bf16=bf16,
        card=card,
        tokenizer=found.tokenizer,
        train=found.train,
        held_out=found.held_out,
        skipped=found.skipped,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    tokenizer: Any = None
    train: Rows | None = None
    held_out: Rows | None = None
    skipped: Mapping[str, int] | None = None
    load: Any = None


def _encode(data: Path, config: Any, recipe: Recipe, folder: Path) -> _Data:  # noqa: ANN401
    tokenizer = load_tokenizer(folder)
    own = getattr(config.get_text_config(), "max_position_embeddings", None) or recipe.max_length
    size = min(recipe.max_length, own)
    encoded: Encoded = encode_examples(tokenizer, read_examples(data), recipe, size)
    train, held_out = shares(encoded.samples, recipe.held_out, recipe.seed)
    rows = Rows(train, size, packing=recipe.packing)
    return _Data(
        tokenizer=tokenizer,
        train=rows,
        held_out=Rows(held_out, size, packing=recipe.packing) if held_out else None,
        skipped=encoded.skipped,
        load=estimate.measure(train, rows),
    )


def make_job(prepared: Prepared, data: Path, out: Path) -> Job:
    """The job of a prepared run."""
    assert prepared.train is not None
    facts = {"data": _digest(data), "recipe": prepared.recipe.digest(), "base": prepared.model.name}
    return Job(
        model=prepared.model,
        out=out,
        recipe=prepared.recipe,
        tokenizer=prepared.tokenizer,
        train=prepared.train,
        held_out=prepared.held_out,
        plan=prepared.plan,
        bf16=prepared.bf16,
        card=prepared.card,
        facts=facts,
    )


def open_folder(job: Job, *, resume: bool) -> None:
    """Make the output folder, or see that it is of the same run.

    Raises:
        DataError: it holds something else, or it cannot be written.
        UsageError: the run needs more memory or disk than there is.
    """
    identity = {
        "recipe": json.loads(job.recipe.model_dump_json()),
        "model": fingerprint(job.model),
        "data": job.facts["data"],
        "step_rows": job.plan.step_rows,
    }
    if resume:
        _same_run(job.out, identity)
        return
    if occupied(job.out):
        raise DataError(f"{job.out} is not empty; add --resume to go on with it, or choose another --out")
    _check_room(job)
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        plan = asdict(replace(job.plan, load=replace(job.plan.load, lengths=())))
        text = json.dumps({"identity": identity, "plan": plan}, indent=2)
        (job.out / RUN).write_text(text + "\n", encoding="utf-8")
        (job.out / RECIPE).write_text(job.recipe.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write to {job.out} ({error.strerror}); choose another --out") from None


def _same_run(out: Path, identity: Mapping[str, Any]) -> None:
    try:
        earlier = json.loads((out / RUN).read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError):
        raise DataError(f"{out} holds no run to go on with: leave --resume out") from None
    changed = [key for key in identity if earlier.get(key) != identity[key]]
    if "recipe" in changed and isinstance(earlier.get("recipe"), dict):
        changed = [key for key, value in identity["recipe"].items() if earlier["recipe"].get(key) != value] or changed
    if changed:
        raise ConfigError(f"{out} was begun with another {', '.join(changed)}: use the same, or choose another --out")
    if (out / MODEL).is_dir():
        raise DataError(f"{out} is finished: its model is {out / MODEL}")


def _check_room(job: Job) -> None:
    memory = job.plan.memory
    least, have = memory.weights + memory.gradients + memory.optimizer, device_memory()
    if least > have:
        raise UsageError(
            f"weights, gradients and optimizer take {least / 2**30:.0f} GiB on each device, which has"
            f" {have / 2**30:.0f}: set method=lora, or use more devices with FSDP (docs/finetuning.md)"
        )
    state = 12 * job.plan.trained * (job.recipe.keep + 2) + 2 * job.plan.parameters
    place = next(folder for folder in (job.out, *job.out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if state > free:
        raise UsageError(
            f"checkpoints will take {state / 2**30:.1f} GiB, but {place} has {free / 2**30:.1f} left: choose another"
            " --out, or lower keep"
        )


def device_memory() -> int:
    """Bytes of the GPU that a process trains on, or of the machine."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
