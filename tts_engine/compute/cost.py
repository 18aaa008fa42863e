"""What a model call costs: FLOPs from a model's sizes, dollars from a price table. Pure functions of token counts.

Per call, with L layers, width d, key (and value) width k, MLP width m, vocabulary V, `i` prompt tokens of which `c` are
cached, and `o` generated tokens:

    weights    w = L (4 d^2 + 4 d k + g d m)   FLOPs a token: query and output projection 2 d^2 each, key and value
                                               2 d k each, MLP with 2 (g = 4) or, gated, 3 (g = 6) matrices
    attention  4 L d                           FLOPs a pair of a query and a key it sees (scores and sum, 2 d each)
    head       2 d V                           FLOPs a generated token

    prompt     w (i - c) + 4 L d [i (i + 1) / 2 - c (c + 1) / 2]     token p sees p keys; cached tokens are not queries
    completion w o + 4 L d [i o + (o - 1) o / 2] + 2 d V o           token t sees the prompt and t - 1 generated tokens

With k = d and an MLP of two matrices, w = L (8 d^2 + 4 d m), and for c = 0 this is the usual count of a dense
transformer, term by term. A cached prompt token costs no prefill, but every later token still pays for attending to it.
Grouped-query attention shrinks the key and value projections only: the query heads together stay d wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tts_engine.backends.base import ModelShape
from tts_engine.compute.budget import PICO, Amount
from tts_engine.errors import ConfigError
from tts_engine.types import Usage, altered


def call_flops(shape: ModelShape, prompt: int, completion: int, cached: int = 0) -> float:
    """Floating point operations of one call (formula above).

    Args:
        prompt: prompt tokens, the `cached` ones included.
        completion: generated tokens, cancelled ones included.
        cached: prompt tokens whose keys and values were reused.
    """
    d, mlp = shape.width, (6 if shape.gated else 4) * shape.mlp
    weights = shape.layers * d * (4 * d + 4 * shape.kv_width + mlp)
    seen_by_prompt = _triangle(prompt) - _triangle(cached)
    seen_by_completion = prompt * completion + _triangle(completion - 1)
    return float(  # whole numbers up to here: rounding once keeps the cost monotonic in every count
        weights * (prompt - cached + completion)
        + 4 * shape.layers * d * (seen_by_prompt + seen_by_completion)
        + 2 * d * shape.vocabulary * completion
    )


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dollars per million tokens; `cached` is for prompt tokens that were reused, and is not above `prompt`."""

    prompt: float = 0.0
    cached: float = 0.0
    completion: float = 0.0

    def __post_init__(self) -> None:
        for name, price in (("prompt", self.prompt), ("cached", self.cached), ("completion", self.completion)):
            if not 0 <= price < math.inf:
                raise ConfigError(f"price {name}={price} must be dollars per million tokens, zero or more")
        if self.cached > self.prompt:
            raise ConfigError(f"price cached={self.cached} is above prompt={self.prompt}; lower it to at most that")

    def dollars(self, prompt: int, completion: int, cached: int = 0) -> float:
        """Price of one call; exact in picodollars, so never above the price of more tokens."""
        per_million = PICO // 10**6
        return (
            (prompt - cached) * round(self.prompt * per_million)
            + cached * round(self.cached * per_million)
            + completion * round(self.completion * per_million)
        ) / PICO


@dataclass(frozen=True, slots=True)
class CostModel:
    """Prices the calls of one model.

    Args:
        shape: sizes for the exact formula; None falls back to 2 FLOPs a parameter and token, without attention.
        prices: None when the model costs no money.
        parameters: active parameters, used only without a `shape`.
    """

    shape: ModelShape | None = None
    prices: Prices | None = None
    parameters: int = 0

    @property
    def counts_flops(self) -> bool:
        """Whether FLOPs are known at all; without shape and parameters they are reported as 0."""
        return self.shape is not None or self.parameters > 0

    def flops(self, prompt: int, completion: int, cached: int = 0) -> float:
        """FLOPs of one call; arguments as in `call_flops`."""
        if self.shape is not None:
            return call_flops(self.shape, prompt, completion, cached)
        return float(2 * self.parameters * (prompt - cached + completion))

    def dollars(self, prompt: int, completion: int, cached: int = 0) -> float:
        """Dollars of one call; arguments as in `call_flops`."""
        return 0.0 if self.prices is None else self.prices.dollars(prompt, completion, cached)

    def price(self, usage: Usage) -> Usage:
        """The usage of ONE call with FLOPs and dollars filled in; cancelled tokens cost what delivered ones do."""
        counts = usage.prompt, usage.completion + usage.cancelled, usage.cached
        return altered(usage, flops=self.flops(*counts), dollars=self.dollars(*counts))

    def upper_bound(self, prompt: int, max_tokens: int) -> Usage:
        """The most that a call can cost: nothing cached, every token generated. Time is not bounded."""
        return self.price(Usage(prompt=prompt, completion=max_tokens, calls=1))

    def affordable_tokens(self, left: Amount, prompt: int, max_tokens: int) -> int:
        """The longest completion, at most `max_tokens`, whose upper bound fits into `left`; 0 when there is none."""
        if left.fits(self.upper_bound(prompt, max_tokens)):
            return max_tokens
        low, high = 0, max_tokens  # `low` fits (0 means none does), `high` does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if left.fits(self.upper_bound(prompt, middle)) else (low, middle)
        return low
