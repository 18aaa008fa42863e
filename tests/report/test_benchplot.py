"""The plots of an evaluation: drawn where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path

from tts_engine.report.labelled import Labelled
from tts_engine.report.processbench import item_record, summarize
from tts_engine.types import Problem, StepJudgement, Usage
from tts_engine.verifiers.verdicts import make_verdict


def test_both_plots_are_written(tmp_path: Path) -> None:
    from tts_engine.report.benchplot import draw

    chains = [(StepJudgement(score=score, usage=Usage(completion=10)),) for score in (0.9, 0.2)]
    verdicts = {k: make_verdict(chains[:k], "min") for k in (1, 2)}
    items = [
        Labelled(problem=Problem(id=str(n), prompt="q"), steps=("a",), label=label) for n, label in ((0, -1), (1, 0))
    ]
    draw(summarize([item_record(item, verdicts) for item in items], (1, 2)), tmp_path)
    for name in ("f1.png", "calibration.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
