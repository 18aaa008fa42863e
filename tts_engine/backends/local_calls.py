"""One request inside the local engine, and the settings of all running ones as arrays."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from tts_engine.backends.local_attention import Ints
from tts_engine.backends.local_model import Weights
from tts_engine.backends.local_text import Stops
from tts_engine.types import Completion, Sampling, TokenLogprob


@dataclass(slots=True, eq=False)
class Call:
    """One request inside the engine. `limit` is the most tokens, prompt and completion together."""

    tokens: list[int]
    sampling: Sampling
    stops: Stops
    watch: tuple[tuple[str, int], ...]
    seed: int
    priority: int
    limit: int
    future: asyncio.Future[Completion | Exception]
    sent: float
    prompt: int
    hashes: list[int] = field(default_factory=list)
    slot: int = -1
    cached: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    cancelled: bool = False
    ended: Completion | Exception | None = None

    @property
    def detailed(self) -> bool:
        """Whether each token's alternatives are wanted."""
        return bool(self.watch) or self.sampling.logprobs > 0


class Rows:
    """What sampling and ending need to know of each slot, as arrays."""

    def __init__(self, slots: int, weights: Weights) -> None:
        self.prompt: Ints = np.zeros(slots, np.int64)
        self.limit: Ints = np.zeros(slots, np.int64)
        self.last: Ints = np.zeros(slots, np.int64)
        self.top_k: Ints = np.zeros(slots, np.int64)
        self.seed = np.zeros(slots, np.uint64)
        self.temperature = np.zeros(slots, np.float32)
        self.top_p = np.zeros(slots, np.float32)
        self.score = np.zeros(slots, np.float64)
        self.detailed = np.zeros(slots, bool)
        self.hot = np.zeros((slots, weights.vocabulary), bool)
        self.ends = np.zeros(weights.vocabulary, bool)
        self.ends[[token for token in weights.ends if token < weights.vocabulary]] = True

    def start(self, slot: int, call: Call) -> None:
        """Take over a call's settings."""
        sampling = call.sampling
        self.prompt[slot], self.limit[slot], self.last[slot] = call.prompt, call.limit, call.tokens[-1]
        self.temperature[slot], self.top_k[slot] = sampling.temperature, sampling.top_k
        self.top_p[slot], self.seed[slot] = sampling.top_p, call.seed
        self.score[slot], self.detailed[slot] = 0.0, call.detailed
        self.hot[slot] = call.stops.hot
