"""The held-out problem sets that are shipped: written once from the seed, never trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tts_engine.verifiers.training.domain import LEVELS, Story, from_plan
from tts_engine.verifiers.training.stories import generate

SETS = {"arith-test": 1000, "arith-dev": 500}
"""Sizes. `arith-dev` is for tuning and calibration; nothing was tuned on `arith-test`."""


def held_out_stories(seed: int) -> Iterator[Story]:
    """Different held-out stories, the levels in turn."""
    seen: set[str] = set()
    number = 0
    while True:
        story = generate(seed, LEVELS[len(seen) % len(LEVELS)], "held-out", number, held=True)
        number += 1
        if story.text not in seen:
            seen.add(story.text)
            yield story


def write_sets(folder: Path, seed: int) -> None:
    """Write the sets as JSON lines with id, problem, answer, level and plan (the expressions of the reductions)."""
    folder.mkdir(parents=True, exist_ok=True)
    stories = held_out_stories(seed)
    for name, size in SETS.items():
        lines = [json.dumps(record(next(stories))) + "\n" for _ in range(size)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def record(story: Story) -> dict[str, object]:
    """A story as a line of a problem set."""
    plan = [reduction.expression for reduction in story.plan]
    return {"id": story.id, "problem": story.text, "answer": story.answer, "level": story.level, "plan": plan}


def read_set(path: Path) -> list[Story]:
    """The stories of a set, with the plans that the exact checker needs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [from_plan(entry["problem"], entry["plan"]) for entry in map(json.loads, lines)]
