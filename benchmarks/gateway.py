"""The gateway against the Python API, and under load: the same work, asked over HTTP by so many clients at once.

    python benchmarks/gateway.py overhead                 1, 32 and 128 clients, paired repetitions
    python benchmarks/gateway.py overhead --n 16 --samples 4
    python benchmarks/gateway.py load --clients 200 --seconds 60

The models are simulated ones in real time (5 ms a call and 200 tokens a second, as many calls at once as come: a server
with slots to spare), or, with `--backend embedded`, the embedded ones, which share the processor. `overhead` gives the
same problems, seeds and limits to a server process and to `Engine.solve` in this one, in turn, and prints throughput,
processor time a request (the clients' own is not in it) and the differences, with 95 % intervals by the paired
bootstrap over repetitions. `load` keeps so many clients busy, half of them with one key and half with another, and
prints errors, fairness, latencies and the server's memory over time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tts_engine import Engine
from tts_engine.backends.arithmetic import Task
from tts_engine.compute.budget import Budget
from tts_engine.problems import load_problems
from tts_engine.report.intervals import paired_bootstrap
from tts_engine.serve import keys
from tts_engine.serve.settings import GatewayConfig
from tts_engine.types import Key

STRATEGY = "best-of-n"
PROBLEMS = {
    "embedded": [problem.prompt for problem in load_problems("arith-test")[:64]],
    "simulated": [Task().problem(Key(number)).prompt for number in range(64)],
}
DEADLINE = 120.0  # seconds; the gateway gives every request one, so the Python API is given it too
SERVED = {"backend": "simulated", "options": {"clock": "real", "speed": 2.0, "slots": 1024, "jitter": 0.2}}
BACKENDS: dict[str, dict[str, Any]] = {
    "simulated": {"policy": SERVED | {"model": "embedded:policy"}, "verifier": SERVED | {"model": "verifier"}},
    "embedded": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a request asks for: candidates, and judgements of each."""

    backend: str
    n: int
    samples: int

    def problem(self, number: int) -> str:
        """The problem of request `number`."""
        return PROBLEMS[self.backend][number % 64]

    def body(self, number: int) -> bytes:
        """Request `number` over HTTP."""
        return json.dumps(
            {
                "model": f"{STRATEGY}/embedded:policy",
                "messages": [{"role": "user", "content": self.problem(number)}],
                "seed": number,
                "tts": {"n": self.n, "verifier_samples": self.samples},
            }
        ).encode()

    async def solve(self, engine: Engine, number: int) -> None:
        """Request `number` in Python."""
        await engine.solve(
            self.problem(number),
            strategy=STRATEGY,
            n=self.n,
            verifier_samples=self.samples,
            seed=number,
            budget=Budget(seconds=DEADLINE),
        )


@contextmanager
def server(folder: Path, *arguments: str) -> Iterator[tuple[int, int]]:
    """A gateway in a process of its own: its port and its process."""
    log = folder / "log.jsonl"
    command = [sys.executable, "-m", "tts_engine.cli.serve", "--port", "0", *arguments]
    with log.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "listening on" not in line:
            sys.exit(f"the gateway did not start: {log.read_text()}")
        try:
            yield int(line.split()[3].rsplit(":", 1)[1]), process.pid
        finally:
            process.send_signal(signal.SIGTERM)


class Client:
    """One keep-alive connection, as lean as it can be: what is measured is the gateway."""

    def __init__(self, port: int, work: Work, key: str = "none") -> None:
        self._port = port
        self._work = work
        self._key = key

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()

    async def ask(self, number: int) -> int:
        """Send request `number`; the status of the answer."""
        body = self._work.body(number)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return int(answer.split()[1])


async def over_http(port: int, work: Work, clients: int, requests: int) -> float:
    """Seconds that `clients` take for `requests`."""
    numbers = iter(range(requests))

    async def one() -> None:
        async with Client(port, work) as client:
            for number in numbers:
                assert await client.ask(number) == 200

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(clients)))
    return time.monotonic() - began


async def in_python(engine: Engine, work: Work, clients: int, requests: int) -> float:
    """The same by `Engine.solve`."""
    numbers = iter(range(requests))

    async def one() -> None:
        for number in numbers:
            await work.solve(engine, number)

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(clients)))
    return time.monotonic() - began


