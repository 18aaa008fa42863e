"""The local model in a process of its own: the same completions, the same failures, and a clear end when it dies."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tts_engine.backends.base import CallCancelled
from tts_engine.backends.factory import make_backend
from tts_engine.backends.local import LocalBackend
from tts_engine.backends.process import ProcessBackend
from tts_engine.backends.process_wire import pack_completion, pack_request, unpack_completion, unpack_request
from tts_engine.errors import BackendError, ConfigError, ContextExceeded, DataError, UsageError
from tts_engine.types import Completion, Finish, Key, Message, Prompt, Request, Role, Sampling, TokenLogprob, Usage


def ask(text: str, key: int = 0, **sampling: object) -> Request:
    return Request(
        role=Role.VERIFY,
        model="tiny",
        prompt=Prompt(messages=(Message(role="user", content=text),), continuation=("so ", "it")),
        sampling=Sampling(**{"max_tokens": 12} | sampling),  # type: ignore[arg-type]
        key=Key(key, ("a", 3)),
        priority=2,
    )


def test_requests_and_completions_come_through_unchanged() -> None:
    request = ask("two", stop=("\n",), watch=("Yes", "No"), logprobs=2, temperature=0.25)
    assert unpack_request(pack_request(request)) == request
    said = (TokenLogprob(text="Yes", logprob=-0.5, alternatives={"No": -1.0}),)
    usage = Usage(prompt=9, cached=4, completion=1, cancelled=2, calls=1, seconds=0.5)
    done = Completion(
        text="Yes", tokens=1, finish=Finish.STOP, stop="\n", logprobs=said, mean_logprob=-0.5, usage=usage
    )
    again = unpack_completion(pack_completion(done))
    assert (again, again.usage.seconds) == (done, 0.5)


async def answers(backend: LocalBackend | ProcessBackend, requests: Sequence[Request]) -> list[Completion]:
    return list(await asyncio.gather(*map(backend.complete, requests)))


async def test_same_completions_and_failures_as_in_this_process(llama: Path) -> None:
    requests = [ask(f"{i} boxes " * (1 + i % 3), key=i, logprobs=i % 2, stop=("e",)) for i in range(12)]
    options = {"dtype": "float32", "slots": 4, "threads": 1, "context": 128}
    async with LocalBackend(llama, name="tiny", **options) as backend:  # type: ignore[arg-type]
        info, expected = backend.info, await answers(backend, requests)
        tokens = [backend.count_tokens(request.prompt) for request in requests]
    async with ProcessBackend(llama, name="tiny", **options) as backend:
        assert backend.info == info
        assert [backend.count_tokens(request.prompt) for request in requests] == tokens
        found = await answers(backend, requests)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours.text, ours.tokens, ours.finish, ours.stop) == (
                theirs.text,
                theirs.tokens,
                theirs.finish,
                theirs.stop,
            )
            assert math.isclose(ours.mean_logprob, theirs.mean_logprob, rel_tol=1e-4)
            assert len(ours.logprobs) == len(theirs.logprobs)
        with pytest.raises(ContextExceeded, match="takes 128"):
            await backend.complete(ask("word " * 400))
        long = asyncio.create_task(backend.complete(ask("a story", max_tokens=100, key=5)))
        await backend.complete(ask("one", max_tokens=1))  # the long one is under way
        long.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await long
        assert isinstance(cancelled.value, CallCancelled)
        counted, done = backend.counters(), sum((each.usage for each in found), Usage())
        assert counted["cancelled"] == cancelled.value.usage.cancelled < 100
        assert counted["completion"] == done.completion + 1
        os.kill(backend._process.pid, signal.SIGKILL)
        with pytest.raises(UsageError, match=r"has died.*--resume"):
            await backend.complete(ask("anybody there?", max_tokens=100))
    with pytest.raises(BackendError, match="not open"):
        await backend.complete(requests[0])


async def test_a_wrong_model_or_option_is_said_where_it_was_asked_for(tmp_path: Path, llama: Path) -> None:
    async def opened(folder: Path, **options: object) -> None:
        async with make_backend("local", str(folder), {"process": True, **options}):
            pass

    no_model, no_option = await asyncio.gather(opened(tmp_path), opened(llama, slot=3), return_exceptions=True)
    assert isinstance(no_model, DataError)
    assert isinstance(no_option, ConfigError)
    assert "slot" in str(no_option)
