"""Any server that speaks OpenAI's API: vLLM, SGLang, llama.cpp, tts-serve, clouds (docs/endpoints.md).

Answers are streamed, so that a call can be cut off at a stop string, cancelled by hanging up, and still be counted.
Repeatable only as far as the server repeats itself for a seed.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from tts_engine.backends.base import CallBroken, CallCancelled, ModelInfo, counted
from tts_engine.backends.openai_http import Again, Endpoint
from tts_engine.backends.openai_options import Options, read_options
from tts_engine.backends.openai_reply import Reply
from tts_engine.backends.openai_tokens import Counter, Tokens
from tts_engine.backends.openai_wire import DIALECTS, Body, Wire, chat_body, completions_body, dialect_of
from tts_engine.errors import BackendError, ConfigError, ContextExceeded
from tts_engine.types import Completion, Prompt, Request, Usage

PATHS = {"completions": "/completions", "chat": "/chat/completions"}
CONTEXT_KEYS = ("max_model_len", "context_length", "context_window", "n_ctx")
"""Where servers say how long a context is: vLLM and SGLang, OpenRouter, Groq, llama.cpp."""


class OpenAIBackend:
    """One model of one server; see `tts_engine.backends.base.Backend`.

    Args:
        name: name of the model in the engine.
        options: those of `Options`.

    Raises:
        ConfigError: an option makes no sense. On entering also: the server cannot be reached, does not have the model,
            refuses the key, or does not say how long its context is.
    """

    def __init__(self, name: str, **options: Any) -> None:  # noqa: ANN401  # checked by `Options`
        self._name = name
        self._options: Options = read_options(options)
        self._endpoint: Endpoint | None = None
        self._info: ModelInfo | None = None
        self._tokens: Tokens | None = None
        self._counter = Counter(None)
        self._usage = Usage()
        self._retries: dict[str, int] = {}

    @property
    def info(self) -> ModelInfo:
        """What the server says of the model. The fingerprint is made of its name only: weights behind a name that
        change are not noticed."""
        if self._info is None:
            raise BackendError(f"the backend of {self._name} is not open: use it inside `async with`")
        return self._info

    async def __aenter__(self) -> OpenAIBackend:
        if self._options.tokenizer is not None:
            self._tokens = await asyncio.to_thread(Tokens, self._options.tokenizer)
            self._counter = Counter(self._tokens)
        async with AsyncExitStack() as stack:  # closed again if the server turns out not to serve
            endpoint = await stack.enter_async_context(self._options.endpoint())
            card = await self._find_model(endpoint)
            self._wire = self._make_wire(card)
            self._info = self._make_info(card)
            self._endpoint, self._stack = endpoint, stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._endpoint = None
        await self._stack.aclose()

    async def complete(self, request: Request) -> Completion:
        """Answer a request; see `Backend.complete`."""
        endpoint, body = self._check(request), self._body(request)
        kinds: list[str] = []
        reply, sent = Reply(self._wire, request), time.perf_counter()

        async def once() -> None:
            nonlocal reply, sent
            reply, sent = Reply(self._wire, request), time.perf_counter()
            await self._try(endpoint, body, reply, kinds)

        try:
            await endpoint.persist(once)
        except Again as error:
            raise BackendError(f"{error} (given up after {len(kinds)} tries)") from error
        except asyncio.CancelledError:
            raise CallCancelled(self._lost(request, reply, sent)) from None
        except CallBroken as broken:
            raise CallBroken(str(broken), tuple(kinds), self._lost(request, reply, sent)) from broken
        completion = reply.completion(self._counter.guess(request.prompt), time.perf_counter() - sent)
        self._counter.learn(request.prompt, completion.usage.prompt)
        self._usage += completion.usage
        return replace(completion, retries=tuple(kinds)) if kinds else completion

    def count_tokens(self, prompt: Prompt) -> int:
        """Exact with a tokenizer; else an upper bound: no token is shorter than a byte."""
        return self._counter.bound(prompt)

    def counters(self) -> dict[str, float]:
        """What this backend did so far: the usages of all calls added up, and failed tries by kind."""
        retries = {f"retries: {kind}": number for kind, number in sorted(self._retries.items())}
        return counted(self._usage) | retries

    async def _try(self, endpoint: Endpoint, body: Body, reply: Reply, kinds: list[str]) -> None:
        """One try; what fails is counted.

        Raises:
            Again: nothing had arrived; it may be tried again at no cost.
            CallBroken: it broke off midway.
        """
        try:
            await endpoint.call(PATHS[self._wire.api], body, reply.add)
            if not reply.complete:
                raise Again("broken off", f"an answer of {endpoint.url} broke off before its end")
        except Again as error:
            kinds.append(error.kind)
            self._retries[error.kind] = self._retries.get(error.kind, 0) + 1
            if reply.seen:
                raise CallBroken(str(error), (), Usage()) from error
            raise

    def _lost(self, request: Request, reply: Reply, sent: float) -> Usage:
        """What a call had cost that was cancelled or broke off; the prompt counts once something had arrived."""
        if not reply.seen:
            return Usage()
        usage = reply.usage(self._counter.guess(request.prompt), 0, time.perf_counter() - sent)
        self._usage += usage
        return usage

    def _check(self, request: Request) -> Endpoint:
        if self._endpoint is None:
            raise BackendError(f"the backend of {self._name} is not open: use it inside `async with`")
        if request.sampling.max_tokens < 1:
            raise BackendError(f"max_tokens is {request.sampling.max_tokens}: ask for at least one token")
        tokens = self._counter.guess(request.prompt) if self._tokens else 0  # else the server says
        if tokens >= self.info.context:
            raise ContextExceeded(
                f"the prompt has {tokens} tokens; {self._name} takes {self.info.context} of prompt and completion"
            )
        return self._endpoint

    def _body(self, request: Request) -> Body:
        """The JSON of the call; servers refuse to be asked for more tokens than their context has room for."""
        room = max(1, self.info.context - self._counter.guess(request.prompt))
        if room < request.sampling.max_tokens:
            request = replace(request, sampling=replace(request.sampling, max_tokens=room))
        if self._wire.api == "chat" or self._tokens is None:
            body = chat_body(self._wire, request)
        else:
            make = self._tokens.ids if self._wire.dialect.token_ids else self._tokens.text
            body = completions_body(self._wire, request, make(request.prompt))
        return body | {"priority": request.priority} if self._options.priorities else body

    async def _find_model(self, endpoint: Endpoint) -> dict[str, Any]:
        """The server's own description of the model; empty where it keeps no list of models."""
        try:
            listed = await endpoint.get("/models")
        except Again as error:
            raise ConfigError(f"{error}: start the server, or correct options.url") from None
        if listed is None and self._options.context is None:
            raise ConfigError(
                f"{endpoint.url} has no list of models: correct options.url (it usually ends in /v1), or set"
                " options.context if this server keeps none"
            )
        models = {str(card["id"]): card for card in (listed or {}).get("data") or ()}
        wanted = self._options.served or self._name
        if models and wanted not in models:
            known = difflib.get_close_matches(wanted, models, n=1) or list(models)[:5]
            raise ConfigError(
                f"{endpoint.url} has no model {wanted!r}: name it as the server does ({', '.join(known)}), in"
                " options.served or as the model"
            )
        return dict(models.get(wanted, {}))

    def _make_wire(self, card: dict[str, Any]) -> Wire:
        options = self._options
        dialect = DIALECTS[dialect_of(str(card.get("owned_by", ""))) if options.dialect == "auto" else options.dialect]
        api = options.api
        if api == "auto":
            api = "completions" if self._tokens else "chat"
        if api == "completions" and self._tokens is None:
            raise ConfigError(
                f"completions of {self._name} need its chat template: set options.tokenizer, or options.api to chat"
            )
        return Wire(
            name=self._name,
            served=options.served or self._name,
            api=api,
            dialect=dialect,
            open_turn=options.open_turn or dialect.open_turn,
            server_stops=dialect.tells_stop if options.stops == "auto" else options.stops == "server",
            logprobs=options.logprobs,
            extra=options.extra,
            drop=frozenset(options.drop),
        )

    def _make_info(self, card: dict[str, Any]) -> ModelInfo:
        places = (card, card.get("meta") or {})
        found = (int(place[key]) for place in places for key in CONTEXT_KEYS if place.get(key))
        context = self._options.context or next(found, None)
        if context is None:
            raise ConfigError(f"the server does not say how long a context {self._name} has: set options.context")
        identity = f"{self._wire.served}\x1f{card.get('root', '')}"
        return ModelInfo(
            name=self._name,
            context=context,
            shape=self._tokens.shape if self._tokens else None,
            fingerprint=f"endpoint-{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}",
        )
