"""A reward model behind vLLM's `/pooling` or `/classify` (its own API, beside OpenAI's): rows of classes for tokens.

A request is answered by one made-up token whose "+" and "-" carry the verdict on the prompt's last token, as the local
backend does for such models (local_heads.py). Requests that are sent together and begin alike, the prefixes of one
solution, are one HTTP call: the longest.

    {"model", "input": token ids}
    /pooling   {"data": [{"data": [[0.1, 0.9], ...]}], "usage": {"prompt_tokens": 57}}    a row a token, or a row a step
    /classify  {"data": [{"probs": [0.1, 0.9]}], ...}                                      of the last token only
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Sequence
from typing import Any, Literal

from tts_engine.backends.base import ModelInfo
from tts_engine.backends.openai_http import Again, Endpoint, Patience
from tts_engine.backends.openai_tokens import Tokens
from tts_engine.errors import BackendError, ConfigError, ContextExceeded
from tts_engine.formats.prm import BAD, GOOD
from tts_engine.types import Completion, Finish, Prompt, Request, TokenLogprob, Usage

Outputs = Literal["probabilities", "logits"]
Rows = list[list[float]]
TINY = 1e-12


class PoolingBackend:
    """One reward model of one server; see `tts_engine.backends.base.Backend`.

    Args:
        name: name of the model in the engine.
        url: base of the server, such as http://localhost:8000 (without /v1).
        tokenizer: folder, `embedded:NAME` or hub name of the model's tokenizer and chat template.
        served: name of the model there; the same by default.
        api: `pooling` or `classify`.
        outputs: what the server sends: `probabilities`, or `logits` of the classes.
        context: most tokens of a prompt.
        key_env: environment variable with the key; unset: no key is sent.
        concurrency: calls in flight at once; `timeout`: seconds of one; `tries`: of a call that fails in passing.

    Raises:
        ConfigError: an option makes no sense. DataError (on entering): there is no such tokenizer.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        tokenizer: str,
        served: str | None = None,
        api: Literal["pooling", "classify"] = "pooling",
        outputs: Outputs = "probabilities",
        context: int = 4096,
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 64,
        timeout: float = 300.0,
        tries: int = 8,
    ) -> None:
        if api not in ("pooling", "classify") or outputs not in ("probabilities", "logits"):
            raise ConfigError("options.api must be pooling or classify, options.outputs probabilities or logits")
        if min(context, concurrency, tries) < 1 or timeout <= 0:
            raise ConfigError("options context, concurrency, tries and timeout must be positive")
        patience = Patience(timeout=timeout, stall=timeout, tries=tries)
        self._endpoint = Endpoint(url, key_env=key_env, concurrency=concurrency, patience=patience)
        self._name, self._served, self._api, self._outputs = name, served or name, api, outputs
        self._context, self._tokenizer = context, tokenizer
        self._tokens: Tokens | None = None
        self._waiting: list[tuple[tuple[int, ...], asyncio.Future[tuple[list[float], Usage]]]] = []
        self._running: set[asyncio.Task[None]] = set()

    @property
    def info(self) -> ModelInfo:
        """Sizes from the tokenizer's folder, where it has a config.json. The fingerprint is made of the name only."""
        digest = hashlib.blake2b(f"{self._served}\x1f{self._api}\x1f{self._outputs}".encode(), digest_size=8)
        shape = self._tokens.shape if self._tokens else None
        name = f"endpoint-{digest.hexdigest()}"
        return ModelInfo(name=self._name, context=self._context, shape=shape, fingerprint=name)

    async def __aenter__(self) -> PoolingBackend:
        self._tokens = await asyncio.to_thread(Tokens, self._tokenizer)
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._tokens = None
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._endpoint.__aexit__()

    async def complete(self, request: Request) -> Completion:
        """The verdict on the last token of the prompt; see `Backend.complete`."""
        ids = tuple(self._encoded(request.prompt))
        if len(ids) >= self._context:
            raise ContextExceeded(f"the prompt has {len(ids)} tokens; {self._name} takes {self._context}")
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        answer: asyncio.Future[tuple[list[float], Usage]] = asyncio.get_running_loop().create_future()
        self._waiting.append((ids, answer))
        row, usage = await answer
        good, bad = verdict(row, self._outputs)
        token = TokenLogprob(
            text=GOOD if good > bad else BAD, logprob=max(good, bad), alternatives={GOOD: good, BAD: bad}
        )
        return Completion(text=token.text, tokens=0, finish=Finish.LENGTH, logprobs=(token,), usage=usage)

    def count_tokens(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt, exactly."""
        return len(self._encoded(prompt))

    def _encoded(self, prompt: Prompt) -> list[int]:
        if self._tokens is None:
            raise BackendError(f"the backend of {self._name} is not open: use it inside `async with`")
        return self._tokens.ids(prompt)

    def _send(self) -> None:
        """One call for each of the waiting prompts that is no prefix of another, the prefixes with it."""
        waiting, self._waiting = sorted(self._waiting, key=lambda one: one[0]), []
        while waiting:
            longest = waiting[-1][0]  # in this order a text comes right after its prefixes
            group = [waiting.pop()]
            while self._api == "pooling" and waiting and waiting[-1][0] == longest[: len(waiting[-1][0])]:
                group.append(waiting.pop())
            task = asyncio.get_running_loop().create_task(self._answer(longest, group))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _answer(
        self, ids: tuple[int, ...], group: list[tuple[tuple[int, ...], asyncio.Future[tuple[list[float], Usage]]]]
    ) -> None:
        started = time.perf_counter()
        try:
            rows = await self._call(ids)
            found = [row_of(rows, ids, prefix) for prefix, _ in group]
        except BaseException as error:
            for _, answer in group:
                if not answer.done():
                    answer.set_exception(error if isinstance(error, Exception) else BackendError("the backend closed"))
            return
        seconds = time.perf_counter() - started
        for number, ((prefix, answer), row) in enumerate(zip(group, found, strict=True)):
            usage = Usage(prompt=len(prefix), cached=len(prefix) if number else 0, calls=1, seconds=seconds)
            if not answer.done():
                answer.set_result((row, usage))

    async def _call(self, ids: Sequence[int]) -> Rows:
        body = {"model": self._served, "input": list(ids)}
        said: list[dict[str, Any]] = []

        async def once() -> None:
            said.clear()
            await self._endpoint.call(f"/{self._api}", body, said.append)

        try:
            await self._endpoint.persist(once)
        except Again as error:
            raise BackendError(str(error)) from error
        return read_rows(said[0] if said else {}, self._api)


def read_rows(said: dict[str, Any], api: str) -> Rows:
    """The rows of classes in an answer.

    Raises:
        BackendError: there are none.
    """
    try:
        found = said["data"][0]["probs" if api == "classify" else "data"]
        rows = found if found and isinstance(found[0], list) else [found]
        return [[float(value) for value in row] for row in rows]
    except (KeyError, IndexError, TypeError, ValueError):
        raise BackendError(f"the answer of /{api} has no rows of classes: is a reward model served there?") from None


def row_of(rows: Rows, ids: Sequence[int], prefix: Sequence[int]) -> list[float]:
    """The row that judges the end of `prefix`, a beginning of `ids`.

    The server gives a row for every token, or one for every token that is its step marker, the prefix's last one.

    Raises:
        BackendError: as many rows as neither.
    """
    if len(rows) == len(ids):
        return rows[len(prefix) - 1]
    marker = prefix[-1]
    if len(rows) == 1 and len(prefix) == len(ids):
        return rows[0]
    if len(rows) == ids.count(marker):
        return rows[prefix.count(marker) - 1]
    raise BackendError(
        f"{len(rows)} rows came for {len(ids)} tokens with {ids.count(marker)} steps: the server's step marker is not"
        " the one of verifier.params.layout"
    )


def verdict(row: Sequence[float], outputs: Outputs) -> tuple[float, float]:
    """Logprobs of good and bad from a row: (bad, good), or one number for good.

    >>> verdict([0.25, 0.75], "probabilities")[0] == math.log(0.75)
    True
    """
    if not 1 <= len(row) <= 2 or not all(map(math.isfinite, row)):
        raise BackendError(f"a row of {len(row)} classes came: only (bad, good) or one number is known")
    if outputs == "logits":
        odds = row[1] - row[0] if len(row) == 2 else row[0]
        return -_softplus(-odds), -_softplus(odds)
    good = min(max(row[-1], 0.0), 1.0)
    return math.log(max(good, TINY)), math.log(max(1.0 - good, TINY))


def _softplus(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
