"""Checks per second through the sandbox, against a fresh interpreter for every check.

python benchmarks/sandbox.py [--checks 500] [--workers 2]
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

from tts_engine.sandbox import SubprocessSandbox

TRIVIAL = "print(r:={i}+84, r==167)"
PLAIN = "import math\nprint(math.gcd({i}, 84))"
SYMPY = "import sympy\nprint(sympy.sqrt({i}) ** 2)"

Body = Callable[[SubprocessSandbox, int], Awaitable[None]]


def fresh_interpreter(code: str, checks: int) -> float:
    """Checks per second when each starts a Python, one after the other."""
    started = time.perf_counter()
    for i in range(checks):
        subprocess.run([sys.executable, "-c", code.format(i=i)], stdout=subprocess.DEVNULL, check=True)
    return checks / (time.perf_counter() - started)


def chains(code: str, length: int) -> Body:
    """The body of a measurement: one chain that makes `length` checks, one after the other."""

    async def chain(sandbox: SubprocessSandbox, index: int) -> None:
        session = sandbox.session()
        for step in range(length):
            run = await session.run(code.format(i=index * length + step))
            assert run.ok, run.output
        await session.close()

    return chain


async def throughput(sandbox: SubprocessSandbox, code: str, checks: int, length: int, concurrent: int) -> float:
    """Checks per second of `concurrent` chains at a time, each making `length` checks."""
    body, slots = chains(code, length), asyncio.Semaphore(concurrent)

    async def one(index: int) -> None:
        async with slots:
            await body(sandbox, index)

    await body(sandbox, 0)
    started = time.perf_counter()
    await asyncio.gather(*(one(index) for index in range(checks // length)))
    return checks // length * length / (time.perf_counter() - started)


async def measure(checks: int, workers: int) -> None:
    """Print the table."""
    print(f"{'':44}{'checks/s':>10}")
    async with SubprocessSandbox(workers=workers) as sandbox:
        for name, code, count, length, concurrent in (
            ("arithmetic, one at a time", TRIVIAL, checks * 4, 1, 1),
            ("arithmetic, 256 chains", TRIVIAL, checks * 20, 4, 256),
            ("import math, first check of a chain", PLAIN, checks, 1, 8),
            ("import math, chains of 8 checks", PLAIN, checks * 4, 8, 8),
            ("import sympy, first check of a chain", SYMPY, checks, 1, 8),
            ("import sympy, chains of 8 checks", SYMPY, checks * 4, 8, 8),
        ):
            print(f"{name:44}{await throughput(sandbox, code, count, length, concurrent):10.0f}", flush=True)
    for name, code in (("arithmetic, fresh interpreter", TRIVIAL), ("import sympy, fresh interpreter", SYMPY)):
        print(f"{name:44}{fresh_interpreter(code, max(3, checks // 50)):10.1f}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.checks, arguments.workers))


if __name__ == "__main__":
    main()
