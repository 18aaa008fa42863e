"""Exit codes and messages of every command."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tts_engine
from tts_engine.cli.common import Parser, given, guarded, positive
from tts_engine.errors import BackendError, DataError, first_line


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("no such set; give another"), 2, "prog: no such set; give another\n"),
        (BackendError("out of memory"), 1, "prog: BackendError: out of memory\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert guarded("prog", fail) == code
    assert capsys.readouterr().err == text


def test_a_programming_error_is_not_hidden() -> None:
    def fail() -> int:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        guarded("prog", fail)


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    code = (
        "import sys; from tts_engine.cli.common import guarded\n"
        "def work():\n    while True:\n        sys.stdout.write('line\\n' * 1000)\n"
        "sys.exit(guarded('prog', work))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(tts_engine.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
    process.stderr.close()


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="prog")
    parser.add_argument("--n", type=positive)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--n", "-3"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "prog: argument --n: -3 must be at least 1; see prog --help\n"
    with pytest.raises(argparse.ArgumentTypeError, match="not a whole number"):
        positive("1.5")


def test_the_help_names_every_strategy_and_verifier() -> None:
    from tts_engine.cli import common, run
    from tts_engine.strategies import STRATEGIES
    from tts_engine.verifiers import VERIFIERS

    assert set(run.STRATEGIES.replace(" (default)", "").split(", ")) == set(STRATEGIES)
    assert set(common.VERIFIERS.replace(" (default)", "").split(", ")) == {*VERIFIERS, "none"}


def test_a_reason_is_one_line_and_never_empty() -> None:
    assert first_line(ValueError("\nno such key\nat line 3")) == "no such key"
    assert first_line(KeyError()) == "KeyError"


def test_only_what_was_said_overrides_the_configuration() -> None:
    options = {"run": {"seed": 0, "journal": False}, "policy": {"model": None}, "budget": {"per_problem": {"n": None}}}
    assert given(options) == {"run": {"seed": 0, "journal": False}}
