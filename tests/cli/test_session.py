"""What `tts-run` decides before it loads a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tts_engine.cli.run import parser
from tts_engine.cli.session import MANY, prepare
from tts_engine.config import Config
from tts_engine.report.terminal import make_console


def prepared(tmp_path: Path, *arguments: str) -> Config:
    return prepare(parser().parse_args([*arguments, "--out", str(tmp_path / "run")]), make_console(stderr=True)).config


@pytest.mark.parametrize(("limit", "apart"), [(MANY - 1, None), (MANY, True)])
def test_many_problems_give_each_local_model_a_process(tmp_path: Path, limit: int, apart: bool | None) -> None:
    config = prepared(tmp_path, "--dataset", "arith-test", "--limit", str(limit))
    assert config.policy.options.get("process") is apart
    assert config.verifier.options.get("process") is apart


def test_what_is_said_is_done_and_one_model_stays_here(tmp_path: Path) -> None:
    asked = ("--dataset", "arith-test", "--limit", "100")
    assert prepared(tmp_path, *asked, "--set", "verifier.options.process=false").verifier.options == {"process": False}
    plain = prepared(tmp_path, *asked, "--strategy", "self-consistency")
    assert "process" not in plain.policy.options


def test_a_run_may_be_resumed_with_the_models_elsewhere(tmp_path: Path) -> None:
    one, many = (prepared(tmp_path, "--dataset", "arith-test", "--limit", str(n)) for n in (1, MANY))
    assert one.digest() == many.digest()
