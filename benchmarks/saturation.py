"""How far a beam search with GenPRM saturates vLLM, and how much prefill it computes twice.

    python benchmarks/saturation.py --rounds 3 --save runs/saturation.jsonl
    python benchmarks/saturation.py --policy DIR --verifier DIR --mode direct --dataset gsm8k/test.jsonl --n 8 \\
        --samples 1 --context 2048 --problems 10 --at-once 5 --warm-up 1 --save runs/saturation-0.5b.jsonl

Searches with two models in this process (the embedded ones unless others are named; an adapter shares its base's
engine) and notes every model call. Then the same calls go straight to the same engines, their prefix caches emptied, as
many in flight per model as the search had on average: no search, no sandbox, no ledger, no journal. The seeds are in
the calls, so lengths are the same up to rounding. Search and raw run take turns (--rounds); the fraction is that of
their generated tokens a second, its interval (t) over rounds. With --straight the calls go to vLLM's AsyncLLM itself
after that, prompts and parameters made before, so that nothing of ours is in between. With --save rounds are kept, and
the same command adds to them.

With --course the raw run is made once more, not with the mean number of calls in flight but with the number that the
search had: a call starts as soon as fewer calls of its model are under way than there were when it started in the
search. So the engines' batches are as small where the search's were (as where its last problems end), and what is left
between the two is what a search costs beside its model calls.

Prefill: prompt tokens that were computed (not found in the cache) as a multiple of the unique prompt tokens, the nodes
of the tree of all prompts; below 1 where what was generated is found again. `of all nodes`: as a multiple of the nodes
of the tree of prompts and generated texts, those that no prompt goes on from too. An engine caches whole blocks and
computes at least the last token of every prompt, so no order of the calls gives less than `floor`: what is left when
one call comes after the other and nothing is ever dropped from the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import heapq
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from bare import Call, Calls, bare, fed, following, noting

from tts_engine import Engine, Problem, loop
from tts_engine.backends.base import Backend
from tts_engine.backends.vllm import VLLMBackend
from tts_engine.config import Config
from tts_engine.garbage import collected_rarely
from tts_engine.problems import load_problems
from tts_engine.run import Event
from tts_engine.types import Request

T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Student's t by degrees of freedom."""
BLOCKS = (16, 1)
"""Sizes of blocks, in tokens, whose floor is worked out besides: vLLM's on a GPU, and the tree itself."""
Record = dict[str, Any]
Span = tuple[float, float]
"""Begin and end, in seconds."""


def configuration(options: argparse.Namespace) -> Config:
    """Two models on this machine, in two engines unless one is an adapter on the other."""
    backend: dict[str, Any] = {"slots": options.slots, "tails": not options.whole_blocks}
    backend |= {"engine": {"block_size": options.block_size}} if options.block_size else {}
    backend |= {key: value for key in ("context", "dtype", "nice") if (value := getattr(options, key)) is not None}
    policy = {"backend": "vllm", "options": backend} | ({"model": options.policy} if options.policy else {})
    verifier = {"backend": "vllm", "options": backend, "samples": options.samples}
    verifier |= {"model": options.verifier} if options.verifier else {}
    verifier["params"] = {"mode": options.mode, "generation_prompt": bool(options.verifier)}
    if options.turn_tokens:
        verifier["params"] |= {"analysis_tokens": options.turn_tokens, "check_tokens": options.turn_tokens}
    return Config.build({"policy": policy, "verifier": verifier, "strategy": {"name": "beam", "n": options.n}})


class Cache:
    """Keeps whole blocks of tokens, and drops none.

    Attributes:
        computed: prompt tokens that were not found; at least the last of every prompt.
    """

    def __init__(self, block: int) -> None:
        self.computed = 0
        self._block = block
        self._kept: set[int] = set()

    def add(self, places: Sequence[int], prompt: int) -> None:
        """A call: the places (`places_of`) of its prompt of so many tokens and of what it generated."""
        found = 0
        while found + self._block < prompt and places[found + self._block - 1] in self._kept:
            found += self._block
        self.computed += prompt - found
        self._kept.update(places[self._block - 1 :: self._block])


def places_of(tokens: Sequence[int]) -> list[int]:
    """A number for each token together with all before it: its place in the tree of all texts."""
    places, place = [], 0
    for token in tokens:
        place = hash((place, token))
        places.append(place)
    return places


async def search(
    engine: Engine, problems: Sequence[Problem], seed: int, at_once: int
) -> tuple[Record, Calls, list[Span]]:
    """Solve the problems, so many at once: what it took, the calls, and when each of them began and ended."""
    calls: Calls = []
    spans: list[Span] = []
    gate = asyncio.Semaphore(at_once)
    note = noting(calls)

    def listen(event: Event) -> None:
        note(event)
        if len(spans) < len(calls):
            now = time.perf_counter()
            spans.append((now - calls[-1][1].usage.seconds, now))

    async def one(problem: Problem) -> float:
        async with gate:
            outcome = await engine.solve(problem, seed=seed, on_event=listen)
        return outcome.total.code_seconds

    started, cpu = time.perf_counter(), time.process_time()
    checks = await asyncio.gather(*map(one, problems))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    tokens = sum(completion.tokens for _, completion in calls)
    found = {"seconds": seconds, "tokens": tokens, "client": cpu, "checks": sum(checks), "thin": thin(spans)}
    return found, calls, spans


