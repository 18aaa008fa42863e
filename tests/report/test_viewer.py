"""The search tree in a file: nothing is lost, compute adds up, the page needs no network and no text can break it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from tts_engine import Engine, Outcome
from tts_engine.backends.arithmetic import Task
from tts_engine.cli.tree import main
from tts_engine.report.viewer import compute, graph_of, to_html
from tts_engine.types import Key

TASK = {"error_rate": 0.3}


@pytest.fixture
async def outcomes(simulated: dict[str, Any]) -> list[Outcome]:
    """Two problems, searched by the whole engine with a verifier that reasons."""
    simulated["verifier"] |= {"params": {"mode": "analysis"}}
    problems = [Task(**TASK).problem(Key(1, (i,)), steps=4) for i in range(2)]  # type: ignore[arg-type]
    async with Engine.from_config(simulated) as engine:
        return [outcome async for outcome in engine.run(problems)]


@pytest.fixture
def folder(outcomes: list[Outcome], tmp_path: Path) -> Path:
    lines = [json.dumps({"id": outcome.problem.id, **outcome.tree}) for outcome in outcomes]
    (tmp_path / "trees.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def page_data(html: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


async def test_compute_of_the_nodes_adds_up_to_the_outcomes(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        costs = compute(outcome.tree)
        root = outcome.tree["nodes"][0]["id"]
        assert math.isclose(sum(cost["generate"] for cost in costs.values()), outcome.usage["generate"].flops)  # type: ignore[index]
        verified = sum(cost["verify"] for cost in costs.values())
        assert verified >= outcome.usage["verify"].flops * (1 - 1e-9)  # type: ignore[index]  # twins share a judgement
        assert math.isclose(costs[root]["below"], verified + sum(cost["generate"] for cost in costs.values()))


async def test_nodes_hold_what_the_verifier_said_of_their_steps(outcomes: list[Outcome]) -> None:
    judged = [node for node in outcomes[0].tree["nodes"] if node.get("samples")]
    assert judged
    for node in judged:
        own = node["depth"] - node["first"]
        assert all(0 < len(sample) <= own for sample in node["samples"])
        assert all("<analyze>" in said["rationale"] for sample in node["samples"] for said in sample)


async def test_the_chosen_solution_is_marked(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.chosen is not None
        assert outcome.tree["graph"]["chosen"] == str(outcome.candidates[outcome.chosen].candidate.key)


def test_the_page_holds_all_trees_and_no_address(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tree.html"
    assert main([str(folder), "--out", str(out)]) == 0
    html = out.read_text()
    data = page_data(html)
    lines = [json.loads(line) for line in (folder / "trees.jsonl").read_text().splitlines()]
    assert [tree["nodes"] for tree in data["trees"]] == [tree["nodes"] for tree in lines]
    assert "http" not in html.replace(json.dumps(data["trees"]), "")
    assert not re.search(r"<(link|img|iframe)|src=|import\(", html)


def test_no_text_of_a_model_can_end_the_script(outcomes: list[Outcome]) -> None:
    tree = json.loads(json.dumps(outcomes[0].tree))
    tree["nodes"][1]["text"] = "</script><script>alert(1)</script><!--"
    html = to_html([{"id": "p", **tree}], "a <b>title</b>")
    assert "<script>alert" not in html
    assert page_data(html)["trees"][0]["nodes"][1]["text"] == tree["nodes"][1]["text"]


def test_graphml_and_json_come_back_as_they_went(folder: Path, outcomes: list[Outcome]) -> None:
    problem = outcomes[0].problem.id
    assert main([str(folder), "--problem", problem, "--out", str(folder / "t.graphml")]) == 0
    graph = nx.read_graphml(folder / "t.graphml")
    original = graph_of(outcomes[0].tree)
    assert set(graph.edges) == set(original.edges)
    for name, data in original.nodes(data=True):
        assert graph.nodes[name]["text"] == data["text"]
        assert json.loads(graph.nodes[name].get("samples", "[]")) == data.get("samples", [])
    assert main([str(folder), "--out", str(folder / "t.json")]) == 0
    assert [tree["id"] for tree in json.loads((folder / "t.json").read_text())] == [o.problem.id for o in outcomes]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--out", "t.html"], "holds no trees.jsonl"),
        (["{folder}", "--out", "t.png"], "end it in .html"),
        (["{folder}", "--out", "t.graphml"], "add --problem"),
        (["{folder}", "--out", "t.html", "--problem", "nobody"], "has no tree of problem 'nobody'"),
        (["{folder}", "--out", "{folder}/none/t.html"], "choose another --out"),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([argument.format(folder=folder) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
