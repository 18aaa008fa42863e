"""Every command in docs/strategies.md names a strategy that there is, with parameters that it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tts_engine.config import Config, check_params, resolve
from tts_engine.strategies import STRATEGIES
from tts_engine.verifiers import VERIFIERS

TEXT = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (tts-run .*)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_accepted(command: str) -> None:
    sets = re.findall(r"--set (\S+)", command)
    name = re.findall(r"--strategy (\S+)", command)
    sets += [f"strategy.name={name[0]}", *(f"strategy.n={n}" for n in re.findall(r"--n (\S+)", command))]
    resolve(Config.load(None, sets), STRATEGIES, VERIFIERS)


def test_every_strategy_has_a_section_and_a_command() -> None:
    for name, strategy in STRATEGIES.items():
        assert f"### {name}\n" in TEXT
        assert any(f"--strategy {name} " in command for command in COMMANDS)
        check_params(strategy, {}, name, ("search", "samples"))
