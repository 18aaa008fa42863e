"""Strategies: short async functions over one `Search`. A strategy's signature is its configuration schema.

Import as `tts_engine.strategies`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from tts_engine.strategies.beam import beam
from tts_engine.strategies.best_of_n import best_of_n
from tts_engine.strategies.self_consistency import self_consistency
from tts_engine.types import Outcome

Strategy = Callable[..., Awaitable[Outcome]]

STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {"beam": beam, "best-of-n": best_of_n, "self-consistency": self_consistency}
)
"""By the name used in configurations and on the command line."""

__all__ = ["STRATEGIES", "Strategy", "beam", "best_of_n", "self_consistency"]
