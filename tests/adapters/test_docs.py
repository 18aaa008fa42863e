"""docs/agents.md says nothing that is not so."""

from __future__ import annotations

import contextlib
import io
import json
import re
from typing import Any

from tests.adapters.conftest import EXAMPLES
from tests.docs import blocks
from tts_engine.adapters.told import Solved, Verified
from tts_engine.cli.common import given, models
from tts_engine.cli.mcp import parser
from tts_engine.config import Config

ROOT = EXAMPLES.parent
TEXT = (ROOT / "docs/agents.md").read_text()


def test_the_python_snippets() -> None:
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in blocks(TEXT, "python"):
            exec(block, names)
    reached, answer, wrong, reward = said.getvalue().splitlines()
    assert reached.startswith("29 [")
    assert answer == "40"
    assert wrong.startswith("1 ")
    assert float(reward) > 0.5


def test_the_entry_for_mcp_clients_is_understood() -> None:
    (block,) = blocks(TEXT, "json")
    server = json.loads(block)["mcpServers"]["tts"]
    assert server["command"] == "tts-mcp"
    arguments = parser().parse_args(server["args"])
    assert Config.load(None, arguments.set, given(models(arguments))).budget.per_problem.tokens == 50_000


def test_the_fields_and_files_that_are_named_exist() -> None:
    mcp = TEXT.partition("## As a tool: MCP")[2].partition("## From")[0]
    for model in (Solved, Verified):
        assert all(f"`{name}`" in mcp for name in model.model_fields)
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", TEXT, flags=re.S)):
        assert (ROOT / "docs" / link).exists()
