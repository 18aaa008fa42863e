"""Hostile programs: each is contained and reported as its own run's feedback, and nobody else notices.

`{outside}` is a folder that belongs to somebody else, with a file `secret`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tts_engine.formats.code import TIMED_OUT
from tts_engine.sandbox import SubprocessSandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")

DENIED = r"PermissionError"
DIED = r"the interpreter died"

CALLS = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"

FILES = {
    "read the password file": ("open('/etc/passwd').read()", DENIED),
    "read a file outside": ("print(open('{outside}/secret').read())", DENIED),
    "write a file outside": ("open('{outside}/new', 'w').write('x')", DENIED),
    "append to a file outside": ("open('{outside}/secret', 'a').write('x')", DENIED),
    "remove a file outside": ("import os\nos.remove('{outside}/secret')", DENIED),
    "move a file outside": ("import os\nos.rename('{outside}/secret', 'mine')", DENIED),
    "truncate a file outside": ("import os\nos.truncate('{outside}/secret', 0)", DENIED),
    "change permissions outside": ("import os\nos.chmod('{outside}/secret', 0o777)", DENIED),
    "list the root folder": ("import os\nprint(os.listdir('/'))", DENIED),
    "list the folders of other chains": ("import os\nprint(os.listdir('..'))", DENIED),
    "symbolic link out of the folder": ("import os\nos.symlink('/etc/passwd', 'p')\nprint(open('p').read())", DENIED),
    "hard link out of the folder": ("import os\nos.link('{outside}/secret', 's')\nprint(open('s').read())", DENIED),
    "path that climbs out": ("print(open('../../../../../../../../etc/passwd').read())", DENIED),
    "load a file as a module": (
        "from importlib.machinery import SourceFileLoader\n"
        "print(SourceFileLoader('s', '{outside}/secret').get_data('/etc/passwd'))",
        DENIED,
    ),
    "read through libc": (CALLS + "print(libc.open(b'/etc/passwd', 0))", r"^-1$"),
    "read through a newer system call": (
        CALLS + "print(libc.syscall(437, -100, b'/etc/passwd', b'\\0' * 24, 24))",
        r"^-1$",
    ),
    "fill the disk with one file": ("open('big', 'wb').write(b'0' * (1 << 26))", r"OSError: .*File too large"),
    "open files without end": ("kept = [open('f', 'w') for _ in iter(int, 1)]", r"OSError: .*Too many open files"),
}
PROCESSES = {
    "read the engine's environment": ("import os\nprint(open(f'/proc/{os.getppid()}/environ').read())", DENIED),
    "read its own environment": ("print(open('/proc/self/environ').read())", DENIED),
    "environment variables": ("import os\nprint(dict(os.environ))", r"^\{\}$"),
    "fork": ("import os\nos.fork()", DENIED),
    "fork bomb": ("import os\nwhile True:\n    os.fork()", DENIED),
    "fork bomb that does not give up": (
        "import os\nn = 0\nwhile n < 1000:\n    try:\n        os.fork()\n    except OSError:\n        n += 1\nprint(n)",
        r"^1000$",
    ),
    "fork through libc": (CALLS + "print(libc.fork(), libc.vfork())", r"^-1 -1$"),
    "thread": ("import threading\nthreading.Thread(target=print).start()", r"can't start new thread"),
    "shell": ("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'id'])", DENIED),
    "system": ("import os\nos.system('touch {outside}/new')\nprint(os.path.exists('{outside}/new'))", r"^False$"),
    "replace itself with a shell": ("import os\nos.execv('/bin/sh', ['sh', '-c', 'id'])", DENIED),
    "spawn": ("import os\nos.posix_spawn('/bin/sh', ['sh'], {})", DENIED),
    "kill the parent": ("import os\nos.kill(os.getppid(), 9)", DENIED),
    "kill everybody": ("import os\nos.kill(-1, 9)", DENIED),
    "kill the group": ("import os\nos.killpg(os.getpgid(0), 9)", DENIED),
    "signals through file ownership": ("import fcntl, os\nfcntl.fcntl(3, fcntl.F_SETOWN, os.getppid())", DENIED),
    "trace the parent": (CALLS + "import os\nprint(libc.ptrace(16, os.getppid(), 0, 0))", r"^-1$"),
    "read the parent's memory": (
        CALLS + "import os\nprint(libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0))",
        r"^-1$",
    ),
    "outlive the parent": (CALLS + "print(libc.prctl(1, 0, 0, 0, 0))", r"^-1$"),
    "raise its limits": ("import resource as r\nr.setrlimit(r.RLIMIT_AS, (-1, -1))", r"ValueError"),
    "system calls without checks": (CALLS + "print(libc.syscall(425, 8, b'\\0' * 120))", r"^-1$"),
}
NETWORK = {
    "internet socket": ("import socket\nsocket.socket()", DENIED),
    "local socket": ("import socket\nsocket.socket(socket.AF_UNIX)", DENIED),
    "socket pair": ("import socket\nsocket.socketpair()", DENIED),
    "download": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1/')", r"not permitted"),
    "socket through libc": (CALLS + "print(libc.socket(2, 1, 0))", r"^-1$"),
}
CRASHES = {
    "memory at once": ("x = bytearray(10 ** 12)", r"MemoryError"),
    "memory bit by bit": ("x = []\nwhile True:\n    x.append(bytearray(10 ** 7))", r"MemoryError"),
    "memory past the allocator": ("import mmap\nmmap.mmap(-1, 1 << 40)", r"OSError"),
    "exit": ("import sys\nsys.exit(3)", r"SystemExit: 3"),
    "exit at once": ("import os\nos._exit(0)", DIED),
    "abort": ("import os\nos.abort()", DIED),
    "null pointer": ("import ctypes\nctypes.string_at(0)", DIED),
    "deep recursion": ("def f():\n    f()\nf()", r"RecursionError"),
    "deeper recursion": (
        "import sys\nsys.setrecursionlimit(10 ** 8)\nx = []\nfor _ in range(10 ** 6): x = [x]\nrepr(x)",
        DIED,
    ),
    "deeply nested code": ("eval('-' * 10 ** 6 + '1')", r"Code execute Error"),
    "more text than memory": ("print('x' * (1 << 30))", r"MemoryError"),
    "no input": ("input()", r"EOFError"),
    "interrupt that looks like the user's": ("raise KeyboardInterrupt", r"Error: KeyboardInterrupt: $"),
    "exception that is no Exception": ("class E(BaseException): pass\nraise E('out')", r"Error: E: out"),
    "handler that calls for help": ("import atexit, os\natexit.register(os.fork)\nprint('on')", r"^on$"),
    "message that raises": ("class E(Exception):\n    def __str__(self):\n        1 / 0\nraise E", r"Error: E: $"),
    "destructor that raises": ("class A:\n    def __del__(self):\n        1 / 0\na = A()\ndel a\nprint('on')", r"^on$"),
    "print to the descriptor": ("import os\nos.write(1, b'x' * 100)\nos.write(2, b'x')\nprint('on')", r"^on$"),
    "close the stream": ("import sys\nsys.stdout.close()", r"ValueError"),
    "hang up on the engine": ("import os\nos.close(3)", DIED),
    "flood the engine": ("import os\nwhile True:\n    os.write(3, b'\\xff' * 65536)", DIED),
}
ENDLESS = {
    "loop": "while True: pass",
    "loop that catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "large power": "9 ** 9 ** 9",
    "catastrophic pattern": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "sleep": "import time\ntime.sleep(1000)",
    "output without end": "while True: print('x' * 10000)",
    "message without end": "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
    "destructor without end": "class A:\n    def __del__(self):\n        while True: pass\na = A()\ndel a",
    "ignored signals": "import signal\nfor n in (2, 15, 24): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
    "answer that never completes": "import os\nos.write(3, b'\\xff\\xff\\0\\0o')",
}
TAMPERING = {
    "import hook": "import sys\nsys.meta_path.insert(0, 1)\nsys.path_hooks.clear()\nsys.path.clear()",
    "planted module": "open('fractions.py', 'w').write('1 / 0')\nimport sys\nsys.path.insert(0, '.')",
    "trace function": "import sys\nsys.settrace(lambda *a: 1 / 0)",
    "builtins": "import builtins\nbuiltins.print = builtins.len = None",
    "modules": "import math, sys\nmath.sqrt = lambda x: 0\nsys.modules['fractions'] = None",
    "standard output": "import sys\nsys.stdout = sys.__stdout__ = None",
    "frames": "import sys\nf = sys._getframe()\nwhile f:\n    f.f_globals.clear()\n    f = f.f_back",
    "collected objects": "import gc\ngc.unfreeze()\nfor o in gc.get_objects():\n    if type(o) is dict: o.clear()",
    "forged answer": "import os\nos.write(3, b'\\x02\\0\\0\\0o42' * 50)",
}


DOCUMENT = Path(__file__).parents[2] / "docs" / "sandbox.md"


def documented() -> str:
    """The tables of docs/sandbox.md, which shows every program of this file by name and what its run says."""
    told = {"files": FILES, "processes": PROCESSES, "network": NETWORK, "crashes and memory": CRASHES}
    rows = {kind: {name: feedback for name, (_, feedback) in cases.items()} for kind, cases in told.items()}
    rows["endless"] = dict.fromkeys(ENDLESS, TIMED_OUT)
    rows["tampering"] = dict.fromkeys(TAMPERING, "(only its own chain is affected)")
    lines = ["| kind | program | its run says |", "|---|---|---|"]
    lines += [f"| {kind} | {name} | `{said}` |" for kind, found in rows.items() for name, said in found.items()]
    return "\n".join(lines)


async def test_the_documented_list_is_this_one() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert documented() in text
    count = sum(map(len, (FILES, PROCESSES, NETWORK, CRASHES, ENDLESS, TAMPERING)))
    assert f"{count} hostile programs" in text


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody else's folder."""
    (tmp_path / "secret").write_text("swordfish")
    return tmp_path


