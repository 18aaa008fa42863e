"""What an evaluation on a labelled set says, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tts_engine.report.processbench import RULES
from tts_engine.report.words import percent, share, short

LOCALISED = (("err_acc", "err-acc"), ("corr_acc", "corr-acc"), ("f1", "F1"))


def bench_report(summary: Mapping[str, Any]) -> RenderableType:
    """First-error accuracies by both definitions of votes, ranking, calibration and cost, a row a number of samples."""
    samples: Mapping[str, Any] = summary["samples"]
    counts = next(iter(samples.values()))["mean"]["counts"]
    verifier = summary["verifier"]
    title = (
        f"{summary['items']} solutions ({counts['err']} with an error) by {verifier['name']} {verifier['model'] or ''}"
    )
    parts: list[RenderableType] = [Text(title.strip(), style="bold")]
    for rule, words in RULES.items():
        parts += ["", _table(words, {k: at[rule] for k, at in samples.items()})]
    return Group(*parts, "", _quality(samples), *_notes(summary))


def localisation_report(table: Mapping[str, Any]) -> RenderableType:
    """The accuracies of one set of predictions."""
    counts = table["counts"]
    title = f"{table['items']} solutions ({counts['err']} with an error, {counts['corr']} without)"
    return Group(_table(title, {"": table}), *([_invalid(table["invalid"])] if table["invalid"] else []))


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    table.add_column("K" if "" not in rows else "", justify="right")
    for _, name in LOCALISED:
        table.add_column(name, justify="right")
        table.add_column("95 %", style="dim")
    table.add_column("invalid", justify="right")
    for k, row in rows.items():
        cells = (text for key, _ in LOCALISED for text in _interval(row[key]))
        table.add_row(k, *cells, str(row["invalid"]))
    return table


def _quality(samples: Mapping[str, Any]) -> Table:
    table = Table(
        title="Scores and cost", title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False
    )
    names = (
        "K",
        "AUC in problem",
        "AUC pooled",
        "ECE steps",
        "ECE solutions",
        "unparseable",
        "tokens/sol.",
        "FLOPs/sol.",
    )
    for name in names:
        table.add_column(name, justify="right")
    for k, at in samples.items():
        within, cost = at["auc_within"], at["per_solution"]
        errors = [at["calibration"].get(name, {}).get("ece") for name in ("steps", "solutions")]
        table.add_row(
            k,
            _number(within and within["value"]),
            _number(at["auc_pooled"]),
            *map(_number, errors),
            "–" if at["invalid_share"] is None else percent(at["invalid_share"]),
            short(cost["tokens"]) if cost else "–",
            short(cost["flops"]) if cost else "–",
        )
    return table


def _notes(summary: Mapping[str, Any]) -> Iterator[Text]:
    within = list(summary["samples"].values())[-1]["auc_within"]
    if within:
        yield Text(f"AUC within {within['problems']} problems that have right and wrong solutions", style="dim")
    if summary["skipped_rows"]:
        yield Text(f"{len(summary['skipped_rows'])} malformed rows left out", style="yellow")
    if summary["failures"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in summary["failures"].items())
        yield Text(f"items that could not be judged: {kinds}", style="red")


def _interval(found: Mapping[str, float] | None) -> tuple[str, str]:
    return (percent(found["value"]), share(found)) if found else ("–", "")


def _invalid(count: int) -> Text:
    return Text(f"{count} without a usable prediction, counted as wrong", style="dim")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
