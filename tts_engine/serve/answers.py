"""From outcomes to OpenAI's objects. What is ours stands in `tts`, which the official clients hand through."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from tts_engine.selection import shown
from tts_engine.serve.plan import Plan
from tts_engine.serve.problems import dumps
from tts_engine.types import Candidate, Completion, Finish, Outcome, Role, StepJudgement, Usage, Verdict

Json = dict[str, Any]
Spent = Mapping[Role, Usage]
Kind = Literal["chat.completion", "text_completion"]
Ending = Literal["stop", "length"]


def usage_json(spent: Spent) -> Json:
    """Both models together in OpenAI's fields; by role, and what they do not know of, in `tts`.

    `completion_tokens` counts what was generated, cancelled tokens included.
    """
    total = sum(spent.values(), Usage())
    made = total.completion + total.cancelled
    return {
        "prompt_tokens": total.prompt,
        "completion_tokens": made,
        "total_tokens": total.prompt + made,
        "prompt_tokens_details": {"cached_tokens": total.cached},
        "tts": {"total": total.asdict(), **{role.value: usage.asdict() for role, usage in spent.items()}},
    }


def ending(candidate: Candidate) -> Ending:
    """Why a solution ended."""
    return "length" if candidate.dead and candidate.steps[-1].finish is Finish.LENGTH else "stop"


def details(outcome: Outcome, *, tree: bool) -> Json:
    """What a choice says beyond its text."""
    best = shown(outcome)
    told: Json = {
        "answer": outcome.answer,
        "score": best.verdict.value if best and best.verdict else None,
        "step_scores": list(best.verdict.step_scores) if best and best.verdict else [],
        "stop_reason": outcome.stop_reason.partition(":")[0],
        "candidates": [
            {"answer": each.candidate.answer, "score": each.verdict.value if each.verdict else None}
            for each in outcome.candidates
        ],
        "failures": len(outcome.failures),
        "seconds": round(outcome.seconds, 4),
    }
    return told | {"tree": outcome.tree} if tree else told


def head(kind: Kind, number: str, model: str, *, chunk: bool = False) -> Json:
    """The fields that every object and every chunk has."""
    name = "chatcmpl" if kind == "chat.completion" else "cmpl"
    shape = "chat.completion.chunk" if chunk and kind == "chat.completion" else kind
    return {"id": f"{name}-{number}", "object": shape, "created": int(time.time()), "model": model}


def about(plan: Plan) -> Json:
    """How the request was worked on; enough to ask for the same again."""
    return {"strategy": plan.strategy, "verifier": plan.verifier, "seed": plan.seed}


def choice(kind: Kind, index: int, text: str, reason: Ending, told: Json | None) -> Json:
    """A finished choice."""
    said: Json = {"index": index, "finish_reason": reason, "logprobs": None}
    if kind == "chat.completion":
        said["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        said["text"] = text
    return said if told is None else said | {"tts": told}


def choices(kind: Kind, plan: Plan, results: Sequence[Outcome | Completion]) -> list[Json]:
    """All choices, in order."""
    return [choice(kind, index, *reading(plan, result)) for index, result in enumerate(results)]


def reading(plan: Plan, result: Outcome | Completion) -> tuple[str, Ending, Json | None]:
    """Text, ending and details of a result."""
    if isinstance(result, Completion):
        return result.text, "length" if result.finish is Finish.LENGTH else "stop", None
    best = shown(result)
    told = details(result, tree=plan.options.return_tree)
    return ("", "length", told) if best is None else (best.candidate.text, ending(best.candidate), told)


def delta(kind: Kind, index: int, text: str = "", *, reason: Ending | None = None, first: bool = False) -> Json:
    """A piece of a choice."""
    said: Json = {"index": index, "finish_reason": reason, "logprobs": None}
    if kind == "text_completion":
        return said | {"text": text}
    role = {"role": "assistant", "content": ""} if first else {}
    return said | {"delta": role | ({"content": text} if text else {})}


def event(head: Json, choice: Json | None, ours: Json | None = None, **fields: Json | None) -> str:
    """A chunk as a server-sent event."""
    chunk = {**head, "choices": [] if choice is None else [choice], **fields}
    return f"data: {dumps(chunk if ours is None else chunk | {'tts': ours})}\n\n"


def finish(
    kind: Kind, head: Json, plan: Plan, results: Sequence[Outcome | Completion], spent: Spent, *, usage: bool
) -> Iterator[str]:
    """The last events of a stream: the texts, step by step, their endings, and what all took."""
    total = usage_json(spent)
    for index, result in enumerate(results):
        text, reason, told = reading(plan, result)
        for piece in text.splitlines(keepends=True):
            yield event(head, delta(kind, index, piece))
        ours = {"event": "done", "choice": index, **about(plan), **(told or {}), "usage": total}
        yield event(head, delta(kind, index, reason=reason), ours)
    if usage:
        yield event(head, None, usage=total)


def verdict_json(verdict: Verdict) -> Json:
    """What a verifier said of a solution."""
    return {
        "value": verdict.value,
        "valid": verdict.valid,
        "step_scores": list(verdict.step_scores),
        "first_error": verdict.first_error(),
        "invalid_samples": verdict.invalid_samples,
        "samples": [[_judgement(judgement) for judgement in sample] for sample in verdict.samples],
    }


def _judgement(judgement: StepJudgement) -> Json:
    runs = [{"code": run.code, "output": run.output, "ok": run.ok} for run in judgement.code_runs]
    return {"score": judgement.score, "rationale": judgement.rationale, "analysis": judgement.analysis, "checks": runs}
