"""What is promised about the distribution: its commands, its links, what importing it loads."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tts_engine

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", ["main", "test"])
def test_readme_has_each_command_of_ci_once(name: str) -> None:
    blocks = re.findall(rf"<!-- ci: {name} -->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    assert "pip install" in blocks[0]


@pytest.mark.parametrize("command", sorted(PROJECT["project"]["scripts"]))
def test_every_command_exists_and_explains_itself(command: str) -> None:
    module, function = PROJECT["project"]["scripts"][command].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    done = run("-m", module, "--help")
    assert command in done


@pytest.mark.parametrize("name", ["strategies", "verifiers"])
def test_the_folders_at_the_top_are_reached_through_relative_links(name: str) -> None:
    link = ROOT / "tts_engine" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


def test_importing_the_package_is_light_and_claims_no_bare_names() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'pydantic', 'rich', 'networkx', 'yaml'}"
    assert run("-c", f"import sys, tts_engine; print(sorted({heavy} & set(sys.modules)))") == "[]\n"
    code = (
        "import sys, tts_engine.run, tts_engine.cli.session\n"
        "print(sorted({'torch', 'transformers', 'strategies', 'verifiers'} & set(sys.modules)))"
    )
    assert run("-c", code) == "[]\n"


def test_the_public_names_resolve() -> None:
    for name in tts_engine.__all__:
        assert getattr(tts_engine, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tts_engine.nonsense


def run(*arguments: str) -> str:
    """Standard output of a fresh interpreter that knows this package."""
    environment = os.environ | {"PYTHONPATH": str(Path(tts_engine.__file__).parents[1])}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
