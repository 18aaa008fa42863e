"""Adaptive self-consistency: stop drawing when the vote is as good as decided (Aggarwal et al., 2305.11860)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Literal

from tts_engine.compute.stopping import beta_above_half
from tts_engine.formats.answers import group_answers
from tts_engine.search import Search
from tts_engine.strategies.options import Confidence, Count
from tts_engine.together import end
from tts_engine.types import Judged, Outcome

StopRule = Literal["beta", "dirichlet"]


async def adaptive_self_consistency(
    search: Search,
    *,
    n: Count = 32,
    wave: Count = 4,
    confidence: Confidence = 0.95,
    rule: StopRule = "beta",
    eager: bool = False,
) -> Outcome:
    """Draw at most `n` solutions, `wave` at a time, and stop as soon as the leading answer is safe.

    Args:
        n: solutions at most.
        wave: solutions drawn between two looks.
        confidence: stop when the leader is the most likely answer of the policy with at least this probability.
        rule: `beta` weighs the leader against the second; `dirichlet` against all others and one not seen yet
            (a union bound: it stops later).
        eager: draw all `n` at once, look after every one, and cancel those under way when the vote is decided. Votes
            count in program order, so that the answer does not depend on which ends first; what the cancelled ones
            had cost by then does. With a budget there are waves all the same.
    """
    pool: list[Judged] = []
    if eager and not search.limited:
        return await search.finish(await _stream(search, n, rule, confidence), "majority")
    while not decided(votes(pool), n - len(pool), rule, confidence):
        size = search.room(min(wave, n - len(pool)), whole=True)
        drawn = await search.judged(search.propose(search.root, size, whole=True), 0)
        if not drawn:
            break
        pool += drawn
        await search.compare(pool)
    return await search.finish(pool, "majority")


def votes(pool: Sequence[Judged]) -> list[int]:
    """Votes for every answer of the pool, by equivalence."""
    return [len(group) for group in group_answers([judged.candidate.answer for judged in pool])]


def decided(votes: Sequence[int], left: int, rule: StopRule, confidence: float) -> bool:
    """Whether more draws are not worth it: none is left, they cannot change the leader, or he is safe by the rule."""
    ranked = sorted(votes, reverse=True)
    if left <= 0 or not ranked:
        return left <= 0
    second = ranked[1] if len(ranked) > 1 else 0
    return ranked[0] - second > left or 1 - risk(ranked, rule) >= confidence


def risk(ranked: Sequence[int], rule: StopRule) -> float:
    """Probability that the leader is not the most likely answer, under a uniform prior over the answers' chances.

    Args:
        ranked: votes, the leader first; the share of two answers' draws that the leader gets has a Beta posterior.
    """
    leader, *others = ranked
    rivals = [*others, 0] if rule == "dirichlet" else [others[0] if others else 0]
    return min(1.0, math.fsum(1 - beta_above_half(leader + 1, rival + 1) for rival in rivals))


async def _stream(search: Search, n: int, rule: StopRule, confidence: float) -> list[Judged]:
    """All at once, counted in program order; what is still under way when the vote is decided is cancelled."""
    tasks = [asyncio.create_task(_draw(search)) for _ in range(n)]
    pool: list[Judged] = []
    try:
        for left, task in zip(reversed(range(n)), tasks, strict=True):
            pool += await task
            await search.compare(pool)
            if decided(votes(pool), left, rule, confidence):
                break
    finally:
        await end(*tasks)  # what they had cost is known then
    return pool


async def _draw(search: Search) -> list[Judged]:
    return await search.judged(search.propose(search.root, 1, whole=True), 0)
