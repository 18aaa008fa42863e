"""An engine in a thread of its own, used from synchronous code and from coroutines."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from tests.adapters.conftest import PROBLEM, RIGHT, WRONG
from tts_engine.adapters.hosted import Hosted
from tts_engine.adapters.told import solved, verified
from tts_engine.backends.arithmetic import Task
from tts_engine.errors import ConfigError, UsageError
from tts_engine.types import Key, Role


def test_it_solves_and_judges_for_synchronous_code(hosted: Hosted) -> None:
    told = solved(hosted.solve(PROBLEM, strategy="best-of-n", n=4, verifier_samples=1))
    assert told.answer == "40"
    assert told.solution.endswith("\\boxed{40}.")
    assert sum(told.votes.values()) == 4
    assert told.cost.tokens > 0
    assert hosted.judge(PROBLEM, RIGHT, 2).value == pytest.approx(1, abs=0.1)
    verdict = verified(hosted.judge(PROBLEM, WRONG, 2))
    assert (verdict.first_error, len(verdict.rationales)) == (1, 2)


def test_threads_and_coroutines_share_it(hosted: Hosted) -> None:
    async def together() -> list[float | None]:
        verdicts = await asyncio.gather(*(hosted.ajudge(PROBLEM, steps, 1) for steps in (RIGHT, WRONG)))
        return [verdict.value for verdict in verdicts]

    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(hosted.solve, PROBLEM, strategy="self-consistency", n=4, seed=i) for i in range(2)]
        right, wrong = asyncio.run(together())
    assert right is not None
    assert wrong is not None
    assert right > 0.5 > wrong
    assert all(answer.result().usage[Role.GENERATE].calls for answer in answers)


def test_bad_input_is_one_sentence(hosted: Hosted) -> None:
    with pytest.raises(UsageError, match="as steps that are not empty"):
        hosted.judge(PROBLEM, [])
    with pytest.raises(UsageError, match="at least 1"):
        hosted.judge(PROBLEM, RIGHT, 0)
    with pytest.raises(ConfigError, match="unknown strategy"):
        hosted.solve(PROBLEM, strategy="luck")
    with pytest.raises(ConfigError, match="polizy"):
        Hosted({"polizy": {}}).solve(PROBLEM)


def test_without_a_verifier_nothing_is_judged(simulated: dict[str, Any]) -> None:
    config = {**simulated, "verifier": {"name": "none"}, "strategy": {"name": "self-consistency"}}
    with Hosted(config) as engine, pytest.raises(UsageError, match="set verifier"):
        engine.judge(PROBLEM, RIGHT)


def test_closing_stops_what_it_does_and_it_can_be_used_again(simulated: dict[str, Any]) -> None:
    slow = {"task": {"error_rate": 0.2}, "clock": "real", "speed": 0.01}
    config = {**simulated, **{role: simulated[role] | {"options": slow} for role in ("policy", "verifier")}}
    engine, problem = Hosted(config), Task(error_rate=0.2).problem(Key(1), steps=3)
    ended: list[BaseException] = []

    def work() -> None:
        try:
            engine.solve(problem)
        except (CancelledError, asyncio.CancelledError) as error:
            ended.append(error)

    with engine:
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
    thread.join(10)
    assert len(ended) == 1
    with engine:
        assert engine._engine() is not None
