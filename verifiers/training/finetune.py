"""Supervised fine-tuning of any Hugging Face causal LM with transformers' Trainer: the loss, the run, the checkpoints.

One process trains on one device; `accelerate launch` starts one for each of several (docs/finetuning.md).
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)

from tts_engine.errors import TTSError, UsageError, first_line
from tts_engine.verifiers.training.adapters import export, load_model
from tts_engine.verifiers.training.encode import IGNORE
from tts_engine.verifiers.training.estimate import SLICE, Plan
from tts_engine.verifiers.training.masks import STYLES
from tts_engine.verifiers.training.packing import Collator, Rows, blind, learnt_columns
from tts_engine.verifiers.training.recipe import Recipe
from tts_engine.verifiers.training.watch import Watch

CHECKPOINTS, ADAPTER, MODEL, STATE = "checkpoints", "adapter", "model", "trainer_state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run trains, on what, and where it writes.

    Attributes:
        tokenizer: of the model.
        train, held_out: rows; None for no held-out loss.
        card: what the model's `tts_format.json` said.
        facts: what else the new card is to say (hashes of the data, counts).
    """

    model: Path
    out: Path
    recipe: Recipe
    tokenizer: Any
    train: Rows
    held_out: Rows | None
    plan: Plan
    bf16: bool
    card: dict[str, Any]
    facts: dict[str, Any]


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy; its log-probabilities exist of SLICE rows at a time only.

    Args:
        logits: (positions, vocabulary); targets: (positions,), IGNORE where there is no loss.
    """
    pairs = zip(torch.split(logits, SLICE), torch.split(targets, SLICE), strict=True)
    parts = [checkpoint(_slice_loss, some, wanted, use_reentrant=False) for some, wanted in pairs]
    return torch.stack(parts).sum()


def _slice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")


def token_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:  # noqa: ANN401
    """Mean loss over the learnt tokens of an optimizer step (of this batch, where their number is not given).

    Args:
        outputs: with logits (rows, columns, vocabulary) of all columns, or of the learnt ones alone.
        labels: (rows, length); the token to predict next, or IGNORE.
    """
    logits = outputs["logits"]
    if logits.shape[1] != labels.shape[1]:
        labels = labels[:, learnt_columns(labels)]
    total = summed_loss(logits.flatten(0, 1), labels.flatten())
    return total / ((labels != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch)


class Tuner(Trainer):  # type: ignore[misc]  # transformers is not typed to mypy
    """transformers' Trainer, whose held-out loss is a mean over tokens (its own one is a mean over batches)."""

    control: TrainerControl

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # noqa: ANN401 - the arguments of Trainer.evaluate
        """Loss per learnt token of the held-out rows, logged and handed to the callbacks."""
        self.model_wrapped.eval()
        sums = [self._sums(batch) for batch in self.get_eval_dataloader()]
        self.model_wrapped.train()
        loss, count = torch.cat(sums).double().sum(0).tolist()
        metrics = {"eval_loss": loss / count}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _sums(self, batch: dict[str, Tensor]) -> Tensor:
        """Summed loss and count of the learnt tokens of each row, over all devices, each row once: (rows, 2)."""
        inputs = self._prepare_inputs(batch)
        labels = inputs.pop("labels")
        logits = self.model_wrapped(**inputs).logits
        labels = labels if logits.shape[1] == labels.shape[1] else labels[:, learnt_columns(labels)]
        losses = torch.stack([summed_loss(some, wanted) for some, wanted in zip(logits, labels, strict=True)])
        sums: Tensor = self.accelerator.gather_for_metrics(torch.stack([losses, (labels != IGNORE).sum(1)], dim=1))
        return sums.cpu()


