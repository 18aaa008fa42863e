"""Monte Carlo tree search against a reference that follows the textbook, and on trees that can be exhausted."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.conftest import SECRET, Digits, MakeSearch, Truth
from tests.strategies.test_levels import Blurred
from tts_engine.calls import Calls
from tts_engine.strategies import STRATEGIES
from tts_engine.strategies.simulations import Simulations
from tts_engine.strategies.visits import Rule, Visits, may_widen, puct, scoring, uct
from tts_engine.types import Candidate, Key, Outcome, Verdict

RIGHT = "".join(map(str, SECRET))


@dataclass
class Node:
    """A node of the reference: objects and recursion, no arrays."""

    key: Key
    digits: tuple[int, ...] = ()
    children: list[Node] = field(default_factory=list)
    draws: int = 0
    came: int = 1
    values: list[float] = field(default_factory=list)
    losses: int = 0

    @property
    def visits(self) -> int:
        return len(self.values) + self.losses


def value_of(digits: tuple[int, ...]) -> float:
    return Key(7, tuple(map(str, digits))).int() % 1000 / 1000


def reference(root: Node, waves: list[int], rule: Rule, c: float, width: float, growth: float) -> dict[str, int]:
    """Visits by digits after waves of so many simulations."""

    def follow(path: list[Node]) -> list[Node]:
        node = path[-1]
        if len(node.digits) == len(SECRET):
            return path
        if not node.children or node.draws < width * max(node.visits, 1) ** growth:
            node.draws += 1
            return path
        return follow([*path, max(node.children, key=lambda child: deserves(child, node))])

    def deserves(child: Node, parent: Node) -> float:
        q = sum(child.values) / child.visits
        if rule == "uct":
            return q + c * math.sqrt(math.log(parent.visits) / child.visits)
        return q + c * child.came / parent.draws * math.sqrt(parent.visits) / (1 + child.visits)

    drawn: dict[Key, int] = {}
    for wave in waves:
        paths = []
        for _ in range(wave):
            path = follow([root])
            for node in path:
                node.losses += 1
            paths.append(path)
        for path in paths:
            leaf = path[-1]
            if len(leaf.digits) == len(SECRET):
                value = sum(leaf.values) / len(leaf.values)
            else:
                key = leaf.key.child(drawn.setdefault(leaf.key, 0))
                drawn[leaf.key] += 1
                digits = (*leaf.digits, key.child(0).int() % 5)
                value = value_of(digits)
                twin = next((child for child in leaf.children if child.digits == digits), None)
                if twin is None:
                    leaf.children.append(twin := Node(key, digits))
                else:
                    twin.came += 1
                twin.values.append(value)
            for node in path:
                node.losses -= 1
                node.values.append(value)
    return {str(node.key): len(node.values) for node in every(root)}


def every(node: Node) -> list[Node]:
    return [node, *(below for child in node.children for below in every(child))]


class Exact(Truth):
    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        verdict = await super().__call__(steps, samples, calls)
        return Verdict(step_scores=verdict.step_scores, value=value_of(tuple(map(int, steps))))


def visits(outcome: Outcome) -> dict[str, int]:
    return {node["id"]: node["visits"] for node in outcome.tree["nodes"] if "visits" in node}


@pytest.mark.parametrize("rule", ["uct", "puct"])
@pytest.mark.parametrize("parallel", [1, 5])
@pytest.mark.parametrize(("width", "growth"), [(2.0, 0.5), (4.0, 0.0), (1.0, 0.8)])
async def test_visits_match_the_reference(
    make_search: MakeSearch, rule: Rule, parallel: int, width: float, growth: float
) -> None:
    for seed in range(4):
        search = make_search(judge=Exact(), seed=seed)
        waves = [parallel] * (60 // parallel)
        expected = reference(Node(search.root.key), waves, rule, 0.7, width, growth)
        outcome = await STRATEGIES["mcts"](
            search,
            n=60,
            samples=1,
            value="verifier",
            rule=rule,
            exploration=0.7,
            width=width,
            growth=growth,
            parallel=parallel,
        )
        assert visits(outcome) == expected


@pytest.mark.parametrize("rule", ["uct", "puct"])
@pytest.mark.parametrize("parallel", [1, 8])
async def test_visits_converge_to_the_optimum(make_search: MakeSearch, rule: Rule, parallel: int) -> None:
    """Values of finished solutions only, so that the search has to find the way by itself."""
    outcome = await STRATEGIES["mcts"](
        make_search(), n=1500, samples=1, rule=rule, value="rollout", exploration=0.3, parallel=parallel, select="best"
    )
    assert outcome.correct is True
    nodes = {node["id"]: node for node in outcome.tree["nodes"]}
    children = [edge["target"] for edge in outcome.tree["edges"] if edge["source"] == "0/digits"]
    favourite = max(children, key=lambda child: nodes[child].get("visits", 0))
    assert nodes[favourite]["text"] == str(SECRET[0])
    assert nodes[favourite]["visits"] > 0.8 * nodes["0/digits"]["visits"]
    assert nodes[favourite]["mean"] > 0.6


async def test_eager_simulations_find_it_as_well_and_keep_the_counts(make_search: MakeSearch) -> None:
    order = random.Random(1)
    search = make_search(Digits(order=order), Truth(order=order))
    outcome = await STRATEGIES["mcts"](search, n=400, samples=1, eager=True, select="best")
    assert outcome.correct is True
    assert visits(outcome)["0/digits"] == 400


async def test_no_node_is_expanded_more_often_than_widening_allows(make_search: MakeSearch) -> None:
    search = make_search(judge=Blurred())
    outcome = await STRATEGIES["mcts"](search, n=200, samples=1, value="verifier", width=1.5, growth=0.5, parallel=1)
    counts = visits(outcome)
    for node, degree in search.tree.out_degree():
        assert degree <= 1 + 1.5 * max(counts[node], 1) ** 0.5 if node in counts else degree == 0


async def test_a_low_trust_in_what_was_found_falls_back_to_the_vote(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["mcts"](make_search(), n=4, samples=1, value="verifier", fallback=12, trust=1.0)
    assert len(outcome.candidates) >= 12
    assert sum(judged.verdict is None for judged in outcome.candidates) == 12


async def test_a_verifier_that_fails_leaves_counts_without_values(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["mcts"](make_search(judge=Truth(broken=True)), n=60, samples=1)
    assert outcome.answer is not None
    assert visits(outcome)["0/digits"] == 60


def test_the_rules_by_hand() -> None:
    assert uct(0.5, 0.1, 4, 16, 2.0) == pytest.approx(0.5 + 2 * math.sqrt(math.log(16) / 4))
    assert puct(0.5, 0.25, 3, 16, 2.0) == pytest.approx(0.5 + 2 * 0.25 * 4 / 4)
    assert [may_widen(draws, 16, 2.0, 0.5) for draws in (7, 8)] == [True, False]
    assert [may_widen(draws, 1000, 3.0, 0.0) for draws in (2, 3)] == [True, False]


def test_many_children_are_looked_at_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def grown() -> list[int]:
        tree, draw = Visits(), random.Random(3)
        picks = []
        for _ in range(600):
            picks.append(tree.pick(scoring("puct", 0.4), 3.0, 0.5))
            value = draw.choice([None, draw.random()])
            tree.land(picks[-1], tree.add(picks[-1], closed=False), value)
        return picks

    fast = grown()
    monkeypatch.setattr("tts_engine.strategies.visits.WIDE", 10**9)
    assert grown() == fast


def test_virtual_losses_spread_simultaneous_visits() -> None:
    tree = Visits()
    for value in (0.6, 0.5):
        leaf = tree.pick(scoring("uct", 0.5), 2, 0.0)
        tree.land(leaf, tree.add(leaf, closed=True), value)
    assert {tree.pick(scoring("uct", 0.5), 2, 0.0) for _ in range(2)} == {1, 2}


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.one_of(st.none(), st.floats(0, 1))), max_size=60))
def test_counts_add_up(events: list[tuple[bool, float | None]]) -> None:
    tree, score = Visits(), scoring("puct", 1.0)
    landed = 0
    for failed, value in events:
        leaf = tree.pick(score, 2.0, 0.5)
        if failed:
            tree.abandon(leaf)
            continue
        landed += 1
        tree.land(leaf, tree.add(leaf, closed=len(tree) % 3 == 0) if not tree.closed[leaf] else None, value)
    assert tree.visits[0] == landed
    assert not any(tree.flying)
    for node in range(len(tree)):
        below = sum(tree.visits[child] for child in tree.children[node] or ())
        assert tree.visits[node] >= below
        assert 0.0 <= tree.mean(node) <= 1.0


async def test_equal_draws_are_one_node(make_search: MakeSearch) -> None:
    search = make_search()
    simulations = Simulations(search, 1, "verifier", lambda tree: tree.pick(scoring("uct", 1.0), 50, 0.0))
    for _ in range(20):
        leaf = simulations.pick()
        simulations.back_up(leaf, await simulations.visit(leaf).over())
    assert len(simulations.visits) == 1 + 5
    assert sum(simulations.visits.came[1:]) == 20


class Never(Digits):
    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        self.depth = 10**6
        return await super().__call__(node, key, calls, whole=False)


@pytest.mark.parametrize("speculate", [0, 8])
async def test_a_policy_that_never_ends_ends(make_search: MakeSearch, speculate: int) -> None:
    search = make_search(Never())
    outcome = await STRATEGIES["mcts"](search, n=30, samples=1, speculate=speculate)
    assert outcome.answer is None
    assert outcome.stop_reason == "no answer"
    expected = await STRATEGIES["mcts"](plain := make_search(Never()), n=30, samples=1)
    assert sorted(search.tree.edges) == sorted(plain.tree.edges)
    assert outcome.candidates == expected.candidates
