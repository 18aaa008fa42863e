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

import ctypes
import gc
import importlib
import importlib.util
import io
import json
import os
import random
import resource
import select
import shutil
import socket
import struct
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

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
    "fractions": """
import math
from fractions import Fraction
def check(x):
    return math.isclose(x, 7)
print(check(7.0), [math.gcd(i, 84) for i in range(3)], Fraction(2, 4) + 1, f"{1 / 3:.2f}")
""",
    "numpy": "import numpy.random, numpy.linalg, numpy.fft, numpy.polynomial",
    "sympy": """
from sympy import *
x, y = symbols('x y')
print(solve(x**2 - 2, x), solve([x + y - 3, x - y - 1], [x, y]), Eq(x, 1), gcd(84, 36), factorint(360), N(pi))
print(simplify((x**2 - 1)/(x - 1)), expand((x + 1)**2), factor(x**2 - 1), diff(x**3, x), integrate(x**2, x), sqrt(50))
print(sympify('x**2 - 2').subs(x, Rational(1, 3)), sqrt(2)*sqrt(8), Rational(1, 3) + 1, Integer(7) == 7, x + y, 2/x)
""",
}
"""Run after the import, to do once what every fork would do again (lazy imports, filling caches)."""
WARM_RUNS = 10
"""How often: from the eighth call on, Python runs a function in the form that it has specialised."""
HUGE, MADV_COLLAPSE, HUGE_TRIES = 2 << 20, 25, 3
"""Bytes of a huge page, the advice of madvise(2) that makes one, and how often it is given where pages are in use."""

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
    calculates = bool(flags & CALCULATOR)
    wanted = [*COMMON, *(module for flag, module in PRELOAD.items() if flags & flag)]
    if not calculates and preload(wanted, settings["environment"]):
        settings["mapped"] = confine.mapped_bytes()
    try:
        cell = make_cell(flags >> FOLDER, calculates, settings)
    except OSError as error:
        return -(error.errno or 1)
    child = plain_fork()
    if child:
        if cell.rules is not None:
            os.close(cell.rules)
        return child
    status = 1
    try:
        control.detach()
        become_worker(channel, cell, calculate() if calculates else interpret(settings["output"]))
        status = 0
    finally:
        os._exit(status)


class Cell(NamedTuple):
    """What a process will be confined to, made ready before it is forked: it pays for each page of memory it touches.

    Attributes:
        rules: the descriptor of a Landlock ruleset, where the kernel has it.
        limits: which rlimit, (soft, hard).
    """

    folder: str
    rules: int | None
    limits: list[tuple[int, tuple[int, int]]]


def make_cell(number: int, calculates: bool, settings: dict[str, Any]) -> Cell:
    """The cell of the process with this number; `OSError` where its folder cannot be made."""
    folder = os.path.join(settings["folder"], str(number))
    with suppress(FileExistsError):  # an empty one that a process before had
        os.mkdir(folder, 0o700)
    limits = confine.limits(
        mapped=settings["mapped"],
        memory=settings["memory"],
        cpu=None if calculates else settings["cpu"],
        file_size=settings["file_size"],
    )
    return Cell(folder, confine.ruleset(folder, settings["readable"]), limits)


def plain_fork() -> int:
    """The C library's fork: `os.fork` would run the hooks of `threading`, `random` and others in the child, where they
    copy 230 pages of memory; there are no threads that they could repair, and random numbers start from 0 on purpose.

    Returns:
        0 in the child, its id or -errno in the parent.
    """
    child: int = _libc().fork()
    return child if child >= 0 else -ctypes.get_errno()


@lru_cache(maxsize=1)
def _libc() -> ctypes.PyDLL:
    return ctypes.PyDLL(None, use_errno=True)


def preload(modules: list[str], environment: dict[str, str]) -> bool:
    """Import what is installed and not imported yet, so that later forks share it; whether there was anything.

    Args:
        environment: what libraries find in os.environ, which is empty again when they have been imported.
    """
    missing = [name for name in modules if name not in sys.modules and importlib.util.find_spec(name)]
    os.environ.update(environment if missing else {})
    for name in missing:
        with suppress(Exception):  # a broken installation is the finding of the code that imports it
            importlib.import_module(name)
        for _ in range(WARM_RUNS if name in WARM_UP else 0):
            execute(WARM_UP[name], {}, CHUNK)
    if missing:
        os.environ.clear()
        random.seed(0)
        if numpy_random := sys.modules.get("numpy.random"):
            numpy_random.seed(0)
        gc.collect()
        gc.freeze()
        use_huge_pages()
    return bool(missing)


def use_huge_pages() -> None:
    """Gather this process's memory in pages of 2 MiB where the kernel can (Linux 6.1): a fork then copies one entry of
    the page table where it would copy 512, and its end frees one."""
    with suppress(FileNotFoundError), open("/proc/self/maps") as file:
        for line in file:
            place, mode, *_, name = line.rstrip("\n").split(" ", 5)
            if mode == "rw-p" and name.strip() in ("", "[heap]"):
                start, end = (int(part, 16) for part in place.split("-"))
                start += -start % HUGE
                where = ctypes.c_void_p(start), ctypes.c_size_t(end - start)
                for _ in range(HUGE_TRIES if end - start >= HUGE else 0):
                    if _libc().madvise(*where, MADV_COLLAPSE) == 0:
                        break


def become_worker(channel: int, cell: Cell, handler: Handler) -> None:
    """In the fork: drop everything, say what protects, then answer frames until the engine hangs up."""
    os.dup2(channel, 3)
    if cell.rules is not None:
        cell = cell._replace(rules=os.dup2(cell.rules, 4))  # made after `channel` came, so it was no lower than 4
    os.closerange(4 if cell.rules is None else 5, 256)
    for stream in (1, 2):
        os.dup2(0, stream)
    protections = protect(cell)
    os.write(3, frame(READY if len(protections) > 1 else UNPROTECTED, "\n".join(protections)))
    buffer = bytearray()
    while chunk := os.read(3, CHUNK):
        buffer += chunk
        replies = b"".join(frame(*handler(text)) for _, text in frames(buffer))
        while replies:
            replies = replies[os.write(3, replies) :]


def protect(cell: Cell) -> tuple[str, ...]:
    """Confine this process to its cell; a phrase for each protection."""
    os.chdir(cell.folder)
    for which, limit in cell.limits:
        resource.setrlimit(which, limit)
    protections = (confine.LIMITED, *confine.confine(cell.rules))
    if cell.rules is not None:
        os.close(cell.rules)
    return protections


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
    """Executes texts, one after the other, in one namespace.

    Args:
        limit: bytes of output that are kept.
    """
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
    start = {**json.loads(sys.argv[2]), "mapped": confine.mapped_bytes(), "environment": dict(os.environ)}
    os.environ.clear()
    commands, sys.argv = socket.socket(fileno=int(sys.argv[1])), [""]
    with suppress(ConnectionError):  # the engine hung up without reading the last answer
        serve(commands, start)
    shutil.rmtree(start["folder"], ignore_errors=True)  # the engine may have been killed
