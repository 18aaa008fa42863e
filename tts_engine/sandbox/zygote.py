"""The engine's side of the sandbox's processes: starting the zygote, forking from it, exchanging frames.

All of it belongs to the event loop that it was started in; nothing here blocks (but for a zygote that has hundreds of
commands still to read), and there are no threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from tts_engine.errors import SandboxError
from tts_engine.sandbox import worker

START_SECONDS = 60.0
"""How long a process may take to start (imports of numpy and sympy on a slow disk included)."""
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class Lost(Exception):
    """The process at the other end is gone."""


class Channel(asyncio.Protocol):
    """Frames to and from one process. Requests may be sent ahead; they are answered in order."""

    def __init__(self, limit: int) -> None:
        """Hang up on a process that sends a frame of more than `limit` bytes."""
        self._limit = limit
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._reported: asyncio.Future[tuple[bytes, str]] = self._loop.create_future()
        self._waiting = deque([self._reported])

    async def ask(self, text: str, seconds: float) -> tuple[bytes, str]:
        """The answer to a request: kind and text; requests of one turn of the event loop leave together.

        Raises:
            TimeoutError: no answer within `seconds`. An answer that came while the event loop was busy still counts.
            Lost: the process ended before.
        """
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(worker.frame(worker.RUN, text))
        if self._transport is None:
            raise Lost
        answer: asyncio.Future[tuple[bytes, str]] = self._loop.create_future()
        self._waiting.append(answer)
        return await self._come(answer, seconds)

    async def report(self, seconds: float) -> tuple[bytes, str]:
        """What the process says first and unasked, perhaps before anyone listens; raises as `ask`."""
        return await self._come(self._reported, seconds)

    async def _come(self, answer: asyncio.Future[tuple[bytes, str]], seconds: float) -> tuple[bytes, str]:
        try:
            await asyncio.wait([answer], timeout=seconds)
            if not answer.done():
                raise TimeoutError
            return answer.result()
        finally:
            answer.cancel()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's

    def data_received(self, data: bytes) -> None:
        """Called by the event loop. What comes is hostile: sizes are checked, and what nobody waits for is dropped."""
        self._received += data
        for kind, text in worker.frames(self._received):
            answer = self._waiting.popleft() if self._waiting else None
            if answer is not None and not answer.done():
                answer.set_result((kind, text))
        if len(self._received) > self._limit:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._transport = None
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(Lost())
        self._waiting.clear()

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()


class Fork:
    """A process forked from the zygote.

    Attributes:
        ran: how many texts of its chain it has run.
        protections: a phrase for each, as it reported them before it ran anything.
    """

    def __init__(self, pid: int, channel: Channel) -> None:
        """A process that has not reported yet."""
        self.pid = pid
        self.channel = channel
        self.ran = 0
        self.protected = False
        self.protections: tuple[str, ...] = ()

    def signal(self, number: signal.Signals) -> None:
        """Its id stays its own until the zygote reaps it, which happens on command only."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Zygote:
    """The process that all others are forked from. It has a temporary folder, and each fork a folder in there."""

    def __init__(self, settings: Mapping[str, Any], frame_limit: int) -> None:
        """Start it.

        Args:
            settings: what worker.py reads: memory, cpu, file_size, output.
            frame_limit: bytes of the longest answer.

        Raises:
            SandboxError: the interpreter cannot be started.
        """
        self._folder = tempfile.mkdtemp(prefix="tts-sandbox-")
        self._frame_limit = frame_limit
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        self._received = b""
        self._forking: deque[asyncio.Future[int]] = deque()
        self._reaping: dict[int, asyncio.Future[int]] = {}
        self._forks: set[Fork] = set()
        self._cleaning: set[asyncio.Future[None]] = set()
        self._folders: dict[int, int] = {}  # of processes that may still write, by process id
        self._empty: list[int] = []
        self._made = 0
        self.alive = True
        with theirs:
            self._process = self._start(theirs.fileno(), settings)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._control, self._on_readable)

    def _start(self, control: int, settings: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        config = {**settings, "folder": self._folder, "readable": library_folders()}
        try:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-s",
                    "-P",
                    "-X",
                    "utf8",
                    os.path.abspath(worker.__file__),
                    str(control),
                    json.dumps(config),
                ],
                pass_fds=[control],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=self._folder,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        except OSError as error:
            self._control.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise SandboxError(f"cannot start {sys.executable} for the sandbox: {error}") from error

    async def fork(self, flags: int) -> Fork:
        """A new process (flags of worker.FORK), ready to be asked.

        Raises:
            Lost: the zygote, or the new process, died.
            SandboxError: the machine has no room for a process.
        """
        ours, theirs = socket.socketpair()
        folder = self._take_folder()
        with theirs:
            answer = self._command(worker.FORK, flags | folder << worker.FOLDER, [theirs.fileno()])
        try:
            pid = await answer
        except BaseException:
            ours.close()
            raise
        if pid < 0:
            ours.close()
            raise SandboxError(f"cannot fork a sandbox process: {os.strerror(-pid)}")
        _, channel = await self._loop.create_unix_connection(lambda: Channel(self._frame_limit), sock=ours)
        child = Fork(pid, channel)
        self._forks.add(child)
        try:
            kind, phrases = await channel.report(START_SECONDS)
        except BaseException:
            self.discard(child)
            raise
        child.protected, child.protections = kind == worker.READY, tuple(phrases.split("\n"))
        return child

    def discard(self, child: Fork) -> asyncio.Future[int]:
        """Kill a process at once; the future is its wait status (-1 when the zygote died)."""
        self._forks.discard(child)
        child.channel.close()
        child.signal(signal.SIGKILL)
        return self._command(worker.REAP, child.pid, [])

    async def close(self) -> None:
        """End the zygote and with it every fork; remove the folder."""
        for child in list(self._forks):
            self.discard(child)
        self._hang_up()
        self._process.kill()
        await asyncio.sleep(0)  # lets the channels close
        while self._process.poll() is None:
            await asyncio.sleep(0.001)
        await self._loop.run_in_executor(None, shutil.rmtree, self._folder, True)

    def _command(self, operation: bytes, argument: int, descriptors: list[int]) -> asyncio.Future[int]:
        answer: asyncio.Future[int] = self._loop.create_future()
        try:
            self._send(worker.COMMAND.pack(operation, argument), descriptors)
            if operation == worker.FORK:
                self._forking.append(answer)
            else:
                self._reaping[argument] = answer
        except OSError:
            self._hang_up()
            _give_up(operation, answer)
        return answer

    def _send(self, command: bytes, descriptors: list[int]) -> None:
        """Where hundreds of commands wait already, read answers until there is room."""
        while True:
            try:
                socket.send_fds(self._control, [command], descriptors)
            except BlockingIOError:
                readable, _, _ = select.select([self._control], [self._control], [], START_SECONDS)
                if readable:
                    self._on_readable()
                continue
            return

    def _on_readable(self) -> None:
        try:
            data = self._control.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        self._received += data
        while len(self._received) >= worker.ANSWER.size:
            operation, argument, value = worker.ANSWER.unpack_from(self._received)
            self._received = self._received[worker.ANSWER.size :]
            answer = self._forking.popleft() if operation == worker.FORK else self._reaping.pop(argument)
            self._settle(operation, argument, answer, value)

    def _settle(self, operation: bytes, argument: int, answer: asyncio.Future[int], value: int) -> None:
        if operation == worker.REAP:
            self._clean(self._folders.pop(argument))
        elif value > 0:
            self._folders[value] = argument >> worker.FOLDER
        if not answer.done():
            answer.set_result(value)
        elif operation == worker.FORK and value > 0:  # nobody wants it any more
            with suppress(ProcessLookupError):
                os.kill(value, signal.SIGKILL)
            self._command(worker.REAP, value, [])

    def _take_folder(self) -> int:
        """The number of an empty folder: removing and making one for each process costs more than all else."""
        if self._empty:
            return self._empty.pop()
        self._made += 1
        return self._made

    def _clean(self, number: int) -> None:
        """Take back the folder of a dead process; only one that left files behind costs a thread."""
        folder = os.path.join(self._folder, str(number))
        try:
            with os.scandir(folder) as found:
                used = next(found, None) is not None
        except FileNotFoundError:
            used = False
        if not used:
            self._empty.append(number)
            return
        removal = self._loop.run_in_executor(None, shutil.rmtree, folder, True)
        self._cleaning.add(removal)
        removal.add_done_callback(self._cleaning.discard)

    def _hang_up(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._control)
        self._control.close()
        for answer in self._forking:
            _give_up(worker.FORK, answer)
        for answer in self._reaping.values():
            _give_up(worker.REAP, answer)
        self._forking.clear()
        self._reaping.clear()


def _give_up(operation: bytes, answer: asyncio.Future[int]) -> None:
    if answer.done():
        return
    if operation == worker.FORK:
        answer.set_exception(Lost())
    else:
        answer.set_result(-1)


def library_folders() -> list[str]:
    """What imports read: the standard library, installed packages, shared libraries; not the checkout, not the home."""
    python = [path for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))]
    shared = [str(Path(sys.base_prefix) / "lib"), "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"]
    return list(dict.fromkeys([*python, *shared]))
