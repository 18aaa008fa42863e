"""docs/serving.md says nothing that is not so: its snippets run against the embedded models."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs import blocks
from tests.serve.conftest import Running
from tts_engine.cli.serve import main
from tts_engine.config import Config
from tts_engine.serve.settings import GatewayConfig, ServeConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def test_the_python_snippets(embedded: Running) -> None:
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in blocks(TEXT, "python"):
            exec(block.replace(ADDRESS, embedded.url), names)
    names["client"].close()
    assert "\\boxed{40}" in said.getvalue()
    assert "leads" in said.getvalue()


def test_the_curl_snippets(embedded: Running) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    (command,) = [block for block in blocks(TEXT, "bash") if block.startswith("curl")]
    done = subprocess.run(
        ["bash", "-c", command.replace(ADDRESS, embedded.url)], capture_output=True, text=True, check=True
    )
    verdict = json.loads(done.stdout)
    assert {"value", "step_scores", "first_error", "valid", "samples", "usage"} <= verdict.keys()
    assert {"rationale", "analysis", "checks"} <= verdict["samples"][0][0].keys()


def test_the_commands_about_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks(TEXT, "bash") if "keys add" in block]
    for line in block.splitlines():
        assert main(line.split()[1:]) == 0
    key, listing = capsys.readouterr().out.splitlines()
    assert key.startswith("tts-alice-")
    assert listing == "alice: tokens=5M in 86400 s, 60 requests a minute"
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_the_configurations() -> None:
    for data in [*map(yaml.safe_load, blocks(TEXT, "yaml")), yaml.safe_load((ROOT / "configs/serve.yaml").read_text())]:
        config = GatewayConfig.build(data)
        assert isinstance(config, Config)
        assert [verifier.name for verifier in config.serve.verifiers] == ["prm"]


def test_the_table_of_limits_is_that_of_the_settings() -> None:
    for names, values in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]*) \|", TEXT.partition("| limit")[2], re.M):
        given = [
            float(number) * 2**20 if "MiB" in number + unit else float(number) for number, unit in _numbers(values)
        ]
        assert given == [float(getattr(ServeConfig(), name)) for name in re.findall(r"\w+", names)]


def _numbers(text: str) -> list[tuple[str, str]]:
    return re.findall(r"(\d+)( MiB)?", text)
