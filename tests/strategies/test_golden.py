"""Every strategy grows the tree that stands in fixtures/golden_trees.json (written by tests/strategies/golden.py)."""

from __future__ import annotations

import json

import pytest

from tests.strategies.golden import CASES, FILE, grown
from tts_engine.strategies import STRATEGIES


@pytest.mark.parametrize("name", CASES)
async def test_the_tree_is_the_one_written_down(name: str) -> None:
    assert await grown(name) == json.loads(FILE.read_text(encoding="utf-8"))[name]


def test_strategies_have_a_golden_tree() -> None:
    assert set(CASES) <= set(STRATEGIES)