def arguments(job: Job, *, fresh: bool) -> TrainingArguments:
    """The recipe in transformers' words; a fresh run first measures the held-out loss of the model as it comes."""
    recipe, watched = job.recipe, job.held_out is not None
    every = min(recipe.every, job.plan.steps)
    return TrainingArguments(
        output_dir=str(job.out / CHECKPOINTS),
        per_device_train_batch_size=recipe.rows,
        per_device_eval_batch_size=recipe.rows,
        gradient_accumulation_steps=job.plan.accumulation,
        max_steps=job.plan.steps,
        learning_rate=recipe.rate,
        lr_scheduler_type="constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule,
        warmup_steps=round(recipe.warmup * job.plan.steps),
        max_grad_norm=recipe.clip,
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        bf16=job.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        logging_steps=1,
        save_steps=every,
        save_total_limit=recipe.keep,
        eval_strategy="steps" if watched else "no",
        eval_steps=every,
        eval_on_start=watched and fresh,
        load_best_model_at_end=watched,
        metric_for_best_model="eval_loss" if watched else None,
        greater_is_better=False if watched else None,
        average_tokens_across_devices=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
    )


def finished_checkpoint(out: Path) -> Path | None:
    """The last checkpoint that is whole; half-written ones, which lack the file that is written last, are removed."""
    found: list[tuple[int, Path]] = []
    for folder in (out / CHECKPOINTS).glob("checkpoint-*"):
        try:
            found.append((int(json.loads((folder / STATE).read_text())["global_step"]), folder))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
    return max(found)[1] if found else None


def finetune(job: Job, watch: Watch, *, resume: bool) -> bool:
    """Train, and write `model` (and `adapter`) into the output folder; False where Ctrl-C stopped it before the end.

    Raises:
        UsageError: the architecture mixes packed documents; memory or disk is full.
        DataError: the model cannot be loaded.
    """
    last = finished_checkpoint(job.out) if resume else None
    with _full(job.out):
        trainer = _trainer(job, watch, last)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        if watch.interrupted:
            return False
        _finish(job, trainer)
    return True


def _trainer(job: Job, watch: Watch, last: Path | None) -> Tuner:
    recipe = job.recipe
    model = load_model(job.model, recipe, bf16=job.bf16)
    whole = not any(parameter.is_meta for parameter in model.parameters())  # FSDP leaves other processes hollow
    if recipe.packing and whole and not blind(model, model.config.get_text_config().vocab_size):
        raise UsageError(f"{type(model).__name__} lets packed documents see one another: set packing=false")
    trainer = Tuner(
        model=model,
        args=arguments(job, fresh=last is None),
        train_dataset=job.train,
        eval_dataset=job.held_out,
        data_collator=Collator(model, job.tokenizer.pad_token_id),
        compute_loss_func=token_loss,
        callbacks=_callbacks(job, watch),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _callbacks(job: Job, watch: Watch) -> list[TrainerCallback]:
    patient = job.recipe.patience is not None and job.held_out is not None
    return [watch, *([EarlyStoppingCallback(job.recipe.patience)] if patient else [])]


def _finish(job: Job, trainer: Tuner) -> None:
    """Write what was trained: the adapters as they are, and a whole model that any backend loads."""
    trained = job.out / (ADAPTER if job.recipe.method == "lora" else ".trained")
    trainer.save_model(str(trained))
    if trainer.is_world_process_zero():
        export(job.model, trained, job.out / MODEL, job.tokenizer, _card(job))
        shutil.rmtree(job.out / ".trained", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _card(job: Job) -> dict[str, Any] | None:
    """What the model speaks from now on, and how it wants to be asked; None for a plain chat model."""
    form = job.recipe.format
    if form == "chat":
        return None
    params = dict(job.card.get("params", {}))
    if form == "genprm":
        params["generation_prompt"] = job.recipe.generation_prompt is not False
    return {"format": form, "version": STYLES[form].version, **job.facts, **({"params": params} if params else {})}


@contextmanager
def _full(out: Path) -> Iterator[None]:
    """What it means that memory or disk is full; nothing that a checkpoint holds is lost."""
    try:
        yield
    except TTSError:
        raise
    except Exception as error:  # torch, safetensors and Python each have their own for both
        text = str(error)
        if any(sign in text for sign in ("out of memory", "can't allocate memory")):
            raise TTSError(
                "the memory is full: lower rows or max_length, set gradient_checkpointing=true or method=lora, or add"
                " devices, and start a new run"
            ) from error
        if isinstance(error, OSError) or any(sign in text for sign in ("I/O error", "os error", "inline_container")):
            reason = first_line(error)
            raise TTSError(f"cannot write to {out} ({reason}): make room, then go on with --resume") from error
        raise
