"""Beam search over steps, guided by the verifier (Snell et al., 2408.03314; CO-TTS, 2502.06703; FACTS.md D)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tts_engine.search import Search, program_order
from tts_engine.strategies.options import Count, Select
from tts_engine.types import Candidate, Judged, Outcome


async def beam(
    search: Search, *, n: Count = 16, width: Count = 4, samples: Count = 8, select: Select = "weighted"
) -> Outcome:
    """At every depth make `n` children, keep the best `n // width`, expand each `width` times.

    Args:
        n: children a depth; the search ends when so many candidates have ended, or when nothing is left to expand.
        width: children of each survivor.
        samples: verifier samples for each child; a child continues its parent's verification chains.
        select: how the answer is chosen among the ended candidates.
    """
    ended: list[Judged] = []
    survivors: Sequence[Candidate] = [search.root]
    while survivors and len(ended) < n and (size := search.room(n - len(ended), samples)):
        shares = _shares(size, len(survivors))
        groups = await asyncio.gather(
            *(search.judged(search.propose(node, share), samples) for node, share in zip(survivors, shares, strict=True))
        )
        children = sorted((child for group in groups for child in group), key=program_order)
        ended += [child for child in children if child.candidate.done]
        survivors = keep(children, max(1, n // width))
    return await search.finish(ended, select)


def keep(children: Sequence[Judged], places: int) -> list[Candidate]:
    """The best unfinished children, ties to the earlier one; without a verdict a child comes last.

    Equal texts may take several places, as published: they share one verdict and are expanded with different draws, so
    that what the policy finds likely and the verifier finds right is expanded more.
    """
    unfinished = [child for child in children if not child.candidate.done and not child.candidate.dead]
    ranked = sorted(unfinished, key=_score, reverse=True)
    return [child.candidate for child in ranked[:places]]


def _score(judged: Judged) -> float:
    return judged.verdict.value if judged.verdict is not None and judged.verdict.value is not None else -1.0


def _shares(total: int, places: int) -> list[int]:
    """`total` children over at most `places` parents as evenly as they go, the better parents first."""
    return [total // places + (i < total % places) for i in range(places)]
