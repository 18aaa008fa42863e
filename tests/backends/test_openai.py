"""The backend against a real server process with the embedded models: the same texts as in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.servers.running import Running
from tts_engine.backends.base import Backend
from tts_engine.backends.factory import make_backend
from tts_engine.errors import ConfigError, ContextExceeded
from tts_engine.formats import genprm
from tts_engine.formats.policy import STEP_STOP, solve_prompt
from tts_engine.problems import load_problems
from tts_engine.run import Engine
from tts_engine.types import Finish, Key, Prompt, Request, Role, Sampling

PROBLEMS = load_problems("arith-dev")[:6]
GREEDY = Sampling(temperature=0.0, max_tokens=120)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running("--models", "embedded:policy", "embedded:genprm") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local() -> AsyncIterator[Backend]:
    async with make_backend("local", "embedded:policy", {}) as backend:
        yield backend


def endpoint(server: Running, model: str = "embedded:policy", **options: Any) -> Backend:  # noqa: ANN401
    return make_backend("openai", model, {"url": server.url, **options})


def ask(prompt: Prompt, sampling: Sampling, seed: int = 0) -> Request:
    return Request(role=Role.GENERATE, model="embedded:policy", prompt=prompt, sampling=sampling, key=Key(seed))


WAYS: dict[str, dict[str, Any]] = {
    "completions by token ids": {"tokenizer": "embedded:policy"},
    "completions by text": {"tokenizer": "embedded:policy", "dialect": "plain"},
    "chat": {},
    "chat with a prefix message": {"open_turn": "prefix", "dialect": "plain"},
    "stop strings found here": {"tokenizer": "embedded:policy", "stops": "client"},
}


@pytest.mark.asyncio(loop_scope="module")
async def test_greedy_texts_are_those_of_the_model_in_this_process(server: Running, local: Backend) -> None:
    """Every way to send a prompt, whole solutions and single steps: same text, same end, same logprobs."""
    samplings = (GREEDY, replace(GREEDY, stop=(STEP_STOP,)), replace(GREEDY, stop=("=",), include_stop=True))
    requests = [ask(solve_prompt(p.prompt), sampling) for p in PROBLEMS for sampling in samplings]
    requests.append(ask(solve_prompt(PROBLEMS[0].prompt, ("Step 1: now 12+28=40.",)), samplings[1]))
    expected = await asyncio.gather(*map(local.complete, requests))
    for way, options in WAYS.items():
        async with endpoint(server, **options) as backend:
            found = await asyncio.gather(*map(backend.complete, requests))
        for ours, theirs in zip(expected, found, strict=True):
            assert (theirs.text, theirs.finish, theirs.stop) == (ours.text, ours.finish, ours.stop), way
            assert theirs.mean_logprob == pytest.approx(ours.mean_logprob, abs=1e-6), way
            assert (theirs.tokens, theirs.usage.completion) == (ours.tokens, ours.usage.completion), way
            if way != "chat with a prefix message":  # hung up on, the server does not say, and nobody knows
                assert theirs.usage.prompt == ours.usage.prompt, way


@pytest.mark.asyncio(loop_scope="module")
async def test_an_equal_key_is_an_equal_draw(server: Running) -> None:
    sampling = replace(GREEDY, temperature=2.0, max_tokens=40)
    async with endpoint(server) as backend:
        prompt = solve_prompt(PROBLEMS[0].prompt)
        drawn = await asyncio.gather(*(backend.complete(ask(prompt, sampling, seed)) for seed in (1, 1, *range(2, 12))))
    assert drawn[0].text == drawn[1].text
    assert len({completion.text for completion in drawn}) > 1


@pytest.mark.asyncio(loop_scope="module")
async def test_the_judgement_is_read_from_logprobs(server: Running, local: Backend) -> None:
    """The reward at Yes/No through the endpoint is that of the model in this process."""
    sampling = Sampling(temperature=0.0, max_tokens=20, watch=genprm.JUDGEMENTS, stop=(genprm.OUTPUT_END,))
    messages = genprm.conversation(PROBLEMS[0].prompt, ("Step 1: now 12+28=40.",), ())
    prompt = genprm.turn_prompt(messages, genprm.OUTPUT, generation_prompt=True)
    request = ask(prompt, replace(sampling, include_stop=True))
    async with make_backend("local", "embedded:genprm", {}) as ours:
        expected = genprm.reward((await ours.complete(request)).logprobs)
    for options in ({"tokenizer": "embedded:genprm"}, {}):
        async with endpoint(server, "embedded:genprm", **options) as theirs:
            found = genprm.reward((await theirs.complete(request)).logprobs)
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.asyncio(loop_scope="module")
async def test_tokens_are_counted_exactly_or_bounded(server: Running, local: Backend) -> None:
    prompts = [solve_prompt(problem.prompt, ("Step 1: ten.",)) for problem in PROBLEMS]
    async with endpoint(server, tokenizer="embedded:policy") as exact, endpoint(server) as bounded:
        assert [exact.count_tokens(prompt) for prompt in prompts] == [local.count_tokens(prompt) for prompt in prompts]
        assert all(bounded.count_tokens(prompt) >= local.count_tokens(prompt) for prompt in prompts)
        assert exact.info.shape == local.info.shape  # so FLOPs can be counted too
        assert exact.info.context == bounded.info.context == local.info.context


@pytest.mark.asyncio(loop_scope="module")
async def test_the_context_is_respected(server: Running) -> None:
    long = solve_prompt("pens " * 2000)
    async with endpoint(server, tokenizer="embedded:policy") as exact, endpoint(server) as bounded:
        for backend in (exact, bounded):
            with pytest.raises(ContextExceeded):
                await backend.complete(ask(long, GREEDY))
        most = exact.info.context - exact.count_tokens(solve_prompt(""))
        room = replace(GREEDY, max_tokens=100_000)
        completion = await exact.complete(ask(solve_prompt("7" * (most - 30)), room))
        assert completion.finish in (Finish.EOS, Finish.LENGTH)
        assert completion.usage.prompt + completion.tokens <= exact.info.context


@pytest.mark.asyncio(loop_scope="module")
async def test_genprm_needs_the_assistants_tag_in_chat(server: Running) -> None:
    config = {
        "policy": {"backend": "openai", "model": "embedded:policy", "options": {"url": server.url}},
        "verifier": {"backend": "openai", "model": "embedded:genprm", "options": {"url": server.url}},
        "strategy": {"name": "best-of-n", "n": 2},
    }
    async with Engine.from_config(config) as engine:
        with pytest.raises(ConfigError, match="generation_prompt to true"):
            await engine.solve(PROBLEMS[0])


@pytest.mark.asyncio(loop_scope="module")
async def test_the_same_search_finds_the_same_answers(server: Running) -> None:
    """Greedy beams of one over both kinds of backend: identical solutions and verdicts."""
    local = {
        "policy": {"model": "embedded:policy", "temperature": 0.0},
        "verifier": {"model": "embedded:genprm", "samples": 1, "temperature": 0.0},
        "strategy": {"name": "beam", "n": 1, "width": 1},
    }
    remote = {
        **local,
        "policy": local["policy"]
        | {"backend": "openai", "options": {"url": server.url, "tokenizer": "embedded:policy"}},  # type: ignore[operator]
        "verifier": local["verifier"]  # type: ignore[operator]
        | {
            "backend": "openai",
            "options": {"url": server.url, "tokenizer": "embedded:genprm"},
            "params": {"generation_prompt": True, "analysis_tokens": 48, "check_tokens": 48},
            "prices": {"prompt": 1.0, "cached": 0.5, "completion": 2.0},
        },
    }
    found = []
    for config in (local, remote):
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(Engine.from_config(config))
            found.append({outcome.problem.id: outcome async for outcome in engine.run(PROBLEMS[:3])})
    for name, ours in found[0].items():
        theirs = found[1][name]
        assert [j.candidate.text for j in theirs.candidates] == [j.candidate.text for j in ours.candidates]
        values = [[j.verdict.value if j.verdict else None for j in outcome.candidates] for outcome in (ours, theirs)]
        assert values[1] == pytest.approx(values[0], abs=1e-3)
        assert theirs.total.calls == ours.total.calls
        assert theirs.total.completion == ours.total.completion
        assert theirs.total.flops > 0
        judged = theirs.usage[Role.VERIFY]
        uncached = judged.prompt - judged.cached
        assert judged.dollars == pytest.approx((uncached + 0.5 * judged.cached + 2.0 * judged.completion) / 1e6)
