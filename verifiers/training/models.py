"""The models that training data comes from: how they are run and sampled, as a section of the configuration says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tts_engine.backends.base import Backend
from tts_engine.backends.factory import checkpoint_params, make_backend
from tts_engine.formats import policy as policy_form
from tts_engine.types import Sampling


class ModelSettings(BaseModel):
    """A model of any backend.

    Attributes:
        backend: `local`, `simulated`, `replay` or another of the engine's backends.
        model: `embedded:NAME`, a folder, or what the backend calls it.
        options: keyword arguments of the backend.
        temperature: None takes what the checkpoint asks for, else 1.
        max_tokens: bound of one solution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    backend: str = "local"
    model: str = "embedded:policy"
    options: dict[str, Any] = {}
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=1)] = 160

    def sampling(self) -> Sampling:
        """How to sample whole solutions."""
        temperature = self.temperature
        if temperature is None:
            asked = self.asked("policy", policy_form.FORMAT_VERSION).get("temperature", 1.0)
            temperature = float(asked)
        return Sampling(temperature=temperature, top_p=self.top_p, top_k=self.top_k, max_tokens=self.max_tokens)

    def asked(self, form: str, version: int) -> dict[str, Any]:
        """What a checkpoint of ours asks for; `DataError` where it was trained on another format."""
        return checkpoint_params(self.model, form, version) if self.backend == "local" else {}

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Backend]:
        """The model, running."""
        async with make_backend(self.backend, self.model, self.options) as backend:
            yield backend
