"""The program of the sandbox's processes. It is started by its path and imports the standard library alone.

    engine ──commands──> zygote ──fork──> calculator       all the simple checks of all chains, no code executed
       │                    └─────fork──> interpreter ...  one chain each
       └──────────frames────────────────────^

The zygote runs nothing that a model wrote and holds nothing of any chain: it imports what is dear to import and forks.
Every fork confines itself for good before it reads its first frame. An interpreter serves one chain only, so whatever
code does to it, no other chain can notice.

A frame is a length, a kind (one byte) and UTF-8 text; every frame that is sent to a fork is answered by one, in order,
after a first frame of kind READY or UNPROTECTED.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import io
import json
import os
import random
import select
import shutil
import socket
import struct
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tts_engine.sandbox import calculator, confine

COMMAND = struct.Struct("<ci")
FORK, REAP = b"f", b"r"
ANSWER = struct.Struct("<cii")
REAP_SECONDS = 0.002
"""Pause between two looks at processes that are dying."""
CALCULATOR = 1
PRELOAD = {2: "numpy", 4: "sympy"}
"""Flags of FORK: be the calculator; import this first."""
FOLDER = 8
"""Bits of the argument of FORK that are flags; above them stands the number of the process's folder."""
COMMON = (
    *("math", "cmath", "fractions", "decimal", "statistics", "itertools", "functools", "collections", "operator"),
    *("re", "string", "datetime", "heapq", "bisect", "copy", "typing", "dataclasses"),
)
"""What checks import most, and cheap: imported before the first interpreter is forked."""
WARM_UP = {
    "numpy": "import numpy.random, numpy.linalg, numpy.fft, numpy.polynomial",
    "sympy": "from sympy import *\nsolve(sympify('x**2 - 2'))\nsimplify('(x**2 - 1)/(x - 1)')\nintegrate(sympify('x'))",
}
"""Run after the import, to do once what every fork would do again (lazy imports, filling caches)."""

FRAME = struct.Struct("<Ic")
RUN, OK, ERROR, DECLINED, READY, UNPROTECTED = b"x", b"o", b"e", b"d", b"r", b"u"
CHUNK = 1 << 16
CUT = "\n[output cut]"

Buffer = Any  # collections.abc.Buffer, from Python 3.12 on
Handler = Callable[[str], tuple[bytes, str]]


def frame(kind: bytes, text: str) -> bytes:
    """One message; characters that UTF-8 has no place for are escaped."""
    payload = text.encode("utf-8", "backslashreplace")
    return FRAME.pack(len(payload), kind) + payload


def frames(buffer: bytearray) -> Iterator[tuple[bytes, str]]:
    """Take the complete frames off the front of `buffer`."""
    while len(buffer) >= FRAME.size:
        length, kind = FRAME.unpack_from(buffer)
        if len(buffer) < FRAME.size + length:
            return
        text = buffer[FRAME.size : FRAME.size + length].decode("utf-8", "replace")
        del buffer[: FRAME.size + length]
        yield kind, text


def serve(control: socket.socket, settings: dict[str, Any]) -> None:
    """The zygote: obey commands until the engine hangs up; its forks then die with it.

    FORK carries a socket for the new process and answers its process id; REAP answers the wait status of a process that
    the engine has killed (ids are not reused before that), once its memory is taken down: others are forked meanwhile.
    An answer repeats its command and argument.
    """
    dying: set[int] = set()
    while True:
        for child in list(dying):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                dying.remove(child)
                control.sendall(ANSWER.pack(REAP, child, status))
        if dying and not select.select([control], [], [], REAP_SECONDS)[0]:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if len(message) < COMMAND.size:
            return
        operation, argument = COMMAND.unpack(message)
        if operation == REAP:
            dying.add(argument)
            continue
        child = fork(control, descriptors[0], argument, settings)
        os.close(descriptors[0])
        control.sendall(ANSWER.pack(FORK, argument, child))


def fork(control: socket.socket, channel: int, flags: int, settings: dict[str, Any]) -> int:
    """Import what `flags` ask for, then fork a process that serves `channel`; returns its id, or -errno."""
    if not flags & CALCULATOR and preload([*COMMON, *(module for flag, module in PRELOAD.items() if flags & flag)]):
        settings["mapped"] = confine.mapped_bytes()
    try:
        child = os.fork()
    except OSError as error:
        return -(error.errno or 1)
    if child:
        return child
    status = 1
    try:
        control.detach()
        become_worker(channel, bool(flags & CALCULATOR), flags >> FOLDER, settings)
        status = 0
    finally:
        os._exit(status)


