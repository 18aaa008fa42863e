"""The engine in a program whose event loop is uvloop's, as that of many a server is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import uvloop

from tts_engine import Engine
from tts_engine.problems import load_problems
from tts_engine.run import Outcome
from tts_engine.sandbox.pool import SubprocessSandbox
from tts_engine.types import Role


def test_a_search_with_executed_checks_and_a_model_in_its_own_process() -> None:
    config = {
        "policy": {"backend": "local", "options": {"process": True, "threads": 1}},
        "verifier": {"backend": "local", "samples": 2},
        "strategy": {"name": "beam", "n": 4, "width": 2},
    }

    async def solve() -> Outcome:
        async with Engine.from_config(config) as engine:
            return await engine.solve(load_problems("arith-dev")[0], seed=0)

    outcome = uvloop.run(solve())
    assert outcome.answer is not None
    assert not outcome.failures
    assert outcome.usage[Role.VERIFY].code_runs > 0


class Late:
    """An event loop that is held up before it connects."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._loop, name)

    async def create_unix_connection(self, make: Callable[[], asyncio.Protocol], **options: Any) -> Any:  # noqa: ANN401
        time.sleep(0.2)
        return await self._loop.create_unix_connection(make, **options)


def test_a_process_that_reports_before_anyone_listens_is_heard() -> None:
    async def fork() -> tuple[str, ...]:
        async with SubprocessSandbox() as sandbox:
            assert sandbox._zygote
            sandbox._zygote._loop = Late(asyncio.get_running_loop())  # type: ignore[assignment]
            return (await sandbox._zygote.fork(0)).protections

    assert uvloop.run(fork())
