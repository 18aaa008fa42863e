"""Real server processes, over the embedded models and over simulated ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import tts_engine
from tts_engine.backends.arithmetic import Task
from tts_engine.types import Key

PROBLEM = "Ann starts with 12 pens. Ann buys 4 boxes of 7 pens. How many pens has Ann in the end?"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(tts_engine.__file__).parents[1])}


@dataclass(slots=True)
class Running:
    """A gateway in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def metric(self, name: str, **headers: str) -> float:
        """The sum of a metric over its labels."""
        lines = httpx.get(f"{self.url}/metrics", headers=headers).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def stop(self) -> int:
        """Stop it as an operator would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        with self.process:
            return self.process.wait(20)

    def entries(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


Start = Callable[..., Running]


def begin(folder: Path, *arguments: str) -> Running:
    log = folder / "log.jsonl"
    command = [sys.executable, "-m", "tts_engine.cli.serve", "--port", "0", *arguments]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    line = process.stdout.readline()
    if "listening on" not in line:
        with process:
            process.wait(10)
        pytest.fail(f"the gateway did not start: {line}{log.read_text()}")
    return Running(url=line.split("listening on ")[1].split()[0], process=process, log=log)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The default: one command, the embedded models, this machine only."""
    server = begin(tmp_path_factory.mktemp("embedded"), "--set", "serve.verifiers=[prm]")
    yield server
    assert server.stop() == 0
    assert not [entry for entry in server.entries() if entry["level"] == "error"]


def simulated_config(folder: Path, *, speed: float | None = None, **serve: Any) -> Path:  # noqa: ANN401
    """A configuration with simulated models, in real time where a speed is given; `serve` is its section."""
    options: dict[str, Any] = {"task": {"error_rate": 0.2}}
    if speed is not None:
        options |= {"clock": "real", "speed": speed}
    backend = {"backend": "simulated", "options": options}
    config = {
        "policy": backend | {"model": "policy"},
        "verifier": backend | {"model": "verifier", "samples": 2},
        "strategy": {"name": "best-of-n", "n": 4},
        "serve": serve,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts gateways over simulated models; stops them at the end."""
    servers: list[Running] = []

    def make(*arguments: str, speed: float | None = None, **serve: Any) -> Running:  # noqa: ANN401
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        servers.append(begin(folder, "--config", str(simulated_config(folder, speed=speed, **serve)), *arguments))
        return servers[-1]

    yield make
    for server in servers:
        if server.process.poll() is None:
            server.stop()


def easy(steps: int = 3, number: int = 0) -> str:
    """A problem of the simulated task."""
    return Task(error_rate=0.2).problem(Key(number), steps=steps).prompt


def ask(text: str, model: str = "best-of-n/policy", **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    """The body of a chat completion."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}
