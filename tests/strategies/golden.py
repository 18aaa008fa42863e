"""The trees that strategies grow over the digits, written down: `python -m tests.strategies.golden` writes them anew.

A tree that differs from the file is a changed search. If that was meant, write the file anew and read its diff.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.strategies.conftest import searching
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Outcome

FILE = Path(__file__).parents[1] / "fixtures" / "golden_trees.json"
CASES: dict[str, dict[str, Any]] = {
    "adaptive-self-consistency": {"n": 8, "wave": 2, "confidence": 0.6},
    "beam": {"n": 6, "width": 3, "samples": 1},
    "beam-refine": {"n": 4, "width": 2, "winners": 2, "rounds": 1, "samples": 1},
    "best-of-n": {"n": 4, "samples": 2, "select": "pessimistic"},
    "budget-forcing": {"n": 3, "rounds": 1},
    "dvts": {"n": 7, "width": 3, "samples": 1},
    "mcts": {"n": 14, "samples": 1, "parallel": 4, "value": "both"},
    "particle-filter": {"n": 6, "samples": 1},
    "refine": {"n": 2, "rounds": 2, "samples": 1, "control": True},
    "revise": {"n": 2, "rounds": 2, "samples": 1},
    "self-consistency": {"n": 4},
}


async def grown(name: str) -> dict[str, Any]:
    """What a strategy makes, in short: its answer, who votes, and the path, text, score and visits of each node."""
    outcome: Outcome = await STRATEGIES[name](searching(), **CASES[name])
    nodes = [
        [node["id"].removeprefix("0/digits").lstrip("/"), node["text"], _short(node.get("score")), node.get("visits")]
        for node in outcome.tree["nodes"][1:]
    ]
    voters = ["/".join(map(str, judged.candidate.key.path[1:])) for judged in outcome.candidates]
    calls = {role: usage.calls for role, usage in outcome.usage.items()}
    return {"answer": outcome.answer, "voters": voters, "calls": calls, "nodes": nodes}


def _short(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def main() -> None:
    """Write the file."""
    trees = {name: asyncio.run(grown(name)) for name in CASES}
    lines = (f'"{name}": {json.dumps(tree)}' for name, tree in trees.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
