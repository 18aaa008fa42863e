"""How busy the models were: means over intervals, against sums by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.report.utilisation import Timeline, draw, main, read, spread
from tts_engine.report.writer import RunFolder
from tts_engine.run import Event
from tts_engine.types import Completion, Finish, Key, Prompt, Request, Role, Sampling, Usage


def call(role: Role, seconds: float, tokens: int, *, recalled: bool = False) -> Event:
    request = Request(role=role, model="m", prompt=Prompt(messages=()), sampling=Sampling(), key=Key(0))
    usage = Usage(completion=tokens, seconds=seconds, calls=1)
    completion = Completion(text="", tokens=tokens, finish=Finish.EOS, usage=usage, recalled=recalled)
    return Event(kind="call", problem="p", data={"request": request, "completion": completion})


def listened() -> Timeline:
    """Two policy calls from 0 to 4 and 2 to 4, one verifier call from 4 to 8; one from the journal."""
    clock = iter([0.0, 4.0, 4.0, 8.0])
    timeline = Timeline(now=lambda: next(clock))
    timeline.on_event(call(Role.GENERATE, 4.0, 40))
    timeline.on_event(call(Role.GENERATE, 2.0, 10))
    timeline.on_event(call(Role.VERIFY, 4.0, 8))
    timeline.on_event(call(Role.VERIFY, 4.0, 800, recalled=True))
    timeline.on_event(Event(kind="problem_started", problem="p"))
    return timeline


def test_load_is_known_from_the_calls() -> None:
    series = listened().series(points=4)
    assert series["step"] == 2.0
    assert series["roles"]["generate"]["in_flight"] == [1.0, 2.0, 0.0, 0.0]
    assert series["roles"]["generate"]["tokens_per_second"] == [10.0, 15.0, 0.0, 0.0]
    assert series["roles"]["verify"] == {
        "calls": 1,
        "in_flight": [0.0, 0.0, 1.0, 1.0],
        "tokens_per_second": [0.0, 0.0, 2.0, 2.0],
    }
    assert Timeline().series() == {"step": 0.0, "roles": {}}


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 50)), min_size=1, max_size=20), st.integers(1, 9))
def test_nothing_is_lost_between_intervals(spans: list[tuple[float, float]], points: int) -> None:
    starts = np.array([start for start, _ in spans])
    ends = starts + np.array([length for _, length in spans])
    edges = np.linspace(0.0, ends.max(), points + 1)
    means = spread(starts, ends, np.ones(len(spans)), edges)
    assert (means * np.diff(edges)).sum() == pytest.approx((ends - starts).sum(), abs=1e-6)
    for i, mean in enumerate(means):
        overlap = np.clip(np.minimum(ends, edges[i + 1]) - np.maximum(starts, edges[i]), 0, None).sum()
        assert mean * (edges[i + 1] - edges[i]) == pytest.approx(overlap, abs=1e-6)


def test_the_plot_comes_from_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = listened().series(points=4)
    RunFolder(tmp_path).write_load(series)
    assert read(tmp_path) == series
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "utilisation.png").read_bytes().startswith(b"\x89PNG")
    draw({"step": 0.0, "roles": {}}, tmp_path / "empty.png")
    assert main([str(tmp_path / "none")]) == 2
    assert "give the folder of a run" in capsys.readouterr().err
