"""tts-engine's side of benchmarks/peers.py: `python benchmarks/peers_ours.py URL WORK`, WORK in JSON.

The whole engine as a user gets it (configuration, ledger, journal file, tree), behind HTTP. `floor` runs the same
search in this process on a clock that leaps: what the latency model alone takes if engine and network take no time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers_server import TASK, backend

from tts_engine import Engine, Problem
from tts_engine.backends import factory, leaping
from tts_engine.backends.base import Backend, ModelInfo
from tts_engine.backends.simulated import SHAPE, SimulatedBackend, tokenize
from tts_engine.errors import BackendError
from tts_engine.types import Completion, Finish, Key, Prompt, Request, TokenLogprob, Usage

Work = Mapping[str, Any]
PARAMS: Mapping[str, Mapping[str, Any]] = {
    "beam": {"name": "beam", "width": 4},
    "speculative beam": {"name": "beam", "width": 4, "speculate": 0.5},
    "mcts": {"name": "mcts", "value": "verifier", "parallel": 8, "eager": True},
    "speculative mcts": {"name": "mcts", "value": "verifier", "parallel": 8, "eager": True, "speculate": 8},
    "best-of-n": {"name": "best-of-n"},
    "self-consistency": {"name": "self-consistency"},
    "self-consistency, uvloop": {"name": "self-consistency"},
}


JUDGES = {"best-of-n": "outcome"}
"""What judges whole solutions by one call, as the peers do; the others judge every step by one call."""


class Endpoint:
    """The server's models as a backend: keep-alive connections, one call at a time on each."""

    def __init__(self, model: str, url: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        self._idle: list[_Connection] = []
        self._info = ModelInfo(name=model, context=4096, shape=SHAPE, fingerprint="endpoint")

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for connection in self._idle:
            connection.close()

    def count_tokens(self, prompt: Prompt) -> int:
        return sum(map(len, map(tokenize, (*(message.content for message in prompt.messages), *prompt.continuation))))

    async def complete(self, request: Request) -> Completion:
        sent = time.monotonic()
        messages = [{"role": message.role, "content": message.content} for message in request.prompt.messages]
        if request.prompt.continuation:
            messages.append({"role": "assistant", "content": "".join(request.prompt.continuation)})
        sampling = request.sampling
        body = {
            "model": request.model,
            "messages": messages,
            "continue_final_message": True,
            "stop": sampling.stop,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "logprobs": bool(sampling.watch),
            "seed": seed_of(request.key),
        }
        return read(await self._post("/v1/chat/completions", body), time.monotonic() - sent)

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401  # whatever JSON says
        connection = self._idle.pop() if self._idle else None
        if connection is None:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        try:
            answer = await connection.post(path, json.dumps(body).encode())
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return json.loads(answer)


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._data = b""

    def post(self, path: str, body: bytes) -> asyncio.Future[bytes]:
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        head = f"POST {path} HTTP/1.1\r\nHost: server\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)  # type: ignore[attr-defined]
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if found and len(rest) >= int(head.rpartition(b"Content-Length: ")[2]):
            self._data = b""
            if not self._answer.done():
                self._answer.set_result(rest)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(BackendError("the server has gone"))

    def close(self) -> None:
        self._transport.close()


class Twin:
    """The server's model in this process: the same texts and latencies for the same requests."""

    def __init__(self, model: SimulatedBackend) -> None:
        self._model = model

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    async def __aenter__(self) -> Twin:
        await self._model.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._model.__aexit__(*exc)

    def count_tokens(self, prompt: Prompt) -> int:
        return self._model.count_tokens(prompt)

    async def complete(self, request: Request) -> Completion:
        return await self._model.complete(replace(request, key=Key(seed_of(request.key))))


def seed_of(key: Key) -> int:
    """63 bits for the server."""
    return key.int() >> 1


def read(answer: Mapping[str, Any], seconds: float) -> Completion:
    """A chat completion of the server as the engine's own."""
    choice, usage = answer["choices"][0], answer["usage"]
    said = (choice["logprobs"] or {"content": ()})["content"]
    stop = choice["stop_reason"]
    return Completion(
        text=choice["message"]["content"],
        tokens=usage["completion_tokens"],
        finish=Finish.LENGTH if choice["finish_reason"] == "length" else Finish.STOP if stop else Finish.EOS,
        stop=stop,
        logprobs=tuple(
            TokenLogprob(
                text=token["token"],
                logprob=token["logprob"],
                alternatives={other["token"]: other["logprob"] for other in token["top_logprobs"]},
            )
            for token in said
        ),
        usage=Usage(prompt=usage["prompt_tokens"], completion=usage["completion_tokens"], seconds=seconds, calls=1),
    )


async def search(work: Work, journal: Path | None) -> dict[str, Any]:
    """Solve the problems at once; seconds by the loop's clock, and those of the processor."""
    model = {"backend": "simulated"}
    parameters = dict(PARAMS[work["algorithm"]])
    settings = {
        "policy": {**model, "model": "policy"},
        "verifier": {**model, "model": "judge", "name": JUDGES.get(work["algorithm"], "prm"), "samples": 1},
        "run": {"seed": work["seed"], "concurrency": work["at_once"]},
        "strategy": {**parameters, "n": work["n"]},
    }
    async with Engine.from_config(settings, journal=journal) as engine:
        await engine.solve(TASK.problem(Key(1), steps=1), strategy="best-of-n", seed=1, n=1)  # imports, connections
        clock, started, cpu = asyncio.get_running_loop().time, asyncio.get_running_loop().time(), time.process_time()
        outcomes = [outcome async for outcome in engine.run(problems(work))]
        seconds, cpu = clock() - started, time.process_time() - cpu
    calls = sum(outcome.total.calls for outcome in outcomes)
    wasted = sum(outcome.total.wasted for outcome in outcomes) / sum(outcome.total.tokens for outcome in outcomes)
    ended = sum(judged.candidate.done for outcome in outcomes for judged in outcome.candidates)
    return {"seconds": seconds, "cpu": cpu, "calls": calls, "wasted": wasted, "ended": ended}


def problems(work: Work) -> list[Problem]:
    """Those that every contestant gets."""
    return [TASK.problem(Key(work["seed"], (i,)), steps=work["steps"]) for i in range(work["problems"])]


def use(make: Any) -> None:  # noqa: ANN401  # a maker of backends
    """Let the configuration's `simulated` mean the server's models."""
    factory.BACKENDS = {**factory.BACKENDS, "simulated": make}


def runner(algorithm: str) -> Callable[[Coroutine[Any, Any, dict[str, Any]]], dict[str, Any]]:
    """`asyncio.run`, or uvloop's."""
    if not algorithm.endswith("uvloop"):
        return asyncio.run
    import uvloop

    return uvloop.run


def main() -> None:
    url, work = sys.argv[1], json.loads(sys.argv[2])
    if work.get("floor"):

        def twin(model: str) -> Backend:
            return Twin(backend(model, work["slots"]))

        use(twin)
        result, _ = leaping.run(search(work, None))
    else:
        use(lambda model: Endpoint(model, url))
        with tempfile.TemporaryDirectory() as folder:
            result = runner(work["algorithm"])(search(work, Path(folder) / "journal.sqlite"))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
