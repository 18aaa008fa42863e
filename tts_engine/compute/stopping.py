"""When to stop asking a verifier: sequential tests on yes/no votes. Pure functions.

Wald's sequential probability ratio test (Wald 1945) weighs "a vote is a yes with probability r" against "with 1 - r";
it ends when the log odds leave (-log((1 - e) / e), log((1 - e) / e)), which keeps both errors at about e. The Bayesian
test puts a uniform prior on the chance of a yes and ends when it lies on one side of 1/2 with probability 1 - e (the
rule of adaptive consistency, 2305.11860; for verifiers 2503.17587). Both see the majority decide where the most votes
are reached, and both end where the votes that are left can not change the majority.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tts_engine.errors import ConfigError

Test = Literal["sprt", "beta"]
AUTO = "auto[:MOST[:ERROR[:TEST]]], such as auto, auto:16 or auto:16:0.01:beta"


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRule:
    """When the votes on a candidate are enough.

    Attributes:
        most: votes at most.
        error: chance of a wrong majority that is accepted, in (0, 0.5).
        test: `sprt` or `beta`.
        reliability: chance that a vote says what the majority of endlessly many would, for `sprt`; in (0.5, 1).
    """

    most: int = 8
    error: float = 0.01
    test: Test = "sprt"
    reliability: float = 0.85

    def __post_init__(self) -> None:
        if self.most < 1 or not 0 < self.error < 0.5 or not 0.5 < self.reliability < 1 or self.test not in TESTS:
            raise ConfigError(
                f"automatic votes need 1 or more at most, an error between 0 and 0.5 and the test {' or '.join(TESTS)};"
                f" write {AUTO}"
            )

    @classmethod
    def parse(cls, text: str) -> VoteRule:
        """Read `auto[:MOST[:ERROR[:TEST]]]`; `ConfigError` where it is something else."""
        word, *parts = text.split(":")
        kinds = (("most", int), ("error", float), ("test", str))
        if word != "auto" or len(parts) > len(kinds):
            raise ConfigError(f"verifier samples {text!r} are neither a whole number from 1 on nor {AUTO}")
        try:
            return cls(**{name: kind(part) for (name, kind), part in zip(kinds, parts, strict=False)})
        except ValueError:
            raise ConfigError(f"verifier samples {text!r} are not of the form {AUTO}") from None

    @property
    def least(self) -> int:
        """Votes that settle it when they all agree: no fewer are worth a look."""
        return next((n for n in range(1, self.most) if self.settled(n, 0)), self.most)

    def settled(self, yes: int, no: int) -> bool:
        """Whether further votes are not worth it."""
        left = self.most - yes - no
        return abs(yes - no) > left or left <= 0 or self._risk(max(yes, no), min(yes, no)) <= self.error

    def _risk(self, leading: int, other: int) -> float:
        if self.test == "beta":
            return 1 - beta_above_half(leading + 1, other + 1)
        odds = (leading - other) * math.log(self.reliability / (1 - self.reliability))
        return 1 / (1 + math.exp(min(odds, 700.0)))


TESTS: tuple[Test, ...] = ("sprt", "beta")


def beta_above_half(a: int, b: int) -> float:
    """P(X > 1/2) for X from Beta(a, b), exactly: the chance of at most a - 1 heads in a + b - 1 fair throws."""
    throws = a + b - 1
    return math.ldexp(sum(math.comb(throws, heads) for heads in range(a)), -throws)
