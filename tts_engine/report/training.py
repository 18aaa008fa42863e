"""The report of a fine-tuning run: its curves as text and, where matplotlib is installed, as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table

from tts_engine.report.words import duration, percent, short

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 60
CURVES = ("loss", "held_out_loss", "rate", "gradient")
"""What the picture shows of the log."""


def curve(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as a line of blocks, the lowest one empty-ish and the highest full; neighbours are averaged.

    >>> curve([0, 1, 2, 3], width=2)
    '▁█'
    """
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((mean - low) / (high - low or 1) * (len(BLOCKS) - 1))] for mean in means)


def amount(size: float) -> str:
    """Bytes as people read them.

    >>> amount(3 * 2**30), amount(2**19)
    ('3.00 GiB', '0.5 MiB')
    """
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def plan_table(plan: Mapping[str, Any], skipped: Mapping[str, int], room: int) -> Table:
    """What a run will take.

    Args:
        plan: `estimate.Plan` as a mapping.
        skipped: documents that are left out, by reason.
        room: bytes of a device.
    """
    load, memory = plan["load"], plan["memory"]
    size = load["tokens"] / load["rows"]
    filled = f", {percent(size / load['longest'])} full" if load["rows"] > 1 else ""
    rows = {
        "parameters": f"{short(plan['parameters'])}, trained {short(plan['trained'])}",
        "documents": f"{load['documents']}" + "".join(f"; skipped {n}: {why}" for why, n in skipped.items()),
        "tokens of an epoch": f"{short(load['tokens'])}, learnt {percent(load['learnt'] / load['tokens'])}",
        "rows": f"{load['rows']} of at most {load['longest']} tokens{filled}",
        "optimizer step": f"{plan['step_rows']} rows, {plan['step_rows'] * load['documents'] / load['rows']:.1f}"
        f" documents ({plan['devices']} device(s), {plan['accumulation']} passes each)",
        "steps": str(plan["steps"]),
        "FLOPs": f"{plan['flops']:.3g}",
        "memory of a device": f"{amount(sum(memory.values()))} of {amount(room)}",
    }
    table = Table("", "", show_header=False, box=None)
    for name, text in rows.items():
        table.add_row(name, text)
    for name, size in memory.items():
        table.add_row(f"  {name}", amount(size), style="dim")
    return table


def write_report(folder: Path) -> str:
    """Write `report.md` (and `curves.png`) from the folder's log; returns the text."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    plan = json.loads((folder / "run.json").read_text(encoding="utf-8"))["plan"]
    text = "\n".join(_lines(log, plan)) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    try:
        from tts_engine.report.trainplot import draw
    except ModuleNotFoundError:
        return text
    draw({name: series(log, name) for name in CURVES}, folder / "curves.png")
    return text


def series(log: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Steps and values of one kind of entry."""
    return [(line["step"], line[name]) for line in log if name in line]


def _lines(log: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> list[str]:
    load = plan["load"]
    lines = [
        "# Fine-tuning",
        "",
        f"{load['documents']} documents, {short(load['tokens'])} tokens an epoch, {short(plan['trained'])} of"
        f" {short(plan['parameters'])} parameters trained, {log[-1]['step']} of {plan['steps']} steps,"
        f" {duration(log[-1]['seconds'])}.",
        "",
    ]
    for name, words in (("loss", "loss"), ("held_out_loss", "held-out loss"), ("rate", "learning rate")):
        found = series(log, name)
        if found:
            values = [value for _, value in found]
            best = min(found, key=lambda pair: pair[1])
            note = f", lowest {best[1]:.4g} at step {best[0]}" if name == "held_out_loss" else ""
            lines += [f"{words}: {values[0]:.4g} to {values[-1]:.4g}{note}", "", f"    {curve(values)}", ""]
    return lines
