"""A language model that uses a tool, inside the engine: its steps are calculations, and a calculator has the last word.

python examples/tool_agent.py

The agent's own policy wraps the engine's: the model writes a step, the environment runs the calculation in it and puts
the result where the model guessed one. The state is the calculator's memory, `r1`, `r2`, ..., a result for each step;
it is replayed for each branch from the steps that led there. Verifier, budget, journal and strategies are the engine's.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace

from tts_engine import Engine, Outcome, Problem
from tts_engine.calls import Calls
from tts_engine.formats.answers import extract_answer
from tts_engine.policy import Policy
from tts_engine.sandbox.calculator import Calculator, Declined
from tts_engine.types import Candidate, Key

CALCULATION = re.compile(r"(\d+(?:[-+*/]\d+)+)=(\\boxed\{)?\d+(?:\.\d+)?")
PROBLEM = Problem(
    id="shells",
    prompt="Mia has 28 shells. 2 friends get 13 shells each from Mia. A magician doubles them. "
    "How many shells are left?",
    answer="4",
)


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """The policy of the agent: a model's step, then the tool call in it, again and again when `whole`."""

    writer: Policy
    calculator: Calculator = field(default_factory=Calculator)

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        """As every policy: `node` extended by a step, or to its end."""
        made = await self._step(node, key, calls)
        while whole and not made.done and not made.dead:
            made = await self._step(made, key.child("then", made.depth), calls)
        return replace(made, key=key, parent=node.key)

    async def _step(self, node: Candidate, key: Key, calls: Calls) -> Candidate:
        made = await self.writer(node, key, calls, whole=False)
        text = self.run([step.text for step in node.steps], made.steps[-1].text)
        answer = None if made.answer is None else extract_answer(text)
        return replace(made, steps=(*made.steps[:-1], replace(made.steps[-1], text=text)), answer=answer)

    def run(self, before: list[str], text: str) -> str:
        """A step with what its calculation gives, in the state that the steps before it leave."""
        call = CALCULATION.search(text)
        if call is None:
            return text
        try:
            log = tuple(code for i, step in enumerate(before, 1) if (code := code_of(step, i)) is not None)
            fine, said = self.calculator.run(log, f"r{len(before) + 1} = {call[1]}\nprint(r{len(before) + 1})")
        except Declined:
            return text
        result = f"{call[1]}={call[2] or ''}{float(said):.12g}" if fine else call[0]
        return text[: call.start()] + result + text[call.end() :]


def code_of(step: str, number: int) -> str | None:
    """The call that an earlier step made."""
    call = CALCULATION.search(step)
    return None if call is None else f"r{number} = {call[1]}\nprint(r{number})"


async def solve(
    engine: Engine, problem: Problem, *, tool: bool = True, seed: int = 0, budget: str | None = None, **options: object
) -> Outcome:
    """Solve a problem by the agent, with or without its tool; `options` as for `Engine.prepare`."""
    job = engine.prepare(problem, seed=seed, **options)  # type: ignore[arg-type]  # checked there
    if tool:
        job = replace(job, policy=ToolPolicy(job.policy))
    return await engine.work(job, budget=budget)


async def main() -> None:
    """The agent without search, voting, and with verifier-guided search, each within 2,000 tokens."""
    async with Engine.from_config() as engine:
        for strategy, options in {
            "self-consistency": {"n": 32},
            "best-of-n": {"n": 32, "verifier_samples": 1},
            "beam": {"n": 8, "verifier_samples": 1},
        }.items():
            outcome = await solve(engine, PROBLEM, budget="tokens=2000", strategy=strategy, **options)
            print(f"{strategy}: {outcome.answer} (right: {outcome.correct}) after {outcome.total.tokens} tokens")


if __name__ == "__main__":
    asyncio.run(main())
