"""Sessions: protocol outputs, persistence, forks, limits, cancellation, survival."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tts_engine.errors import SandboxError
from tts_engine.formats.code import NO_CODE, TIMED_OUT, extract_code
from tts_engine.sandbox import Limits, SubprocessSandbox, worker
from tts_engine.sandbox.zygote import Fork, Zygote

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORACLE = json.loads((Path(__file__).parent / "data" / "genprm_executor.json").read_text())
FORCE_INTERPRETER = "import math\n"


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something another process does (the time limit of the test is the limit)."""
    while not condition():
        await asyncio.sleep(0.01)


def running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("prepare", ["", FORCE_INTERPRETER], ids=["calculator", "interpreter"])
async def test_outputs_are_those_of_the_protocol(hasty: SubprocessSandbox, prepare: str) -> None:
    session = hasty.session()
    await session.run(prepare)
    for case in ORACLE:
        code = extract_code(case["text"]) if "open" not in case["text"] else "print('open"
        output = NO_CODE if code is None else (await session.run(code)).output
        assert output == case["output"]


async def test_a_statement_inside_a_text_is_no_statement(sandbox: SubprocessSandbox) -> None:
    session = sandbox.session()
    assert (await session.run("x = '''\nimport this\n'''\nprint(len(x))")).output == "13"
    assert (await session.run("print(x.strip())")).output == "import this"


async def test_names_persist_between_calculator_and_interpreter(sandbox: SubprocessSandbox) -> None:
    session = sandbox.session()
    await session.run("x = 5")
    await session.run("def double(n):\n    return 2 * n")
    assert (await session.run("y = double(x)\nprint(y)")).output == "10"
    assert (await session.run("print(x + y)")).output == "15"


async def test_a_run_tells_how_it_went(sandbox: SubprocessSandbox) -> None:
    good, bad = await sandbox.session().run("print(1)"), await sandbox.session().run("import math\nprint(1)\nmath.x")
    assert good.ok
    assert not bad.ok
    assert bad.output == "Code execute Error: AttributeError: module 'math' has no attribute 'x'"
    assert good.seconds > 0


@pytest.mark.parametrize("prepare", ["", FORCE_INTERPRETER], ids=["calculator", "interpreter"])
async def test_nothing_leaks_to_another_session(sandbox: SubprocessSandbox, prepare: str) -> None:
    one, other = sandbox.session(), sandbox.session()
    await one.run(prepare + "secret = 41")
    missing = await other.run(prepare + "print(secret)")
    assert missing.output == "Code execute Error: NameError: name 'secret' is not defined"
    assert (await one.run("print(secret)")).output == "41"


@pytest.mark.parametrize("prepare", ["", FORCE_INTERPRETER], ids=["calculator", "interpreter"])
async def test_forks_go_their_own_ways(sandbox: SubprocessSandbox, prepare: str) -> None:
    trunk = sandbox.session()
    await trunk.run(prepare + "x = 1")
    branch = await trunk.fork()
    await trunk.run("x = 2")
    await branch.run("x = x + 10")
    twig = await branch.fork()
    await branch.run("x = 0")
    assert [(await s.run("print(x)")).output for s in (trunk, branch, twig)] == ["2", "0", "11"]


async def test_replayed_state_repeats_random_numbers_and_prints_nothing(sandbox: SubprocessSandbox) -> None:
    session = sandbox.session()
    await session.run("import random\nx = random.random()\nprint('noise', x)")
    branch = await session.fork()
    await session.close()
    values = [(await s.run("print(x, random.random())")).output for s in (session, branch)]
    assert values[0] == values[1]
    assert "noise" not in values[0]


async def test_an_error_keeps_what_was_done_before_and_a_timeout_leaves_no_trace(hasty: SubprocessSandbox) -> None:
    session = hasty.session()
    await session.run("import math\nx = 1\nx / 0")
    assert (await session.run("x = 2\nwhile True: pass")).output == TIMED_OUT
    assert (await session.run("print(x)")).output == "1"


async def test_more_sessions_than_idle_interpreters(sandbox: SubprocessSandbox) -> None:
    sessions = [sandbox.session() for _ in range(40)]
    await asyncio.gather(*(s.run(f"import math\nx = {i}") for i, s in enumerate(sessions)))
    runs = await asyncio.gather(*(s.run("print(x)") for s in sessions))
    assert [run.output for run in runs] == [str(i) for i in range(40)]
    await asyncio.gather(*(s.close() for s in sessions))


