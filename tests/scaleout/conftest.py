"""A run to share out, and what it gives without workers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from tts_engine import Engine, Outcome
from tts_engine.backends.arithmetic import Task
from tts_engine.config import Config
from tts_engine.resolving import resolved
from tts_engine.types import Key, Problem

TASK = {"error_rate": 0.3}
PROBLEMS = [Task(**TASK).problem(Key(1, (i,)), steps=4) for i in range(10)]  # type: ignore[arg-type]
MakeConfig = Callable[..., Config]
collect_ignore = [] if find_spec("ray") else ["test_ray.py"]  # .ci/ray installs it and runs this


@pytest.fixture
def problems() -> list[Problem]:
    return PROBLEMS


@pytest.fixture
def make_config() -> MakeConfig:
    """A resolved configuration whose models are simulated; `options` are further ones of their backend."""

    def make(options: dict[str, Any] | None = None, **changes: Any) -> Config:  # noqa: ANN401
        backend = {"backend": "simulated", "options": {"task": TASK} | (options or {})}
        judge = backend | {"model": "verifier", "samples": 2}
        parts = {"policy": backend | {"model": "policy"}, "verifier": judge, "strategy": {"name": "beam", "n": 8}}
        return resolved(Config.build(parts | changes))

    return make


async def plain_outcomes(config: Config) -> dict[str, Outcome]:
    """What one engine gives."""
    async with Engine(config) as engine:
        return {outcome.problem.id: outcome async for outcome in engine.run(PROBLEMS)}
