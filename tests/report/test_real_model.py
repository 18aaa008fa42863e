"""docs/real-model.md follows from the recorded samples, without the model."""

from __future__ import annotations

from pathlib import Path

from benchmarks.real_model import RECORDINGS, Report


def test_the_published_figures_follow_from_the_recording() -> None:
    page = Path(__file__).parents[2] / "docs" / "real-model.md"
    assert page.read_text(encoding="utf-8") == Report(RECORDINGS).text()
