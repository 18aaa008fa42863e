"""How far a search is: counts, the answer in the lead, and whether it can still be overtaken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tts_engine.compute.ledger import Budget, Scope
from tts_engine.jobs import Event

Json = dict[str, Any]
VOTES = {"best-of-n": "weighted", "self-consistency": "majority"}
"""Strategies that take a vote among a fixed number of candidates, with their default rule."""


class Tracker:
    """Takes the engine's events of one search in; says where it stands.

    Args:
        strategy, params: what is being done; `params` has `n` and `select` where they were given.
    """

    def __init__(self, strategy: str, params: Mapping[str, Any]) -> None:
        rule = params.get("select", VOTES.get(strategy))
        self._expected = params.get("n") if strategy in VOTES and rule in ("weighted", "majority") else None
        self._judged_votes = rule == "weighted" and strategy != "self-consistency"
        self._nodes: dict[str, Json] = {}

    def take(self, event: Event) -> Json | None:
        """Take an event in; the node it tells of, if it does."""
        if event.kind != "node":
            return None
        node = dict(event.data["node"])
        self._nodes[node["id"]] = {key: node.get(key) for key in ("done", "dead", "answer", "score")}
        return node

    def summary(self) -> Json:
        """Where the search stands. `certain`: no outstanding candidate can change the answer any more."""
        ended = [node for node in self._nodes.values() if node["done"]]
        votes: dict[str, float] = {}
        for node in ended:
            if node["answer"] is not None:
                weight = (node["score"] or 0.0) if self._judged_votes else 1.0
                votes[node["answer"]] = votes.get(node["answer"], 0.0) + weight
        leader = max(votes, key=lambda answer: votes[answer], default=None)
        total = math.fsum(votes.values())
        return {
            "nodes": len(self._nodes),
            "ended": len(ended),
            "judged": sum(node["score"] is not None for node in self._nodes.values()),
            "answer": leader,
            "share": round(votes[leader] / total, 4) if leader is not None and total else None,
            "certain": leader is not None and self._certain(votes[leader], total),
        }

    def _certain(self, lead: float, total: float) -> bool:
        """Even if all other votes, and all to come (of at most 1 each), went to one other answer."""
        if self._expected is None:
            return False
        open_votes = self._expected - sum(self._settled(node) for node in self._nodes.values())
        return bool(lead > (total - lead) + open_votes)

    def _settled(self, node: Json) -> bool:
        ended = bool(node["done"] or node["dead"])
        waits = self._judged_votes and node["answer"] is not None and node["score"] is None
        return ended and not waits


def left_of(budget: Budget, scope: Scope) -> Json:
    """What its scope has not spent of a budget, in the units that have a limit."""
    spent = scope.total
    limits = {unit: getattr(budget, unit) for unit in ("tokens", "flops", "dollars")}
    left: Json = {unit: limit - getattr(spent, unit) for unit, limit in limits.items() if limit is not None}
    return left if scope.left.seconds is None else left | {"seconds": round(scope.left.seconds, 3)}
