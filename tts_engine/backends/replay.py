"""A backend that repeats what a journal recorded: the same run again, without a model, call for call."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from tts_engine.backends import record
from tts_engine.backends.base import ModelInfo
from tts_engine.errors import BackendError, DataError
from tts_engine.types import Completion, Prompt, Request


class ReplayBackend:
    """One recorded model.

    Args:
        journal_path: the SQLite file of a run; it is only read, and may still be written by a run.
        model: name of the recorded model to stand for; None when the file has exactly one.
        count: counts the tokens of prompts that the model was never asked (the run may have weighed them against its
            budget); None takes their UTF-8 bytes, an upper bound.

    Raises:
        DataError: the file is missing, is no journal, or has no such model.
    """

    def __init__(
        self, journal_path: Path, model: str | None = None, count: Callable[[Prompt], int] | None = None
    ) -> None:
        if not journal_path.exists():
            raise DataError(f"{journal_path} does not exist; give the journal of a finished run")
        self._path = journal_path
        self._count = count or _bytes
        self._database = sqlite3.connect(f"{journal_path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            record.check_file(self._database, journal_path)
            self._info = self._find_model(model)
        except BaseException:
            self._database.close()
            raise
        self._prompts = dict[bytes, int](
            self._database.execute("SELECT prompt_id, prompt FROM calls WHERE model = ?", (self._info.name,))
        )

    @property
    def info(self) -> ModelInfo:
        """What the recorded model said about itself."""
        return self._info

    async def __aenter__(self) -> ReplayBackend:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._database.close()

    async def complete(self, request: Request) -> Completion:
        """The recorded completion, with its recorded usage.

        Raises:
            BackendError: no equal request was recorded.
        """
        completion = record.find_completion(self._database, request.identity())
        if completion is None:
            raise BackendError(f"{self._path} has no {request.role} call of {request.model} with key {request.key}")
        return completion

    def count_tokens(self, prompt: Prompt) -> int:
        """The recorded number of tokens; for a prompt that was never asked, what `count` says."""
        known = self._prompts.get(record.prompt_id(record.prompt_text(prompt)))
        return self._count(prompt) if known is None else known

    def _find_model(self, model: str | None) -> ModelInfo:
        infos = dict(self._database.execute("SELECT name, info FROM models ORDER BY name"))
        name = model or (next(iter(infos)) if len(infos) == 1 else None)
        if name not in infos:
            known = ", ".join(infos) or "none"
            raise DataError(f"{self._path} has no single model {name or ''}; choose one of those recorded: {known}")
        return record.load_info(infos[name])


def _bytes(prompt: Prompt) -> int:
    return len(record.prompt_text(prompt).encode())
