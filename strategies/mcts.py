"""Monte Carlo tree search over steps, several simulations at a time (rules: strategies/visits.py)."""

from __future__ import annotations

import asyncio
from functools import partial

from tts_engine.search import Search
from tts_engine.strategies.options import Count, Natural, Positive, Select, Share
from tts_engine.strategies.simulations import Simulations, Source, Visit
from tts_engine.strategies.visits import Rule, Visits, scoring
from tts_engine.together import end
from tts_engine.types import Outcome


async def mcts(
    search: Search,
    *,
    n: Count = 32,
    samples: Count = 8,
    rule: Rule = "puct",
    exploration: Positive = 1.0,
    width: Positive = 2.0,
    growth: Share = 0.5,
    value: Source = "both",
    parallel: Count = 8,
    eager: bool = False,
    speculate: Natural = 0,
    fallback: Natural = 0,
    trust: Share = 0.5,
    select: Select = "weighted",
) -> Outcome:
    """`n` simulations: go down by the rule, draw a step, value it, and tell the nodes above.

    Every ended node and every completed rollout is a candidate for the answer. Simulations run in waves of `parallel`,
    picked and backed up in program order, so that the result does not depend on which ends first.

    Args:
        n: simulations; visiting an ended node again counts as one and costs nothing.
        samples: verifier samples for each new node.
        rule: `puct`, whose prior of a step is the share of draws that gave it, or `uct`.
        exploration: constant of the rule; values are in [0, 1].
        width, growth: a node of v visits gets `width * v ** growth` draws (progressive widening).
        value: of a new node; a solution that ended without an answer has value 0.
        parallel: simulations under way at once; each of them counts as lost until it is back (virtual loss).
        eager: back up on arrival and start the next simulation at once instead of in waves: no waiting, but the result
            depends on the order of arrival. With a budget there are waves all the same.
        speculate: visits that are made ahead of the simulations that will probably ask for them, and the end of the
            best candidate as long as there is no answer: the search is over sooner, for more calls, of which those
            that nobody asked for are wasted. In waves the outcome stays the same. With a budget or a `fallback`: never.
        fallback: where no candidate is valued at least `trust`, so many plain samples are drawn, and all vote.
        select: how the answer is chosen among the candidates.
    """
    pick = partial(Visits.pick, score=scoring(rule, exploration), width=width, growth=growth)
    ahead = 0 if search.limited or fallback else speculate
    simulations = Simulations(search, samples, value, pick, ahead)
    run = _stream if eager and not search.limited else _waves
    try:
        await run(simulations, n, parallel)
        await simulations.finish()
    finally:
        await simulations.close()
    simulations.annotate()
    pool = simulations.pool
    if fallback and max((judged.rank for judged in pool), default=0.0) < trust:
        size = search.room(fallback, whole=True)
        plain = await search.judged(search.propose(search.root, size, whole=True), 0)
        return await search.finish([*pool, *plain], "majority")
    return await search.finish(pool, select)


async def _waves(simulations: Simulations, n: int, parallel: int) -> None:
    while n > 0 and (size := simulations.room(min(parallel, n))):
        n -= size
        leaves = [simulations.pick() for _ in range(size)]
        visits = [simulations.visit(leaf) for leaf in leaves]
        for leaf, visit in zip(leaves, visits, strict=True):
            simulations.back_up(leaf, await visit.over())
            simulations.look_ahead(n)


async def _stream(simulations: Simulations, n: int, parallel: int) -> None:
    running: dict[asyncio.Task[Visit], int] = {}
    try:
        while n or running:
            for _ in range(min(n, parallel - len(running))):
                leaf = simulations.pick()
                running[asyncio.create_task(simulations.visit(leaf).over())] = leaf
                n -= 1
            simulations.look_ahead(n)
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                simulations.back_up(running.pop(task), task.result())
    finally:
        await end(*running)
