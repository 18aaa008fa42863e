"""docs/real-model.md follows from the recorded samples, without the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_published_figures_follow_from_the_recording(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, "benchmarks/real_model.py", "--out", str(page)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=50)
    published = ROOT / "docs" / "real-model.md"
    assert page.read_text(encoding="utf-8") == published.read_text(encoding="utf-8")
