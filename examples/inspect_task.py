"""An Inspect task: problems solved by a search, scored by their answers and by the verifier.

inspect eval examples/inspect_task.py --model none
"""

from __future__ import annotations

from inspect_ai import Task, eval, task
from inspect_ai.dataset import MemoryDataset, Sample

from tts_engine.adapters.inspect import equal_answer, search, verifier
from tts_engine.problems import load_problems


@task
def arithmetic(problems: int = 4, n: int = 4, strategy: str = "best-of-n") -> Task:
    """Built-in problems; for your own, give any data set whose inputs are problems and whose targets are answers."""
    taken = load_problems("arith-test")[:problems]
    samples = [Sample(id=problem.id, input=problem.prompt, target=problem.answer or "") for problem in taken]
    return Task(
        dataset=MemoryDataset(samples),
        solver=search(strategy=strategy, n=n, verifier_samples=1, budget="tokens=20k"),
        scorer=[equal_answer(), verifier(samples=2)],
    )


if __name__ == "__main__":
    (log,) = eval(arithmetic(), model=None, display="plain")
    for result in log.results.scores if log.results else []:
        print(result.name, {name: round(metric.value, 3) for name, metric in result.metrics.items()})
