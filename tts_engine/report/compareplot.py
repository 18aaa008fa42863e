"""Plots of a comparison; importing this module needs matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tts_engine.report.comparechart import lines

mpl.use("Agg")


def draw(summary: Mapping[str, Any], folder: Path) -> None:
    """Write what there is of `frontier.png`, `difficulty.png` and `optimal.png`."""
    if summary["unit"]:
        _frontier(summary).savefig(folder / "frontier.png", dpi=150)
    if any("gain" in entry for entry in summary["difficulty"]):
        _difficulty(summary).savefig(folder / "difficulty.png", dpi=150)
    if any(fit["n"] for fit in summary["exponents"]):
        _optimal(summary).savefig(folder / "optimal.png", dpi=150)


def _frontier(summary: Mapping[str, Any]) -> Figure:
    """Accuracy against cost, a line an arm, K and selector; the frontier in black."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for line in lines(summary):
        x, y = [point[0] for point in line.points], [point[1] for point in line.points]
        spread = [[at - low for _, at, low, _, _ in line.points], [high - at for _, at, _, high, _ in line.points]]
        style = {"oracle": "--", "search": "none"}.get(line.kind, "-")
        axes.errorbar(x, y, yerr=spread, marker="o", markersize=4, linestyle=style, capsize=2, label=line.name)
    front = summary["frontier"][summary["unit"]]
    costs, best = [entry["cost"] for entry in front], [entry["accuracy"]["value"] for entry in front]
    axes.step(costs, best, where="post", color="black", linewidth=1, label="frontier")
    axes.set(xlabel=f"{summary['unit']} per problem, all models", ylabel="accuracy", xscale="log")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _difficulty(summary: Mapping[str, Any]) -> Figure:
    """The best plain and the best verified configuration in each bin of difficulty."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    bins = summary["difficulty"]
    for kind, shift in (("plain", -0.2), ("verified", 0.2)):
        known = [(i, entry[kind]) for i, entry in enumerate(bins) if kind in entry]
        values = [found["value"] for _, found in known]
        spread = [[f["value"] - f["low"] for _, f in known], [f["high"] - f["value"] for _, f in known]]
        axes.bar([i + shift for i, _ in known], values, 0.4, yerr=spread, capsize=3, label=f"best {kind}")
    axes.set_xticks(range(len(bins)), [f"{entry['pass1_low']:.2f}–{entry['pass1_high']:.2f}" for entry in bins])
    axes.set(xlabel="pass@1 on other samples", ylabel="accuracy", ylim=(0, 1.05))
    axes.legend()
    return figure


def _optimal(summary: Mapping[str, Any]) -> Figure:
    """The best N and K at each budget of a fit."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for fit in summary["exponents"]:
        if fit["n"]:
            budgets = [entry[0] for entry in fit["optimal"]]
            for place, name in ((1, "N"), (2, "K")):
                label = f"{name}*, {fit['arm']}, {fit['select']}"
                axes.plot(budgets, [entry[place] for entry in fit["optimal"]], marker="o", label=label)
    axes.set(xlabel=f"{summary['unit']} per problem", ylabel="best number", xscale="log", yscale="log")
    axes.legend(fontsize=8)
    return figure
