"""The sandbox: sessions on top of the calculator and the interpreters.

A check goes to the calculator (one process for all chains, which computes and never executes), and only what that
declines goes to an interpreter, a forked process of that one chain. A session itself is just the list of the texts that
it ran: an interpreter that is gone, or that a forked session does not have yet, is rebuilt by running the list again
with the output thrown away. So thousands of sessions can be alive, at most `workers` run code at a time, and a few idle
interpreters are kept for those that come back soon.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

from tts_engine.errors import SandboxError
from tts_engine.formats.code import TIMED_OUT, error_feedback
from tts_engine.sandbox import calculator, worker
from tts_engine.sandbox.zygote import Fork, Lost, Zygote
from tts_engine.types import CodeRun

IDLE = 16
"""Interpreters that are kept, stopped, for sessions that may come back."""
IDLE_BYTES = 256 << 20
"""An interpreter that holds more memory than this is not kept."""
ATTEMPTS = 3
"""How often a run starts again because the sandbox itself (not the code) died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one piece of code may use.

    Attributes:
        wall: seconds of one run; the time that rebuilding the state takes is not counted.
        cpu: CPU seconds of one interpreter over all runs of its session.
        memory: bytes of address space on top of the bare interpreter with its libraries.
        file_size: bytes of one file in the temporary folder.
        output: bytes of printed text that are kept; the rest is cut with a mark.
    """

    wall: float = 5.0
    cpu: int = 60
    memory: int = 1 << 30
    file_size: int = 16 << 20
    output: int = 16 << 10

    def __post_init__(self) -> None:
        """Refuse limits that nothing could run under."""
        if min(self.wall, self.cpu, self.memory, self.file_size, self.output) <= 0:
            raise ValueError(f"every limit of the sandbox must be positive: {self}")


@dataclass(frozen=True, slots=True)
class _Reply:
    """How a run went: feedback, whether it is no error, whether the state now includes it."""

    feedback: str
    ok: bool
    ran: bool = True


_TIMED_OUT = _Reply(TIMED_OUT, ok=False, ran=False)


class SubprocessSession:
    """The interpreter state of one chain: the texts that it ran.

    Rebuilding the state assumes that code is deterministic. Random numbers (from seed 0) and the order of sets are; the
    clock, `id()` and files in the temporary folder are not. Code that was stopped by a limit leaves no trace in the
    state; code that raised leaves what it did before.
    """

    def __init__(self, sandbox: SubprocessSandbox, log: tuple[str, ...] = (), simple: bool = True) -> None:
        """Use `SubprocessSandbox.session`."""
        self.log = log
        self.simple = simple
        self._sandbox = sandbox
        self._lock = asyncio.Lock()

    async def run(self, code: str) -> CodeRun:
        """Execute `code` after everything this session ran before; one run at a time. Cancelling kills it.

        Raises:
            SandboxError: the sandbox is closed, or keeps dying.
        """
        async with self._lock:
            started = time.perf_counter()
            reply = await self._sandbox.answer(self, code)
            if reply.ran:
                self.log = (*self.log, code)
        seconds = time.perf_counter() - started
        return CodeRun(code=code, output=reply.feedback, ok=reply.ok, seconds=seconds)

    async def fork(self) -> SubprocessSession:
        """A session with the same past; waits for a run in progress."""
        async with self._lock:
            return SubprocessSession(self._sandbox, self.log, self.simple)

    async def close(self) -> None:
        """Free the interpreter, if there is one. The session can still be used."""
        async with self._lock:
            self._sandbox.release(self)


class SubprocessSandbox:
    """Runs model-written Python in confined processes (see `protections`).

    Simple checks take a fraction of a millisecond, others a few milliseconds; sympy and numpy are imported once.
    """

    def __init__(self, workers: int = 2, limits: Limits | None = None, unsafe: bool = False) -> None:
        """Nothing starts before the context is entered.

        Args:
            workers: how many pieces of code run at a time.
            limits: what each may use.
            unsafe: start even where the kernel offers no protection beyond resource limits.
        """
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.limits = limits or Limits()
        self._unsafe = unsafe
        self._slots = asyncio.Semaphore(workers)
        self._restart = asyncio.Lock()
        self._idle: OrderedDict[SubprocessSession, Fork] = OrderedDict()
        self._zygote: Zygote | None = None
        self._calculator: Fork | None = None
        self._open = False
        self._protections: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        """Start.

        Raises:
            SandboxError: the processes cannot be started, or the kernel cannot confine them.
        """
        self._open = True
        try:
            await self._processes()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Kill what runs and remove the temporary folder."""
        self._open = False
        self._idle.clear()
        zygote, self._zygote, self._calculator = self._zygote, None, None
        if zygote is not None:
            await zygote.close()

    def session(self) -> SubprocessSession:
        """A new, empty interpreter state."""
        return SubprocessSession(self)

    def protections(self) -> tuple[str, ...]:
        """The protections that are active, one phrase each; empty before the sandbox has started."""
        return self._protections

    async def answer(self, session: SubprocessSession, code: str) -> _Reply:
        """Run `code` in the state of `session` (which the caller holds)."""
        for _ in range(ATTEMPTS):
            zygote, arithmetic = await self._processes()
            try:
                if session.simple and not calculator.hopeless(code):
                    reply = await self._calculate(zygote, arithmetic, session.log, code)
                    if reply is not None:
                        return reply
                session.simple = False
                async with self._slots:
                    return await self._interpret(zygote, session, code)
            except Lost:
                continue
        raise SandboxError(f"the sandbox's processes died {ATTEMPTS} times; is the machine out of memory?")

    def release(self, session: SubprocessSession) -> None:
        """End the idle interpreter of `session`, if there is one."""
        child = self._idle.pop(session, None)
        if child is not None and self._zygote is not None:
            self._zygote.discard(child)

    async def _processes(self) -> tuple[Zygote, Fork]:
        """The living zygote and calculator, started again if they died."""
        if self._zygote is not None and self._zygote.alive and self._calculator is not None:
            return self._zygote, self._calculator
        async with self._restart:
            if not self._open:
                raise SandboxError("the sandbox is closed")
            if self._zygote is None or not self._zygote.alive:
                await self._start_zygote()
            assert self._zygote is not None
            if self._calculator is None:
                self._calculator = await self._start_calculator(self._zygote)
            return self._zygote, self._calculator

    async def _start_zygote(self) -> None:
        self._idle.clear()
        self._calculator = None
        if self._zygote is not None:
            await self._zygote.close()
        limits = self.limits
        settings = {
            "memory": limits.memory,
            "cpu": limits.cpu,
            "file_size": limits.file_size,
            "output": limits.output,
        }
        self._zygote = Zygote(settings, frame_limit=limits.output + (1 << 20))

    async def _start_calculator(self, zygote: Zygote) -> Fork:
        try:
            child = await self._fork(zygote, worker.CALCULATOR)
        except (Lost, TimeoutError) as error:
            raise SandboxError("the sandbox's processes cannot be started") from error
        wall = f"every run is killed after {self.limits.wall:g} s"
        self._protections = (*child.protections, "empty environment, no input, a process per chain", wall)
        return child

    async def _fork(self, zygote: Zygote, flags: int) -> Fork:
        """A process that is confined, or the user's word that it need not be; it has been told nothing yet."""
        child = await zygote.fork(flags)
        if not child.protected and not self._unsafe:
            zygote.discard(child)
            raise SandboxError(
                "this machine cannot confine model-written code (the kernel offers no seccomp filter);"
                " run on Linux, or accept the risk with --unsafe-sandbox"
            )
        return child

    async def _calculate(self, zygote: Zygote, child: Fork, log: tuple[str, ...], code: str) -> _Reply | None:
        """The calculator's answer; None when it declines or had to be given up."""
        try:
            kind, text = await child.channel.ask(json.dumps((*log, code)), self.limits.wall)
        except (Lost, TimeoutError):
            if self._calculator is child:
                self._calculator = None
                zygote.discard(child)
            return None
        return None if kind == worker.DECLINED else _reply(kind, text)

    async def _interpret(self, zygote: Zygote, session: SubprocessSession, code: str) -> _Reply:
        """Run `code` in the interpreter of the session, which is killed whenever it does not answer as it should.

        Raises:
            Lost: the zygote died, so nothing can be said about the code.
        """
        child = self._idle.pop(session, None)
        if child is None:
            child = await self._new_interpreter(zygote, (*session.log, code))
        else:
            child.signal(signal.SIGCONT)
        try:
            for text in (*session.log[child.ran :], code):
                kind, output = await child.channel.ask(text, self.limits.wall)
                child.ran += 1
        except TimeoutError:
            zygote.discard(child)
            return _TIMED_OUT
        except Lost:
            return _epitaph(await zygote.discard(child))
        except BaseException:
            zygote.discard(child)
            raise
        self._keep(zygote, session, child)
        return _reply(kind, output)

    async def _new_interpreter(self, zygote: Zygote, texts: tuple[str, ...]) -> Fork:
        wanted = [flag for flag, module in worker.PRELOAD.items() if re.search(rf"\b{module}\b", "\n".join(texts))]
        try:
            return await self._fork(zygote, sum(wanted))
        except TimeoutError as error:
            raise SandboxError("a sandbox process did not start in time") from error

    def _keep(self, zygote: Zygote, session: SubprocessSession, child: Fork) -> None:
        """Stop the interpreter until its session comes back; the one that waited longest makes room."""
        child.signal(signal.SIGSTOP)
        if _resident(child.pid) > IDLE_BYTES:
            zygote.discard(child)
            return
        self._idle[session] = child
        if len(self._idle) > IDLE:
            zygote.discard(self._idle.popitem(last=False)[1])


def _reply(kind: bytes, text: str) -> _Reply:
    return _Reply(text, ok=True) if kind == worker.OK else _Reply(error_feedback(text), ok=False)


def _epitaph(status: int) -> _Reply:
    """Feedback on code that took its interpreter down.

    Raises:
        Lost: the status is unknown (-1), because the zygote is gone too.
    """
    if status == -1:
        raise Lost
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return _TIMED_OUT
    how = f"exit code {code}" if code >= 0 else signal.strsignal(-code)
    return _Reply(error_feedback(f"SystemError: the interpreter died ({how})"), ok=False, ran=False)


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds (0 where there is no /proc)."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