def thin(spans: Sequence[Span], points: int = 2000) -> float:
    """Share of the time in which less than half as many calls as on average were in flight."""
    starts, ends = sorted(start for start, _ in spans), sorted(end for _, end in spans)
    first, last = starts[0], ends[-1]
    times = [first + (last - first) * (i + 0.5) / points for i in range(points)]
    in_flight = [bisect.bisect(starts, time) - bisect.bisect(ends, time) for time in times]
    least = statistics.mean(in_flight) / 2
    return statistics.mean(found < least for found in in_flight)


def course(calls: Calls, spans: Sequence[Span]) -> list[tuple[Request, int]]:
    """The requests in the order in which they began, each with the number of its model's calls that were under way
    then, itself counted."""
    running: dict[str, list[float]] = {}
    found = []
    for i in sorted(range(len(calls)), key=lambda i: spans[i]):
        (request, _), (start, end) = calls[i], spans[i]
        ends = running.setdefault(request.model, [])
        while ends and ends[0] <= start:
            heapq.heappop(ends)
        heapq.heappush(ends, end)
        found.append((request, len(ends)))
    return found


async def reset(engine: Engine) -> None:
    """Empty the prefix caches."""
    for backend in engine.backends.values():
        assert isinstance(backend, VLLMBackend)
        await backend.forget()


def computed(engine: Engine) -> Counter[str]:
    """Prompt tokens computed so far, by model."""
    return Counter({name: int(c["prompt"] - c["cached"]) for name, c in engine.counters().items()})


def shape(backend: VLLMBackend, calls: Calls) -> Record:
    """What the calls of one model look like: their number and mean lengths, the tree of their prompts."""
    block = backend.block_size
    caches = {size: Cache(size) for size in (block, *BLOCKS)}
    prompts, nodes = set[int](), set[int]()
    for request, completion in calls:
        prompt = backend.tokens(request.prompt)
        text = backend.tokens(request.prompt.then(completion.text))[len(prompt) :]
        places = places_of([*prompt, *text])
        prompts.update(places[: len(prompt)])
        nodes.update(places)
        for cache in caches.values():
            cache.add(places, len(prompt))
    return {
        "calls": len(calls),
        "prompt": statistics.mean(completion.usage.prompt for _, completion in calls),
        "generated": statistics.mean(completion.tokens for _, completion in calls),
        "unique": len(prompts),
        "nodes": len(nodes),
        "floor": caches[block].computed,
        **{f"floor with blocks of {size}": caches[size].computed for size in BLOCKS},
    }


async def straight(
    backends: Mapping[str, Backend], requests: Sequence[Request], in_flight: Mapping[str, float]
) -> tuple[float, int]:
    """What `bare` does, by vLLM's AsyncLLM itself: prompts and parameters are made before, no backend is in between."""
    calls: list[tuple[str, Call]] = []
    for number, request in enumerate(requests):
        backend = backends[request.model]
        assert isinstance(backend, VLLMBackend)
        asked = backend.asked(request, backend.tokens(request.prompt))
        calls.append((request.model, partial(generated, backend, f"straight-{number}", asked)))
    return await fed(calls, in_flight)


async def generated(backend: VLLMBackend, name: str, asked: Record) -> int:
    """Tokens that AsyncLLM generates when it is asked that."""
    outputs = [one async for one in backend.engine.generate(request_id=name, **asked)]
    return len(outputs[-1].outputs[0].token_ids)


async def one_round(engine: Engine, problems: Sequence[Problem], seed: int, options: argparse.Namespace) -> Record:
    """A search, then the same calls without it."""
    await reset(engine)
    before = computed(engine)
    found, calls, spans = await search(engine, problems, seed, options.at_once)
    prefill = computed(engine) - before
    models: dict[str, Record] = {}
    for name, backend in engine.backends.items():
        assert isinstance(backend, VLLMBackend)
        own = [(request, completion) for request, completion in calls if request.model == name]
        busy = sum(completion.usage.seconds for _, completion in own)
        models[name] = shape(backend, own) | {"in flight": busy / found["seconds"], "prefill": prefill[name]}
    await reset(engine)
    bare_cpu = time.process_time()
    in_flight = {name: model["in flight"] for name, model in models.items()}
    requests = [request for request, _ in calls]
    alone, same = await bare(engine.backends, requests, in_flight)
    round_ = {
        "search": found,
        "raw": {"seconds": alone, "tokens": same, "client": time.process_time() - bare_cpu},
        "models": models,
    }
    if options.course:
        await reset(engine)
        alone, same = await following(engine.backends, course(calls, spans))
        round_["course"] = {"seconds": alone, "tokens": same}
    if options.straight:
        await reset(engine)
        alone, same = await straight(engine.backends, requests, in_flight)
        round_["straight"] = {"seconds": alone, "tokens": same}
    return round_


