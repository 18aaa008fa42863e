"""tts-engine: test-time scaling with generative verifiers, generator and verifier on one ledger.

>>> from tts_engine import Engine                                     # doctest: +SKIP
>>> async with Engine.from_config() as engine:                        # doctest: +SKIP
...     outcome = await engine.solve("Ann has 3 apples ...", strategy="beam", verifier_samples=8)

Importing the package loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tts_engine.compute.budget import Budget
    from tts_engine.config import Config
    from tts_engine.errors import TTSError, UsageError
    from tts_engine.run import Engine, solve
    from tts_engine.types import Outcome, Problem

__version__ = "0.1.0"

_HOMES = {
    "Budget": "compute.budget",
    "Config": "config",
    "Engine": "run",
    "Outcome": "types",
    "Problem": "types",
    "TTSError": "errors",
    "UsageError": "errors",
    "solve": "run",
}

__all__ = ["Budget", "Config", "Engine", "Outcome", "Problem", "TTSError", "UsageError", "__version__", "solve"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever is asked for
    if name in _HOMES:
        return getattr(import_module(f"tts_engine.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tts_engine' has no attribute {name!r}")
