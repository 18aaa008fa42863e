"""Solutions of the arithmetic that the simulated backend speaks, worked out by hand."""

from __future__ import annotations

from tts_engine.backends.arithmetic import apply, read_problem


def worked(problem: str, slip: int = -1) -> list[str]:
    """The steps of a solution; in the one numbered `slip` (0-based; -1: in none) the result is one too large."""
    value, operations = read_problem(problem)
    steps = []
    for index, operation in enumerate(operations):
        result = apply(value, operation) + (index == slip)
        steps.append(f"Step {index + 1}: {value}{operation[0]}{operation[1]}={result}.")
        value = result
    return steps
