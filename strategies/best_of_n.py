"""Best-of-N: draw N whole solutions, judge each as it arrives, choose by the verifier."""

from __future__ import annotations

from tts_engine.search import Search
from tts_engine.strategies.options import Count, Select
from tts_engine.types import Judged, Outcome


async def best_of_n(search: Search, *, n: Count = 16, samples: Count = 8, select: Select = "weighted") -> Outcome:
    """Draw `n` solutions and judge each with `samples` verifier samples.

    Args:
        n: solutions.
        samples: verifier samples for each.
        select: `best` takes the highest score, `weighted` the answer with the most score in all (robust where the
            verifier is weak), `majority` ignores the scores.
    """
    pool: list[Judged] = []
    while len(pool) < n and (size := search.room(n - len(pool), samples, whole=True)):
        wave = await search.judged(search.propose(search.root, size, whole=True), samples)
        if not wave:
            break
        pool += wave
    return await search.finish(pool, select)
