"""One price for all problems of a run: raised where too much is spent, lowered where too little. Pure functions.

A run's budget is worth most where the gain of the last unit spent is the same on every problem; the allocator
(allocator.py) spends on each exactly what is worth the price. So a budget becomes a price by the curve that says what a
problem costs at each price, and the price is set anew for each problem from what the earlier ones really took.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
"""A price, and the mean cost of a problem at it, in costs of a solution."""
MEMORY = 8.0
"""Problems that the curve counts for, against what the problems of the run themselves say."""
STEPS = 4
"""Prices are powers of 2 ** (1 / STEPS): so that problems share what a planner has worked out."""


def price_for(cost: float, curve: Sequence[Point]) -> float:
    """The price at which a problem costs `cost` on average: log-linear between the points of the curve.

    Beyond the ends of the curve the price of its end.
    """
    points = sorted((math.log(c), math.log(p)) for p, c in curve)
    costs = [c for c, _ in points]
    place = bisect.bisect(costs, math.log(cost))
    if place in (0, len(points)):
        return math.exp(points[min(place, len(points) - 1)][1])
    (low, above), (high, below) = points[place - 1], points[place]
    return math.exp(above + (below - above) * (math.log(cost) - low) / (high - low))


def rounded(price: float) -> float:
    """The nearest price of the grid."""
    return float(2.0 ** (round(math.log2(price) * STEPS) / STEPS))


@dataclass(slots=True)
class Pacer:
    """Sets prices so that a budget is just used.

    Args:
        curve: cost of a problem at each price.
        total: the budget, in costs of a solution.
        problems: how many there are.
    """

    curve: Sequence[Point]
    total: float
    problems: int
    _asked: int = 0
    _planned: float = 0.0
    _done_planned: float = 0.0
    _done_spent: float = 0.0

    @property
    def free(self) -> float:
        """What the problems that have ended have left over."""
        return max(self.total - self._done_spent, 0.0)

    def next(self) -> tuple[float, float]:
        """The price of the next problem, and what it is expected to cost."""
        scale = (self._done_spent + MEMORY) / (self._done_planned + MEMORY)
        free = self.total - self._done_spent - scale * (self._planned - self._done_planned)
        share = max(free / max(self.problems - self._asked, 1), 1e-6)
        wanted = min(max(share / scale, self.curve[0][1] / 4), self.curve[-1][1])
        self._asked += 1
        self._planned += wanted
        return rounded(price_for(wanted, self.curve)), wanted

    def settle(self, planned: float, spent: float) -> None:
        """A problem that was expected to cost `planned` took `spent`."""
        self._done_planned += planned
        self._done_spent += spent