def preload(modules: list[str]) -> bool:
    """Import what is installed and not imported yet, so that later forks share it; whether there was anything."""
    missing = [name for name in modules if name not in sys.modules and importlib.util.find_spec(name)]
    for name in missing:
        with suppress(Exception):  # a broken installation is the finding of the code that imports it
            importlib.import_module(name)
            exec(WARM_UP.get(name, ""), {})
    if missing:
        gc.collect()
        gc.freeze()
    return bool(missing)


def become_worker(channel: int, calculates: bool, folder: int, settings: dict[str, Any]) -> None:
    """In the fork: drop everything, say what protects, then answer frames until the engine hangs up."""
    os.dup2(channel, 3)
    os.closerange(4, 256)
    for stream in (1, 2):
        os.dup2(0, stream)
    protections = protect(calculates, folder, settings)
    handler = calculate() if calculates else interpret(settings["output"])
    os.write(3, frame(READY if len(protections) > 1 else UNPROTECTED, "\n".join(protections)))
    buffer = bytearray()
    while chunk := os.read(3, CHUNK):
        buffer += chunk
        replies = b"".join(frame(*handler(text)) for _, text in frames(buffer))
        while replies:
            replies = replies[os.write(3, replies) :]


def protect(calculates: bool, number: int, settings: dict[str, Any]) -> tuple[str, ...]:
    """Confine this process to a folder of its own; a phrase for each protection."""
    folder = os.path.join(settings["folder"], str(number))
    with suppress(FileExistsError):  # an empty one that a process before had
        os.mkdir(folder, 0o700)
    os.chdir(folder)
    os.environ.clear()
    sys.argv = [""]
    cpu = None if calculates else settings["cpu"]
    limits = confine.limit_resources(
        mapped=settings["mapped"], memory=settings["memory"], cpu=cpu, file_size=settings["file_size"]
    )
    return (limits, *confine.confine(folder=folder, readable=settings["readable"]))


def calculate() -> Handler:
    """Answers JSON lists of texts: those that the chain ran before, then the one to run."""
    states = calculator.Calculator()

    def answer(request: str) -> tuple[bytes, str]:
        *log, code = json.loads(request)
        try:
            ok, output = states.run(tuple(log), code)
        except calculator.Declined:
            return DECLINED, ""
        return (OK if ok else ERROR), output

    return answer


def interpret(limit: int) -> Handler:
    """Executes texts, one after the other, in one namespace; random numbers start from seed 0.

    Args:
        limit: bytes of output that are kept.
    """
    random.seed(0)
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed(0)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    return lambda code: execute(code, main.__dict__, limit)


def execute(code: str, namespace: dict[str, Any], limit: int) -> tuple[bytes, str]:
    """Run `code`: OK and its stripped output, or ERROR and `{Type}: {message}`. Whatever it raises is its result."""
    captured = Output(limit)
    stream = io.TextIOWrapper(captured, "utf-8", "backslashreplace", write_through=True)
    sys.stdout = stream
    try:
        exec(compile(code, "<string>", "exec", dont_inherit=True), namespace)
        return OK, captured.text()
    except BaseException as error:
        return ERROR, describe(error)[:limit]


def describe(error: BaseException) -> str:
    """`{Type}: {message}`; the message of an exception is code too, and may fail."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return f"{type(error).__name__}: "


class Output(io.BytesIO):
    """Keeps the first `limit` bytes and remembers that there were more."""

    def __init__(self, limit: int) -> None:
        """Start empty."""
        super().__init__()
        self.room = limit
        self.cut = False

    def write(self, data: Buffer, /) -> int:
        """Take what there is room for, and say that it was all taken."""
        taken = bytes(memoryview(data)[: self.room])
        super().write(taken)
        self.room -= len(taken)
        self.cut = self.cut or len(taken) < len(data)
        return len(data)

    def text(self) -> str:
        """What was written, stripped."""
        text = self.getvalue().decode("utf-8", "ignore").strip()
        return text + CUT if self.cut else text


def _sibling(name: str) -> types.ModuleType:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    calculator, confine = _sibling("calculator"), _sibling("confine")
    confine.prepare()
    start = {**json.loads(sys.argv[2]), "mapped": confine.mapped_bytes()}
    with suppress(ConnectionError):  # the engine hung up without reading the last answer
        serve(socket.socket(fileno=int(sys.argv[1])), start)
    shutil.rmtree(start["folder"], ignore_errors=True)  # the engine may have been killed
