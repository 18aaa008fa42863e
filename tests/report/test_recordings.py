"""Recorded samples in the forms that people publish: what they say is read, what they do not say stays unknown."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tts_engine.cli.run import main as tts_run
from tts_engine.errors import DataError
from tts_engine.report.compare import Recording, compare, main_unit, summarize
from tts_engine.report.points import Grid
from tts_engine.report.pools import UNITS, Arm, reproducible, samples_of
from tts_engine.report.recordings import load_recordings
from tts_engine.report.samplefile import write_samples
from tts_engine.report.subsample import values
from tts_engine.types import Outcome, StepJudgement
from tts_engine.verifiers.verdicts import make_verdict

CHARS = UNITS.index("chars")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(path: Path, ratio: float | None = None) -> dict[str, Recording]:
    return {recording.arm.name: recording for recording in load_recordings([path], ratio)}


def test_completions_with_scores(tmp_path: Path) -> None:
    rows = [
        {"problem": "1+1?", "answer": "2", "completions": [r"\boxed{2}", r"\boxed{3}", "no"]},
        {"problem": "2+2?", "answer": "#### 4", "completions": [r"\boxed{4}"] * 3},
    ]
    rows[0]["scores"], rows[1]["scores"] = [[0.9, 0.8], 0.3, 0.1], [[0.5], 0.5, 0.5]
    found = loaded(written(tmp_path / "mine.jsonl", rows))["mine"]
    first, second = found.pools
    assert first.right.tolist() == [True, False, False]
    assert first.answer.tolist() == [0, 1, -1]
    assert values(first, "product").tolist() == pytest.approx([0.72, 0.3, 0.1])
    assert second.text.tolist() == [0, 0, 0]
    assert math.isnan(first.verify[0, 0, CHARS])
    assert loaded(tmp_path / "mine.jsonl", 2.0)["mine"].pools[0].verify[0, 0, CHARS] == 2 * len(r"\boxed{2}")


def test_rewarded_samples(tmp_path: Path) -> None:
    row = {"idx": 7, "level": "Level 2", "code": ["a", "b"], "pred": ["1", ""], "score": [True, False]}
    found = loaded(written(tmp_path / "cot.jsonl", [row | {"pred_score": [[0.0], [2.0]]}]))["cot"]
    assert found.pools[0].level == "Level 2"
    assert values(found.pools[0], "mean").tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])
    assert found.pools[0].answer.tolist() == [0, -1]


def test_one_solution_by_each_of_several_systems(tmp_path: Path) -> None:
    def solution(answer: str, right: bool) -> dict[str, Any]:
        return {"is_correct": right, "solution": f"so\nA: {answer}"}

    rows = [
        {"question": "?", "small": solution("3", True), "big": solution("3", True), "x": solution("4", False)},
        {"question": "?", "small": solution("1", False), "big": solution("5", True), "x": solution("5", True)},
    ]
    path = tmp_path / "systems.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    found = loaded(path)
    assert {name: [bool(p.right[0]) for p in r.pools] for name, r in found.items() if name != "all systems"} == {
        "small": [True, False],
        "big": [True, True],
        "x": [False, True],
    }
    result = compare(list(found.values()), (), Grid())
    assert main_unit(result.points) is None  # sizes and numbers of samples are not recorded
    summary = summarize(result, None)
    assert set(summary["not_estimable"]) == set(UNITS)
    accuracy = dict(zip(summary["names"], (row["accuracy"] for row in summary["points"]), strict=True))
    assert accuracy["all systems: majority of 3"] == 1.0
    assert accuracy["small: one sample"] == 0.5
    with pytest.raises(DataError, match="cost in tokens is not estimable: it was not recorded"):
        main_unit(result.points, "tokens")


def test_graded_answers_a_line(tmp_path: Path) -> None:
    rows = [
        {"id": i, "model": model, "answer": "1", "correct": model == "a" or i == 0, "chars": 3}
        for i in range(2)
        for model in ("a", "b")
    ]
    found = loaded(written(tmp_path / "graded.jsonl", rows))
    assert [bool(pool.right[0]) for pool in found["b"].pools] == [True, False]
    assert [pool.size for pool in found["all systems"].pools] == [2, 2]


def test_puzzles_without_answers_have_no_vote(tmp_path: Path) -> None:
    rows = [{"idx": i, "ys": ["x"] * 4, "infos": [{"r": int(j < i)} for j in range(4)]} for i in range(3)]
    (tmp_path / "puzzles.json").write_text(json.dumps(rows))
    result = compare(load_recordings([tmp_path / "puzzles.json"]), (), Grid())
    assert [point.setting.n for point in result.points] == [1]
    summary = summarize(result, "chars")
    assert summary["points"][0]["accuracy"] == pytest.approx((0 + 1 / 4 + 2 / 4) / 3)
    assert summary["pass"]["2"]["value"] == pytest.approx((0 + 1 / 2 + 5 / 6) / 3)
    assert summary["pass"]["4"]["value"] == pytest.approx(2 / 3)


def test_samples_come_back_as_they_were_written(make_outcome: Callable[..., Outcome], tmp_path: Path) -> None:
    outcomes = [make_outcome([("7", 0.9), ("8", None), (None, 0.2)], name=f"p{i}") for i in range(2)]
    assert reproducible(outcomes, "product")
    arm = Arm(name="judge", policy="writer", verifier="judge", vocabularies=(10,))
    pairs = [(outcome.problem, samples_of(outcome)) for outcome in outcomes]
    write_samples(tmp_path / "a.jsonl", arm, pairs)
    write_samples(tmp_path / "b.jsonl", arm, pairs)
    (pooled,) = load_recordings([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])  # as two seeds
    assert pooled.arm == arm
    assert [pool.size for pool in pooled.pools] == [6, 6]
    assert pooled.pools[0].right.tolist() == [True, False, False] * 2
    expected = [outcomes[0].candidates[0].verdict.value, 1.0, 0.2]  # type: ignore[union-attr]
    assert values(pooled.pools[0], "product")[:3].tolist() == pytest.approx(expected)


def test_a_value_that_does_not_follow_from_the_samples_is_taken_whole(make_outcome: Callable[..., Outcome]) -> None:
    outcome = make_outcome([("7", 0.9)])
    assert not reproducible([outcome], "mean")
    assert samples_of(outcome, single=True)[0].chains == [[0.9]]
    assert make_verdict([(StepJudgement(score=0.9),)], "last").value == 0.9


def test_a_run_folder_gives_every_chain(simulated: dict[str, Any], problem_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(simulated | {"strategy": {"name": "best-of-n", "n": 4}}))
    options = ["--config", str(config), "--dataset", str(problem_file), "--no-baseline", "--quiet"]
    assert tts_run([*options, "--out", str(tmp_path / "run")]) == 0
    (recording,) = load_recordings([tmp_path / "run"])
    outcomes = [json.loads(line) for line in (tmp_path / "run" / "outcomes.jsonl").read_text().splitlines()]
    for pool, outcome in zip(sorted(recording.pools, key=lambda p: p.problem), outcomes, strict=True):
        assert pool.depth == 2
        judged = [-1.0 if score is None else score for score in outcome["scores"]]
        assert np.nan_to_num(values(pool, "product"), nan=-1.0).tolist() == pytest.approx(judged)
        usage = outcome["usage"]["generate"]["tokens"]
        assert pool.generate[:, UNITS.index("tokens")].sum() == pytest.approx(usage)
    assert tts_run([*options, "--strategy", "beam", "--out", str(tmp_path / "beam")]) == 0
    with pytest.raises(DataError, match="run of beam, whose candidates are no independent samples"):
        load_recordings([tmp_path / "beam"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty; give tts-run folders"),
        ([{"what": 1}], "is of no known form"),
        ([{"problem": "?", "completions": ["a"]}], "have no verdicts"),
        ([{"idx": 1, "ys": ["a"], "infos": []}], "row that is not like its first|zip"),
        ([{"arm": {"nonsense": 1}}], "no header that describes its arm"),
        ([{"arm": {"name": "a"}}, {"problem": "p"}], "is no line of samples"),
    ],
)
def test_what_cannot_be_read_is_said(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_recordings([written(tmp_path / "bad.jsonl", rows)])


def test_more_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no recording"):
        load_recordings([tmp_path / "none.jsonl"])
    (tmp_path / "text.jsonl").write_text("hello\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        load_recordings([tmp_path / "text.jsonl"])
    with pytest.raises(DataError, match="nothing to compare"):
        compare([], (), Grid())


def test_recordings_of_other_problems_are_not_compared(tmp_path: Path) -> None:
    rows = [{"id": name, "problem": "?", "answer": "1", "completions": [r"\boxed{1}"]} for name in ("a", "b")]
    first, second = written(tmp_path / "x.jsonl", rows[:1]), written(tmp_path / "y.jsonl", rows[1:])
    with pytest.raises(DataError, match="no problem in common"):
        compare(load_recordings([first, second]), (), Grid())
    both = compare(load_recordings([first, written(tmp_path / "z.jsonl", rows)]), (), Grid())
    assert both.problems == ("a",)
    assert "1 problems that not all recordings have" in both.notes[0]
    with pytest.raises(DataError, match="no configuration of the grid fits"):
        compare(load_recordings([first]), (), Grid(n=(2,)))
