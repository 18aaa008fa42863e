"""The backend for endpoints: does it give what the local one gives, what does it cost, does llama.cpp's server do.

    python -m benchmarks.endpoint agreement --problems 60     local against endpoint: greedy texts, sampled accuracy
    python -m benchmarks.endpoint overhead                    client CPU and wall-clock a call
    python -m benchmarks.endpoint server --binary llama-server --gguf FILE --data gsm8k.jsonl
    python -m benchmarks.endpoint server --url http://localhost:8000/v1 --tokenizer DIR --data gsm8k.jsonl

To be called in the root of the repository. The first two start tests/servers/endpoint.py, a real server process over
the embedded or simulated models. The third starts llama.cpp's own server, the fourth takes any that runs; both see
whether it does what the engine relies on, then solve problems by plain voting. Each prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.servers.running import Running, free_port
from tts_engine import Engine, Problem
from tts_engine.backends.arithmetic import Task
from tts_engine.backends.base import Backend, CallCancelled
from tts_engine.backends.factory import make_backend
from tts_engine.errors import ContextExceeded
from tts_engine.formats.policy import STEP_STOP, solve_prompt
from tts_engine.problems import load_problems
from tts_engine.report.intervals import paired_bootstrap, wilson
from tts_engine.types import Key, Outcome, Request, Role, Sampling

GENPRM = {"generation_prompt": True, "analysis_tokens": 48, "check_tokens": 48}


def embedded(url: str | None, seed: int, n: int, samples: int) -> dict[str, Any]:
    """Best-of-n over the embedded models, in this process or through `url`."""

    def model(name: str) -> dict[str, Any]:
        if url is None:
            return {"model": name}
        return {"model": name, "backend": "openai", "options": {"url": url, "tokenizer": name, "concurrency": 256}}

    return {
        "policy": model("embedded:policy") | {"temperature": 1.25},
        "verifier": model("embedded:genprm") | {"samples": samples, "params": GENPRM},
        "strategy": {"name": "best-of-n", "n": n},
        "run": {"seed": seed},
    }


async def solve(config: dict[str, Any], problems: Sequence[Problem]) -> dict[str, Outcome]:
    async with Engine.from_config(config) as engine:
        return {outcome.problem.id: outcome async for outcome in engine.run(problems)}


async def same_texts(url: str, problems: Sequence[Problem]) -> tuple[int, int]:
    """Greedy completions, whole and first steps, and how many of them are identical."""
    samplings = [Sampling(temperature=0.0, max_tokens=160, stop=stop) for stop in ((), (STEP_STOP,))]
    requests = [
        Request(role=Role.GENERATE, model="m", prompt=solve_prompt(p.prompt), sampling=sampling, key=Key(0))
        for p in problems
        for sampling in samplings
    ]
    options = {"url": url, "tokenizer": "embedded:policy", "concurrency": 256}
    async with (
        make_backend("local", "embedded:policy", {}) as ours,
        make_backend("openai", "embedded:policy", options) as theirs,
    ):
        one = await asyncio.gather(*map(ours.complete, requests))
        other = await asyncio.gather(*map(theirs.complete, requests))
    equal = sum((a.text, a.finish, a.stop) == (b.text, b.finish, b.stop) for a, b in zip(one, other, strict=True))
    return equal, len(requests)


async def agreement(options: argparse.Namespace) -> None:
    problems = load_problems("arith-test")[: options.problems]
    table = Table("backend", "problems", "accuracy, 95 %", "tokens a problem", title="local against endpoint")
    with Running("--models", "embedded:policy", "embedded:genprm") as server:
        equal, texts = await same_texts(server.url, problems)
        local = await solve(embedded(None, options.seed, options.n, options.samples), problems)
        remote = await solve(embedded(server.url, options.seed, options.n, options.samples), problems)
    for name, found in (("local", local), ("endpoint", remote)):
        share = wilson(sum(bool(outcome.correct) for outcome in found.values()), len(found))
        tokens = sum(outcome.total.prompt + outcome.total.completion for outcome in found.values()) / len(found)
        table.add_row(name, str(len(found)), f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]", f"{tokens:.0f}")
    pairs = [(float(bool(remote[p.id].correct)), float(bool(local[p.id].correct))) for p in problems]
    gain = paired_bootstrap([a for a, _ in pairs], [b for _, b in pairs], seed=0)
    console = Console()
    console.print(table)
    console.print(f"endpoint - local, paired: {gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]")
    console.print(f"greedy completions that are identical: {equal} of {texts}")


async def overhead(options: argparse.Namespace) -> None:
    """Calls of about 20 tokens of a simulated model that takes no time: what is left is the client, and the server."""
    problems = [Task().problem(Key(0, (i,)), steps=3) for i in range(64)]
    table = Table("in flight", "calls", "client CPU a call, ms", "calls a second", title="overhead of the endpoint")
    with Running("--backend", "simulated", "--models", "m") as server:
        for in_flight in options.in_flight:
            async with make_backend("openai", "m", {"url": server.url, "concurrency": in_flight}) as backend:
                requests = [
                    Request(
                        role=Role.GENERATE,
                        model="m",
                        prompt=solve_prompt(problems[i % 64].prompt),
                        sampling=Sampling(max_tokens=64, stop=(STEP_STOP,)),
                        key=Key(0, (i,)),
                    )
                    for i in range(options.calls)
                ]
                await asyncio.gather(*map(backend.complete, requests[:in_flight]))  # connections
                cpu, wall = time.process_time(), time.perf_counter()
                await asyncio.gather(*map(backend.complete, requests))
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            table.add_row(
                str(in_flight), str(len(requests)), f"{1000 * cpu / len(requests):.2f}", f"{len(requests) / wall:.0f}"
            )
    Console().print(table)


@contextlib.contextmanager
def llama_server(binary: str, model: str, slots: int) -> Iterator[str]:
    """llama.cpp's server; yields the base of its API."""
    port = free_port()
    command = [binary, "-m", model, "--port", str(port), "-np", str(slots), "-c", str(2048 * slots), "--jinja"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


async def server(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(llama_server(options.binary, options.gguf, options.slots))
        with urllib.request.urlopen(f"{url}/models", timeout=10) as answer:
            card = json.load(answer)["data"][0]
        how = {"url": url, "concurrency": options.slots}
        await checks(card, how)
        if options.tokenizer:
            await checks(card, how | {"tokenizer": options.tokenizer})
        if options.tokenizer == "embedded:policy":
            equal, texts = await same_texts(url, load_problems("arith-test")[:60])
            Console().print(f"greedy completions that are those of the local backend: {equal} of {texts}")
        if options.data:
            await problems_over(card["id"], how, options)


async def checks(card: dict[str, Any], how: dict[str, Any]) -> None:
    """What the engine relies on: the open turn is continued, the stop string told, logprobs and cached tokens given;
    a call that is cancelled frees the server, a prompt that is too long is refused."""
    name = card["id"]
    title = f"{name} ({card.get('owned_by')}), {'completions' if 'tokenizer' in how else 'chat'}"
    table = Table("stop strings", "text", "finish", "stop", "tokens", "prompt", "cached", "logprobs", title=title)
    prompt = solve_prompt("Ann has 3 boxes of 4 pens. How many pens has Ann?", ("Step 1: 3 boxes of 4 pens.",))
    sampling = Sampling(temperature=0.0, max_tokens=48, stop=(".", "\n"), include_stop=True, logprobs=2)
    request = Request(role=Role.GENERATE, model=name, prompt=prompt, sampling=sampling, key=Key(0))
    for stops in ("server", "client"):
        async with make_backend("openai", name, how | {"stops": stops}) as backend:
            for _ in range(2):
                done = await backend.complete(request)
                counts = (done.tokens, done.usage.prompt, done.usage.cached, len(done.logprobs))
                table.add_row(stops, repr(done.text), done.finish, repr(done.stop), *map(str, counts))
    Console().print(table)
    async with make_backend("openai", name, how) as backend:
        Console().print(await cancelled(backend, name), await too_long(backend, name), sep="\n")


async def cancelled(backend: Backend, name: str) -> str:
    long = Sampling(temperature=0.0, max_tokens=400)
    prompt = solve_prompt("Count from 1 to 1000 in words.")
    call = asyncio.create_task(
        backend.complete(Request(role=Role.GENERATE, model=name, prompt=prompt, sampling=long, key=Key(0)))
    )
    await asyncio.sleep(1.0)
    call.cancel()
    try:
        done = await call
    except CallCancelled as stopped:
        return f"cancelled after a second: {stopped.usage.prompt} prompt and {stopped.usage.cancelled} generated tokens"
    return f"ended by itself within a second, after {done.tokens} tokens"


async def too_long(backend: Backend, name: str) -> str:
    prompt = solve_prompt("word " * 2 * backend.info.context)
    request = Request(role=Role.GENERATE, model=name, prompt=prompt, sampling=Sampling(max_tokens=8), key=Key(0))
    try:
        await backend.complete(request)
    except ContextExceeded as error:
        return f"a prompt that is too long: {error}"
    return "a prompt that is too long was taken"


async def problems_over(name: str, how: dict[str, Any], options: argparse.Namespace) -> None:
    """Self-consistency over real problems."""
    problems = load_problems(options.data)[: options.problems]
    config = {
        "policy": {
            "backend": "openai",
            "model": name,
            "options": how,
            "temperature": 0.7,
            "max_tokens": 320,
        },
        "verifier": {"name": "none"},
        "strategy": {"name": "self-consistency", "n": options.n},
    }
    started = time.perf_counter()
    found = await solve(config, problems)
    seconds = time.perf_counter() - started
    right = wilson(sum(bool(outcome.correct) for outcome in found.values()), len(found))
    candidates = [judged.candidate for outcome in found.values() for judged in outcome.candidates]
    tokens = sum(outcome.total.completion for outcome in found.values())
    failures = sum(len(outcome.failures) for outcome in found.values())
    Console().print(
        f"{len(found)} problems, {len(candidates)} samples: majority of {options.n} right {right.value:.1%}"
        f" [{right.low:.1%}, {right.high:.1%}], {tokens} tokens in {seconds:.0f} s ({tokens / seconds:.0f} tok/s),"
        f" {sum(candidate.answer is not None for candidate in candidates)} samples with an answer, {failures} failures"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    agree = commands.add_parser("agreement")
    agree.add_argument("--problems", type=int, default=60)
    agree.add_argument("--n", type=int, default=8)
    agree.add_argument("--samples", type=int, default=2)
    agree.add_argument("--seed", type=int, default=0)
    costs = commands.add_parser("overhead")
    costs.add_argument("--calls", type=int, default=2000)
    costs.add_argument("--in-flight", type=int, nargs="+", default=[1, 32, 256])
    real = commands.add_parser("server")
    real.add_argument("--url", help="of a server that runs")
    real.add_argument("--binary", default="llama-server")
    real.add_argument("--gguf", help="model for llama.cpp's server")
    real.add_argument("--tokenizer", help="folder: also try completions by token ids")
    real.add_argument("--data", help="JSONL with question and answer")
    real.add_argument("--problems", type=int, default=20)
    real.add_argument("--n", type=int, default=4)
    real.add_argument("--slots", type=int, default=4)
    options = parser.parse_args()
    asyncio.run({"agreement": agreement, "overhead": overhead, "server": server}[options.command](options))


if __name__ == "__main__":
    main()
