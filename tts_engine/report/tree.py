"""The tree of judged steps in compact form: what was pursued in full, what was not in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx
from rich.text import Text
from rich.tree import Tree

from tts_engine.report.words import one_line, score_text
from tts_engine.types import Outcome

WIDTH = 64
"""Characters of a step that are shown."""
MOST_ENDED = 4
"""Ended solutions shown below one node."""

Node = Mapping[str, Any]
if TYPE_CHECKING:
    Graph = nx.DiGraph[str]  # generic in its stubs only


def search_tree(outcome: Outcome) -> Tree:
    """The search tree; the chosen solution's path is bold, steps that were not pursued are counted."""
    shown = Tree(Text("Search tree", style="bold"), guide_style="dim")
    if not outcome.tree:
        return shown
    graph: Graph = nx.DiGraph(nx.node_link_graph(dict(outcome.tree), edges="edges"))
    answers = {str(judged.candidate.key): judged.candidate.answer for judged in outcome.candidates}
    chosen = None if outcome.chosen is None else str(outcome.candidates[outcome.chosen].candidate.key)
    root = next(iter(graph))
    path = set() if chosen is None else {chosen, *nx.ancestors(graph, chosen)}
    _grow(shown, graph, root, path, answers)
    return shown


def _grow(shown: Tree, graph: Graph, name: str, path: set[str], answers: Mapping[str, str | None]) -> None:
    children = sorted(graph.successors(name), key=lambda child: -_value(graph.nodes[child]))
    inner = [child for child in children if graph.out_degree(child)]
    ended = _alike(graph, [child for child in children if child not in inner and graph.nodes[child].get("done")], path)
    dropped = [child for child in children if child not in inner and not graph.nodes[child].get("done")]
    for child in inner:
        _grow(shown.add(_label(graph.nodes[child], child in path)), graph, child, path, answers)
    for group in ended[:MOST_ENDED]:
        times = f" ×{len(group)}" if len(group) > 1 else ""
        shown.add(_end(graph.nodes[group[0]], group[0] in path, answers.get(group[0])).append(times, style="dim"))
    for text in _rest(graph, [name for group in ended[MOST_ENDED:] for name in group], dropped):
        shown.add(Text(text, style="dim"))


def _alike(graph: Graph, names: Sequence[str], path: set[str]) -> list[list[str]]:
    """Nodes of the same text together; what is on the path comes first."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: name not in path):
        groups.setdefault(graph.nodes[name]["text"], []).append(name)
    return list(groups.values())


def _rest(graph: Graph, ended: Sequence[str], dropped: Sequence[str]) -> Iterator[str]:
    for names, what in ((ended, "more solutions"), (dropped, "not pursued")):
        if names:
            scores = [score for name in names if (score := graph.nodes[name].get("score")) is not None]
            yield f"{len(names)} {what}" + (f", scores {min(scores):.2f} to {max(scores):.2f}" if scores else "")


def _label(node: Node, bold: bool) -> Text:
    scores = node.get("step_scores", ())
    step = scores[-1] if len(scores) == node["depth"] else None
    return Text.assemble(score_text(step), " ", (one_line(node["text"], WIDTH), "bold" if bold else ""))


def _end(node: Node, bold: bool, answer: str | None) -> Text:
    text = one_line(node["text"], WIDTH - 16)
    style = "bold" if bold else ""
    return Text.assemble(
        score_text(node.get("score")), " ", (text, style), (f" ⇒ {one_line(answer or '–', 16)}", style)
    )


def _value(node: Node) -> float:
    score = node.get("score")
    return -1.0 if score is None else float(score)
