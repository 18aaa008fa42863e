"""The Python API: solve problems in several ways with one engine, look into an outcome, and see what it cost.

python examples/solve.py
"""

from __future__ import annotations

import asyncio

from tts_engine import Engine, Outcome, Problem

PROBLEM = Problem(
    id="pens",
    prompt="Ann starts with 12 pens. Ann buys 4 boxes of 7 pens. How many pens has Ann in the end?",
    answer="40",
)


async def main() -> None:
    """Ask the same problem three times: without a verifier, with one, and step by step within a budget."""
    async with Engine.from_config() as engine:  # the embedded models; or a YAML file, a mapping, a Config
        show("vote", await engine.solve(PROBLEM, strategy="self-consistency", n=8))
        show("best of 8", await engine.solve(PROBLEM, strategy="best-of-n", n=8, verifier_samples=4))
        show("beam", await engine.solve(PROBLEM, strategy="beam", n=8, verifier_samples=4, budget="tokens=30k"))
        print(f"together: {engine.ledger.total.tokens} tokens, {engine.ledger.total.flops:.3g} FLOPs")


def show(name: str, outcome: Outcome) -> None:
    """The answer, the scores of the chosen solution's steps, and the cost of both models by role."""
    print(f"{name}: {outcome.answer} (right: {outcome.correct}, {outcome.stop_reason})")
    if outcome.chosen is not None:
        judged = outcome.candidates[outcome.chosen]
        scores = judged.verdict.step_scores if judged.verdict else ()
        for step, score in zip(judged.candidate.steps, scores, strict=False):
            print(f"  {score:.2f}  {step.text}")
    for role, usage in outcome.usage.items():
        print(f"  {role}: {usage.calls} calls, {usage.tokens} tokens computed, {usage.code_runs} checks run")


if __name__ == "__main__":
    asyncio.run(main())
