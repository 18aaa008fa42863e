"""The process of a local model: `python -m tts_engine.backends.process_child FD`, started by backends/process.py.

It ends when its client hangs up or is gone.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import Any

from tts_engine.backends.base import CallCancelled
from tts_engine.backends.local import LocalBackend
from tts_engine.backends.process_wire import Channel, Packed, pack_completion, pack_usage, unpack_request
from tts_engine.errors import ConfigError
from tts_engine.types import Usage


class Child:
    """Answers the calls of one client."""

    def __init__(self, file: int) -> None:
        self._socket = socket.socket(fileno=file)
        self._wishes: asyncio.Queue[Any] = asyncio.Queue()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Load the model that is asked for, say what it is, and answer until the client is gone."""
        loop = asyncio.get_running_loop()
        _, self._channel = await loop.create_connection(
            lambda: Channel(self._wishes.put_nowait, lambda: self._wishes.put_nowait(None)), sock=self._socket
        )
        model, options = await self._wishes.get()
        try:
            backend = await LocalBackend(model, **options).__aenter__()
        except Exception as error:  # it is raised where the backend was asked for
            wrong = ConfigError(f"options of backend local: {error}") if isinstance(error, TypeError) else error
            self._channel.say((None, wrong))
            self._channel.close()
            return
        self._channel.say((None, backend.info))
        while (wish := await self._wishes.get()) is not None:
            self._take(backend, *wish)
        for task in self._tasks.values():
            task.cancel()
        await backend.__aexit__()

    def _take(self, backend: LocalBackend, number: int, packed: Packed | None) -> None:
        """Begin a call, or (None) cancel it."""
        if packed is not None:
            self._tasks[number] = asyncio.create_task(self._answer(backend, number, packed))
        elif number in self._tasks:
            self._tasks[number].cancel()

    async def _answer(self, backend: LocalBackend, number: int, packed: Packed) -> None:
        answer: tuple[str, Any]
        try:
            answer = "done", pack_completion(await backend.complete(unpack_request(packed)))
        except CallCancelled as cancelled:
            answer = "lost", pack_usage(cancelled.usage)
        except asyncio.CancelledError:  # before it began
            answer = "lost", pack_usage(Usage())
        except Exception as error:
            answer = "failed", error
        del self._tasks[number]
        self._channel.say((number, answer))


def main() -> None:
    """Serve on the socket that was inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle
    asyncio.run(Child(int(sys.argv[1])).serve())


if __name__ == "__main__":
    main()
