"""Search trees for people and programs: GraphML, JSON, and one HTML file in which a tree can be walked, offline.

A tree is the node-link form that a run writes to trees.jsonl, one line a problem (its nodes: tts_engine/tree.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import networkx as nx

from tts_engine.errors import DataError

Tree = Mapping[str, Any]
DATA = '"DATA"'
"""Where the page takes the trees."""


def load_trees(folder: Path) -> list[dict[str, Any]]:
    """The trees of a run folder, each with its problem's `id`.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    path = folder / "trees.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{folder} holds no trees.jsonl; give the folder that tts-run wrote with --out") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({error}); was it changed by hand?") from None


def graph_of(tree: Tree) -> nx.DiGraph[str]:
    """The tree as a networkx graph."""
    return nx.DiGraph(nx.node_link_graph(dict(tree), edges="edges"))


def unit_of(tree: Tree) -> str:
    """`flops` where the models' sizes are known, else `tokens`."""
    return "flops" if any(node.get("usage", {}).get("flops") for node in tree["nodes"]) else "tokens"


def compute(tree: Tree) -> dict[str, dict[str, float]]:
    """Where compute went: for every node what writing its own steps and judging them took, and all below with it.

    In the unit of the tree: `generate`, `verify`, `below`.
    """
    graph, unit = graph_of(tree), unit_of(tree)
    costs: dict[str, dict[str, float]] = {}
    for name in reversed(list(nx.topological_sort(graph))):
        data = graph.nodes[name]
        spent = _of(data, "usage", unit)
        if data.get("first", 0):
            spent -= sum(_of(graph.nodes[parent], "usage", unit) for parent in graph.predecessors(name))
        verify = _of(data, "verify", unit)
        below = sum(costs[child]["below"] for child in graph.successors(name))
        costs[name] = {"generate": spent, "verify": verify, "below": below + spent + verify}
    return costs


def to_json(trees: Sequence[Tree]) -> str:
    """All trees in node-link form, in one array."""
    return json.dumps(list(trees), ensure_ascii=False, indent=1) + "\n"


def to_graphml(tree: Tree) -> str:
    """One tree as GraphML; what is not a number, a text or a truth value is written as JSON text."""
    graph = graph_of(tree)
    for data in (graph.graph, *(data for _, data in graph.nodes(data=True))):
        for key, value in list(data.items()):
            if value is None:
                del data[key]
            elif not isinstance(value, bool | int | float | str):
                data[key] = json.dumps(value, ensure_ascii=False)
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def to_html(trees: Sequence[Tree], title: str) -> str:
    """A page that shows the trees: everything it needs is in it."""
    shown = [{**tree, "compute": compute(tree), "unit": unit_of(tree)} for tree in trees]
    data = json.dumps({"title": title, "trees": shown}, ensure_ascii=False, separators=(",", ":"))
    page = files("tts_engine").joinpath("assets/viewer.html").read_text(encoding="utf-8")
    return page.replace(DATA, data.replace("<", "\\u003c"), 1)  # no text of a model may end the script


def _of(data: Mapping[str, Any], what: str, unit: str) -> float:
    return float(data.get(what, {}).get(unit, 0.0))
