"""Calls that come through: a small server on a real socket answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from tenacity import Future, RetryCallState

from tts_engine.backends.base import CallBroken
from tts_engine.backends.openai import OpenAIBackend
from tts_engine.backends.openai_http import Again, Endpoint, Patience
from tts_engine.errors import BackendError, ConfigError, ContextExceeded, EndpointDown
from tts_engine.types import Completion, Key, Message, Prompt, Request, Role, Sampling

KEY = "sk-very-secret-0123456789"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST = Request(
    role=Role.GENERATE,
    model="m",
    prompt=Prompt(messages=(Message(role="user", content="1 + 1?"),)),
    sampling=Sampling(max_tokens=8),
    key=Key(1),
)
MODELS = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 100}]}


def chunk(text: str, finish: str | None = None) -> bytes:
    entry = {"token": text, "logprob": -0.1, "top_logprobs": []}
    choice = {"delta": {"content": text}, "finish_reason": finish, "logprobs": {"content": [entry]}}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


async def stream(request: web.Request, *parts: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for part in parts:
        await response.write(part)
        await asyncio.sleep(0)
    return response


async def two(request: web.Request) -> web.StreamResponse:
    return await stream(request, b": hello\n\n", chunk("2"), chunk("", "stop"), b"data: [DONE]\n\n")


@contextlib.asynccontextmanager
async def served(answer: Answer, models: Any = MODELS) -> AsyncIterator[str]:  # noqa: ANN401  # JSON
    async def listed(request: web.Request) -> web.Response:
        return models if isinstance(models, web.Response) else web.json_response(models)

    app = web.Application()
    app.add_routes([web.get("/v1/models", listed), web.post("/v1/chat/completions", answer)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def backend(url: str, **options: Any) -> OpenAIBackend:  # noqa: ANN401
    return OpenAIBackend("m", **{"url": url, "pause": 0.01, "stall": 0.3, **options})


async def ask(answer: Answer, **options: Any) -> Completion:  # noqa: ANN401
    async with served(answer) as url, backend(url, **options) as model:
        return await model.complete(REQUEST)


def failing(*answers: Answer) -> Answer:
    """Answers in this order, then well."""
    left = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (left.pop(0) if left else two)(request)

    return answer


def status(number: int, message: str = "no", **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": message}}, status=number, headers=headers)

    return answer


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    await stream(request, chunk("2"), chunk("3"))
    return await hang_up(request)


async def test_what_may_pass_is_tried_again_and_noted() -> None:
    done = await ask(failing(status(503), status(429), status(500), hang, hang_up))
    assert done.text == "2"
    assert done.retries == ("HTTP 503", "HTTP 429", "HTTP 500", "timeout", "broken off")


async def test_it_gives_up_after_so_many_tries() -> None:
    with pytest.raises(BackendError, match=r"answered 503: busy \(given up after 3 tries\)"):
        await ask(failing(*[status(503, "busy")] * 3), tries=3)


async def test_an_answer_that_breaks_off_is_paid_for() -> None:
    async with served(failing(break_off)) as url, backend(url) as model:
        with pytest.raises(CallBroken) as broken:
            await model.complete(REQUEST)
        assert (broken.value.kinds, broken.value.usage.cancelled, broken.value.usage.calls) == (("broken off",), 2, 1)
        assert broken.value.usage.prompt > 0
        assert (await model.complete(REQUEST)).text == "2"
        assert model.counters()["cancelled"] == 2
        assert model.counters()["retries: broken off"] == 1


async def test_an_answer_without_an_end_is_no_answer() -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        return await stream(request, b"data: [DONE]\n\n")

    assert (await ask(failing(short))).retries == ("broken off",)


async def test_events_may_be_cut_anywhere_and_an_error_may_come_among_them() -> None:
    async def pieces(request: web.Request) -> web.StreamResponse:
        whole = chunk("2") + chunk("ü") + chunk("", "stop") + b"data: [DONE]\n\n"
        return await stream(request, *(whole[i : i + 7] for i in range(0, len(whole), 7)))

    async def error(request: web.Request) -> web.StreamResponse:
        return await stream(request, b'data: {"error": {"message": "engine died", "code": 500}}\n\n')

    done = await ask(failing(error, pieces))
    assert (done.text, done.retries) == ("2ü", ("broken off",))


async def test_a_server_that_does_not_stream_serves_too() -> None:
    async def whole(request: web.Request) -> web.StreamResponse:
        choice = {"message": {"content": "2"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})

    done = await ask(whole)
    assert (done.text, done.usage.prompt, done.tokens) == ("2", 9, 1)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (status(401, f"Incorrect API key provided: {KEY}"), ConfigError, r"refuses the key.*\$TEST_KEY"),
        (status(403), ConfigError, "refuses the key"),
        (status(404, "The model `m` does not exist"), ConfigError, "check options.url and the model's name"),
        (status(429, "insufficient_quota: see your plan"), ConfigError, "wants money"),
        (status(307, Location="https://elsewhere.test/v1"), ConfigError, "set options.url to it"),
        (status(400, "This model's maximum context length is 8 tokens"), ContextExceeded, "maximum context length"),
        (status(400, "the request exceeds the available context size"), ContextExceeded, "context size"),
        (status(400, "unknown field min_p"), BackendError, "options.drop"),
        (status(422, "unknown field min_p"), BackendError, "options.drop"),
    ],
)
async def test_refusals_are_told_apart(
    answer: Answer, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    with pytest.raises(kind, match=words) as refused:
        await ask(answer, key_env="TEST_KEY")
    assert type(refused.value) is kind
    assert KEY not in str(refused.value)


async def test_the_key_is_sent_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    sent = []

    async def answer(request: web.Request) -> web.StreamResponse:
        sent.append((request.headers.get("Authorization"), request.headers.get("api-key")))
        return await two(request)

    with caplog.at_level(logging.DEBUG):
        async with served(answer) as url:
            async with backend(url, key_env="TEST_KEY") as bearer:
                await bearer.complete(REQUEST)
            async with backend(url, key_env="TEST_KEY", key_header="api-key") as other:
                await other.complete(REQUEST)
            async with backend(url, key_env="UNSET_KEY") as none:
                await none.complete(REQUEST)
    assert sent == [(f"Bearer {KEY}", None), (None, KEY), (None, None)]
    shown = [caplog.text, repr(bearer), repr(bearer.info), repr(vars(bearer)), repr(bearer.counters())]
    assert not any(KEY in text for text in shown)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "localhost:8000"}, "is no URL"),
        ({"url": f"https://me:{KEY}@host/v1"}, "must hold no key"),
        ({"url": f"https://host/v1?key={KEY}"}, "must hold no key"),
        ({"headers": {"Authorization": KEY}}, "must hold no authorization"),
        ({"api_key": KEY}, "keys come from the environment"),
        ({"tries": 0}, "tries"),
        ({"open_turn": KEY}, "open_turn"),
    ],
)
async def test_nonsense_is_refused_and_never_shown(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        await backend(**{"url": "http://127.0.0.1:9/v1", **options}).__aenter__()
    assert KEY not in str(refused.value)


async def test_without_a_url_there_is_no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match=r"needs options\.url"):
        await OpenAIBackend("m").__aenter__()


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"data": [{"id": "mm", "max_model_len": 9}]}, r"no model 'm'.*\(mm\)"),
        ({"data": [{"id": "m", "owned_by": "who"}]}, "set options.context"),
    ],
)
async def test_a_model_that_cannot_be_used_is_refused_at_the_start(models: dict[str, Any], words: str) -> None:
    async with served(two, models) as url:
        with pytest.raises(ConfigError, match=words):
            await backend(url).__aenter__()


async def test_a_list_of_models_may_be_missing_where_the_context_is_given() -> None:
    async with served(two, web.Response(status=404)) as url:
        with pytest.raises(ConfigError, match=r"usually ends in /v1"):
            await backend(url).__aenter__()
    async with served(two, web.Response(status=404)) as url, backend(url, context=64) as model:
        assert (await model.complete(REQUEST)).text == "2"


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def through(request: web.Request) -> web.StreamResponse:
        asked.append(str(request.url))
        return await two(request)

    async with served(through) as proxy:
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        async with backend("http://model.test/v1") as model:
            await model.complete(REQUEST)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with backend(proxy) as model:
            await model.complete(REQUEST)
    assert [url.startswith("http://model.test/v1/") for url in asked] == [True, False]


async def test_a_server_that_is_down_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"cannot reach http://127\.0\.0\.1:9/v1.*start the server"):
        await backend("http://127.0.0.1:9/v1").__aenter__()


async def test_an_endpoint_that_stays_silent_is_down() -> None:
    with pytest.raises(EndpointDown, match=r"answered nothing for .*--resume"):
        await ask(failing(*[hang_up] * 50), silence=0.05, tries=1000)


async def test_a_server_that_asks_to_wait_for_hours_is_down() -> None:
    with pytest.raises(EndpointDown, match="asks to wait for 7200 s: go on with --resume"):
        await ask(status(429, "tomorrow", **{"Retry-After": "7200"}))


async def test_concurrency_is_limited() -> None:
    running, most = 0, 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.005)
        running -= 1
        return await two(request)

    async with served(answer) as url, backend(url, concurrency=3) as model:
        await asyncio.gather(*(model.complete(REQUEST) for _ in range(20)))
    assert most == 3


async def test_connections_are_used_again() -> None:
    peers = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return await two(request)

    async with served(answer) as url, backend(url, concurrency=2) as model:
        await asyncio.gather(*(model.complete(REQUEST) for _ in range(12)))
    assert len(peers) <= 3


async def test_the_rate_is_limited() -> None:
    async with served(two) as url, backend(url, rate=2) as model:
        await asyncio.gather(model.complete(REQUEST), model.complete(REQUEST))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.complete(REQUEST), 0.2)  # the next minute's


def failed(error: Exception, attempt: int) -> RetryCallState:
    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = attempt
    state.outcome = Future(attempt)
    state.outcome.set_exception(error)
    return state


async def test_pauses_grow_and_heed_what_the_server_asks() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", key_env="UNSET_KEY", patience=Patience(pause=1.0))
    drawn = [endpoint.pause(failed(Again("HTTP 503", "busy"), 4)) for _ in range(200)]
    assert 0 <= min(drawn) < 2 < 6 < max(drawn) <= 8  # uniform below 2 ** 3
    assert endpoint.pause(failed(Again("HTTP 429", "slow down", after=45.0), 1)) >= 45.0
    assert max(endpoint.pause(failed(Again("HTTP 503", "busy"), 50)) for _ in range(100)) <= 30.0


@pytest.mark.parametrize(
    ("value", "low", "high"), [("7", 7, 7), ("Fri, 31 Dec 2100 23:59:59 GMT", 10**6, 10**10), ("soon", 0, 0)]
)
async def test_retry_after_is_a_number_or_a_date(value: str, low: float, high: float) -> None:
    async with (
        served(status(503, "busy", **{"Retry-After": value})) as url,
        Endpoint(url, key_env="UNSET_KEY", patience=Patience()) as endpoint,
    ):
        with pytest.raises(Again) as busy:
            await endpoint.call("/chat/completions", {}, lambda chunk: True)
    assert low <= busy.value.after <= high


async def test_hanging_up_frees_the_server() -> None:
    freed = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = await stream(request, chunk("2"), chunk("+"))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            freed.set()
            raise
        return response

    async with served(slow) as url, backend(url, stall=30.0) as model:
        call = asyncio.create_task(model.complete(REQUEST))
        await asyncio.sleep(0.3)  # the first tokens have arrived
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as stopped:
            await call
        await asyncio.wait_for(freed.wait(), 5)
    assert stopped.value.usage.cancelled == 2  # type: ignore[attr-defined]
    assert stopped.value.usage.calls == 1  # type: ignore[attr-defined]


async def test_whoever_takes_the_answer_may_have_had_enough() -> None:
    taken: list[dict[str, Any]] = []

    def take(piece: dict[str, Any]) -> bool:
        taken.append(piece)
        return len(taken) == 2

    async def endless(request: web.Request) -> web.StreamResponse:
        return await stream(request, *[chunk("é") for _ in range(10**5)])

    async with served(endless) as url, Endpoint(url, key_env="UNSET_KEY", patience=Patience()) as endpoint:
        await endpoint.call("/chat/completions", {}, take)
    assert [piece["choices"][0]["delta"]["content"] for piece in taken] == ["é", "é"]


@pytest.mark.parametrize("tries", [1, 2, 5])
async def test_the_first_try_counts_among_the_tries(tries: int) -> None:
    made = 0

    async def once() -> None:
        nonlocal made
        made += 1
        raise Again("HTTP 503", f"try {made}")

    endpoint = Endpoint("http://127.0.0.1:9/v1", key_env="UNSET_KEY", patience=Patience(tries=tries, pause=0.001))
    with pytest.raises(Again, match=f"try {tries}"):
        await endpoint.persist(once)
    assert made == tries


async def test_silence_is_counted_from_the_first_try() -> None:
    async def once() -> None:
        await asyncio.sleep(0.02)
        raise Again("HTTP 503", "busy")

    patience = Patience(tries=10**6, pause=0.001, silence=0.01)
    endpoint = Endpoint("http://127.0.0.1:9/v1", key_env="UNSET_KEY", patience=patience)
    with pytest.raises(EndpointDown, match="answered nothing"):
        await asyncio.wait_for(endpoint.persist(once), 10)


async def test_what_will_not_pass_is_not_tried_again() -> None:
    async def once() -> None:
        raise BackendError("no")

    endpoint = Endpoint("http://127.0.0.1:9/v1", key_env="UNSET_KEY", patience=Patience())
    with pytest.raises(BackendError, match="no"):
        await endpoint.persist(once)