async def test_many_simple_checks_at_once(sandbox: SubprocessSandbox) -> None:
    runs = await asyncio.gather(*(sandbox.session().run(f"print(r:={i}+84, r==167)") for i in range(2000)))
    assert [run.output for run in runs] == [f"{i + 84} {i == 83}" for i in range(2000)]


async def test_runs_of_one_session_are_in_order(sandbox: SubprocessSandbox) -> None:
    session = sandbox.session()
    await session.run("import math\nx = 0")
    runs = await asyncio.gather(*(session.run("x += 1\nprint(x)") for _ in range(20)))
    assert [run.output for run in runs] == [str(i + 1) for i in range(20)]


async def test_numpy_and_sympy_are_there(sandbox: SubprocessSandbox) -> None:
    run = await sandbox.session().run(
        "import numpy as np, sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x**2 - 4), np.arange(4).sum())"
    )
    assert run.output == "[-2, 2] 6"


async def test_output_is_stripped_and_capped(sandbox: SubprocessSandbox) -> None:
    session = sandbox.session()
    assert (await session.run("import math\nprint('\\n  a')\nprint()")).output == "a"
    flood = await session.run("print('x' * 10**7)")
    assert flood.output == "x" * sandbox.limits.output + "\n[output cut]"


async def test_text_that_is_no_valid_unicode_is_survived(sandbox: SubprocessSandbox) -> None:
    session = sandbox.session()
    assert not (await session.run("print('\ud800'")).ok
    assert (await session.run("print(chr(0xd800), 'é')")).output == "\\ud800 é"


