"""Beam search over steps, guided by the verifier (Snell et al., 2408.03314; CO-TTS, 2502.06703), and its
relative DVTS: diverse verifier tree search, which is many narrow beams side by side."""

from __future__ import annotations

from tts_engine.search import Search
from tts_engine.strategies.levels import Beam, Plan
from tts_engine.strategies.options import Count, Natural, Select, Share, Widths
from tts_engine.strategies.ranks import deal
from tts_engine.together import together
from tts_engine.types import Outcome


async def beam(
    search: Search,
    *,
    n: Count = 16,
    width: Widths = 4,
    samples: Count = 8,
    every: Count = 1,
    lookahead: Natural = 0,
    diversity: Share = 0.0,
    speculate: Share = 0.0,
    select: Select = "weighted",
) -> Outcome:
    """At every depth make `n` children, keep the best `n // width`, expand each `width` times.

    Equal texts may take several places, as published: they share one verdict and are expanded with different draws, so
    that what the policy finds likely and the verifier finds right is expanded more; `diversity` works against it.

    Args:
        n: children a depth; the search ends when so many candidates have ended, or when nothing is left to expand.
        width: children of each survivor; or a list, one entry a level, the last for all further levels.
        samples: verifier samples for each child; a child continues its parent's verification chains.
        every: steps that are made between two judgements.
        lookahead: a child is judged by what so many further steps make of it (0: by itself).
        diversity: what every better sibling, and every better child with the same text, takes off a child's score.
        speculate: expand a child before it is certain to be kept, where the chance of that is at least 1 - `speculate`
            (0: never). The families of those that are not kept are cancelled: the outcome stays the same, the search is
            over sooner and wastes calls; how many depends on their timing. With a budget, `diversity`, `every` or
            `lookahead`: never.
        select: how the answer is chosen among the ended candidates.
    """
    widths = width if isinstance(width, list) else [width]
    plan = Plan(
        n=n,
        widths=widths,
        samples=samples,
        every=every,
        lookahead=lookahead,
        diversity=diversity,
        speculate=speculate,
    )
    return await search.finish(await Beam(search, plan, plan.gate(search)).run(), select)


async def dvts(
    search: Search,
    *,
    n: Count = 16,
    width: Count = 4,
    samples: Count = 8,
    every: Count = 1,
    lookahead: Natural = 0,
    select: Select = "weighted",
) -> Outcome:
    """`n // width` independent subtrees: each makes `width` children a depth and goes on with its best one.

    Args:
        n: children a depth, over all subtrees; where `width` does not divide it, the first subtrees are wider by one.
        width: children of a subtree.
        samples, every, lookahead, select: as for `beam`.
    """
    trees = max(1, n // width)
    shares = deal(n, [n] * trees)
    plans = [Plan(n=i, widths=[i], samples=samples, every=every, lookahead=lookahead) for i in shares]
    gate = plans[0].gate(search, trees)
    pools = await together(Beam(search, plan, gate, i).run() for i, plan in enumerate(plans))
    return await search.finish([judged for pool in pools for judged in pool], select)
