"""`tts-run` from end to end on simulated models: reports, run folder, resume, bad input, interruption."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

import tts_engine
from tests.cli.conftest import exit_code
from tests.shells import interruptible
from tts_engine.cli.run import main

Run = Callable[..., tuple[int, str, str]]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(tts_engine.__file__).parents[1]), "COLUMNS": "100"}


@pytest.fixture
def config_file(tmp_path: Path, simulated: dict[str, Any]) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(simulated))
    return path


@pytest.fixture
def run(
    tmp_path: Path,
    config_file: Path,
    problem_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Calls `tts-run` in a fresh folder with nothing on standard input: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        path = tmp_path / ".stdin"
        path.write_text(stdin)
        with path.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            code = exit_code(main, [*arguments, "--config", str(config_file)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def read(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_text())


def test_a_set(run: Run, tmp_path: Path, problem_file: Path) -> None:
    code, out, err = run("--dataset", str(problem_file), "--out", "r", "--seed", "3")
    assert code == 0, err
    for text in ("Answer: ", "Chosen solution", "A check that was run", "Search tree", "Votes", "Cost"):
        assert text in out
    for text in ("one sample, no search", "majority of 8", "any candidate (oracle)", "points over one sample"):
        assert text in out
    assert "run folder: r" in err
    summary = read(tmp_path / "r" / "summary.json")
    assert summary["complete"]
    assert summary["seed"] == 3
    assert (summary["problems"], summary["graded"]) == (6, 6)
    assert summary["baseline"]["samples"] == 8
    lines = [json.loads(line) for line in (tmp_path / "r" / "outcomes.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"p{i}" for i in range(6)]
    assert summary["accuracy"]["value"] == sum(line["correct"] for line in lines) / 6
    tokens = sum(usage["tokens"] for line in lines for usage in line["usage"].values())
    assert summary["tokens_per_problem"] == pytest.approx(tokens / 6)
    assert (tmp_path / "r" / "journal.sqlite").is_file()


def test_one_problem_from_an_argument_or_standard_input(run: Run, problem_file: Path) -> None:
    problem = json.loads(problem_file.read_text().splitlines()[0])
    code, first, err = run(problem["problem"], "--quiet")
    assert (code, err) == (0, "")
    assert run("-", "--quiet", stdin=problem["problem"])[1] == first
    assert run("--quiet", stdin=problem["problem"])[1] == first
    assert len(list(Path("runs").iterdir())) == 3


def test_json_lines_on_standard_input(run: Run, problem_file: Path) -> None:
    code, out, err = run("--json", "--quiet", "--limit", "2", "--out", "r", stdin=problem_file.read_text())
    assert code == 0, err
    report = json.loads(out)
    assert [outcome["id"] for outcome in report["outcomes"]] == ["p0", "p1"]
    assert report["run"] == "r"


@pytest.mark.parametrize("strategy", ["best-of-n", "self-consistency"])
def test_plain_samples_are_their_own_comparison(run: Run, tmp_path: Path, problem_file: Path, strategy: str) -> None:
    code, _, err = run("--dataset", str(problem_file), "--strategy", strategy, "--out", "r")
    assert code == 0, err
    assert "not charged" not in err
    summary = read(tmp_path / "r" / "summary.json")
    generated = summary["usage"]["generate"]["tokens"] / 6
    assert summary["baseline"]["tokens_per_problem"] == pytest.approx(generated)
    assert summary["oracle"]["value"] == summary["baseline"]["pass@8"]


def test_a_finished_run_resumes_from_its_folder_alone(run: Run, tmp_path: Path, problem_file: Path) -> None:
    assert run("--dataset", str(problem_file), "--out", "r", "--quiet", "--limit", "3")[0] == 0
    before = read(tmp_path / "r" / "summary.json")
    calls = _calls(tmp_path / "r")
    for arguments in (["--resume", "r"], ["--out", "r", "--resume"], ["--resume", "r", "--dataset", str(problem_file)]):
        limit = ["--limit", "3"] if "--dataset" in arguments else []
        code, _, err = run(*arguments, *limit, "--quiet")
        assert code == 0, err
        after = read(tmp_path / "r" / "summary.json")
        for key in ("accuracy", "curves", "oracle", "tokens_per_problem", "baseline", "config"):
            assert after[key] == before[key]
    assert _calls(tmp_path / "r") == calls


def _calls(folder: Path) -> int:
    with closing(sqlite3.connect(f"{(folder / 'journal.sqlite').absolute().as_uri()}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM calls").fetchone()
    return int(count)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "bean"], "unknown strategy 'bean'; did you mean 'beam'?"),
        (["--verifier", "genprn"], "did you mean 'genprm'?"),
        (["--verifier", "none"], "strategy beam needs a verifier"),
        (["--set", "polcy.x=1"], "did you mean 'policy'?"),
        (
            ["--set", "policy.backend=local", "--set", "policy.options=null", "--policy", "no/such/folder"],
            "no/such/folder",
        ),
        (["--n", "0"], "0 must be at least 1"),
        (["--verifier-samples", "-1"], "-1 must be at least 1"),
        (["--n", "many"], "'many' is not a whole number"),
        (["--set", "strategy.n=0"], "n=0 is wrong"),
        (["--budget", "tokens=0"], "must be above zero"),
        (["--budget", "100"], "names no unit"),
        (["--seed", "-1"], "run.seed=-1 is wrong"),
        (["--dataset", "no.jsonl"], "no file or problem set 'no.jsonl'"),
        (["--dataset", "bad.jsonl"], "bad.jsonl line 2 is not JSON"),
        (["x", "--dataset", "bad.jsonl"], "not both"),
        ([" "], "the problem is empty"),
        (["x", "--set", "policy.options.context=5"], "shorten it"),
        (["--out", "full"], "full is not empty; add --resume"),
        (["--resume", "full"], "full is not a run folder"),
        (["--resume"], "no run in runs/"),
        (["--resume", "full", "--out", "other"], "different folders"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    run: Run, tmp_path: Path, problem_file: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"problem": "x"}\n{nope\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("mine")
    source = [] if arguments[0].startswith(("x", " ", "--dataset", "--resume")) else ["--dataset", str(problem_file)]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = run(*arguments, *source)
    assert code == 2
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("tts-run: ")
    assert message in last
    assert "Traceback" not in err
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_run_of_another_configuration_or_other_problems_is_refused(
    run: Run, tmp_path: Path, problem_file: Path
) -> None:
    assert run("--dataset", str(problem_file), "--out", "r", "--quiet", "--limit", "2")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    code, _, err = run("--resume", "r", "--n", "5")
    assert code == 2
    assert "strategy.n: 8 there, 5 now" in err
    code, _, err = run("--resume", "r", "--dataset", str(problem_file))
    assert code == 2
    assert "other problems" in err
    assert run("--resume", "r", "--concurrency", "1", "--quiet")[0] == 0
    assert {path.name for path in (tmp_path / "r").iterdir()} >= {path.name for path in before}


def test_failing_models_are_reported_not_raised(run: Run, problem_file: Path) -> None:
    code, out, err = run("--dataset", str(problem_file), "--set", "policy.options.failure_rate=1.0", "--out", "r")
    assert code == 1
    assert "failures: backend" in out
    assert "Traceback" not in err


def test_a_budget_is_kept(run: Run, tmp_path: Path, problem_file: Path) -> None:
    arguments = ("--dataset", str(problem_file), "--budget", "tokens=20k", "--budget-per-problem", "tokens=2k")
    code, out, err = run(*arguments, "--out", "r", "--no-baseline")
    assert code == 0, err
    summary = read(tmp_path / "r" / "summary.json")
    assert summary["tokens_per_problem"] <= 2000
    assert "budget: problem" in summary["stop_reasons"]
    assert "baseline" not in summary
    assert "stopped: " in out


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_keeps_what_it_paid_for_and_resumes(
    tmp_path: Path, config_file: Path, problem_file: Path, simulated: dict[str, Any], end: signal.Signals
) -> None:
    options = simulated["policy"]["options"] | {"clock": "real", "speed": 2.0}
    settings = simulated | {"policy": simulated["policy"] | {"options": options}, "run": {"concurrency": 1}}
    config_file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "tts_engine.cli.run", "--config", str(config_file), "--out", "r", "--no-baseline"]
    process = subprocess.Popen(
        [*command, "--dataset", str(problem_file)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=interruptible,
    )
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and not _has_calls(tmp_path / "r"):
        time.sleep(0.05)
    process.send_signal(end)
    _, err = process.communicate(timeout=30)
    if end is signal.SIGINT:
        assert process.returncode == 130, err
        assert "Go on with: tts-run --resume r" in err
        assert not read(tmp_path / "r" / "summary.json")["complete"]
    assert "Traceback" not in err
    paid = _calls(tmp_path / "r")
    assert paid > 3
    resumed = subprocess.run(
        [*command[:3], "--resume", "r", "--quiet"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
        env=ENVIRONMENT,
    )
    assert resumed.stdout.strip().endswith("%")
    summary = read(tmp_path / "r" / "summary.json")
    assert summary["complete"]
    assert summary["problems"] == 6
    assert _calls(tmp_path / "r") > paid


def _has_calls(folder: Path) -> bool:
    try:
        return _calls(folder) > 3
    except sqlite3.Error:  # the journal is being laid
        return False


def test_without_a_problem_the_built_in_set_is_taken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tts_engine.cli import sources
    from tts_engine.problems import parse_problems

    asked = []

    def load(name: str) -> Any:  # noqa: ANN401
        asked.append(name)
        return parse_problems(
            '{"problem": "Start with 3. Add 4. What is the result?", "answer": "7"}', name, lines=True
        )

    monkeypatch.setattr(sources, "load_problems", load)
    code, _, err = run()
    assert code == 0, err
    assert asked == ["arith-test"]
    assert "taking 1 of the built-in set arith-test" in err


def test_a_silent_pipe_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from tts_engine.cli import sources

    monkeypatch.setattr(sources, "PATIENCE", 0.01)
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin, os.fdopen(writer, "w") as other:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert sources._waiting_input() == ""
        other.write("1+1?")
        other.close()
        assert sources._waiting_input() == "1+1?"


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, text in (("--help", "--verifier-samples"), ("--version", "tts-engine ")):
        with pytest.raises(SystemExit) as caught:
            main([argument])
        assert caught.value.code == 0
        assert text in capsys.readouterr().out


def test_help_loads_neither_models_nor_the_engine() -> None:
    code = (
        "import sys\nfrom tts_engine.cli.run import parser\nparser().format_help()\n"
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy', 'rich', 'networkx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