async def test_cancelling_kills_the_run_at_once(sandbox: SubprocessSandbox) -> None:
    session = sandbox.session()
    pid = int((await session.run("import os\nx = 1\nprint(os.getpid())")).output)
    assert running(pid)
    task = asyncio.create_task(session.run("x = 2\nwhile True: pass"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: not running(pid))
    assert (await session.run("print(x)")).output == "1"


async def test_cancelling_while_processes_start_leaves_none_behind(sandbox: SubprocessSandbox) -> None:
    for turns in range(12):
        task = asyncio.create_task(sandbox.session().run("import math\nwhile True: pass"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await sandbox.session().run("import math\nprint(math.pi)")).output == "3.141592653589793"


async def test_a_dead_interpreter_concerns_its_own_chain_only(sandbox: SubprocessSandbox) -> None:
    victim, neighbour = sandbox.session(), sandbox.session()
    await victim.run("import os\nx = 1")
    await neighbour.run("import math\nx = 2")
    died = await victim.run("x = 3\nos._exit(7)")
    assert died.output == "Code execute Error: SystemError: the interpreter died (exit code 7)"
    assert not died.ok
    assert [(await s.run("print(x)")).output for s in (victim, neighbour)] == ["1", "2"]


async def test_everything_is_started_again_when_it_was_killed() -> None:
    async with SubprocessSandbox() as sandbox:
        simple, other = sandbox.session(), sandbox.session()
        await simple.run("x = 1")
        zygote = int((await other.run("import os\nx = 2\nprint(os.getppid())")).output)
        busy = asyncio.create_task(other.run("import time\ntime.sleep(0.5)\nprint(x)"))
        await asyncio.sleep(0.1)
        os.kill(zygote, signal.SIGKILL)
        assert (await busy).output == "2"
        assert (await simple.run("print(x)")).output == "1"


async def test_no_process_and_no_file_outlives_the_sandbox() -> None:
    async with SubprocessSandbox() as sandbox:
        session = sandbox.session()
        run = await session.run("import os\nopen('f', 'w').write('x')\nprint(os.getpid(), os.getppid(), os.getcwd())")
        child, zygote, folder = run.output.split()
        assert Path(folder, "f").read_text() == "x"
    await wait_until(lambda: not running(int(child)) and not running(int(zygote)))
    assert not Path(folder).parent.exists()
    with pytest.raises(SandboxError, match="closed"):
        await session.run("print(1)")


async def test_a_busy_event_loop_is_not_taken_for_a_timeout(hasty: SubprocessSandbox) -> None:
    session = hasty.session()
    await session.run("import math")
    task = asyncio.create_task(session.run("print(1)"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(2 * hasty.limits.wall)
    assert (await task).output == "1"


_ENGINE = """
import asyncio
from tts_engine.sandbox import SubprocessSandbox

async def main():
    async with SubprocessSandbox() as sandbox:
        run = await sandbox.session().run("import os\\nprint(os.getpid(), os.getppid(), os.getcwd())")
        print(run.output, flush=True)
        await sandbox.session().run("import time\\ntime.sleep(1000)")

asyncio.run(main())
"""


async def test_no_process_and_no_file_outlives_a_killed_engine() -> None:
    with subprocess.Popen([sys.executable, "-c", _ENGINE], stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        child, zygote, folder = engine.stdout.readline().split()
        assert running(int(zygote))
        engine.kill()
    await wait_until(lambda: not running(int(child)) and not running(int(zygote)))
    await wait_until(lambda: not Path(folder).parent.exists())


async def test_cpu_time_of_an_interpreter_is_limited() -> None:
    async with SubprocessSandbox(limits=Limits(cpu=1, wall=50.0)) as sandbox:
        session = sandbox.session()
        assert (await session.run("while True: pass")).output == TIMED_OUT
        assert (await session.run("print(1)")).output == "1"


async def test_files_go_with_the_interpreter(sandbox: SubprocessSandbox) -> None:
    session = sandbox.session()
    folder = Path((await session.run("import os\nopen('f', 'w').write('x')\nprint(os.getcwd())")).output)
    assert folder.exists()
    await session.close()
    await wait_until(lambda: not folder.exists())


async def test_protections_are_stated(sandbox: SubprocessSandbox) -> None:
    text = "; ".join(sandbox.protections())
    assert "seccomp" in text
    assert "rlimits" in text
    assert SubprocessSandbox().protections() == ()


_REFUSES = """
import asyncio, ctypes, sys
from tts_engine.errors import SandboxError
from tts_engine.sandbox import SubprocessSandbox

async def main(unsafe):
    async with SubprocessSandbox(unsafe=unsafe) as sandbox:
        return len(sandbox.protections()), (await sandbox.session().run("import math\\nprint(math.pi > 3)")).output

assert ctypes.CDLL(None).personality(8) >= 0  # the machine now calls itself i686: no filter is known for that
try:
    asyncio.run(main(False))
except SandboxError as error:
    print(error)
print(asyncio.run(main(True)))
"""


async def test_without_protections_it_refuses_unless_told() -> None:
    result = subprocess.run([sys.executable, "-c", _REFUSES], capture_output=True, text=True, check=True)
    refusal, allowed = result.stdout.splitlines()
    assert "--unsafe-sandbox" in refusal
    assert allowed == "(3, 'True')"


async def test_an_interpreter_that_is_not_confined_is_given_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = Zygote.fork

    async def unconfined(self: Zygote, flags: int) -> Fork:
        child = await fork(self, flags)
        child.protected = bool(flags & worker.CALCULATOR)
        return child

    monkeypatch.setattr(Zygote, "fork", unconfined)
    async with SubprocessSandbox() as sandbox:
        assert (await sandbox.session().run("print(1 + 1)")).output == "2"
        with pytest.raises(SandboxError, match="cannot confine"):
            await sandbox.session().run(f"{FORCE_INTERPRETER}print(1)")


async def test_an_interpreter_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(SandboxError, match="cannot start /nowhere/python"):
        async with SubprocessSandbox():
            pass


async def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="workers"):
        SubprocessSandbox(workers=0)
    with pytest.raises(ValueError, match="positive"):
        Limits(wall=0)


async def test_more_commands_than_a_busy_zygote_can_take_are_not_lost() -> None:
    zygote = Zygote({"memory": 2**30, "cpu": 5, "file_size": 2**20, "output": 4096}, 2**20)
    stopped, many = (await zygote.fork(worker.CALCULATOR)).pid, 320

    def pause() -> None:
        """Stop the zygote for a moment: the socket to it takes fewer than 300 commands."""
        parent = int(Path(f"/proc/{stopped}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(parent, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (parent, signal.SIGCONT)).start()

    pause()
    forks = await asyncio.gather(*(zygote.fork(worker.CALCULATOR) for _ in range(many)))
    pause()
    statuses = await asyncio.gather(*map(zygote.discard, forks))
    assert len({fork.pid for fork in forks}) == many
    assert statuses == [signal.SIGKILL] * many
    assert zygote.alive
    await zygote.close()
