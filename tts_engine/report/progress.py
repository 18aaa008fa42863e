"""Live progress: a display that is redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tts_engine.compute.ledger import Budget, Scope
from tts_engine.report.words import duration, percent, short
from tts_engine.run import Event

WINDOW = 5.0
"""Seconds over which tokens per second are measured."""
PLAIN_EVERY = 5.0
"""Seconds between lines where no terminal is."""


class Progress:
    """Counts the engine's events and shows them. A context manager; `on_event` is what the engine calls.

    Args:
        total: number of problems.
        ledger: the run's account, and its budget: for what is left.
        console: where to draw.
        quiet: count, show nothing.
        now: seconds on a monotonic clock.
    """

    def __init__(
        self,
        total: int,
        ledger: Scope,
        budget: Budget,
        console: Console,
        *,
        quiet: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._ledger = ledger
        self._budget = budget
        self._console = console
        self._now = now
        self._started = now()
        self._last_line = self._started
        self._open: set[str] = set()
        self._results: Counter[bool | None] = Counter()
        self._calls: Counter[str] = Counter()
        self._tokens: dict[str, deque[tuple[float, int]]] = {}
        self._quiet = quiet
        self._live: Live | None = None
        if not quiet and console.is_terminal:
            self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def on_event(self, event: Event) -> None:
        """Take one event in."""
        match event.kind:
            case "problem_started":
                self._open.add(event.problem)
            case "problem_done":
                self._open.discard(event.problem)
                self._results[event.data["outcome"].correct] += 1
            case "call":
                completion = event.data["completion"]
                role = str(event.data["request"].role)
                self._calls[role] += 1
                self._tokens.setdefault(role, deque()).append((self._now(), completion.usage.completion))
        if not self._quiet and self._live is None and self._now() - self._last_line >= PLAIN_EVERY:
            self._last_line = self._now()
            self._console.print(" | ".join(filter(None, self.lines())), soft_wrap=True)

    def lines(self) -> Iterator[str]:
        """What there is to say: problems, models, budget."""
        graded = self._results[True] + self._results[False]
        accuracy = f", accuracy {percent(self._results[True] / graded)}" if graded else ""
        done = sum(self._results.values())
        time_passed = duration(self._now() - self._started)
        yield f"{done}/{self._total} problems, {len(self._open)} under way{accuracy}, {time_passed}"
        rates = (f"{role}: {calls} calls, {short(self._rate(role))} tok/s" for role, calls in self._calls.items())
        yield "  ".join(rates)
        yield self._budget_left()

    def render(self) -> RenderableType:
        """The display on a terminal: a bar, then the lines."""
        first, *others = self.lines()
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(self._total, sum(self._results.values()), width=30), Text(first))
        return Group(bar, *(Text(line, style="dim") for line in others if line))

    def _rate(self, role: str) -> float:
        now, recent = self._now(), self._tokens[role]
        while recent and recent[0][0] < now - WINDOW:
            recent.popleft()
        return sum(tokens for _, tokens in recent) / max(min(WINDOW, now - self._started), 0.1)

    def _budget_left(self) -> str:
        """Against what was spent: the ledger's own `left` has dealt everything out to the problems already."""
        budget, spent = self._budget, self._ledger.total
        limits = (
            ("tokens", budget.tokens, spent.tokens),
            ("FLOPs", budget.flops, spent.flops),
            ("dollars", budget.dollars, spent.dollars),
        )
        parts = [f"{short(limit - used)} {unit}" for unit, limit, used in limits if limit is not None]
        if budget.seconds is not None:
            parts.append(f"{max(self._ledger.left.seconds or 0.0, 0.0):.0f} s")
        return f"budget left: {', '.join(parts)}" if parts else ""

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
