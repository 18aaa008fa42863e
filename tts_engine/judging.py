"""What a search asks of a verifier."""

from __future__ import annotations

from typing import Protocol

from tts_engine.calls import Calls
from tts_engine.types import Key, Problem, Verdict


class Judge(Protocol):
    """A verifier at work on one problem; it remembers what it has judged, so that a longer prefix costs only its new
    steps and equal texts are judged once."""

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        """Judge the solution prefix `steps` with `samples` independent samples, paid through `calls`.

        Samples are nested: those of a smaller number are among those of a larger one.

        Raises:
            BackendError, BudgetExhausted: not even one sample could be had.
        """
        ...

    def publish(self) -> None:
        """A barrier: what was judged so far is common to all candidates from now on.

        Under a budget, candidates of one wave pay for equal texts each on its own, so that what a candidate can pay
        does not depend on who came first; without one, equal texts are judged once anyway.
        """
        ...

    async def close(self) -> None: ...


class Verifier(Protocol):
    """Makes a `Judge` for each problem."""

    @property
    def cost_ratio(self) -> float:
        """First guess of the cost of one sample over a solution, in costs of generating it; measured from then on."""
        ...

    def open(self, problem: Problem, key: Key) -> Judge: ...
