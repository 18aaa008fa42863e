"""Beam search and DVTS against a plain level-by-level beam, brute force, and hand-made levels."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.conftest import SECRET, Digits, MakeSearch, Truth
from tts_engine.calls import Calls
from tts_engine.search import Search, program_order
from tts_engine.strategies import STRATEGIES
from tts_engine.strategies.ranks import Standing, deal, promised, spread
from tts_engine.types import Candidate, Judged, Key, Problem, Step, Verdict


async def plain_beam(search: Search, n: int, width: int, samples: int) -> list[Judged]:
    """The beam as published: every level waits for its last verdict."""
    ended: list[Judged] = []
    survivors = [search.root]
    while survivors and len(ended) < n:
        size = n - len(ended)
        shares = [size // len(survivors) + (i < size % len(survivors)) for i in range(len(survivors))]
        children: list[Judged] = []
        for node, share in zip(survivors, shares, strict=True):
            children += await search.judged(search.propose(node, share), samples)
        children.sort(key=program_order)
        ended += [child for child in children if child.candidate.done]
        unfinished = [child for child in children if not child.candidate.done and not child.candidate.dead]
        unfinished.sort(key=lambda child: -(child.verdict.value or 0.0) if child.verdict else 1.0)
        survivors = [child.candidate for child in unfinished[: max(1, n // width)]]
    return sorted(ended, key=program_order)


@dataclass
class Uneven(Digits):
    """Solutions end after a number of digits that depends on the last one."""

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        self.depth = 6
        child = await super().__call__(node, key, calls, whole=whole)
        done = child.done or int(child.steps[-1].text) == 0
        answer = "".join(step.text for step in child.steps) if done else None
        return Candidate(problem=node.problem, key=key, steps=child.steps, done=done, answer=answer, parent=node.key)


class Blurred(Truth):
    """Scores that depend on the whole prefix, so that hardly two are equal."""

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        verdict = await super().__call__(steps, samples, calls)
        return Verdict(step_scores=verdict.step_scores, value=Key(7, steps).int() % 1000 / 1000)


@pytest.mark.parametrize(("n", "width"), [(16, 4), (12, 3), (7, 2), (5, 5), (9, 1)])
@pytest.mark.parametrize("kind", [Digits, Uneven])
async def test_early_promotion_makes_what_the_plain_beam_makes(
    make_search: MakeSearch, n: int, width: int, kind: type[Digits]
) -> None:
    for fail in (0.0, 0.2):
        plain = make_search(kind(fail=fail), Blurred())
        expected = await plain_beam(plain, n, width, 1)
        for seed in range(6):
            order = random.Random(seed)
            search = make_search(kind(fail=fail, order=order), Blurred(order=order))
            outcome = await STRATEGIES["beam"](search, n=n, width=width, samples=1)
            assert sorted(plain.tree.edges) == sorted(search.tree.edges) or not expected
            assert list(outcome.candidates) == expected or not expected


async def test_a_sure_survivor_does_not_wait_for_a_slow_verdict(make_search: MakeSearch) -> None:
    released = asyncio.Event()

    class Slow(Truth):
        async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
            if len(steps) == 1 and steps[0] == slow:
                await released.wait()
            return await super().__call__(steps, samples, calls)

    class Watching(Digits):
        async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
            if node.depth == 1:
                released.set()  # somebody was expanded: the slow verdict may come now
            return await super().__call__(node, key, calls, whole=whole)

    first = [str(Key(0, ("digits", i)).child(0).int() % 5) for i in range(8)]
    slow = next(text for text in first if first.count(text) == 1 and text != str(SECRET[0]))
    outcome = await STRATEGIES["beam"](make_search(Watching(), Slow()), n=8, width=2, samples=1)
    assert released.is_set()  # or the slow verdict would have been waited for until the time limit of the test
    assert outcome.answer is not None


Level = st.lists(st.sampled_from([Standing.DONE, Standing.GONE, -1.0, 0.1, 0.5, 0.9]), max_size=9)


@settings(deadline=None)
@given(level=Level, spare=st.integers(0, 5), places=st.integers(1, 5), seed=st.integers(0, 99))
def test_promises_are_kept_and_never_fall(level: list[float | Standing], spare: int, places: int, seed: int) -> None:
    n = len(level) + spare
    final = promised(level, n, places)
    alive = [i for i, known in enumerate(level) if isinstance(known, float)]
    size = n - level.count(Standing.DONE)
    assert sum(final) == (size if alive else 0)
    kept = sorted(alive, key=lambda i: (-float(level[i]), i))[:places]  # type: ignore[arg-type]
    assert [i for i in kept if final[i]] == kept[: min(len(kept), size)]
    order = random.Random(seed)
    seen: list[float | Standing] = [Standing.UNKNOWN] * len(level)
    before = [0] * len(level)
    while seen != level:
        i = order.choice([i for i in range(len(level)) if seen[i] != level[i]])
        unscored = seen[i] is Standing.UNKNOWN and isinstance(level[i], float)
        seen[i] = Standing.UNSCORED if unscored else level[i]
        now = promised(seen, n, places)
        assert all(low <= high for low, high in zip(before, now, strict=True))
        before = now
    assert before == final


@settings(deadline=None)
@given(st.integers(0, 60), st.lists(st.integers(0, 9), max_size=8))
def test_deals_are_even_and_complete(total: int, wants: list[int]) -> None:
    given = deal(total, wants)
    assert sum(given) == min(total, sum(wants))
    assert all(got <= want for got, want in zip(given, wants, strict=True))
    unmet = [got for got, want in zip(given, wants, strict=True) if got < want]
    assert not unmet or max(given) - min(unmet) <= 1


def child(parent: int, text: str, value: float) -> Judged:
    key = Key(0, (parent,))
    problem = Problem(id="p", prompt="?")
    candidate = Candidate(problem=problem, key=key.child(text), steps=(Step(text=text),), parent=key)
    return Judged(candidate=candidate, verdict=Verdict(step_scores=(value,), value=value))


def test_spread_prefers_a_cousin_to_a_twin() -> None:
    level = [child(1, "a", 0.9), child(1, "b", 0.8), child(2, "a", 0.8), child(2, "c", 0.7), None]
    assert spread(level, 0.3) == pytest.approx([0.9, 0.5, 0.2, 0.7, None])
    assert spread(level, 0.0) == pytest.approx([0.9, 0.8, 0.8, 0.7, None])


async def test_dvts_keeps_the_best_of_every_subtree(make_search: MakeSearch) -> None:
    policy = Digits()
    search = make_search(policy)
    await STRATEGIES["dvts"](search, n=16, width=4, samples=1)
    for depth in (1, 2):
        expanded = [node for node, degree in search.tree.out_degree() if degree and _depth(search, node) == depth]
        assert len(expanded) == 4
        for node in expanded:
            parent = next(iter(search.tree.predecessors(node)))
            siblings = list(search.tree.successors(parent))
            group = siblings[siblings.index(node) // 4 * 4 :][:4] if depth == 1 else siblings
            assert search.tree.nodes[node]["score"] == max(search.tree.nodes[other]["score"] for other in group)


def _depth(search: Search, node: str) -> int:
    return int(search.tree.nodes[node]["depth"])


async def test_wide_dvts_equals_brute_force(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["dvts"](make_search(), n=120, width=60, samples=1, select="best")
    assert outcome.correct is True


async def test_widths_by_level_keep_as_many_as_they_say(make_search: MakeSearch) -> None:
    search = make_search(Digits(depth=4))
    await STRATEGIES["beam"](search, n=12, width=[6, 2], samples=1)
    expanded = [node for node, degree in search.tree.out_degree() if degree]
    depths = [_depth(search, node) for node in expanded]
    assert [depths.count(depth) for depth in range(4)] == [1, 2, 6, 6]


async def test_every_second_step_is_judged(make_search: MakeSearch) -> None:
    judge = Truth()
    outcome = await STRATEGIES["beam"](make_search(Digits(depth=6), judge), n=8, width=2, samples=1, every=2)
    assert {len(steps) for steps in judge.asked} == {2, 4, 6}
    assert {judged.candidate.depth for judged in outcome.candidates} == {6}
    nodes = [node["id"] for node in outcome.tree["nodes"]]
    assert len(nodes) == len(set(nodes)) == 1 + 6 * 8


async def test_lookahead_judges_what_further_steps_make(make_search: MakeSearch) -> None:
    judge = Truth()
    search = make_search(Digits(depth=4), judge)
    await STRATEGIES["beam"](search, n=6, width=2, samples=1, lookahead=2)
    first = [node for node in search.tree.successors(str(search.root.key))]
    assert len(first) == 6
    assert {len(search.tree.nodes[node]["step_scores"]) for node in first} == {3}
    assert {len(steps) for steps in judge.asked} == {3, 4}


async def test_an_unexpected_error_of_a_policy_is_raised(make_search: MakeSearch) -> None:
    class Bad(Digits):
        async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
            raise ZeroDivisionError

    for name in ("beam", "dvts"):
        with pytest.raises(ZeroDivisionError):
            await STRATEGIES[name](make_search(Bad()), n=4, width=2, samples=1)
