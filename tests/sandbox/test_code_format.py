"""The code in a turn and the feedback texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tts_engine.formats.code import NO_CODE, TIMED_OUT, error_feedback, extract_code, feedback_block

ORACLE = json.loads((Path(__file__).parent / "data" / "genprm_executor.json").read_text())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```\n", "x = 1"),
        ("```python\na\n```\nand ```python\nb\n```", "b"),
        ("```python\na\n```\nand ```python\nunfinished", "a"),
        ("```python\n\n    x = 1\n\n\n```", "x = 1"),
        ("```python\n```", ""),
        ("```python\nunfinished", None),
        ("```\nx = 1\n```", None),
        ("", None),
    ],
)
def test_the_last_closed_block_is_the_code(text: str, code: str | None) -> None:
    assert extract_code(text) == code


def test_feedback_texts_are_upstreams() -> None:
    outputs = [case["output"] for case in ORACLE]
    assert NO_CODE in outputs
    assert TIMED_OUT in outputs
    assert error_feedback("ValueError: z") in outputs


@pytest.mark.parametrize("case", ORACLE)
def test_injected_block_is_upstreams(case: dict[str, str]) -> None:
    assert feedback_block(case["output"]) == case["appended"]
