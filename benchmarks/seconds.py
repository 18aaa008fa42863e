"""How well seconds are foretold: fit the latency model on the local backend's own measurements, test it on others.

    python -m benchmarks.seconds

Waves of 1 to 64 calls of the embedded policy and verifier at once; the model of compute/timing.py is fitted on every
other wave and foretells the rest. Error: the median of |foretold - measured| / measured over calls.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time

import numpy as np

from tts_engine.backends.embedded import embedded_path
from tts_engine.backends.local import LocalBackend
from tts_engine.compute.timing import TimedCall, beside, fit_seconds
from tts_engine.types import Key, Message, Prompt, Request, Role, Sampling

SIZES = (1, 2, 4, 8, 16, 32, 64)
WORDS = ("Tom", "has", "12", "apples", "and", "buys", "30", "more", "boxes", "of", "pens;")


async def wave(backend: LocalBackend, size: int, draw: random.Random) -> list[TimedCall]:
    """So many calls at once, of mixed lengths."""

    async def one() -> TimedCall:
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randrange(5, 120)))
        prompt = Prompt(messages=(Message(role="user", content=text),))
        sampling = Sampling(max_tokens=draw.randrange(4, 64), temperature=1.5)
        request = Request(role=Role.GENERATE, model="", prompt=prompt, sampling=sampling, key=Key(draw.getrandbits(60)))
        began = time.perf_counter()
        usage = (await backend.complete(request)).usage
        fresh = usage.prompt - usage.cached
        return TimedCall(start=began, end=time.perf_counter(), prompt=fresh, completion=usage.completion)

    return list(await asyncio.gather(*(one() for _ in range(size))))


async def measure(model: str, rounds: int) -> str:
    """One line of the table."""
    draw = random.Random(0)
    waves = []
    async with LocalBackend(embedded_path(f"embedded:{model}"), threads=1) as backend:
        await wave(backend, 16, draw)
        for _ in range(rounds):
            for size in SIZES:
                waves.append(await wave(backend, size, draw))
    known = fit_seconds([call for part in waves[::2] for call in part])
    errors = [
        abs(known.seconds(call.prompt, call.completion, others) / (call.end - call.start) - 1)
        for part in waves[1::2]
        for call, others in zip(part, beside(part), strict=True)
    ]
    figures = (
        f"{1e3 * known.overhead:.1f} | {1e6 * known.prompt:.0f} | {1e3 * known.token:.2f} | {1e6 * known.crowd:.0f}"
    )
    return f"| {model} | {figures} | {100 * float(np.median(errors)):.0f} % | {len(errors)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| model | overhead, ms | prompt token, µs | token, ms | each call beside, µs a token | median error | n |")
    print("|---|---|---|---|---|---|---|")
    for model in ("policy", "genprm"):
        print(asyncio.run(measure(model, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
