"""What several tests use: a simulated engine, a set of problems for it, and made-up outcomes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tts_engine.backends.arithmetic import Task
from tts_engine.types import (
    Candidate,
    CodeRun,
    Judged,
    Key,
    Outcome,
    Problem,
    Role,
    Step,
    StepJudgement,
    Usage,
)
from tts_engine.verifiers.verdicts import make_verdict

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # the workers share the cores: a torch with a thread a core in each of them crawls
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TASK = {"error_rate": 0.2}
collect_ignore = [] if find_spec("vllm") else ["engines"]  # several GB: .ci/engines installs it and runs these
if not all(map(find_spec, ("dspy", "inspect_ai", "langchain_openai"))):
    collect_ignore.append("agents")  # large: .ci/agents installs them and runs these


@pytest.fixture
def simulated() -> dict[str, Any]:
    """A configuration whose models are simulated: beam search of 8, GenPRM with 2 samples."""
    backend = {"backend": "simulated", "options": {"task": TASK}}
    return {
        "policy": backend | {"model": "policy"},
        "verifier": backend | {"model": "verifier", "samples": 2},
        "strategy": {"name": "beam", "n": 8},
    }


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    """Six problems of the simulated task as JSON lines."""
    path = tmp_path / "problems.jsonl"
    problems = [Task(**TASK).problem(Key(5, (i,)), steps=3) for i in range(6)]  # type: ignore[arg-type]
    lines = [json.dumps({"id": f"p{i}", "problem": p.prompt, "answer": p.answer}) for i, p in enumerate(problems)]
    path.write_text("\n".join(lines))
    return path


MakeOutcome = Callable[..., Outcome]


@pytest.fixture
def make_outcome() -> MakeOutcome:
    """Builds an outcome from `(answer, value)` pairs: whole samples of two steps, each judged by one sample."""

    def make(
        pairs: list[tuple[str | None, float | None]],
        *,
        reference: str | None = "7",
        pred: str | None = None,
        name: str = "p",
        **fields: Any,  # noqa: ANN401  # any field of an outcome
    ) -> Outcome:
        problem = Problem(id=name, prompt="3 + 4?", answer=reference, meta={"level": 2})
        root = Key(0, (name,))
        candidates = tuple(_judged(problem, root, i, answer, value) for i, (answer, value) in enumerate(pairs))
        names = [str(root), *(str(judged.candidate.key) for judged in candidates)]
        nodes = [{"id": names[0], "text": problem.prompt, "depth": 0}]
        nodes += [_node(judged) for judged in candidates]
        edges = [{"source": names[0], "target": target} for target in names[1:]]
        chosen = next((i for i, judged in enumerate(candidates) if judged.candidate.answer == pred), None)
        return Outcome(
            problem=problem,
            answer=pred,
            correct=None if reference is None else pred == reference,
            chosen=chosen if pred is not None else None,
            candidates=candidates,
            usage={
                Role.GENERATE: Usage(prompt=10, completion=20, flops=1e6, calls=2),
                Role.VERIFY: Usage(prompt=30, cached=20, completion=40, flops=3e6, calls=4, code_runs=4),
            },
            tree={"directed": True, "multigraph": False, "graph": {}, "nodes": nodes, "edges": edges},
            **fields,
        )

    return make


def _judged(problem: Problem, root: Key, index: int, answer: str | None, value: float | None) -> Judged:
    steps = (Step(text="Step 1: add 3 and 4."), Step(text=f"Step 2: the answer is {answer}."))
    candidate = Candidate(problem=problem, key=root.child(index), steps=steps, done=True, answer=answer, parent=root)
    run = CodeRun(code="print(3+4)", output="7\n", ok=True)
    chain = (StepJudgement(score=1.0, code_runs=(run,)), StepJudgement(score=value))
    return Judged(candidate=candidate, verdict=make_verdict([chain], "product"))


def _node(judged: Judged) -> dict[str, Any]:
    verdict = judged.verdict
    return {
        "id": str(judged.candidate.key),
        "text": judged.candidate.text,
        "depth": 2,
        "done": True,
        "score": verdict and verdict.value,
        "step_scores": list(verdict.step_scores) if verdict else [],
    }
