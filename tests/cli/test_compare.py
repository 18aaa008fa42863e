"""`tts-compare` from end to end on simulated models: sweep, resume, report, advice, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import exit_code
from tts_engine.cli.compare import main
from tts_engine.cli.compare_grid import SweepConfig, tasks, verifier_configs
from tts_engine.cli.run import main as tts_run
from tts_engine.config import Config
from tts_engine.errors import ConfigError
from tts_engine.run import Engine


@pytest.fixture
def grid(simulated: dict[str, Any], problem_file: Path, tmp_path: Path) -> Path:
    """Best-of-n up to 4 with 2 judgements, and beams of two widths, under two seeds."""
    simulated.pop("strategy")
    path = tmp_path / "grid.yaml"
    content = {
        "dataset": str(problem_file),
        "seeds": 2,
        "n": [1, 2, 4],
        "k": [1, 2],
        "searches": [{"name": "beam", "n": [4], "k": [1], "width": [2, 4]}],
        "engine": simulated,
    }
    path.write_text(json.dumps(content))
    return path


def calls(folder: Path) -> int:
    with sqlite3.connect(folder / "journal.sqlite") as database:
        return int(database.execute("SELECT count(*) FROM calls").fetchone()[0])


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_a_sweep_from_end_to_end(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweep"
    assert main(["--grid", str(grid), "--out", str(folder), "--budget", "tokens=100M"]) == 0
    shown = capsys.readouterr().out
    assert "Frontier by" in shown
    assert "For tokens=1e+08 a problem" in shown
    found = summary(folder)
    settings = {(p["strategy"], p["n"], p["k"], p["select"], p.get("width")) for p in found["points"]}
    assert ("self-consistency", 4, 0, "majority", None) in settings
    assert ("best-of-n", 2, 1, "pessimistic", None) in settings
    assert {("beam", 4, 1, "weighted", 2), ("beam", 4, 1, "weighted", 4)} <= settings
    assert found["arms"] == [
        {"name": "genprm", "policy": "policy", "verifier": "genprm", "solutions": 8, "chains": 2}
    ]  # two seeds of four
    assert found["not_estimable"] == {"dollars": "it was not recorded"} | {
        unit: reason for unit, reason in found["not_estimable"].items() if unit != "dollars"
    }
    rows = list(csv.DictReader((folder / "points.csv").read_text().splitlines()))
    assert len(rows) == len(found["points"]) == len((folder / "points.jsonl").read_text().splitlines())
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", page)  # nothing is loaded from elsewhere
    assert (folder / "frontier.png").stat().st_size > 1000


def test_a_sweep_agrees_with_the_runs_it_stands_for(grid: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    assert main(["--grid", str(grid), "--seeds", "1", "--out", str(folder), "--quiet"]) == 0
    found = {(p["strategy"], p["n"], p["k"], p["select"]): p for p in summary(folder)["points"]}
    config = Config.build(SweepConfig.load(grid, {}).engine).model_dump(mode="json")
    for strategy, k, select in (("self-consistency", 0, "majority"), ("best-of-n", 2, "best")):
        chosen = {"name": strategy, "n": 4} | ({"select": select} if k else {})
        path = tmp_path / f"{strategy}.yaml"
        path.write_text(json.dumps(config | {"strategy": chosen}))
        out = tmp_path / strategy
        options = ["--dataset", str(SweepConfig.load(grid, {}).dataset), "--no-baseline", "--quiet"]
        assert tts_run(["--config", str(path), *options, "--out", str(out)]) == 0
        ran = json.loads((out / "summary.json").read_text())
        point = found[strategy, 4, k, select]  # all that was sampled: the same draws
        if select == "best":  # a tied vote counts by its share here, and goes to the first answer there
            assert point["accuracy"] == pytest.approx(ran["accuracy"]["value"])
        assert point["tokens"] == pytest.approx(ran["tokens_per_problem"])


def test_a_resumed_sweep_pays_for_nothing_twice(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["--grid", str(grid), "--out", str(whole), "--quiet"]) == 0
    solve, made = Engine.solve, 0

    async def stopping(engine: Engine, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        nonlocal made
        made += 1
        if made > 9:
            raise KeyboardInterrupt
        return await solve(engine, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "solve", stopping)
        assert main(["--grid", str(grid), "--out", str(cut), "--quiet"]) == 130
    assert 0 < calls(cut) < calls(whole)
    assert main(["--resume", str(cut), "--quiet"]) == 0
    assert calls(cut) == calls(whole)

    def figures(folder: Path) -> list[tuple[float, float]]:
        return [(point["accuracy"], point["tokens"]) for point in summary(folder)["points"]]

    assert figures(cut) == figures(whole)

    async def never(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        raise AssertionError("everything is there")

    monkeypatch.setattr(Engine, "solve", never)
    assert main(["--resume", str(cut), "--quiet", "--budget", "tokens=1G"]) == 0


def test_a_sweep_can_be_extended(grid: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    assert main(["--grid", str(grid), "--out", str(folder), "--quiet"]) == 0
    before = calls(folder)
    assert main(["--resume", str(folder), "--n", "1,4,6", "--quiet"]) == 0
    assert max(point["n"] for point in summary(folder)["points"]) == 6
    added = calls(folder) - before
    assert 0 < added < before


def test_the_recommended_configuration_runs(grid: Path, problem_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    assert main(["--grid", str(grid), "--out", str(folder), "--quiet", "--budget", "tokens=100M"]) == 0
    advice = summary(folder)["recommendation"]
    config = Config.load(folder / "recommended.yaml")
    best = max(point["accuracy"] for point in summary(folder)["points"])
    assert advice["accuracy"]["value"] == best
    assert config.policy.backend == "simulated"
    options = ["--dataset", str(problem_file), "--limit", "1", "--no-baseline", "--quiet"]
    assert tts_run(["--config", str(folder / "recommended.yaml"), *options, "--out", str(tmp_path / "run")]) == 0


def test_plain_self_consistency_may_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "id": str(i),
            "problem": "?",
            "answer": "1",
            "completions": [r"a \boxed{1}", r"b \boxed{1}", rf"c \boxed{{{2 + i}}}"],
            "scores": [0.1, 0.1, 0.9],
        }
        for i in range(4)
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert main(["--recorded", str(path), "--verify-ratio", "1", "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "No verified configuration beats plain self-consistency at any cost" in shown
    assert summary(out)["crossover"]["chars"]["never"] == 1.0
    assert main(["--recorded", str(path), "--out", str(tmp_path / "b"), "--budget", "tokens=10"]) == 2
    assert "cost in tokens is not estimable" in capsys.readouterr().err
    assert (tmp_path / "b" / "report.html").is_file()  # what was found is kept


def test_json_is_all_of_standard_output(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--grid", str(grid), "--out", str(tmp_path / "s"), "--quiet", "--json", "--budget", "flops=1e18"]) == 0
    assert json.loads(capsys.readouterr().out)["recommendation"]["budget"] == {"flops": 1e18}


def test_a_budget_below_the_cheapest_keeps_what_was_paid(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    assert main(["--grid", str(grid), "--out", str(folder), "--quiet", "--budget", "tokens=1"]) == 2
    assert "below the cheapest configuration (policy: one sample" in capsys.readouterr().err
    assert summary(folder)["points"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "0"], "must be at least 1"),
        (["--n", ","], "names no number"),
        (["--verify-ratio", "-1"], "at least 0"),
        (["--select", "luck"], "unknown selector 'luck'"),
        (["--search", "bea"], "did you mean 'beam'"),
        (["--search", "best-of-n"], "need not be among the searches"),
        (["--verifier", "none", "--search", "beam"], "strategy beam needs a verifier"),
        (["--verifier", "prm", "--verifier", "prm"], "verifiers names prm twice"),
        (["--verifier", "nonsense"], "unknown verifier 'nonsense'"),
        (["--budget", "apples=3"], "budget has no unit 'apples'"),
        (["--set", "budget.tokens=5"], "take the budget out"),
        (["--grid", "nowhere.yaml"], "cannot read the configuration nowhere.yaml"),
        (["--dataset", "nowhere.jsonl"], "there is no file or problem set"),
        (["--resume", "nowhere"], "nowhere holds no sweep to resume"),
        (["--recorded", "nowhere.jsonl"], "there is no recording nowhere.jsonl"),
        (["--recorded", "x", "--dataset", "y"], "--dataset is for new samples"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = exit_code(main, [*options, "--quiet"])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("mine")
    assert main(["--out", str(tmp_path), "--quiet"]) == 2
    assert "is not empty; go on with it by --resume" in capsys.readouterr().err


def test_problems_without_answers_are_refused(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "open.jsonl"
    path.write_text('{"problem": "Start with 1. Add 2. What is the result?"}\n')
    assert main(["--grid", str(grid), "--dataset", str(path), "--out", str(tmp_path / "s"), "--quiet"]) == 2
    assert "has no reference answer" in capsys.readouterr().err


def test_every_combination_of_a_search_is_a_task(grid: Path) -> None:
    data = {"searches": [{"name": "beam", "n": [4, 8], "k": [1, 2], "width": [2, 4], "every": [1, 2]}], "seeds": 1}
    sweep = SweepConfig.load(grid, data)
    found = [task for task in tasks(sweep, verifier_configs(sweep)) if not task.independent]
    assert len({task.file for task in found}) == len(found) == 16
    assert {dict(task.params)["every"] for task in found} == {1, 2}
    with pytest.raises(ConfigError, match="strategy beam has no parameter 'widht'; did you mean 'width'"):
        tasks(SweepConfig.load(grid, {"searches": [{"name": "beam", "widht": 2}]}), verifier_configs(sweep))
    with pytest.raises(ConfigError, match="has no key 'nn'; use one of"):
        SweepConfig.load(grid, {"nn": 1})
