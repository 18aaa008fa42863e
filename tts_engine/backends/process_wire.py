"""What a local model in a process of its own and its client say to each other: frames of pickled lists over a socket.

Both ends are this package on this machine, over a pair of sockets that nobody else can reach. Requests and completions
travel as plain tuples, which pickle in a tenth of the time of dataclasses. All that is said in one turn of the event
loop is one frame.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Callable
from typing import Any, cast

from tts_engine.types import Completion, Finish, Key, Message, Prompt, Request, Role, Sampling, TokenLogprob, Usage

_HEAD = struct.Struct("<I")
Packed = tuple[Any, ...]


class Channel(asyncio.Protocol):
    """One end. `heard` gets every message; `lost` is called when the other end has gone."""

    def __init__(self, heard: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._data = bytearray()
        self._outbox: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()

    def say(self, message: Any) -> None:  # noqa: ANN401  # anything that can be pickled
        """Send a message with the others of this turn of the event loop."""
        self._outbox.append(message)
        if len(self._outbox) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        """Say what is left to say and hang up."""
        self._flush()
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= _HEAD.size:
            (size,) = _HEAD.unpack_from(self._data)
            end = _HEAD.size + size
            if len(self._data) < end:
                return
            messages = pickle.loads(memoryview(self._data)[_HEAD.size : end])  # from our own process
            del self._data[:end]
            for message in messages:
                self._heard(message)

    def _flush(self) -> None:
        if self._outbox:
            data = pickle.dumps(self._outbox, pickle.HIGHEST_PROTOCOL)
            self._outbox = []
            self._transport.write(_HEAD.pack(len(data)) + data)


def pack_request(request: Request) -> Packed:
    """A request as plain values."""
    prompt, sampling, key = request.prompt, request.sampling, request.key
    return (
        request.role.value,
        request.model,
        [(message.role, message.content) for message in prompt.messages],
        prompt.continuation,
        prompt.generation_prompt,
        tuple(getattr(sampling, name) for name in Sampling.__slots__),
        key.seed,
        key.path,
        request.priority,
    )


def unpack_request(packed: Packed) -> Request:
    """The request again."""
    role, model, messages, continuation, generation_prompt, sampling, seed, path, priority = packed
    said = tuple(Message(role=who, content=text) for who, text in messages)
    return Request(
        role=Role(role),
        model=model,
        prompt=Prompt(messages=said, continuation=continuation, generation_prompt=generation_prompt),
        sampling=Sampling(**dict(zip(Sampling.__slots__, sampling, strict=True))),
        key=Key(seed, path),
        priority=priority,
    )


def pack_completion(done: Completion) -> Packed:
    """A completion of the local backend as plain values."""
    logprobs = [(token.text, token.logprob, token.alternatives) for token in done.logprobs]
    return done.text, done.tokens, done.finish.value, done.stop, logprobs, done.mean_logprob, pack_usage(done.usage)


def unpack_completion(packed: Packed) -> Completion:
    """The completion again."""
    text, tokens, finish, stop, logprobs, mean_logprob, usage = packed
    return Completion(
        text=text,
        tokens=tokens,
        finish=Finish(finish),
        stop=stop,
        logprobs=tuple(TokenLogprob(text=t, logprob=p, alternatives=others) for t, p, others in logprobs),
        mean_logprob=mean_logprob,
        usage=unpack_usage(usage),
    )


def pack_usage(usage: Usage) -> Packed:
    """What a call of the local backend counts."""
    return usage.prompt, usage.cached, usage.completion, usage.cancelled, usage.calls, usage.seconds


def unpack_usage(packed: Packed) -> Usage:
    """The usage again."""
    prompt, cached, completion, cancelled, calls, seconds = packed
    return Usage(prompt=prompt, cached=cached, completion=completion, cancelled=cancelled, calls=calls, seconds=seconds)
