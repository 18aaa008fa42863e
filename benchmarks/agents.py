"""Agents with and without verifier-guided search, at equal compute.

    python benchmarks/agents.py [--problems 170] [--minutes 9]

Two agents. `calculator` (examples/tool_agent.py): the embedded policy with a tool, on arith-test; without search it
votes among several solutions, with search the embedded GenPRM judges each step once, and its tokens count. `files`
(examples/agent_steps.py): random tool calls on a folder; without search the tests choose among whole attempts, with
search they judge every call; tests cost no tokens, and a seed is a problem. A search is compared with the plain agent
that took at least as many tokens, or with the most expensive one.

What was measured stays in the work folder; another start goes on from there. Writes docs/agents-results.md (or
`--output`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import agent_steps  # noqa: E402  # an example
import tool_agent  # noqa: E402

from tts_engine import Engine, Problem  # noqa: E402
from tts_engine.problems import load_problems  # noqa: E402
from tts_engine.report.intervals import paired_bootstrap, wilson  # noqa: E402
from tts_engine.report.words import bounded  # noqa: E402


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An agent with a strategy; `tokens` is the budget of a problem, None where its parameters say how much is done."""

    agent: str
    strategy: str
    params: Mapping[str, Any] = field(hash=False)
    tokens: int | None = None

    @property
    def plain(self) -> bool:
        """Whether the agent works without search: several attempts, and a vote or the tests in the end."""
        return self.strategy == ("self-consistency" if self.agent == "calculator" else "best-of-n")

    @property
    def name(self) -> str:
        """For tables and files."""
        given = [f"{key}={value}" for key, value in self.params.items()]
        return " ".join([self.strategy, *given, *([f"tokens={self.tokens}"] if self.tokens else [])])


def calculator(strategy: str, **params: int) -> Setting:
    return Setting(agent="calculator", strategy=strategy, params=params)


def files(strategy: str, tokens: int, **params: int) -> Setting:
    return Setting(agent="files", strategy=strategy, params=params, tokens=tokens)


SETTINGS = (
    *(calculator("self-consistency", n=n) for n in (1, 2, 4, 8, 16, 32)),
    *(calculator("best-of-n", n=n, verifier_samples=1) for n in (2, 4, 8)),
    *(calculator("beam", n=n, verifier_samples=1) for n in (4, 8)),
    *(files("best-of-n", tokens, n=10_000) for tokens in (1500, 3000, 6000)),
    *(files("beam", tokens, n=64, width=8) for tokens in (1500, 3000, 6000)),
    *(files("dvts", tokens, n=64, width=16) for tokens in (1500, 3000, 6000)),
)
AGENTS = ("calculator", "files")
AT_ONCE = 16
Row = dict[str, Any]


async def measure(folder: Path, problems: int, deadline: float) -> None:
    """Every setting on every problem, problem by problem, so that all settings have the same ones."""
    gate = asyncio.Semaphore(AT_ONCE)
    taken = load_problems("arith-test")[:problems]
    async with Engine.from_config() as engine:

        async def one(agent: str, number: int) -> None:
            async with gate:
                if time.monotonic() > deadline:
                    return
                rows = [await solved(engine, each, taken[number], number) for each in SETTINGS if each.agent == agent]
            with (folder / f"{agent}.jsonl").open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))

        for agent in AGENTS:
            known = {row["problem"] for row in read(folder, agent)}
            await asyncio.gather(*(one(agent, number) for number in range(problems) if number not in known))


async def solved(engine: Engine, setting: Setting, problem: Problem, number: int) -> Row:
    """A setting on a problem; for `files` the number is the seed."""
    if setting.tokens is not None:
        outcome = await agent_steps.solve(setting.strategy, setting.params, seed=number, tokens=setting.tokens)
        right = outcome.answer == "1.00"
    else:
        outcome = await tool_agent.solve(engine, problem, strategy=setting.strategy, **setting.params)
        right = outcome.correct is True
    return {"problem": number, "name": setting.name, "right": right, "tokens": outcome.total.tokens}


def read(folder: Path, agent: str) -> list[Row]:
    """What was measured."""
    path = folder / f"{agent}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(agent: str, rows: list[Row]) -> str:
    """Each setting, and for a search its difference from the plain agent that was given as many tokens or more."""
    lines = [
        "| setting | n | solved, % | tokens, mean | minus the plain agent, points | which took |",
        "|---|---|---|---|---|---|",
    ]
    means = {each: mean(rows, each) for each in SETTINGS if each.agent == agent}
    for setting, used in means.items():
        right = column(rows, setting, "right")
        share, gain = bounded(wilson(int(sum(right)), len(right))), " | "
        if not setting.plain:
            rival = partner(used, {each: tokens for each, tokens in means.items() if each.plain})
            difference = paired_bootstrap(right, column(rows, rival, "right"))
            gain = f"{bounded(difference, '+.1f')} | {rival.name}: {means[rival]:,.0f}"
        lines.append(f"| {setting.name} | {len(right)} | {share} | {used:,.0f} | {gain} |")
    return "\n".join(lines)


def partner(used: float, plain: Mapping[Setting, float]) -> Setting:
    """The cheapest plain agent that took at least `used` tokens; the most expensive where none did."""
    enough = {each: tokens for each, tokens in plain.items() if tokens >= used}
    return min(enough, key=lambda each: enough[each]) if enough else max(plain, key=lambda each: plain[each])


def mean(rows: list[Row], setting: Setting) -> float:
    """Tokens a problem, of both models."""
    used = column(rows, setting, "tokens")
    return sum(used) / len(used)


def column(rows: list[Row], setting: Setting, key: str) -> list[float]:
    """A number of each problem, in order."""
    found = [row for row in rows if row["name"] == setting.name]
    return [float(row[key]) for row in sorted(found, key=lambda row: int(row["problem"]))]


def report(folder: Path) -> str:
    """docs/agents-results.md."""
    parts = [
        "# Agents with and without search",
        __doc__.split("\n\n")[2],
    ]
    parts[1] += (
        "\n`python benchmarks/agents.py` measures this; intervals are of 95 %, differences are paired by problem."
    )
    for agent in AGENTS:
        if rows := read(folder, agent):
            parts += [f"## {agent}", table(agent, rows)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=170)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--work", type=Path, default=Path("runs/agents"))
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/agents-results.md")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.report_only:
        asyncio.run(measure(options.work, options.problems, time.monotonic() + 60 * options.minutes))
    options.output.write_text(report(options.work), encoding="utf-8")


if __name__ == "__main__":
    main()
