"""The examples for Inspect, DSPy and LangChain run over the embedded models (.ci/agents installs the frameworks)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.conftest import EXAMPLES
from tests.serve.conftest import ENVIRONMENT, Running, begin


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = begin(tmp_path_factory.mktemp("gateway"))
    yield server
    assert server.stop() == 0


def run(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints."""
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DSPY_CACHEDIR": str(folder / "cache")}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    environment = os.environ | ENVIRONMENT | quiet
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_inspect_solves_and_scores(tmp_path: Path) -> None:
    said = run("inspect_task", tmp_path)
    assert "equal_answer {'accuracy': 1.0" in said
    assert "verifier {'mean': 1.0" in said
    assert list((tmp_path / "logs").glob("*.eval"))


def test_dspy_takes_the_best_by_the_reward(gateway: Running, tmp_path: Path) -> None:
    lines = run("dspy_reward", tmp_path, f"{gateway.url}/v1").splitlines()
    one, best = (float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(("one attempt", "best of")))
    assert 0 <= one <= 1
    assert best > 0.5
    assert lines[-1].startswith("Step ")


def test_langchain_through_the_endpoint(gateway: Running, tmp_path: Path) -> None:
    said = run("langchain_endpoint", tmp_path, f"{gateway.url}/v1")
    assert "\\boxed{40}" in said
    assert int(said.rsplit(" ", 1)[1]) > 0
