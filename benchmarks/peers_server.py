"""One simulated server for all contestants of benchmarks/peers.py: an OpenAI-compatible policy and a step scorer.

    python benchmarks/peers_server.py '{"slots": 64}'      prints its port

POST /v1/chat/completions    messages (a last assistant message is continued), stop, max_tokens, seed, logprobs
POST /score                  {"problem", "steps"}: the score of each step, for the last one of which is paid
GET  /stats                  calls, seconds that slots were busy, most calls at once; begins to count anew

`model` is "policy" or "judge". Both are backends/simulated.py with a real clock; what they write depends on prompt and
seed alone. Plain asyncio, so that the server takes as little as possible of the machine that is being measured.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tts_engine.backends.arithmetic import Task
from tts_engine.backends.simulated import SimulatedBackend
from tts_engine.formats import prm
from tts_engine.types import Completion, Key, Message, Prompt, Request, Role, Sampling

TASK = Task(error_rate=0.3, true_positive=0.95, false_positive=0.1, confidence=0.5)
LATENCY: dict[str, dict[str, Any]] = {
    "policy": {"overhead": 0.02, "prefill_rate": 10_000.0, "decode_rate": 50.0, "tail": 0.6},
    "judge": {"overhead": 0.15, "prefill_rate": 10_000.0, "decode_rate": 50.0, "tail": 0.6},
}
"""A step of a dozen tokens takes a quarter of a second on average, its judgement a fifth, unevenly (see `tail`)."""
Json = Mapping[str, Any]


def backend(name: str, slots: int, clock: str = "real") -> SimulatedBackend:
    """One of the two models."""
    return SimulatedBackend(name, task=TASK, slots=slots, clock=clock, **LATENCY[name])  # type: ignore[arg-type]


class Server:
    """The models and what is counted."""

    def __init__(self, slots: int) -> None:
        self._models = {name: backend(name, slots) for name in LATENCY}
        self._seeds = itertools.count()
        self._reset()

    async def start(self) -> None:
        """Bring the models up."""
        for model in self._models.values():
            await model.__aenter__()

    async def answer(self, path: str, body: Json) -> Json:
        """What is said to a request."""
        if path == "/v1/chat/completions":
            return await self._chat(body)
        if path == "/score":
            return {"scores": await self._score(body["problem"], tuple(body["steps"]), body.get("seed"))}
        counted = dict(self._counted)
        self._reset()
        return counted

    def _reset(self) -> None:
        self._counted = {"calls": 0, "busy": 0.0, "most": 0}
        self._running = 0

    async def _chat(self, body: Json) -> Json:
        said = [Message(role=message["role"], content=message["content"]) for message in body["messages"]]
        begun = said.pop().content if said[-1].role == "assistant" else ""
        watched = (prm.GOOD, prm.BAD) if body.get("logprobs") else ()
        stop = body.get("stop") or ()
        sampling = Sampling(
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            max_tokens=body.get("max_tokens") or 512,
            watch=watched,
        )
        prompt = Prompt(messages=tuple(said), continuation=_segments(begun, body["model"]))
        completion = await self._complete(body["model"], prompt, sampling, body.get("seed"))
        return _chat_json(completion, body["model"])

    async def _score(self, problem: str, steps: tuple[str, ...], seed: int | None) -> list[float]:
        sampling = Sampling(temperature=0.0, max_tokens=1, watch=(prm.GOOD, prm.BAD))
        completion = await self._complete("judge", prm.step_prompt(problem, steps), sampling, seed)
        return [prm.score(completion.logprobs[0])] * len(steps)

    async def _complete(self, model: str, prompt: Prompt, sampling: Sampling, seed: int | None) -> Completion:
        key = Key(next(self._seeds) if seed is None else seed)
        role = Role.VERIFY if model == "judge" else Role.GENERATE
        self._counted["calls"] += 1
        self._running += 1
        self._counted["most"] = max(self._counted["most"], self._running)
        try:
            done = await self._models[model].complete(
                Request(role=role, model=model, prompt=prompt, sampling=sampling, key=key)
            )
        finally:
            self._running -= 1
        self._counted["busy"] += done.usage.seconds
        return done


def _segments(text: str, model: str) -> tuple[str, ...]:
    """The open turn as the model's format cuts it: a judge reads steps and markers by turns."""
    if model == "policy":
        return (text,) if text else ()
    return tuple(part for step in text.split(prm.MARKER)[:-1] for part in (step, prm.MARKER))


def _chat_json(completion: Completion, model: str) -> Json:
    content = [
        {"token": t.text, "logprob": t.logprob, "top_logprobs": [{"token": w, "logprob": p} for w, p in both.items()]}
        for t in completion.logprobs
        if (both := dict(t.alternatives)) is not None
    ]
    return {
        "object": "chat.completion",
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": completion.text},
                "finish_reason": "length" if completion.finish == "length" else "stop",
                "stop_reason": completion.stop,
                "logprobs": {"content": content} if content else None,
            }
        ],
        "usage": {"prompt_tokens": completion.usage.prompt, "completion_tokens": completion.tokens},
    }


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request after the other, bodies with a length; a disconnect cancels the call."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0)
        if len(rest) >= length:
            self._data = rest[length:]
            path = head.split(b" ", 2)[1].decode()
            self._task = asyncio.create_task(self._reply(path, json.loads(rest[:length] or b"{}")))

    async def _reply(self, path: str, body: Json) -> None:
        text = json.dumps(await self._server.answer(path, body)).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        self._transport.write(head.encode() + text)  # type: ignore[attr-defined]


async def serve(slots: int, ready: Callable[[int], None]) -> None:
    """Serve for ever on a port of the system's choice."""
    server = Server(slots)
    await server.start()
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096)
    ready(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])["slots"], lambda port: print(port, flush=True)))
