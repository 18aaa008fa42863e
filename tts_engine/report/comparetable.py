"""A comparison in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tts_engine.report.words import bounded, percent, share, short

Record = Mapping[str, Any]
MOST_ROWS = 24
"""Configurations in the terminal; points.csv has them all."""


def compare_report(summary: Record, recommended: Record | None) -> RenderableType:
    """What was compared, the configurations with their cost, the frontier, the crossover, the fits, the advice."""
    parts: list[RenderableType] = [_head(summary), "", _points(summary)]
    if summary["unit"]:
        parts += ["", _frontier(summary), *(Text(line) for line in verdict_lines(summary))]
    if summary["difficulty"]:
        parts += ["", _difficulty(summary["difficulty"])]
    parts += [Text(line) for line in exponent_lines(summary)]
    if recommended:
        parts += ["", *(Text(line, style="bold" if i == 0 else "") for i, line in enumerate(advice_lines(recommended)))]
    for unit, reason in summary["not_estimable"].items():
        parts.append(Text(f"cost in {unit}: not estimable, {reason}", style="dim"))
    return Group(*parts, *(Text(note, style="yellow") for note in summary["notes"]))


def verdict_lines(summary: Record) -> Iterator[str]:
    """Where plain voting is the better buy, in words."""
    unit = summary["unit"]
    crossed = summary["crossover"].get(unit) if unit else None
    if crossed is None:
        return
    if crossed["value"] is None:
        yield f"No verified configuration beats plain self-consistency at any cost that was measured ({unit})."
        return
    if crossed["regime"] is None:
        yield f"Verifying wins from the cheapest configuration on ({unit})."
        return
    bounds = f"{_bound(crossed['low'])} to {_bound(crossed['high'])}"
    yield (
        f"Below {short(crossed['value'])} {unit} a problem (95 %: {bounds}) plain self-consistency is the better buy"
        f" (best there: {crossed['regime']}, {percent(crossed['regime_accuracy'])}); above it, verifying wins."
    )
    if crossed["sure"]:
        yield f"The difference is significant from {short(crossed['sure'])} {unit} on."


def exponent_lines(summary: Record) -> Iterator[str]:
    """The fitted exponents beside the published ones, in words."""
    for fit in summary["exponents"]:
        name = f"{fit['arm']}, {fit['select']}"
        if fit["n"] is None:
            yield f"{name}: exponents not estimable: {fit['reason']}"
            continue
        solutions = f"N* ~ C^{_exponent(fit['n'])} (published {fit['published']['n']})"
        judgements = f"K* ~ C^{_exponent(fit['k'])} (published {fit['published']['k']})" if fit["k"] else fit["reason"]
        budgets = f"{len(fit['optimal'])} budgets, {fit['edge']} at the grid's edge left out"
        yield f"{name}: {solutions}, {judgements}; {budgets}"


def advice_lines(advice: Record) -> Iterator[str]:
    """The recommendation in words."""
    budget = ", ".join(f"{unit}={limit:g}" for unit, limit in advice["budget"].items())
    yield f"For {budget} a problem: {advice['name']}"
    accuracy = advice["accuracy"]
    costs = ", ".join(f"{short(cost)} {unit}" for unit, cost in advice["cost"].items())
    yield f"  accuracy {percent(accuracy['value'])} ({share(accuracy)}), cost {costs}"
    yield f"  chosen on four fifths of the problems and measured on the rest: {percent(advice['held_out'])}"
    if advice["plain"]:
        yield "  Plain self-consistency wins at this budget: a verifier would not pay."
    elif advice["gain_over_plain"]:
        gain = advice["gain_over_plain"]
        yield f"  {points_of(gain)} points over the best plain one ({advice['best_plain']})"
    if advice["not_significantly_worse"]:
        yield f"  cheaper and not significantly worse: {advice['not_significantly_worse'][0]}"


def points_of(gain: Mapping[str, float]) -> str:
    """A difference of shares in points, with its interval."""
    return bounded(gain, "+.1f")


def _exponent(found: Mapping[str, float]) -> str:
    return bounded(found, ".2f", 1)


def _bound(value: float | None) -> str:
    return "never" if value is None else short(value)


def _head(summary: Record) -> Text:
    arms = "; ".join(
        f"{arm['name']}: {arm['solutions']} solutions" + (f", {arm['chains']} judgements" if arm["chains"] else "")
        for arm in summary["arms"]
    )
    title = f"{summary['problems']} problems, {len(summary['points'])} configurations. {arms}"
    rates = ", ".join(f"pass@{n} {percent(rate['value'])}" for n, rate in summary["pass"].items())
    return Text.assemble((title, "bold"), "\n", (f"{summary['pass_policy']}: {rates}" if rates else "", "dim"))


def _points(summary: Record) -> Table:
    """Every configuration, cheapest first; the most accurate ones where there are too many."""
    unit = summary["unit"] or "tokens"
    rows = list(zip(summary["names"], summary["points"], strict=True))
    front = {entry["point"] for entry in summary["frontier"].get(unit, ())}
    shown = [
        i for i in range(len(rows)) if len(rows) <= MOST_ROWS or i in front or rows[i][1]["select"] != "pessimistic"
    ]
    shown = sorted(sorted(shown, key=lambda i: (i not in front, -rows[i][1]["accuracy"]))[:MOST_ROWS])
    shown.sort(key=lambda i: _cost(rows[i][1], unit))
    title = f"Configurations ({len(shown)} of {len(rows)})"
    table = _table(
        title, ("", "left"), ("accuracy", "right"), ("95 %", "left"), (f"{unit}/problem", "right"), ("", "left")
    )
    for i in shown:
        name, row = rows[i]
        cost = "–" if row[unit] is None else short(row[unit])
        table.add_row(name, percent(row["accuracy"]), share(row), cost, "frontier" if i in front else "")
    return table


def _cost(row: Record, unit: str) -> float:
    return float("inf") if row[unit] is None else float(row[unit])


def _frontier(summary: Record) -> Table:
    unit = summary["unit"]
    table = _table(
        f"Frontier by {unit}", ("", "left"), (unit, "right"), ("accuracy", "right"), ("points gained", "left")
    )
    for entry in summary["frontier"][unit]:
        gain = points_of(entry["gain"]) if entry["gain"] else ""
        table.add_row(entry["name"], short(entry["cost"]), percent(entry["accuracy"]["value"]), gain)
    return table


def _difficulty(bins: Sequence[Record]) -> Table:
    title = "By difficulty (quintiles of pass@1 on other samples), hardest first"
    table = _table(
        title,
        ("pass@1", "left"),
        ("problems", "right"),
        ("best plain", "right"),
        ("best verified", "right"),
        ("points gained", "left"),
    )
    for entry in bins:
        cells = [percent(entry[kind]["value"]) if kind in entry else "–" for kind in ("plain", "verified")]
        gain = points_of(entry["gain"]) if "gain" in entry else ""
        table.add_row(f"{entry['pass1_low']:.2f} to {entry['pass1_high']:.2f}", f"{entry['problems']:g}", *cells, gain)
    return table


def _table(title: str, *columns: tuple[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify)
    return table
