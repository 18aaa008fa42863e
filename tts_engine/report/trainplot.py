"""The curves of a fine-tuning run as a picture; importing this module needs matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.use("Agg")


def draw(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Write the losses, the learning rate and the norm of the gradient, each pairs of a step and a value."""
    figure = Figure(figsize=(7, 7), layout="constrained")
    losses, rate, gradient = figure.subplots(3, sharex=True, height_ratios=(3, 1, 1))
    for name, style in (("loss", "-"), ("held_out_loss", "o--")):
        points = curves[name]
        losses.plot([step for step, _ in points], [value for _, value in points], style, label=name.replace("_", "-"))
    losses.set(ylabel="nats a token")
    losses.legend()
    for axes, name in ((rate, "rate"), (gradient, "gradient")):
        points = curves[name]
        axes.plot([step for step, _ in points], [value for _, value in points])
        axes.set(ylabel=name)
    gradient.set(xlabel="optimizer step")
    figure.savefig(path, dpi=120)