async def overhead(arguments: argparse.Namespace) -> None:
    """Measure and print the table of the gateway's overhead."""
    config = GatewayConfig.build(BACKENDS[arguments.backend] | {"serve": {"running": 256, "deadline": DEADLINE}})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(config.to_yaml())
        with server(Path(folder), "--config", str(path)) as (port, pid):
            async with Engine(config, keep=False) as engine:
                rows = [await compare(port, pid, engine, clients, arguments) for clients in arguments.levels]
    size = f"{STRATEGY} n={arguments.n} verifier_samples={arguments.samples}"
    print(f"\n{arguments.backend} models, {size}, {os.cpu_count()} cores\n")
    print(
        "| clients | requests | Python API, requests/s | gateway, requests/s | time, overhead"
        " | Python API, processor time a request | gateway | processor time, overhead |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    print("\n".join(rows))


def processor_seconds(pid: int) -> float:
    """Processor time that a process has taken, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def timed(work: Awaitable[float], pid: int) -> tuple[float, float]:
    """The seconds of some work, and the processor time that process `pid` took for it."""
    before = processor_seconds(pid)
    return await work, processor_seconds(pid) - before


async def compare(port: int, pid: int, engine: Engine, clients: int, arguments: argparse.Namespace) -> str:
    """One row: repetitions in turn, each side first every other time."""
    requests, work = arguments.requests * clients, work_of(arguments)
    runs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for repetition in range(-1, arguments.repeat):  # the first warms up
        sides = {
            "direct": lambda: timed(in_python(engine, work, clients, requests), os.getpid()),
            "served": lambda: timed(over_http(port, work, clients, requests), pid),
        }
        order = sorted(sides, reverse=bool(repetition % 2))
        found = {side: await sides[side]() for side in order}
        if repetition >= 0:
            runs.append((found["direct"], found["served"]))
        print(f"{clients} clients: {found}", file=sys.stderr, flush=True)
    direct, served = ([statistics.mean(run[side][what] for run in runs) for what in (0, 1)] for side in (0, 1))
    cells = [str(clients), f"{requests} x {len(runs)}"]
    cells += [f"{requests / direct[0]:.1f}", f"{requests / served[0]:.1f}", extra(runs, 0)]
    cells += [f"{1e3 * direct[1] / requests:.1f} ms", f"{1e3 * served[1] / requests:.1f} ms", extra(runs, 1)]
    return f"| {' | '.join(cells)} |"


def extra(runs: Sequence[tuple[tuple[float, float], tuple[float, float]]], what: int) -> str:
    """How much more the gateway takes, in percent: the geometric mean over repetitions, and its interval."""
    direct, served = ([math.log(run[side][what]) for run in runs] for side in (0, 1))
    found = paired_bootstrap(served, direct)
    value, low, high = (100 * math.expm1(each) for each in (found.value, found.low, found.high))
    return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"


def work_of(arguments: argparse.Namespace) -> Work:
    """What the command line asks for."""
    return Work(backend=arguments.backend, n=arguments.n, samples=arguments.samples)


async def load(arguments: argparse.Namespace) -> None:
    """Keep clients busy and print what came of it."""
    made = [keys.new_key(name) for name in ("first", "second")]
    with tempfile.TemporaryDirectory() as folder:
        config = GatewayConfig.build(BACKENDS[arguments.backend])
        path, store = Path(folder) / "config.yaml", Path(folder) / "keys.json"
        path.write_text(config.to_yaml())
        keys.save(store, {record.name: record for _, record in made})
        with server(Path(folder), "--config", str(path), "--keys", str(store)) as (port, pid):
            await hammer(port, pid, [key for key, _ in made], arguments)


async def hammer(port: int, pid: int, given: Sequence[str], arguments: argparse.Namespace) -> None:
    """`load` against a running server."""
    ends = time.monotonic() + arguments.seconds
    statuses: Counter[int] = Counter()
    shares: Counter[int] = Counter()
    seconds: list[float] = []
    memory: list[float] = []

    async def one(client_number: int) -> None:
        async with Client(port, work_of(arguments), given[client_number % 2]) as client:
            number = client_number
            while time.monotonic() < ends:
                began = time.monotonic()
                statuses[await client.ask(number)] += 1
                seconds.append(time.monotonic() - began)
                shares[client_number % 2] += 1
                number += arguments.clients

    async def watch() -> None:
        while time.monotonic() < ends:
            memory.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
            await asyncio.sleep(arguments.seconds / 12)

    await asyncio.gather(watch(), *(one(number) for number in range(arguments.clients)))
    cuts = statistics.quantiles(seconds, n=100)
    print(
        f"{arguments.backend} models, {arguments.clients} clients, {arguments.seconds:.0f} s:"
        f" {sum(statuses.values())} requests"
    )
    print(f"statuses: {dict(statuses)}; by key: {shares[0]} and {shares[1]}")
    print(f"latency: median {cuts[49]:.2f} s, 90 % {cuts[89]:.2f} s, 99 % {cuts[98]:.2f} s")
    print(f"memory of the server, MiB, every {arguments.seconds / 12:.0f} s: {', '.join(f'{m:.0f}' for m in memory)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "load"))
    parser.add_argument("--backend", choices=BACKENDS, default="simulated")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 32, 128], help="numbers of clients")
    parser.add_argument("--n", type=int, default=4, help="candidates of a request")
    parser.add_argument("--samples", type=int, default=1, help="judgements of a candidate")
    parser.add_argument("--requests", type=int, default=4, help="requests of each client in a repetition")
    parser.add_argument("--repeat", type=int, default=8)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    asyncio.run(overhead(arguments) if arguments.what == "overhead" else load(arguments))


if __name__ == "__main__":
    main()
