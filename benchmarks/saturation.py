"""How far a beam search with GenPRM saturates vLLM, and how much prefill it computes twice.

    python benchmarks/saturation.py --problems 24 --n 16 --samples 4

Searches over two engines in this process (the embedded models unless others are named) and notes every model call. Then
the same calls go straight to the same engines, their prefix caches emptied, as many in flight per model as the search
had on average: no search, no sandbox, no ledger, no journal. The seeds are in the calls, so lengths are the same up to
rounding. Search and raw run take turns (--rounds); the fraction is that of their generated tokens a second, its
interval (t) over rounds.

Prefill: prompt tokens that were computed (not found in the cache) as a multiple of the unique prompt tokens, the nodes
of the tree of all prompts. An engine caches whole blocks (--block-size) and shares nothing between prompts that arrive
at the same moment, so it is above 1 where steps are short; below 1 where it reuses what was generated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tts_engine import Engine, Problem
from tts_engine.backends.vllm import VLLMBackend
from tts_engine.config import Config
from tts_engine.problems import load_problems
from tts_engine.run import Event
from tts_engine.types import Request

T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57}
"""Student's t by degrees of freedom."""


def configuration(options: argparse.Namespace) -> Config:
    """Two engines on this machine."""
    backend = {"slots": options.slots, "engine": {"block_size": options.block_size}}
    policy = {"backend": "vllm", "options": backend} | ({"model": options.policy} if options.policy else {})
    verifier = {"backend": "vllm", "options": backend, "samples": options.samples}
    verifier |= {"model": options.verifier} if options.verifier else {}
    return Config.build({"policy": policy, "verifier": verifier, "strategy": {"name": "beam", "n": options.n}})


class Prefixes:
    """Unique prompt tokens: a token counts once for each different text before it."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def add(self, tokens: Sequence[int]) -> None:
        place = 0
        for token in tokens:
            place = hash((place, token))
            self._seen.add(place)

    def __len__(self) -> int:
        return len(self._seen)


async def search(
    engine: Engine, problems: Sequence[Problem], seed: int, at_once: int
) -> tuple[float, int, Counter[str], list[Request]]:
    """Seconds, generated tokens, seconds of all calls of each model added up, and the calls of one search."""
    requests: list[Request] = []
    busy = Counter[str]()
    tokens = 0

    def note(event: Event) -> None:
        nonlocal tokens
        if event.kind == "call":
            requests.append(event.data["request"])
            tokens += event.data["completion"].tokens
            busy[event.data["request"].model] += event.data["completion"].usage.seconds

    gate = asyncio.Semaphore(at_once)

    async def one(problem: Problem) -> None:
        async with gate:
            await engine.solve(problem, seed=seed, on_event=note)

    started = time.perf_counter()
    await asyncio.gather(*map(one, problems))
    return time.perf_counter() - started, tokens, busy, requests


async def raw(engine: Engine, requests: Sequence[Request], in_flight: Mapping[str, float]) -> tuple[float, int]:
    """Seconds and generated tokens of the same calls, so many in flight per model, in the order of the search."""

    async def feed(name: str) -> int:
        todo = iter([request for request in requests if request.model == name])
        done = 0

        async def worker() -> None:
            nonlocal done
            for request in todo:
                completion = await engine.backends[name].complete(request)
                done += completion.tokens

        await asyncio.gather(*(worker() for _ in range(max(1, round(in_flight[name])))))
        return done

    started = time.perf_counter()
    counts = await asyncio.gather(*map(feed, engine.backends))
    return time.perf_counter() - started, sum(counts)


async def reset(engine: Engine) -> None:
    for backend in engine.backends.values():
        assert isinstance(backend, VLLMBackend)
        await backend.forget()


def computed(engine: Engine) -> Counter[str]:
    """Prompt tokens computed so far, by model."""
    return Counter({name: int(c["prompt"] - c["cached"]) for name, c in engine.counters().items()})


def unique(engine: Engine, requests: Sequence[Request]) -> Counter[str]:
    """Unique prompt tokens, by model."""
    trees = {name: Prefixes() for name in engine.backends}
    for request in requests:
        backend = engine.backends[request.model]
        assert isinstance(backend, VLLMBackend)
        trees[request.model].add(backend.tokens(request.prompt))
    return Counter({name: len(tree) for name, tree in trees.items()})


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = T_95[min(len(values) - 1, 5)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    problems = load_problems(options.dataset)[: options.problems]
    speeds: dict[str, list[float]] = {"search": [], "raw": []}
    prefill, nodes, calls = Counter[str](), Counter[str](), 0
    sizes: list[float] = []
    async with Engine(configuration(options), keep=False) as engine:
        await search(engine, problems[:4], 10**6, 4)  # warm up
        for seed in range(options.rounds):
            await reset(engine)
            before = computed(engine)
            took, tokens, busy, requests = await search(engine, problems, seed, options.at_once)
            prefill.update(computed(engine) - before)
            nodes.update(unique(engine, requests))
            await reset(engine)
            in_flight = {name: busy[name] / took for name in engine.backends}
            bare, same = await raw(engine, requests, in_flight)
            calls += len(requests)
            sizes.append(sum(in_flight.values()))
            speeds["search"].append(tokens / took)
            speeds["raw"].append(same / bare)
    fractions = [ours / theirs for ours, theirs in zip(speeds["search"], speeds["raw"], strict=True)]
    return {
        "problems": len(problems),
        "rounds": options.rounds,
        "calls": calls,
        "block_size": options.block_size,
        "calls_in_flight": round(statistics.mean(sizes), 1),
        "search_tokens_per_second": round(statistics.mean(speeds["search"])),
        "raw_tokens_per_second": round(statistics.mean(speeds["raw"])),
        "fraction": interval(fractions),
        "prefill_over_unique": {name: round(prefill[name] / nodes[name], 3) for name in nodes},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="folder of another policy")
    parser.add_argument("--verifier", help="folder of another GenPRM")
    parser.add_argument("--dataset", default="arith-dev")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=24, help="problems at once in the search")
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    print(json.dumps(asyncio.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
