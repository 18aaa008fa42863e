"""A comparison as one page that needs nothing else: chart, frontier, all configurations, fits, difficulty, advice."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tts_engine.report.comparechart import svg
from tts_engine.report.comparetable import advice_lines, exponent_lines, points_of, verdict_lines
from tts_engine.report.pools import UNITS
from tts_engine.report.words import percent, share, short

Record = Mapping[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse; font-size: 13px }
th, td { padding: 3px 10px; text-align: right; white-space: nowrap }
th { border-bottom: 1px solid #999; cursor: pointer } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #f5f5f5 } .best td { font-weight: 600 } .note { color: #666 }
.advice { border-left: 4px solid #4269d0; padding-left: 1em; white-space: pre-line }
svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #444 }
.grid { stroke: #ddd } .front { fill: none; stroke: #000; stroke-width: 1; stroke-dasharray: 2 2 }
"""
SORT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const at = [...head.parentNode.children].indexOf(head), body = head.closest("table").tBodies[0];
  const key = row => { const cell = row.cells[at]; return cell.dataset.value ?? cell.textContent };
  const number = text => text === "" || isNaN(text) ? Infinity : +text;
  const down = head.dataset.down = head.dataset.down === "1" ? "0" : "1";
  const rows = [...body.rows].sort((a, b) => number(key(a)) - number(key(b)) || key(a).localeCompare(key(b)));
  body.append(...(down === "1" ? rows : rows.reverse()));
};
"""


def page(summary: Record) -> str:
    """The whole page; no text of a recording is taken for markup."""
    parts = [f"<h1>Comparison on {summary['problems']} problems</h1>", _arms(summary)]
    if "recommendation" in summary:
        parts.append(f'<div class="advice">{_text(chr(10).join(advice_lines(summary["recommendation"])))}</div>')
    if summary["unit"]:
        parts += ["<h2>Accuracy against cost</h2>", svg(summary)]
        parts += [_paragraph(line) for line in verdict_lines(summary)]
        parts += [f"<h2>Frontier by {summary['unit']}</h2>", _frontier(summary)]
    if summary["difficulty"]:
        parts += ["<h2>By difficulty</h2>", _difficulty(summary["difficulty"])]
    if summary["exponents"]:
        parts += ["<h2>How the best N and K grow with compute</h2>", *map(_paragraph, exponent_lines(summary))]
    parts += ["<h2>All configurations</h2>", _points(summary), *_notes(summary)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>tts-compare</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n<script>{SORT}</script></body></html>\n"
    )


def _arms(summary: Record) -> str:
    rates = ", ".join(f"pass@{n} {percent(rate['value'])}" for n, rate in summary["pass"].items())
    arms = "; ".join(
        f"{arm['name']} ({arm['policy']}): {arm['solutions']} solutions, {arm['chains']} judgements each"
        for arm in summary["arms"]
    )
    return _paragraph(f"{arms}." + (f" {summary['pass_policy']}: {rates}" if rates else ""))


def _frontier(summary: Record) -> str:
    rows = [
        [
            entry["name"],
            _number(entry["cost"]),
            _share(entry["accuracy"]),
            points_of(entry["gain"]) if entry["gain"] else "",
        ]
        for entry in summary["frontier"][summary["unit"]]
    ]
    return _table(("configuration", summary["unit"], "accuracy, 95 %", "points gained"), rows)


def _points(summary: Record) -> str:
    units = [unit for unit in UNITS if unit not in summary["not_estimable"]]
    front = {entry["point"] for entry in summary["frontier"].get(summary["unit"], ())}
    rows = [
        [name, *(_number(row[key]) for key in ("n", "k")), _share(row), *(_number(row[unit]) for unit in units)]
        for name, row in zip(summary["names"], summary["points"], strict=True)
    ]
    return _table(("configuration (frontier in bold)", "N", "K", "accuracy, 95 %", *units), rows, front)


def _difficulty(bins: Sequence[Record]) -> str:
    rows = [
        [
            f"{entry['pass1_low']:.2f} to {entry['pass1_high']:.2f}",
            _number(entry["problems"]),
            *(f"{percent(entry[k]['value'])} {entry[k]['name']}" if k in entry else "" for k in ("plain", "verified")),
            points_of(entry["gain"]) if "gain" in entry else "",
        ]
        for entry in bins
    ]
    return _table(("pass@1 on other samples", "problems", "best plain", "best verified", "points gained"), rows)


def _notes(summary: Record) -> Iterable[str]:
    error = summary["subsampling_error"]
    yield _note(f"Largest standard error that random subsets leave in an accuracy: {100 * error:.2f} points.")
    for unit, reason in summary["not_estimable"].items():
        yield _note(f"Cost in {unit}: not estimable, {reason}.")
    yield from map(_note, summary["notes"])


Cell = str | tuple[str, float]


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]], best: Iterable[int] = ()) -> str:
    marked = set(best)
    lines = [f"<tr{' class=best' if i in marked else ''}>{''.join(map(_cell, row))}</tr>" for i, row in enumerate(rows)]
    heads = "".join(f"<th>{_text(name)}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n" + "\n".join(lines) + "\n</tbody></table>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return f'<td data-value="{cell[1]!r}">{_text(cell[0])}</td>'
    return f"<td>{_text(cell)}</td>"


def _number(value: float | None) -> Cell:
    return "–" if value is None else (short(value), float(value))


def _share(found: Record) -> Cell:
    value = found.get("value", found.get("accuracy"))
    return f"{percent(value)} ({share(found)})", float(value)


def _paragraph(line: str) -> str:
    return f"<p>{_text(line)}</p>"


def _note(line: str) -> str:
    return f'<p class="note">{_text(line)}</p>'


def _text(text: str) -> str:
    return html.escape(text)
