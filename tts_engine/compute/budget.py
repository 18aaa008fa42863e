"""How much a run may spend, and how that is written: `tokens=20k,flops=1e12,seconds=30`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from tts_engine.errors import ConfigError
from tts_engine.types import Usage

PICO = 10**12
"""Money is counted in whole picodollars, so that sums and refunds are exact."""
EXAMPLE = "tokens=20k,flops=1e12,seconds=30,dollars=0.5"
SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12, "p": 1e15}
TIME_SUFFIXES = {"s": 1.0, "m": 60.0, "h": 3600.0}
ENDLESS = 10**40
"""More than any budget: a bound of infinity as an integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits in any subset of the units; None is no limit.

    `tokens`, `flops` and `dollars` are spent. `seconds` is a deadline: wall-clock from the start of the scope it is on.

    Raises:
        ConfigError: a limit is not a positive, finite number (for tokens: a whole one).
    """

    tokens: int | None = None
    flops: float | None = None
    seconds: float | None = None
    dollars: float | None = None

    def __post_init__(self) -> None:
        for unit in UNITS:
            value = getattr(self, unit)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"budget {unit}={value} must be above zero; leave {unit} out for no limit")
        if self.tokens is not None and self.tokens != int(self.tokens):
            raise ConfigError(f"budget tokens={self.tokens} must be a whole number")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `unit=value` pairs. Values may end in k, M, G, T or P; seconds in s, m or h (minutes, hours)."""
        limits: dict[str, float] = {}
        for part in text.split(","):
            unit, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise ConfigError(f"budget {part.strip()!r} names no unit; write it like {EXAMPLE}")
            if unit not in UNITS:
                raise ConfigError(f"budget has no unit {unit!r}; use {', '.join(UNITS)}, for example {EXAMPLE}")
            if unit in limits:
                raise ConfigError(f"budget names {unit} twice; give it once")
            limits[unit] = _number(unit, value)
        return cls(**limits)  # type: ignore[arg-type]  # tokens are whole: _number made them int


def _number(unit: str, text: str) -> float:
    suffixes = TIME_SUFFIXES if unit == "seconds" else SUFFIXES
    factor = suffixes.get(text[-1:].lower())
    try:
        value = float(text if factor is None else text[:-1]) * (factor or 1.0)
    except ValueError:
        raise ConfigError(f"budget {unit}={text!r} is not a number; write it like {EXAMPLE}") from None
    return int(value) if unit == "tokens" and value.is_integer() else value


UNITS = tuple(f.name for f in fields(Budget))


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What is free in a scope: the tightest limit of it and its ancestors. None is unlimited.

    `flops` is a whole number of any size; `dollars` is a multiple of a picodollar; `seconds` may be negative (late).
    """

    tokens: int | None = None
    flops: float | None = None
    seconds: float | None = None
    dollars: float | None = None

    def times(self, usage: Usage) -> int:
        """How many calls with this upper bound could be paid for at once."""
        limits = (self.tokens, self.flops, None if self.dollars is None else round(self.dollars * PICO))
        pairs = zip(limits, whole(usage), strict=True)
        rooms = [int(limit // cost) for limit, cost in pairs if limit is not None and cost]
        return min(rooms, default=2**31)

    def fits(self, usage: Usage) -> bool:
        """Whether a call with this upper bound could be paid for now."""
        tokens, flops, money = whole(usage)
        return (
            (self.tokens is None or tokens <= self.tokens)
            and (self.flops is None or flops <= self.flops)
            and (self.dollars is None or money <= round(self.dollars * PICO))
            and (self.seconds is None or self.seconds > 0)
        )


def whole(usage: Usage) -> tuple[int, int, int]:
    """Tokens, FLOPs and picodollars of a usage as integers: sums of them never drift. Infinity fits no limit."""
    return usage.tokens, _rounded(usage.flops), _rounded(usage.dollars * PICO)


def _rounded(amount: float) -> int:
    return round(amount) if amount < math.inf else ENDLESS
