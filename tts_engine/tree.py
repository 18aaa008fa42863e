"""What the search tree says of a node: plain data, ready for JSON (report/viewer.py shows it).

    id            the candidate's key; text, depth, done, dead, answer
    usage         of the candidate's whole path, by the policy
    first         index of the first step that this node added
    score, step_scores, votes    the verdict over the path
    samples       for each verifier sample that reached this node: its judgements of the steps this node added
    verify        what those judgements took in tokens, FLOPs and calls (a text judged once counts on every such node)
"""

from __future__ import annotations

from typing import Any

from tts_engine.types import Candidate, StepJudgement, Usage, Verdict

Data = dict[str, Any]


def candidate_data(candidate: Candidate, first: int) -> Data:
    """A node for a candidate whose steps from `first` on are its own."""
    data: Data = {
        "text": "\n".join(step.text for step in candidate.steps[first:]),
        "depth": candidate.depth,
        "first": first,
        "done": candidate.done,
        "dead": candidate.dead,
        "usage": candidate.usage.asdict(),
    }
    return data if candidate.answer is None else data | {"answer": candidate.answer}


def verdict_data(verdict: Verdict, first: int, depth: int) -> Data:
    """What a verdict says of the node that added the steps from `first` to `depth`."""
    data: Data = {"score": verdict.value, "step_scores": list(verdict.step_scores), "votes": len(verdict.samples)}
    own = [sample[first:depth] for sample in verdict.samples if len(sample) > first]
    if any(judgement.rationale for sample in own for judgement in sample):
        data["samples"] = [[_judgement_data(judgement) for judgement in sample] for sample in own]
    spent = sum((judgement.usage for sample in own for judgement in sample), Usage())
    if spent.calls:
        data["verify"] = {"tokens": spent.tokens, "flops": spent.flops, "calls": spent.calls}
    return data


def _judgement_data(judgement: StepJudgement) -> Data:
    """The rationale holds the code and its output as text; `ok` says of every run whether it went well."""
    data: Data = {"score": judgement.score, "rationale": judgement.rationale}
    return data | {"ok": [run.ok for run in judgement.code_runs]} if judgement.code_runs else data
