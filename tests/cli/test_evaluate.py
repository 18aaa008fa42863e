"""`tts-eval` from end to end on simulated models of known quality."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import exit_code
from tests.worked import worked
from tts_engine.backends.arithmetic import Task
from tts_engine.cli.evaluate import main
from tts_engine.types import Key

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def steps_file(tmp_path: Path) -> Path:
    """40 solutions of four steps to 20 problems: of each one right, one with a wrong step."""
    path = tmp_path / "steps.jsonl"
    rows = [row for i in range(20) for row in (_row(i, -1), _row(i, i % 4))]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def _row(number: int, label: int) -> dict[str, Any]:
    problem = Task().problem(Key(5, (number,)), steps=4)
    steps = worked(problem.prompt, label)
    return {"id": f"{number}:{label}", "problem": problem.prompt, "steps": steps, "label": label}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls `tts-eval` in a fresh folder, without matplotlib: exit code, output, errors. `task`: how good the verifier
    is, which judges without code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "tts_engine.report.benchplot", raising=False)  # imported by a test before

    def call(*arguments: str, **task: float) -> tuple[int, str, str]:
        options = {"task": task}
        verifier = {"backend": "simulated", "model": "v", "options": options, "params": {"mode": "analysis"}}
        Path("config.yaml").write_text(yaml.safe_dump({"verifier": verifier}))
        extra = ["--config", "config.yaml"] if arguments[0] == "processbench" else []
        code = exit_code(main, [*arguments, *extra])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def read(path: str) -> Any:  # noqa: ANN401
    return json.loads(Path(path).read_text())


def calls(folder: str) -> int:
    with closing(sqlite3.connect(f"{(Path(folder) / 'journal.sqlite').absolute().as_uri()}?mode=ro", uri=True)) as file:
        (count,) = file.execute("SELECT count(*) FROM calls").fetchone()
    return int(count)


def test_a_perfect_verifier_finds_every_first_error(run: Run, steps_file: Path) -> None:
    perfect = {"true_positive": 1.0, "false_positive": 0.0}
    arguments = ("processbench", str(steps_file), "--verifier-samples", "1,2", "--out", "r")
    code, out, err = run(*arguments, **perfect)
    assert code == 0, err
    summary = read("r/summary.json")
    for rule in ("mean", "vote"):
        assert summary["samples"]["2"][rule]["f1"]["value"] == 1.0
    assert summary["samples"]["1"]["auc_within"]["value"] == 1.0
    assert summary["samples"]["1"]["auc_within"]["problems"] == 20
    for text in ("GenPRM's Maj@K", "ProcessBench's", "F1", "AUC in problem", "tokens/sol."):
        assert text in out
    assert "no plots: they need matplotlib" in err
    items = [json.loads(line) for line in Path("r/items.jsonl").read_text().splitlines()]
    assert [item["samples"]["2"]["mean"] for item in items] == [item["label"] for item in items]


def test_votes_help_a_noisy_verifier_and_smaller_numbers_are_parts_of_the_larger(run: Run, steps_file: Path) -> None:
    noisy = {"true_positive": 0.85, "false_positive": 0.25, "invalid_rate": 0.02}
    code, _, err = run("processbench", str(steps_file), "--verifier-samples", "16,4,1", "--out", "all", **noisy)
    assert code == 0, err
    summary = read("all/summary.json")
    f1 = {k: summary["samples"][k]["mean"]["f1"]["value"] for k in ("1", "4", "16")}
    assert f1["16"] > f1["1"] + 0.2
    assert 0 < summary["samples"]["16"]["invalid_share"] < 0.2
    tokens = [summary["samples"][k]["per_solution"]["tokens"] for k in ("1", "4", "16")]
    assert tokens == sorted(tokens)
    assert summary["usage"]["tokens"] == pytest.approx(40 * tokens[-1])
    run("processbench", str(steps_file), "--verifier-samples", "4", "--out", "four", **noisy)
    assert read("four/summary.json")["samples"]["4"] == summary["samples"]["4"]


def test_a_run_is_resumed_without_paying_again(run: Run, steps_file: Path) -> None:
    first = ("processbench", str(steps_file), "--verifier-samples", "2", "--out", "r", "--quiet")
    assert run(*first, "--limit", "10")[0] == 0
    part = calls("r")
    code, _, err = run(*first)
    assert code == 2
    assert "r is not empty; add --resume" in err
    assert run(*first, "--resume")[0] == 0
    whole, summary = calls("r"), read("r/summary.json")
    assert whole > part
    assert summary["items"] == 40
    assert run(*first, "--resume")[0] == 0
    assert calls("r") == whole
    assert read("r/summary.json") | {"seconds": 0} == summary | {"seconds": 0}
    code, _, err = run(*first, "--resume", "--seed", "9")
    assert code == 2
    assert "belongs to another run" in err


def test_items_that_fail_are_counted_not_scored(run: Run, steps_file: Path) -> None:
    steps_file.write_text(f"{steps_file.read_text()}\n{json.dumps({'problem': '?', 'steps': ['a'], 'label': -1})}\n")
    code, out, err = run("processbench", str(steps_file), "--verifier-samples", "1", "--out", "r")
    assert code == 0
    assert "1 of 41 items failed, the first with BackendError: " in err
    assert read("r/summary.json")["failures"] == {"BackendError": 1}
    assert "items that could not be judged: BackendError 1" in out


def test_malformed_rows_are_an_error_unless_they_are_skipped(run: Run, steps_file: Path) -> None:
    steps_file.write_text(f"{steps_file.read_text()}\n{{nope\n")
    code, _, err = run("processbench", str(steps_file))
    assert code == 2
    assert "line 41: not JSON" in err
    code, out, _ = run("processbench", str(steps_file), "--skip-malformed", "--limit", "4")
    assert code == 0
    assert "1 malformed rows left out" in out


def test_a_set_that_was_sampled_is_not_another_one(run: Run, steps_file: Path) -> None:
    Path("r").mkdir()
    Path("r/labelled.jsonl").write_text(steps_file.read_text())
    code, _, err = run("processbench", "embedded", "--limit", "41", "--out", "r", "--resume")
    assert code == 2
    assert "holds 40 solutions, not 41" in err
    assert run("processbench", "embedded", "--limit", "4", "--verifier-samples", "1", "--out", "r", "--resume")[0] == 0
    assert read("r/summary.json")["items"] == 4


def test_recorded_predictions_are_scored(run: Run, steps_file: Path) -> None:
    rows = [json.loads(line) for line in steps_file.read_text().splitlines()]
    lines = [json.dumps({"id": row["id"], "prediction": row["label"]}) for row in rows]
    Path("p.jsonl").write_text("\n".join(lines))
    assert run("score", "p.jsonl", "--gold", str(steps_file), "--quiet") == (0, "100.0 %\n", "")
    code, out, _ = run("score", "p.jsonl", "--gold", str(steps_file), "--json")
    assert (code, json.loads(out)["counts"]) == (0, {"err": 20, "corr": 20})
    assert "corr-acc" in run("score", "p.jsonl", "--gold", str(steps_file))[1]


def test_a_calibration_is_fitted_on_a_judged_set_and_used(run: Run, steps_file: Path) -> None:
    timid = {"true_positive": 0.95, "false_positive": 0.1, "confidence": 0.5}
    arguments = ("processbench", str(steps_file), "--verifier-samples", "1", "--quiet")
    assert run(*arguments, "--out", "r", **timid)[0] == 0
    for level in ("solutions", "steps"):
        code, out, err = run("calibrate", "r/items.jsonl", "--out", f"{level}.json", "--level", level)
        assert (code, err) == (0, "")
        assert f"{level} at K=1: expected calibration error" in out
        run(*arguments, "--out", level, "--set", f"verifier.params.calibration={level}.json", **timid)
        before, after = (
            read(f"{folder}/summary.json")["samples"]["1"]["calibration"][level] for folder in ("r", level)
        )
        assert after["pairs"] == before["pairs"]
        assert after["brier"] < before["brier"]
        assert after["ece"] < 0.5 * before["ece"]
    code, _, err = run("calibrate", "r/items.jsonl", "--out", "c.json", "--k", "7")
    assert code == 2
    assert "no judgements with 7 samples; it has [1]" in err
    assert "is no judged set" in run("calibrate", str(steps_file), "--out", "c.json")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["processbench", "no.jsonl"], "no file or built-in set 'no.jsonl'"),
        (["processbench", "steps.jsonl", "--verifier", "none"], "choose one with --verifier"),
        (["processbench", "steps.jsonl", "--verifier-samples", "1,x"], "'x' is not a whole number"),
        (["processbench", "steps.jsonl", "--resume"], "--out DIR"),
        (["score", "no.jsonl"], "no file or built-in set"),
        (["make-embedded", "--out", "x.jsonl", "--problems", "nothing"], "no built-in problem set 'nothing'"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    run: Run, steps_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert steps_file.is_file()
    if arguments:
        code, _, err = run(*arguments)
    else:
        with pytest.raises(SystemExit) as caught:
            main([])
        code, err = int(caught.value.code or 0), capsys.readouterr().err
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
