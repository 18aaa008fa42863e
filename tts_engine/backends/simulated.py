"""A model without a model: known task, known latency. For trying strategies, planning and tests, at no cost.

What is written is a pure function of prompt and key (backends/arithmetic.py), whatever the load, order or clock. The
server is a simple one: `slots` calls run at once, the others wait (the more urgent go first); a call takes

    (overhead + prompt / prefill_rate + completion / decode_rate) * (1 + jitter * u) * exp(tail * z - tail ** 2 / 2)

seconds, u in [0, 1) and z normal, drawn from its key. With `clock="real"` it takes that time divided by `speed`, by
the event loop's clock (one that leaps, backends/leaping.py, gives makespans at once); with `clock="virtual"` it only
says so in its usage, waiting for a slot not included. Nothing is ever cached. Not promised: the makespan of a real
server, whose calls slow each other down.

>>> task = Task(error_rate=0.2)
>>> policy = SimulatedBackend("policy", task=task)
>>> problem = task.problem(Key(0), steps=4)
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tts_engine.backends.arithmetic import Task, Writing
from tts_engine.backends.base import CallCancelled, ModelInfo, ModelShape
from tts_engine.backends.queueing import Places
from tts_engine.errors import BackendError, ConfigError, ContextExceeded
from tts_engine.formats import genprm, prm
from tts_engine.types import Completion, Finish, Prompt, Request, Sampling, TokenLogprob, Usage

__all__ = ["SimulatedBackend", "Task", "tokenize"]

SHAPE = ModelShape(layers=4, width=128, mlp=352, vocabulary=512, kv_width=128)
"""The sizes that a simulated model claims by default, so that budgets in FLOPs mean something."""
TURN_TOKENS = 4
"""Tokens that a chat template would add to each message."""

_TOKEN = re.compile(r" ?[A-Za-z]+|\d|\s|[^A-Za-z\d\s]")
_USUAL = math.log(0.9)
_UNLIKELY = -30.0


def tokenize(text: str) -> list[str]:
    """Words with the space before them; digits and everything else one by one. Joined, they are the text."""
    return _TOKEN.findall(text)


class SimulatedBackend:
    """One simulated model: policy and verifier alike, as the prompt asks.

    Args:
        name: name of the model.
        task: what it writes and how well; None for the default `Task()`.
        slots: calls that run at once.
        prefill_rate: prompt tokens a second of one call.
        decode_rate: generated tokens a second of one call.
        overhead: seconds that every call takes besides.
        jitter: the largest share by which a call takes longer.
        tail: how unevenly long calls are, as the lengths of steps are: standard deviation of the logarithm of a
            factor of mean 1. Steps of one solution differ by 0.6 in ProcessBench (GSM8K and MATH).
        clock: `virtual` waits for nothing, `real` waits for simulated seconds / `speed`.
        order_seed: completions arrive in an order shuffled by it (every call waits a random number of turns of the
            event loop): outcomes must not depend on it.
        failure_rate: chance that a call raises BackendError, drawn from its key.
        context: context window in tokens.
        shape: claimed sizes, for the cost model.
    """

    def __init__(
        self,
        name: str,
        *,
        task: Task | None = None,
        slots: int = 64,
        prefill_rate: float = 10_000.0,
        decode_rate: float = 100.0,
        overhead: float = 0.01,
        jitter: float = 0.0,
        tail: float = 0.0,
        clock: Literal["virtual", "real"] = "virtual",
        speed: float = 1.0,
        order_seed: int | None = None,
        failure_rate: float = 0.0,
        context: int = 4096,
        shape: ModelShape | None = SHAPE,
    ) -> None:
        if min(slots, prefill_rate, decode_rate, speed, context) <= 0 or min(overhead, jitter, tail, failure_rate) < 0:
            raise ConfigError(
                f"simulated model {name}: slots, rates, speed and context must be above zero, others not below"
            )
        self._task = task or Task()
        self._slots = slots
        self._prefill_rate = prefill_rate
        self._decode_rate = decode_rate
        self._overhead = overhead
        self._jitter = jitter
        self._tail = tail
        self._speed = speed if clock == "real" else math.inf
        self._order = None if order_seed is None else random.Random(order_seed)
        self._failure_rate = failure_rate
        self._open: Places | None = None
        fingerprint = hashlib.blake2b(f"{self._task}/{failure_rate}".encode(), digest_size=8).hexdigest()
        self._info = ModelInfo(name=name, context=context, shape=shape, fingerprint=f"simulated-{fingerprint}")
        self.cancelled = Usage()
        """What cancelled calls had cost when they were cancelled."""

    @property
    def info(self) -> ModelInfo:
        """Name and claimed sizes; the fingerprint changes with what the model writes, not with its speed."""
        return self._info

    async def __aenter__(self) -> SimulatedBackend:
        self._open = Places(self._slots)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = None

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of messages (with the template's share) and continuation."""
        messages = sum(TURN_TOKENS + len(tokenize(message.content)) for message in prompt.messages)
        return messages + sum(len(tokenize(segment)) for segment in prompt.continuation)

    async def complete(self, request: Request) -> Completion:
        """Raises as the protocol says, and BackendError for a problem that is not of the task."""
        if self._open is None:
            raise BackendError(f"model {self._info.name} is not running; use it in `async with`")
        prompt = self.count_tokens(request.prompt)
        room = self._info.context - prompt
        if room < 1:
            raise ContextExceeded(f"the prompt has {prompt} tokens; {self._info.name} takes {self._info.context}")
        sent = asyncio.get_running_loop().time()
        draw = random.Random(request.key.child("latency").int())
        stretch = 1 + self._jitter * draw.random()
        if draw.random() < self._failure_rate:
            raise BackendError(f"simulated failure of {self._info.name} at {request.key}")
        stretch *= math.exp(self._tail * draw.gauss() - self._tail**2 / 2)
        writing = self._task.write(request.prompt, request.key)
        completion = cut(writing, request.sampling, min(room, request.sampling.max_tokens))
        async with self._open.taken(request.priority):
            usage = await self._serve(prompt, completion.tokens, stretch, sent)
        return replace(completion, usage=usage)

    async def _serve(self, prompt: int, tokens: int, stretch: float, sent: float) -> Usage:
        """Take the time that a call takes; what it took, waiting since `sent` included."""
        now = asyncio.get_running_loop().time
        started = now()
        before = (self._overhead + prompt / self._prefill_rate) * stretch
        seconds = before + tokens / self._decode_rate * stretch
        try:
            await self._wait(seconds)
        except asyncio.CancelledError:
            decoding = 0.0 if self._speed == math.inf else (now() - started) * self._speed - before
            done = min(tokens, max(0, int(decoding * self._decode_rate / stretch)))
            lost = Usage(prompt=prompt, cancelled=done, calls=1)
            self.cancelled += lost
            raise CallCancelled(lost) from None
        if self._speed < math.inf:
            seconds = (now() - sent) * self._speed
        return Usage(prompt=prompt, completion=tokens, seconds=seconds, calls=1)

    async def _wait(self, seconds: float) -> None:
        for _ in range(self._order.randrange(16) if self._order else 1):
            await asyncio.sleep(0)
        if self._speed < math.inf:
            await asyncio.sleep(seconds / self._speed)


