"""A local model in a process of its own, so that its Python and the search's do not wait for each other.

In one process the threads of two models and of the event loop share one interpreter lock; with many small batches that
costs more than the products do. Same completions as `LocalBackend`, which does the work there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tts_engine.backends.base import CallCancelled, ModelInfo, counted
from tts_engine.backends.openai_tokens import Tokens
from tts_engine.backends.process_wire import Channel, pack_request, unpack_completion, unpack_usage
from tts_engine.errors import BackendError, UsageError
from tts_engine.types import Completion, Prompt, Request, Usage

Answer = tuple[str, Any]


class ProcessBackend:
    """Serves one model; see `tts_engine.backends.base.Backend`.

    Args:
        model: folder of the model.
        name: how requests name it.
        options: those of `LocalBackend`.

    Raises:
        UsageError: (on entering) as `LocalBackend` does.
    """

    def __init__(self, model: str | Path, *, name: str, **options: Any) -> None:  # noqa: ANN401  # checked there
        self._folder = str(model)
        self._name = name
        self._options = options
        self._numbers = itertools.count()
        self._calls: dict[int | None, asyncio.Future[Any]] = {}
        self._info: ModelInfo | None = None
        self._usage = Usage()
        self._open = False

    @property
    def info(self) -> ModelInfo:
        """What the process says of the model; it has to be open."""
        if self._info is None:
            raise BackendError(f"the backend of {self._name} is not open: use it inside `async with`")
        return self._info

    async def __aenter__(self) -> ProcessBackend:
        ours, theirs = socket.socketpair()
        command = (sys.executable, "-P", "-m", "tts_engine.backends.process_child", str(theirs.fileno()))
        self._process = await asyncio.create_subprocess_exec(
            *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL
        )
        theirs.close()
        loop = asyncio.get_running_loop()
        self._open = True
        _, self._channel = await loop.create_connection(lambda: Channel(self._heard, self._lost), sock=ours)
        ready = self._calls[None] = loop.create_future()
        self._channel.say((self._folder, {"name": self._name, **self._options}))
        try:
            self._tokens = await asyncio.to_thread(Tokens, self._folder)
            self._info = await ready
        except BaseException:
            ready.cancel()
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = False
        self._channel.close()
        await self._process.wait()

    async def complete(self, request: Request) -> Completion:
        """Answer a request; see `Backend.complete`."""
        if not self._open:
            raise BackendError(f"the backend of {self._name} is not open: use it inside `async with`")
        number = next(self._numbers)
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        self._channel.say((number, pack_request(request)))
        try:
            kind, said = await asyncio.shield(future)
        except asyncio.CancelledError:
            raise CallCancelled(await self._abandon(number, future)) from None
        if kind == "failed":
            raise said
        completion = unpack_completion(said)
        self._usage += completion.usage
        return completion

    def count_tokens(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt, exactly."""
        return len(self._tokens.ids(prompt))

    def counters(self) -> dict[str, float]:
        """The usages of all calls added up, cancelled ones included."""
        return counted(self._usage)

    async def _abandon(self, number: int, future: asyncio.Future[Answer]) -> Usage:
        """The caller is gone: what the call had computed when the process had stopped it."""
        self._channel.say((number, None))
        while not future.done():  # whoever cancels meanwhile: the process answers every call, or is gone
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        kind, said = future.result()
        if kind == "failed":
            return Usage()
        usage = unpack_usage(said) if kind == "lost" else unpack_completion(said).usage
        lost = replace(usage, completion=0, cancelled=usage.completion + usage.cancelled)
        self._usage += lost
        return lost

    def _heard(self, message: tuple[int | None, Any]) -> None:
        number, said = message
        future = self._calls.pop(number)
        if future.done():
            return
        if number is None and isinstance(said, Exception):
            future.set_exception(said)
        else:
            future.set_result(said)

    def _lost(self) -> None:
        """The process has gone: after `__aexit__` as it should, else nothing can be asked any more."""
        waiting, self._calls = self._calls, {}
        gone: Exception = BackendError(f"the backend of {self._name} was closed while the call was running")
        if self._open:
            self._open = False
            gone = UsageError(
                f"the process of {self._name} has died (out of memory?): lower options.slots or options.kv_bytes, then"
                " go on with --resume"
            )
        for number, future in waiting.items():
            if future.done():
                continue
            if number is None:
                future.set_exception(gone)
            else:
                future.set_result(("failed", gone))
