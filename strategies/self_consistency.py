"""Self-consistency: draw N whole solutions and take the most frequent answer; no verifier is paid (2203.11171)."""

from __future__ import annotations

from tts_engine.search import Search
from tts_engine.strategies.best_of_n import best_of_n
from tts_engine.strategies.options import Count
from tts_engine.types import Outcome


async def self_consistency(search: Search, *, n: Count = 16) -> Outcome:
    """Draw `n` solutions and vote by answer equivalence."""
    return await best_of_n(search, n=n, samples=0, select="majority")
