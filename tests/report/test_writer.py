"""The run folder: what is in it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tts_engine.config import Config
from tts_engine.errors import ConfigError, DataError
from tts_engine.files import write_text
from tts_engine.report.writer import RunFolder, differences
from tts_engine.types import Problem

PROBLEMS = [Problem(id="a", prompt="1+1?", answer="2", meta={"level": 1}), Problem(id="b", prompt="?")]


def test_a_folder_is_created_once_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    config = Config.load(None, ["run.seed=4"])
    folder.create(config, PROBLEMS)
    assert folder.load() == (config, PROBLEMS)
    assert dict(folder.load()[1][0].meta) == {"level": 1}
    with pytest.raises(DataError, match="add --resume"):
        folder.create(config, PROBLEMS)
    folder.discard()
    assert not folder.path.exists()


def test_results_are_written_in_the_form_of_the_field(tmp_path: Path, make_outcome: Any) -> None:  # noqa: ANN401
    folder = RunFolder(tmp_path)
    outcomes = [make_outcome([("7", 0.5)], pred="7", name=name) for name in "ab"]
    folder.write(outcomes, {"problems": 2})
    folder.write(outcomes, {"problems": 2})
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b"]
    assert {"completions", "scores", "pred", "pred_naive@1", "pred_weighted@1", "pred_maj@1"} <= lines[0].keys()
    tree = json.loads((tmp_path / "trees.jsonl").read_text().splitlines()[1])
    assert tree["id"] == "b"
    assert len(tree["nodes"]) == len(tree["edges"]) + 1
    assert {path.name for path in tmp_path.iterdir()} == {"outcomes.jsonl", "trees.jsonl", "summary.json"}


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    before, now = Config(), Config.load(None, ["strategy.n=3", "run.concurrency=1"])
    folder = RunFolder(tmp_path)
    folder.check(before, Config.load(None, ["run.concurrency=1"]))
    with pytest.raises(ConfigError, match=r"strategy\.n: None there, 3 now"):
        folder.check(before, now)
    assert differences(before, before) == []


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        RunFolder(tmp_path / "nothing").load()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        RunFolder(tmp_path / "file").create(Config(), PROBLEMS)
    with pytest.raises(DataError, match="cannot write"):
        RunFolder(tmp_path / "file" / "below").create(Config(), PROBLEMS)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udcff")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
