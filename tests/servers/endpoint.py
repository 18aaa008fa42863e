"""A small real server of OpenAI's API over our own backends, for tests and benchmarks; it can be made to fail.

    python tests/servers/endpoint.py --models embedded:policy embedded:genprm --owner vllm

It prints `ready PORT` when it serves. A completion is computed first and streamed then, token by token, `--pace`
seconds apart. `--owner` says which server it imitates: that of vLLM names the stop string it met, OpenAI's does not.
With `--backend simulated` it starts in a moment and serves chat only. Faults are drawn from `--seed`: `--fail` answers
429, 500 or 503, `--hang` never answers, `--cut` breaks an answer off after some tokens. GET /stats counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from tts_engine.backends.base import Backend
from tts_engine.backends.factory import make_backend
from tts_engine.errors import BackendError, ContextExceeded
from tts_engine.types import Completion, Finish, Key, Message, Prompt, Request, Role, Sampling, TokenLogprob

JSON = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TELLS_STOP = {"vllm": "stop_reason", "sglang": "matched_stop"}


class Server:
    """The handlers; `counts` is what GET /stats shows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._draw = random.Random(options.seed)
        self._stack = AsyncExitStack()
        self.backends: dict[str, Backend] = {}
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        for name in self._options.models:
            backend = make_backend(self._options.backend, name, json.loads(self._options.backend_options))
            self.backends[name] = await self._stack.enter_async_context(backend)

    async def stop(self, app: web.Application) -> None:
        await self._stack.aclose()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.guard], client_max_size=2**26)
        app.add_routes(
            [
                web.get("/v1/models", self.models),
                web.post("/v1/completions", self.completions),
                web.post("/v1/chat/completions", self.chat),
                web.get("/stats", self.stats),
            ]
        )
        app.on_cleanup.append(self.stop)
        return app

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._options.key and request.headers.get("Authorization") != f"Bearer {self._options.key}":
            given = request.headers.get("Authorization", "none")
            return _error(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}", "invalid_api_key")
        try:
            return await handler(request)
        except (ConnectionError, asyncio.CancelledError):
            self.counts["disconnects"] += 1
            raise

    async def models(self, request: web.Request) -> web.Response:
        cards = [{"id": name, "object": "model", "owned_by": self._options.owner} for name in self.backends]
        if self._options.owner != "openai":
            cards = [card | {"max_model_len": self.backends[str(card["id"])].info.context} for card in cards]
        return web.json_response({"object": "list", "data": cards})

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.counts)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["prompt"]
        pieces = self._pieces(body["model"], prompt) if isinstance(prompt, list) else (prompt,)
        return await self._answer(request, body, Prompt(messages=(), continuation=pieces), chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        turns = body["messages"]
        open_turn = body.get("continue_final_message") or turns[-1].get("prefix")
        begun = (turns.pop()["content"],) if open_turn else ()
        messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)
        return await self._answer(request, body, Prompt(messages=messages, continuation=begun), chat=True)

    def _pieces(self, model: str, ids: Sequence[int]) -> tuple[str, ...]:
        """Token ids as segments of one token each: encoded again they are the same."""
        local: Any = self.backends[model]
        return tuple(local._encoder._tokenizer.decode([token]) for token in ids)

    async def _answer(self, http: web.Request, body: JSON, prompt: Prompt, *, chat: bool) -> web.StreamResponse:
        self.counts["requests"] += 1
        fate = self._draw.random()
        if fate < self._options.fail:
            return self._refuse(fate / self._options.fail)
        if fate < self._options.fail + self._options.hang:
            self.counts["hung"] += 1
            await asyncio.sleep(3600)
        if body["model"] not in self.backends:
            return _error(404, f"The model `{body['model']}` does not exist.", "model_not_found")
        try:
            request = _request(body, prompt, chat)
            completion = await self.backends[body["model"]].complete(request)
        except ContextExceeded as error:
            return _error(400, f"This model's maximum context length is exceeded: {error}", "BadRequestError")
        except BackendError as error:
            return _error(500, str(error), "internal")
        most = None
        if self._draw.random() < self._options.cut:
            most = max(1, completion.tokens // 2)
        return await self._stream(http, body, request, completion, chat, most)

    def _refuse(self, kind: float) -> web.Response:
        status = (429, 500, 503)[int(kind * 3)]
        self.counts[f"HTTP {status}"] += 1
        return _error(status, "made to fail", "injected", {"Retry-After": "0.05"} if status == 429 else {})

    async def _stream(
        self, http: web.Request, body: JSON, request: Request, completion: Completion, chat: bool, most: int | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        visible = completion.text
        for number, token in enumerate(completion.logprobs):
            if number == most:
                self.counts["cut"] += 1
                self.counts["cut tokens"] += number
                assert http.transport is not None
                http.transport.abort()
                return response
            text, visible = visible[: len(token.text)], visible[len(token.text) :]
            await _send(response, {"choices": [_choice(chat, text, _logprobs(body, chat, token, self._options))]})
            if self._options.pace:
                await asyncio.sleep(self._options.pace)
        await _send(response, {"choices": [self._last(chat, completion)]})
        await _send(response, {"choices": [], "usage": _usage(completion)})
        await response.write(b"data: [DONE]\n\n")
        self.counts.update(answered=1, prompt=completion.usage.prompt, completion=completion.tokens)
        return response

    def _last(self, chat: bool, completion: Completion) -> JSON:
        reason = "length" if completion.finish is Finish.LENGTH else "stop"
        told = TELLS_STOP.get(self._options.owner)
        return _choice(chat, "", None) | {"finish_reason": reason} | ({told: completion.stop} if told else {})


def _request(body: JSON, prompt: Prompt, chat: bool) -> Request:
    asked = body.get("top_logprobs") if chat else body.get("logprobs")
    sampling = Sampling(
        temperature=body["temperature"],
        top_p=body["top_p"],
        top_k=max(0, body.get("top_k", 0)),
        max_tokens=body.get("max_tokens") or body["max_completion_tokens"],
        stop=tuple(body.get("stop") or ()),
        logprobs=max(1, int(asked or 0)),
    )
    return Request(role=Role.GENERATE, model=body["model"], prompt=prompt, sampling=sampling, key=Key(body["seed"]))


def _choice(chat: bool, text: str, logprobs: JSON | None) -> JSON:
    said: JSON = {"delta": {"content": text}} if chat else {"text": text}
    return {"index": 0, "finish_reason": None, "logprobs": logprobs, **said}


def _logprobs(body: JSON, chat: bool, token: TokenLogprob, options: argparse.Namespace) -> JSON | None:
    """In the form that the API has them; none where they were not asked for."""
    if options.no_logprobs or not body.get("logprobs"):
        return None
    top = sorted(token.alternatives.items(), key=lambda item: -item[1])
    if not chat:
        return {"tokens": [token.text], "token_logprobs": [token.logprob], "top_logprobs": [dict(top)]}
    entries = [{"token": text, "logprob": value, "bytes": None} for text, value in top]
    return {"content": [{"token": token.text, "logprob": token.logprob, "bytes": None, "top_logprobs": entries}]}


def _usage(completion: Completion) -> JSON:
    usage = completion.usage
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": completion.tokens,
        "total_tokens": usage.prompt + completion.tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind}}, status=status, headers=headers)


async def _send(response: web.StreamResponse, chunk: JSON) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


async def serve(options: argparse.Namespace) -> None:
    server = Server(options)
    await server.start()
    runner = web.AppRunner(server.app(), handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port, reuse_address=True)
    await site.start()
    print("ready", runner.addresses[0][1], flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--backend", default="local")
    parser.add_argument("--backend-options", default="{}", help="JSON")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--owner", default="vllm")
    parser.add_argument("--key", default="")
    parser.add_argument("--no-logprobs", action="store_true")
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--fail", type=float, default=0.0)
    parser.add_argument("--hang", type=float, default=0.0)
    parser.add_argument("--cut", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(serve(parser.parse_args(argv)))


if __name__ == "__main__":
    main(sys.argv[1:])
