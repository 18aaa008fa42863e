"""The example of an agent's own policy and verifier runs, and searching beats plain attempts at the same budget."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "agent_steps.py"


async def test_search_over_tool_calls_passes_the_tests_where_plain_attempts_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = importlib.util.spec_from_file_location("agent_steps", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "agent_steps", example)  # dataclasses look their module up
    spec.loader.exec_module(example)
    plain = await example.solve("best-of-n", {"n": 1000})
    beam = await example.solve("beam", {"n": 64, "width": 8})
    assert float(plain.answer) < float(beam.answer) == 1.0
    assert max(plain.total.tokens, beam.total.tokens) <= 6000
