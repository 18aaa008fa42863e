"""One engine over the embedded models for all tests of the adapters, and the examples as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tts_engine.adapters.hosted import Hosted

EXAMPLES = Path(__file__).parents[2] / "examples"
PROBLEM = "Ann starts with 12 pens. Ann buys 4 boxes of 7 pens. How many pens has Ann in the end?"
RIGHT = ["Step 1: packed 4*7=28.", "Step 2: now 12+28=\\boxed{40}."]
WRONG = ["Step 1: packed 4*7=28.", "Step 2: now 12+28=\\boxed{41}."]


@pytest.fixture(scope="session")
def hosted() -> Iterator[Hosted]:
    with Hosted() as engine:
        yield engine


def example(name: str) -> ModuleType:
    """An example, imported."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
