"""The MCP server: through the official client, in a process of its own and in this one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

import tts_engine
from tests.adapters.conftest import EXAMPLES, PROBLEM
from tts_engine import Engine
from tts_engine.adapters.mcp import make_server
from tts_engine.backends.arithmetic import Task
from tts_engine.cli.mcp import main
from tts_engine.types import Key

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(tts_engine.__file__).parents[1])}


def test_the_example_solves_and_verifies_over_stdio() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "mcp_client.py")], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    tools, solved, verified = done.stdout.splitlines()
    assert tools == "tools: solve verify"
    assert solved.startswith("answer: 40 score: 0.9")
    assert verified.startswith("first wrong step of the other solution: 1 ")
    assert done.stderr == ""


async def call(simulated: dict[str, Any], tool: str, **arguments: Any) -> Any:  # noqa: ANN401
    async with Engine.from_config(simulated) as engine, Client(make_server(engine)) as client:
        return await client.call_tool(tool, arguments)


async def test_the_tools_say_what_they_take_and_give(simulated: dict[str, Any]) -> None:
    async with Engine.from_config(simulated) as engine, Client(make_server(engine)) as client:
        solve, verify = (await client.list_tools()).tools
    assert solve.input_schema["required"] == ["problem"]
    assert {"answer", "solution", "score", "cost"} <= solve.output_schema["properties"].keys()
    assert verify.input_schema["required"] == ["problem", "steps"]


async def test_a_search_by_its_budget_and_seed(simulated: dict[str, Any]) -> None:
    problem = Task(error_rate=0.2).problem(Key(3), steps=3)
    arguments: dict[str, Any] = {"problem": problem.prompt, "n": 4, "budget": "tokens=2k", "seed": 5}
    first, second = [(await call(simulated, "solve", **arguments)).structured_content for _ in range(2)]
    assert first == second
    assert first["cost"]["tokens"] <= 2000


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("solve", {"problem": PROBLEM, "strategy": "luck"}, "luck"),
        ("solve", {"problem": PROBLEM, "budget": "tokens=many"}, "many"),
        ("solve", {"problem": PROBLEM, "n": 100_000}, "256"),
        ("solve", {"problem": ""}, "problem"),
        ("verify", {"problem": PROBLEM, "steps": []}, "steps"),
        ("verify", {"problem": PROBLEM, "steps": [" "]}, "not empty"),
        ("verify", {"problem": PROBLEM, "steps": ["1+1=2"], "samples": 0}, "samples"),
    ],
)
async def test_bad_input_is_told_to_the_caller(
    simulated: dict[str, Any], tool: str, arguments: dict[str, Any], said: str
) -> None:
    result = await call(simulated, tool, **arguments)
    assert result.is_error
    assert said in result.content[0].text
    assert "Traceback" not in result.content[0].text


def test_a_bad_configuration_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verifier", "oracle"]) == 2
    assert capsys.readouterr().err.startswith("tts-mcp: ")


async def test_a_cancelled_call_stops_its_work(simulated: dict[str, Any]) -> None:
    slow = {"options": {"task": {"error_rate": 0.2}, "clock": "real", "speed": 0.01}}
    config = {**simulated, **{role: simulated[role] | slow for role in ("policy", "verifier")}}
    problem = Task(error_rate=0.2).problem(Key(3), steps=3)
    async with Engine.from_config(config) as engine, Client(make_server(engine)) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.call_tool("solve", {"problem": problem.prompt}), 0.5)
        async with asyncio.timeout(10):
            while engine.ledger.total.wasted == 0:
                await asyncio.sleep(0.05)


async def test_progress_is_told_while_a_call_is_worked_on(simulated: dict[str, Any]) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    slow = {"options": {"task": {"error_rate": 0.2}, "clock": "real", "speed": 2.0}}
    config = {**simulated, **{role: simulated[role] | slow for role in ("policy", "verifier")}}
    problem = Task(error_rate=0.2).problem(Key(3), steps=3).prompt
    async with Engine.from_config(config) as engine, Client(make_server(engine)) as client:
        solved = await client.call_tool("solve", {"problem": problem, "n": 8}, progress_callback=hear)
        spent = [progress for progress, _, _ in told]
        assert len(spent) >= 2
        assert spent == sorted(set(spent))
        assert spent[-1] == solved.structured_content["cost"]["tokens"]
        assert "candidates ended" in str(told[-1][2])
        told.clear()
        arguments = {"problem": problem, "steps": ["1+1=2", "2+2=\\boxed{4}"]}
        verified = await client.call_tool("verify", arguments, progress_callback=hear)
        assert told[-1][0] == verified.structured_content["cost"]["tokens"]
