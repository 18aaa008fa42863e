"""Strategies: short async functions over one `Search`. A strategy's signature is its configuration schema.

Import as `tts_engine.strategies`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from tts_engine.strategies.adaptive import adaptive_self_consistency
from tts_engine.strategies.allocate import adaptive_allocation
from tts_engine.strategies.beam import beam, dvts
from tts_engine.strategies.best_of_n import best_of_n
from tts_engine.strategies.mcts import mcts
from tts_engine.strategies.particles import particle_filter
from tts_engine.strategies.refine import beam_refine, budget_forcing, refine, revise
from tts_engine.strategies.self_consistency import self_consistency
from tts_engine.types import Outcome

Strategy = Callable[..., Awaitable[Outcome]]

STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "adaptive-allocation": adaptive_allocation,
        "adaptive-self-consistency": adaptive_self_consistency,
        "beam": beam,
        "beam-refine": beam_refine,
        "best-of-n": best_of_n,
        "budget-forcing": budget_forcing,
        "dvts": dvts,
        "mcts": mcts,
        "particle-filter": particle_filter,
        "refine": refine,
        "revise": revise,
        "self-consistency": self_consistency,
    }
)
"""By the name used in configurations and on the command line."""

__all__ = [
    "STRATEGIES",
    "Strategy",
    "adaptive_allocation",
    "adaptive_self_consistency",
    "beam",
    "beam_refine",
    "best_of_n",
    "budget_forcing",
    "dvts",
    "mcts",
    "particle_filter",
    "refine",
    "revise",
    "self_consistency",
]
