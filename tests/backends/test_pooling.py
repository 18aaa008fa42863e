"""Reward models behind vLLM's own API: a small HTTP server that answers as `/pooling` and `/classify` do."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tts_engine.backends.factory import make_backend
from tts_engine.backends.pooling import row_of, verdict
from tts_engine.calls import Calls, Model
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.errors import BackendError, ConfigError, ContextExceeded
from tts_engine.formats.prm import step_prompt
from tts_engine.journal import Journal
from tts_engine.types import Key, Problem, Request, Role, Sampling
from tts_engine.verifiers import DiscriminativePRM, OutcomeReward

PROBLEM = Problem(id="p", prompt="How many?")
STEPS = ("Step 1: now 12+30=42.", "Step 2: half of it is 21.", "Answer: 21")


def score(ids: list[int]) -> float:
    """What the made-up reward model says of a prefix: depends on all of it."""
    return 0.05 + 0.9 * (sum(token * (place + 1) for place, token in enumerate(ids)) % 97) / 97


class Server:
    """Answers calls; `failures` of them first with 503. `rows`: one a token, or one a token equal to the last one."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.rows = "tokens"
        self.failures = 0
        self.url = ""

    async def pooling(self, request: web.Request) -> web.Response:
        ids = await self._ids(request)
        places = [i for i in range(len(ids)) if self.rows == "tokens" or ids[i] == ids[-1]]
        data = [[1 - score(ids[: i + 1]), score(ids[: i + 1])] for i in places]
        return self._reply({"object": "pooling", "data": data}, ids)

    async def classify(self, request: web.Request) -> web.Response:
        ids = await self._ids(request)
        return self._reply({"label": "LABEL_1", "probs": [1 - score(ids), score(ids)], "num_classes": 2}, ids)

    async def _ids(self, request: web.Request) -> list[int]:
        body = await request.json()
        assert body["model"] == "reward"
        if self.failures:
            self.failures -= 1
            raise web.HTTPServiceUnavailable(text="loading")
        self.asked.append(body["input"])
        return list(body["input"])

    def _reply(self, data: dict[str, Any], ids: list[int]) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"index": 0, **data}], "usage": {"prompt_tokens": len(ids)}}
        )


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.add_routes([web.post("/pooling", made.pooling), web.post("/classify", made.classify)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
def opened(server: Server, llama: Path) -> Callable[..., Any]:
    """A backend for the server, with the tokenizer of a tiny model."""

    def make(**options: Any) -> Any:  # noqa: ANN401
        given = {"url": server.url, "tokenizer": str(llama), "served": "reward", **options}
        return make_backend("pooling", "prm", given)

    return make


def desk(backend: Any) -> Calls:  # noqa: ANN401
    journal = Journal.open(None, {}, False)
    return Calls(
        models={"prm": Model(backend=backend, cost=CostModel())},
        journal=journal,
        scope=Scope.root(Budget()),
        problem="p",
    )


@pytest.mark.parametrize("rows", ["tokens", "steps"])
async def test_a_solution_is_one_call_and_each_step_gets_its_row(
    server: Server, opened: Callable[..., Any], rows: str
) -> None:
    server.rows = rows
    async with opened() as backend:
        calls = desk(backend)
        found = await DiscriminativePRM(model="prm", layout="lines").open(PROBLEM, Key(0))(STEPS, 4, calls)
        expected = [score(backend._tokens.ids(step_prompt("How many?", STEPS[:n], "lines"))) for n in (1, 2, 3)]
    assert found.step_scores == pytest.approx(expected)
    assert len(server.asked) == 1
    usage = calls.scope.total
    assert usage.prompt - usage.cached == len(server.asked[0])


async def test_the_end_of_a_solution_is_classified(server: Server, opened: Callable[..., Any]) -> None:
    async with opened(api="classify") as backend:
        found = await OutcomeReward(model="prm", layout="lines").open(PROBLEM, Key(0))(STEPS, 1, desk(backend))
    assert found.value == pytest.approx(score(server.asked[0]))


async def test_a_call_that_fails_in_passing_is_made_again(server: Server, opened: Callable[..., Any]) -> None:
    server.failures = 2
    async with opened() as backend:
        backend._endpoint._patience = type(backend._endpoint._patience)(pause=0.01)
        found = await DiscriminativePRM(model="prm").open(PROBLEM, Key(0))(STEPS[:1], 1, desk(backend))
    assert found.valid
    assert len(server.asked) == 1


async def test_bad_answers_and_options_are_named(server: Server, opened: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"options\.api must be"):
        opened(api="embed")
    with pytest.raises(ConfigError, match="unexpected keyword argument 'ulr'"):
        opened(ulr="x")
    async with opened(served="reward", context=3) as backend:
        request = Request(
            role=Role.VERIFY, model="prm", prompt=step_prompt("Q?", STEPS), sampling=Sampling(), key=Key(0)
        )
        with pytest.raises(ContextExceeded, match="takes 3"):
            await backend.complete(request)
    with pytest.raises(BackendError, match=r"not the one of verifier\.params\.layout"):
        row_of([[0.5]] * 3, [1, 2, 1, 2, 9], [1, 2])
    with pytest.raises(BackendError, match="5 classes"):
        verdict([0.2] * 5, "probabilities")


def test_logits_and_probabilities_say_the_same() -> None:
    for odds in (-800.0, -1.5, 0.0, 3.0, 800.0):
        good, bad = verdict([0.0, odds], "logits")
        assert verdict([odds], "logits") == (good, bad)
        assert good - bad == pytest.approx(odds)
    assert verdict([0.2, 0.8], "probabilities") == pytest.approx((math.log(0.8), math.log(0.2)))