async def measure(options: argparse.Namespace) -> list[Record]:
    """The rounds that are asked for, after those that were saved."""
    problems = load_problems(options.dataset)[: options.problems]
    rounds: list[Record] = []
    if options.save and options.save.is_file():
        rounds = [json.loads(line) for line in options.save.read_text(encoding="utf-8").splitlines()]
    async with Engine(configuration(options), keep=False) as engine:
        await search(engine, problems[: options.warm_up], 10**6, options.at_once)
        with nullcontext() if options.usual_gc else collected_rarely():  # the latter is what tts-run does
            for _ in range(options.rounds):
                rounds.append(await one_round(engine, problems, len(rounds), options))
                keep(options.save, rounds[-1])
    return rounds


def keep(file: Path | None, found: Record) -> None:
    """Add a round to the file."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(found) + "\n")


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = T_95[min(len(values) - 1, max(T_95))] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


def speed(found: Record) -> float:
    """Generated tokens a second."""
    return float(found["tokens"] / found["seconds"])


def summary(rounds: Sequence[Record]) -> Record:
    """All rounds together. `client` is the processor time of this process, in milliseconds a call; `checks in flight`
    the mean number of Python checks that run at once; `thin` the share of a search's time in which less than half as
    many calls as on average were in flight, as where the last problems end (nan if a saved round does not have it)."""
    searches = [one["search"] for one in rounds]
    calls = sum(model["calls"] for one in rounds for model in one["models"].values())
    found: Record = {
        "rounds": len(rounds),
        "calls": calls,
        "checks in flight": round(statistics.mean(one["checks"] / one["seconds"] for one in searches), 2),
        "thin": round(statistics.mean(one.get("thin", math.nan) for one in searches), 2),
        "fraction": interval([speed(one["search"]) / speed(one["raw"]) for one in rounds]),
    }
    for how in ("search", "raw"):
        found[f"{how}: tokens a second"] = interval([speed(one[how]) for one in rounds])
        found[f"{how}: client"] = round(1000 * sum(one[how]["client"] for one in rounds) / calls, 2)
    for how, name in (("course", "fraction of the same course"), ("straight", "fraction of AsyncLLM")):
        if all(how in one for one in rounds):
            found[f"{how}: tokens a second"] = interval([speed(one[how]) for one in rounds])
            found[name] = interval([speed(one["search"]) / speed(one[how]) for one in rounds])
    shapes = {name: [one["models"][name] for one in rounds] for name in rounds[0]["models"]}
    for name, models in shapes.items():
        means = {key: statistics.mean(model[key] for model in models) for key in ("in flight", "prompt", "generated")}
        found[name] = {key: round(value, 2) for key, value in (means | multiples(models)).items()}
    everything = [model for models in shapes.values() for model in models]
    found["all models"] = {key: round(value, 2) for key, value in multiples(everything).items()}
    return found


def multiples(models: Sequence[Record]) -> dict[str, float]:
    """Prompt tokens computed, and what could not be less, as multiples of the trees' tokens."""
    total = {key: sum(model[key] for model in models) for key in models[0]}
    found = {key: total[key] / total["unique"] for key in total if key.startswith("floor")}
    return {"prefill": total["prefill"] / total["unique"], "of all nodes": total["prefill"] / total["nodes"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="folder of another policy")
    parser.add_argument("--verifier", help="folder of another GenPRM, or of its adapter on the policy")
    parser.add_argument("--mode", default="code", help="of GenPRM; for a model that was not trained as one: direct")
    parser.add_argument("--turn-tokens", type=int, help="bound of an analysis and of a check")
    parser.add_argument("--dataset", default="arith-dev")
    parser.add_argument("--problems", type=int, default=48)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--context", type=int, help="tokens of prompt and completion")
    parser.add_argument("--nice", type=int, help="how far the policy's engine stands behind on a CPU; 0: not at all")
    parser.add_argument("--dtype", help="of the engines; by default as `auto` picks it")
    parser.add_argument("--at-once", type=int, default=32, help="problems at once in the search")
    parser.add_argument("--warm-up", type=int, default=4, help="problems that are solved before, uncounted")
    parser.add_argument("--block-size", type=int, help="of the prefix cache, in tokens")
    parser.add_argument("--whole-blocks", action="store_true", help="the prefix cache finds whole blocks only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--usual-gc", action="store_true", help="leave Python's garbage collector as it is")
    parser.add_argument("--course", action="store_true", help="a raw run with as many calls in flight as then")
    parser.add_argument("--straight", action="store_true", help="ask vLLM's AsyncLLM itself, too")
    parser.add_argument("--save", type=Path, help="file that keeps the rounds")
    print(json.dumps(summary(loop.run(measure(parser.parse_args()))), indent=2))


if __name__ == "__main__":
    main()
