"""The log of a fine-tuning run (JSON lines, always), its progress in the terminal, and a Ctrl-C that loses nothing."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

LOG = "log.jsonl"
Record = dict[str, Any]


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed to mypy
    """Follows one run.

    Args:
        path: of the log, one line an optimizer step and one a held-out loss, each with its `step`.
        console: where progress is shown; None shows none.
    """

    def __init__(self, path: Path, console: Console | None = None) -> None:
        self.interrupted = False
        self._path = path
        self._start = time.monotonic()
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self._progress = Progress(*columns, console=console, transient=True, disable=console is None)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show progress, and let the first Ctrl-C end the run after its optimizer step and a checkpoint."""
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            with self._progress:
                self._task = self._progress.add_task("training", total=None)
                yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Forget what the log says of steps after the checkpoint that the run goes on from."""
        if state.is_world_process_zero:
            lines = [line for line in read_log(self._path) if line["step"] <= state.global_step]
            self._path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self._progress.update(self._task, total=state.max_steps, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Write a line."""
        found = {_NAMES[name]: value for name, value in (logs or {}).items() if name in _NAMES}
        if found and state.is_world_process_zero:
            seconds = round(time.monotonic() - self._start, 2)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **found, "seconds": seconds}) + "\n")
        said = ", ".join(f"{name} {value:.4f}" for name, value in found.items() if "loss" in name)
        self._progress.update(self._task, description=said or "training")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Count the step; measure after the last one; after Ctrl-C, save and stop."""
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True
        self._progress.update(self._task, completed=state.global_step)
        if self.interrupted:
            control.should_save = control.should_training_stop = True


_NAMES = {"loss": "loss", "eval_loss": "held_out_loss", "learning_rate": "rate", "grad_norm": "gradient"}


def read_log(path: Path) -> list[Record]:
    """The lines of a log, without one that was cut off; none where there is no log."""
    if not path.is_file():
        return []
    lines: list[Record] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
