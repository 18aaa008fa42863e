"""Plots of an evaluation on a labelled set; importing this module needs matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tts_engine.report.processbench import RULES

mpl.use("Agg")


def draw(summary: Mapping[str, Any], folder: Path) -> None:
    """Write `f1.png` (F1 against tokens) and `calibration.png` (reliability at the largest number of samples)."""
    _f1(summary["samples"]).savefig(folder / "f1.png", dpi=150)
    _calibration(list(summary["samples"].values())[-1]["calibration"]).savefig(folder / "calibration.png", dpi=150)


def _f1(samples: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (rule, words), style in zip(RULES.items(), ("-", "--"), strict=True):
        known = [(k, at["per_solution"]["tokens"], at[rule]["f1"]) for k, at in samples.items() if at[rule]["f1"]]
        tokens, values = [tokens for _, tokens, _ in known], [found["value"] for _, _, found in known]
        spread = [[f["value"] - f["low"] for *_, f in known], [f["high"] - f["value"] for *_, f in known]]
        axes.errorbar(tokens, values, yerr=spread, marker="o", linestyle=style, capsize=3, label=words)
        for k, x, found in known:
            axes.annotate(f"K={k}", (x, found["value"]), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set(xlabel="tokens per solution", ylabel="first-error F1", ylim=(0, 1.05), xscale="log")
    axes.legend()
    return figure


def _calibration(levels: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for name, found in levels.items():
        scores, shares = [b["score"] for b in found["bins"]], [b["right"] for b in found["bins"]]
        axes.plot(scores, shares, marker="o", label=f"{name} (ECE {found['ece']:.3f})")
    axes.set(xlabel="score", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    return figure
