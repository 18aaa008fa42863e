"""The lines of a comparison's chart: accuracy against cost, one line an arm, K and selector; and that chart as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tts_engine.report.words import short

Record = Mapping[str, Any]
SHOWN = ("weighted", "best", "pessimistic")
"""Of the selectors that use a verifier the first that was evaluated is drawn; the tables have all."""
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 860, 460, 56, 44, 12, 230


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: (cost, accuracy, low, high, what it is) for each point, cheapest first.

    `kind`: `plain`, `verified`, `search` (single points) or `oracle` (what no selector can exceed).
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float, float, float, str]]


def lines(summary: Record) -> list[Line]:
    """The lines in the unit of the summary; none where no cost is estimable."""
    unit = summary["unit"]
    if unit is None:
        return []
    groups: dict[tuple[str, str], list[tuple[float, float, float, float, str]]] = {}
    drawn = _drawn(summary)
    for name, row in zip(summary["names"], summary["points"], strict=True):
        label = _label(row, drawn)
        if label is not None and row[unit] is not None:
            entry = (row[unit], row["accuracy"], row["low"], row["high"], name)
            groups.setdefault(label, []).append(entry)
    found = [Line(name=name, kind=kind, points=sorted(points)) for (name, kind), points in groups.items()]
    return [*found, *_oracle(summary, unit)]


def _drawn(summary: Record) -> str | None:
    used = {row["select"] for row in summary["points"]}
    return next((how for how in SHOWN if how in used), None)


def _label(row: Record, drawn: str | None) -> tuple[str, str] | None:
    """Name and kind of the line that a point is on; None where it is not drawn."""
    if row["measured"]:
        return f"{row['strategy']} ({row['arm']})", "search"
    if row["strategy"] == "self-consistency":
        return "self-consistency", "plain"
    if row["k"] == 0:
        return f"own confidence ({row['policy']})", "plain"
    return (f"{row['arm']} K={row['k']}, {drawn}", "verified") if row["select"] == drawn else None


def _oracle(summary: Record, unit: str) -> Iterator[Line]:
    """pass@n at the cost of n plain samples."""
    plain = {row["n"]: row[unit] for row in summary["points"] if row["strategy"] == "self-consistency"}
    points = [
        (plain[int(n)], rate["value"], rate["low"], rate["high"], f"pass@{n}")
        for n, rate in summary["pass"].items()
        if plain.get(int(n)) is not None
    ]
    if len(points) > 1:
        yield Line(name="any of N right", kind="oracle", points=points)


def svg(summary: Record) -> str:
    """The chart; empty where no cost is estimable."""
    drawn = lines(summary)
    if not drawn:
        return ""
    xs = [math.log10(x) for line in drawn for x, *_ in line.points]
    ys = [y for line in drawn for _, _, low, high, _ in line.points for y in (low, high)]
    left, right = min(xs), max(max(xs), min(xs) + 0.1)
    low, high = math.floor(10 * min(ys)) / 10, math.ceil(10 * max(ys)) / 10

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - left) / (right - left)
        up = (y - low) / max(high - low, 0.1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="accuracy against cost">']
    parts += _axes(place, 10**left, 10**right, low, high, summary["unit"])
    for number, line in enumerate(drawn):
        colour = "#888" if line.kind == "oracle" else COLOURS[number % len(COLOURS)]
        parts += _line(line, colour, place, number)
    front = [place(entry["cost"], entry["accuracy"]["value"]) for entry in summary["frontier"][summary["unit"]]]
    parts.append(f'<polyline class="front" points="{_path(front)}"/>')
    return "\n".join([*parts, "</svg>"])


def _axes(place: Any, x0: float, x1: float, y0: float, y1: float, unit: str) -> Iterator[str]:  # noqa: ANN401
    """Grid lines with their numbers."""
    steps = round((y1 - y0) * 10)
    for y in (y0 + i / 10 for i in range(steps + 1)):
        (left, down), (right, _) = place(x0, y), place(x1, y)
        yield f'<line class="grid" x1="{left:.1f}" y1="{down:.1f}" x2="{right:.1f}" y2="{down:.1f}"/>'
        yield f'<text x="{left - 8:.1f}" y="{down + 4:.1f}" text-anchor="end">{100 * y:.0f} %</text>'
    for power in range(math.floor(math.log10(x0)), math.ceil(math.log10(x1)) + 1):
        for x in (m * 10.0**power for m in (1, 2, 5)):
            if x0 <= x <= x1:
                across, down = place(x, y0)
                yield f'<text x="{across:.1f}" y="{down + 18:.1f}" text-anchor="middle">{short(x)}</text>'
    across, down = place(math.sqrt(x0 * x1), y0)
    yield f'<text x="{across:.1f}" y="{down + 36:.1f}" text-anchor="middle">{unit} per problem, all models</text>'


def _line(line: Line, colour: str, place: Any, number: int) -> Iterator[str]:  # noqa: ANN401
    """A line with its interval bars, points with tooltips, and its entry in the legend."""
    if line.kind != "search":
        path = _path([place(x, y) for x, y, *_ in line.points])
        dashes = ' stroke-dasharray="4 4"' if line.kind == "oracle" else ""
        yield f'<polyline fill="none" stroke="{colour}" stroke-width="2"{dashes} points="{path}"/>'
    for x, y, low, high, name in line.points:
        (across, at), (_, top), (_, bottom) = place(x, y), place(x, high), place(x, low)
        bar = f'x1="{across:.1f}" y1="{top:.1f}" x2="{across:.1f}" y2="{bottom:.1f}"'
        yield f'<line {bar} stroke="{colour}" opacity=".4"/>'
        tip = html.escape(f"{name}: {100 * y:.1f} % [{100 * low:.1f}, {100 * high:.1f}], {short(x)}")
        yield f'<circle cx="{across:.1f}" cy="{at:.1f}" r="3.5" fill="{colour}"><title>{tip}</title></circle>'
    height = TOP + 14 + 18 * number
    yield f'<circle cx="{WIDTH - RIGHT + 16}" cy="{height - 4}" r="5" fill="{colour}"/>'
    yield f'<text x="{WIDTH - RIGHT + 28}" y="{height}">{html.escape(line.name)}</text>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
