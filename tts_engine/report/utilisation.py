"""How busy the models were over a run, by role: calls in flight and generated tokens a second.

`tts-run` keeps it in the run folder (`utilisation.json`); the plot is drawn by (extra `plot`)

    python -m tts_engine.report.utilisation RUN_FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tts_engine.errors import DataError, UsageError
from tts_engine.run import Event

FILE, PICTURE = "utilisation.json", "utilisation.png"
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Spans:
    """When the calls of one role began and ended, in seconds since the start, and what they generated."""

    starts: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))
    tokens: array[float] = field(default_factory=lambda: array("d"))

    def add(self, start: float, end: float, tokens: float) -> None:
        """One call."""
        self.starts.append(start)
        self.ends.append(end)
        self.tokens.append(tokens)


class Timeline:
    """Listens to a run; `on_event` is what the engine calls. Calls found in the journal took no time and are left out.

    Args:
        now: seconds on a monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._started = now()
        self._roles: dict[str, Spans] = {}

    def on_event(self, event: Event) -> None:
        """Take one event in."""
        if event.kind != "call" or event.data["completion"].recalled:
            return
        completion = event.data["completion"]
        end = self._now() - self._started
        spans = self._roles.setdefault(str(event.data["request"].role), Spans())
        spans.add(max(0.0, end - completion.usage.seconds), end, completion.usage.completion)

    def series(self, points: int = 200) -> dict[str, Any]:
        """Means over `points` equal intervals: `step` in seconds; by role, `in_flight` and `tokens_per_second`."""
        length = max((span for spans in self._roles.values() for span in spans.ends), default=0.0)
        if length == 0.0:
            return {"step": 0.0, "roles": {}}
        edges = np.linspace(0.0, length, points + 1)
        return {"step": length / points, "roles": {role: _means(spans, edges) for role, spans in self._roles.items()}}


def _means(spans: Spans, edges: Floats) -> dict[str, Any]:
    starts, ends, tokens = (np.asarray(column) for column in (spans.starts, spans.ends, spans.tokens))
    ones = np.ones_like(starts)
    rates = tokens / np.maximum(ends - starts, 1e-9)
    return {
        "calls": len(starts),
        "in_flight": spread(starts, ends, ones, edges).round(3).tolist(),
        "tokens_per_second": spread(starts, ends, rates, edges).round(1).tolist(),
    }


def spread(starts: Floats, ends: Floats, weights: Floats, edges: Floats) -> Floats:
    """Mean over each interval between `edges` of the summed weights of the spans that cover a moment.

    >>> spread(np.array([0.0, 1.0]), np.array([2.0, 2.0]), np.ones(2), np.array([0.0, 1.0, 2.0, 3.0])).tolist()
    [1.0, 2.0, 0.0]
    """
    area = _ramp(starts, weights, edges) - _ramp(ends, weights, edges)
    means: Floats = np.diff(area) / np.diff(edges)
    return np.maximum(means, 0.0)  # rounding


def _ramp(begins: Floats, weights: Floats, at: Floats) -> Floats:
    """Sum over the spans of weight * max(0, at - begin), for each `at`."""
    order = np.argsort(begins)
    begins, weights = begins[order], weights[order]
    slope = np.concatenate(([0.0], np.cumsum(weights)))
    offset = np.concatenate(([0.0], np.cumsum(weights * begins)))
    passed = np.searchsorted(begins, at, side="right")
    ramp: Floats = slope[passed] * at - offset[passed]
    return ramp


def draw(series: Mapping[str, Any], path: Path) -> None:
    """The plot: two panels over time, a line a role. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for role, found in series["roles"].items():
        times = (np.arange(len(found["in_flight"])) + 0.5) * series["step"]
        above.plot(times, found["in_flight"], label=f"{role} ({found['calls']} calls)")
        below.plot(times, found["tokens_per_second"], label=role)
    above.set(ylabel="calls in flight", ylim=(0, None))
    below.set(ylabel="generated tokens / s", xlabel="seconds", ylim=(0, None))
    if series["roles"]:
        above.legend()
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the plot of a run folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tts_engine.report.utilisation", description="Plot a run's load.")
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    folder = parser.parse_args(argv).folder
    try:
        draw(read(folder), folder / PICTURE)
    except UsageError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    sys.stdout.write(f"{folder / PICTURE}\n")
    return 0


def read(folder: Path) -> dict[str, Any]:
    """What a run kept.

    Raises:
        DataError: it kept nothing.
    """
    try:
        series: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{folder} holds no {FILE}: give the folder of a run of tts-run") from None
    return series


if __name__ == "__main__":
    sys.exit(main())