def cut(writing: Writing, sampling: Sampling, most: int) -> Completion:
    """What of a writing is generated: up to the first stop string, its end, or `most` tokens."""
    tokens = tokenize(writing.text)
    found = [(writing.text.index(stop) + len(stop), stop) for stop in sampling.stop if stop in writing.text]
    end, stop = min(found, default=(len(writing.text), None))
    ends = itertools.accumulate(map(len, tokens))
    needed = next((i + 1 for i, length in enumerate(ends) if length >= end), 0)
    text, finish = writing.text[:end], Finish.EOS if stop is None else Finish.STOP
    if needed > most:
        needed, text, finish, stop = most, "".join(tokens[:most]), Finish.LENGTH, None
    if stop is not None and not sampling.include_stop:
        text = text.removesuffix(stop)
    logprobs = [_logprob(token, writing.chance, sampling) for token in tokens[:needed]]
    return Completion(
        text=text,
        tokens=needed,
        finish=finish,
        stop=stop,
        logprobs=tuple(logprobs) if sampling.watch or sampling.logprobs else (),
        mean_logprob=math.fsum(t.logprob for t in logprobs) / needed if needed else math.nan,
    )


def _logprob(token: str, chance: float | None, sampling: Sampling) -> TokenLogprob:
    words = _words(token)
    known = {token: _USUAL}
    if chance is not None and token in words:
        known = {word: _log(p) for word, p in zip(words, (chance, 1 - chance), strict=True)}
    watched = {word: known.get(word, _UNLIKELY) for word in sampling.watch}
    return TokenLogprob(text=token, logprob=known[token], alternatives=watched | (known if sampling.logprobs else {}))


def _words(token: str) -> Sequence[str]:
    """The pair of judgements that a token may be one of."""
    return (prm.GOOD, prm.BAD) if token in (prm.GOOD, prm.BAD) else genprm.JUDGEMENTS


def _log(p: float) -> float:
    return math.log(p) if p > 0 else _UNLIKELY
