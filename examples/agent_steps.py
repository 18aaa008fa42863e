"""An agent's steps: the policy makes tool calls in a small environment, and the verifier runs its tests.

python examples/agent_steps.py

A strategy asks for nothing but two callables. Here a step is a tool call on a folder of files, drawn at random where a
language model would stand, and a prefix of calls is judged by the share of tests that its folder passes. Few sequences
of calls do it all; searching step by step finds one where as many plain attempts do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tts_engine import Outcome, Problem
from tts_engine.calls import Calls
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.journal import Journal
from tts_engine.search import Search
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Candidate, Key, Role, Step, StepJudgement, Usage, Verdict
from tts_engine.verifiers.verdicts import make_verdict

Folder = dict[str, str]
Options = Mapping[str, int | float]

START: Folder = {"notes.tmp": "hello", "main.py": "print(1)", "README": "", "old/main.py": "print(0)"}
TASK = Problem(id="tidy", prompt="Rename notes.tmp to notes.md, delete what is old, add a title to the README.")
MOST_CALLS = 6
COST = Usage(prompt=10, completion=5, calls=1)
"""Of one tool call; a model's backend would say."""

TESTS: tuple[Callable[[Folder], bool], ...] = (
    lambda folder: folder.get("notes.md") == "hello",
    lambda folder: "old/main.py" not in folder,
    lambda folder: folder.get("README", "").startswith("# Tidy"),
    lambda folder: folder.get("main.py") == "print(1)",
)
"""What the folder has to be like in the end."""


def rename(folder: Folder, old: str, new: str) -> Folder:
    """The folder with a file renamed; KeyError where there is none."""
    return {new if name == old else name: text for name, text in folder.items()} | {new: folder[old]}


def delete(folder: Folder, name: str) -> Folder:
    """The folder without a file; KeyError where there is none."""
    return {other: text for other, text in folder.items() if folder[name] is not None and other != name}


def write(folder: Folder, name: str, text: str) -> Folder:
    """The folder with text added to the end of a file."""
    return folder | {name: folder.get(name, "") + text}


TOOLS: dict[str, Callable[..., Folder]] = {"rename": rename, "delete": delete, "write": write}
MENU = (
    *(f"delete {name}" for name in (*START, "notes.md")),
    *(f"rename {name} {new}" for name in START for new in ("notes.md", "README")),
    *(f"write {name} {text}" for name in ("README", "main.py", "notes.md") for text in ("#Tidy", "# Tidy", "# Old")),
)
"""The calls that this agent thinks of."""


def play(calls: tuple[str, ...]) -> Folder | None:
    """The folder after these calls; None where one of them failed."""
    folder = START
    for call in calls:
        tool, *arguments = call.split(maxsplit=2)
        try:
            folder = TOOLS[tool](folder, *arguments)
        except KeyError:
            return None
    return folder


@dataclass
class Agent:
    """The policy: makes one more tool call, or as many as it takes; it ends when it runs out of calls or is content.

    Its answer, which votes are counted by, is what the tests say in the end.
    """

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        steps, usage = node.steps, node.usage
        while len(steps) < MOST_CALLS and (whole or len(steps) == node.depth) and not content(steps):
            with calls.scope.reserve(COST) as lease:
                lease.settle(Role.GENERATE, "agent", COST)
            steps, usage = (*steps, Step(text=MENU[key.child(len(steps)).int() % len(MENU)])), usage + COST
        done = content(steps) or len(steps) == MOST_CALLS
        answer = f"{passed(tuple(step.text for step in steps)):.2f}" if done else None
        return Candidate(
            problem=node.problem, key=key, steps=steps, done=done, answer=answer, parent=node.key, usage=usage
        )


def content(steps: tuple[Step, ...]) -> bool:
    """Whether the agent would stop here: every test passes."""
    return passed(tuple(step.text for step in steps)) == 1.0


def passed(calls: tuple[str, ...]) -> float:
    """Share of the tests that pass after these calls; none where a call failed."""
    folder = play(calls)
    return 0.0 if folder is None else sum(test(folder) for test in TESTS) / len(TESTS)


class Tests:
    """The verifier: runs the tests after every call. Deterministic, so one sample says all."""

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        said = [
            StepJudgement(score=passed(steps[: i + 1]), rationale=f"folder: {play(steps[: i + 1])}")
            for i in range(len(steps))
        ]
        return make_verdict([tuple(said)], "last")

    def publish(self) -> None:
        """Nothing is shared between candidates."""

    async def close(self) -> None:
        """Nothing is open."""


async def solve(strategy: str, options: Options, *, seed: int = 0, tokens: int = 6000) -> Outcome:
    """Run a strategy over the agent and its tests, with so many tokens to spend."""
    with Journal.open(None, {}, resume=False) as journal:
        calls = Calls(models={}, journal=journal, scope=Scope.root(Budget(tokens=tokens), TASK.id), problem=TASK.id)
        search = Search(
            TASK,
            policy=Agent(),
            judge=Tests(),
            calls=calls,
            key=Key(seed, (TASK.id,)),
            allowance=sum([COST] * MOST_CALLS, Usage()),
            step_allowance=COST,
            cost_ratio=0.0,
        )
        return await STRATEGIES[strategy](search, samples=1, select="best", **options)


async def main() -> None:
    """Plain attempts, a beam, subtrees and a tree search, each with as many calls as it can pay."""
    choices: dict[str, Options] = {
        "best-of-n": {"n": 1000},
        "beam": {"n": 64, "width": 8},
        "dvts": {"n": 64, "width": 16},
        "mcts": {"n": 1000, "value": "verifier", "exploration": 0.2, "width": 8.0},
    }
    for strategy, options in choices.items():
        outcome = await solve(strategy, options)
        calls = "; ".join(step.text for step in outcome.candidates[outcome.chosen or 0].candidate.steps)
        print(f"{strategy}: share of tests passed {outcome.answer} after {outcome.total.tokens} tokens: {calls}")


if __name__ == "__main__":
    asyncio.run(main())