@pytest.mark.parametrize(
    ("code", "feedback"),
    [pytest.param(*case, id=name) for name, case in {**FILES, **PROCESSES, **NETWORK, **CRASHES}.items()],
)
async def test_contained(sandbox: SubprocessSandbox, outside: Path, code: str, feedback: str) -> None:
    session, bystander = sandbox.session(), sandbox.session()
    await bystander.run("import math\nx = 1")
    run = await session.run("pass\n" + code.replace("{outside}", str(outside)))
    assert re.search(feedback, run.output, re.MULTILINE), run.output
    assert "swordfish" not in run.output
    assert (outside / "secret").read_text() == "swordfish"
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (await bystander.run("print(x)")).output == "1"
    assert (await session.run("print(2)")).output == "2"


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in ENDLESS.items()])
async def test_stopped(hasty: SubprocessSandbox, code: str) -> None:
    session = hasty.session()
    assert (await session.run(code)).output == TIMED_OUT
    assert (await session.run("print(2)")).output == "2"


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in TAMPERING.items()])
async def test_tampering_reaches_no_other_chain(hasty: SubprocessSandbox, code: str) -> None:
    before = hasty.session()
    await before.run("import math\nx = 1")
    await hasty.session().run("pass\n" + code)
    honest = "from fractions import Fraction\nimport math\nprint(len('ab'), math.sqrt(4), Fraction(1, 2))"
    for session in (before, hasty.session()):
        assert (await session.run(honest)).output == "2 2.0 1/2"


async def test_memory_holds_nothing_of_other_chains(sandbox: SubprocessSandbox) -> None:
    others = [sandbox.session() for _ in range(2)]
    await others[0].run("secret = 'swordfish'")
    await others[1].run("import math\nsecret = 'swordfish'")
    spy = (
        "import gc\ngc.unfreeze()\nneedle = ''.join(['sword', 'fish'])\nseen = 0\nfound = []\n"
        "for o in gc.get_objects():\n"
        "    values = list(o.values()) if type(o) is dict else o if type(o) in (list, tuple) else ()\n"
        "    texts = [v for v in values if type(v) is str]\n"
        "    seen += len(texts)\n"
        "    found += [v for v in texts if needle in v and v is not needle]\n"
        "print(seen > 1000, found)"
    )
    assert (await sandbox.session().run(spy)).output == "True []"
    assert "swordfish" in (await others[1].run("mine = 1\n" + spy)).output
