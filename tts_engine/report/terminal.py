"""The final report in the terminal: pure functions from outcomes to rich renderables, readable at 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from tts_engine.report.summary import is_right, usage_by_role
from tts_engine.report.tree import search_tree
from tts_engine.report.words import one_line, percent, score_text, share, short
from tts_engine.selection import select
from tts_engine.types import CodeRun, Judged, Outcome

WIDTH = 100
"""Columns used at most."""
MOST_ANSWERS = 6
"""Answers listed in the table of votes."""
COSTS = {
    "calls": "calls",
    "prompt": "prompt",
    "cached": "cached",
    "completion": "generated",
    "cancelled": "cancelled",
    "flops": "FLOPs",
    "seconds": "call-s",
    "code_runs": "checks",
}
"""Columns of the costs: tokens, FLOPs, seconds added over calls (which overlap), executed checks."""


def make_console(*, stderr: bool = False, file: IO[str] | None = None, width: int = WIDTH) -> Console:
    """A console for reports: text of models and users is never taken for markup."""
    console = Console(stderr=stderr, file=file, markup=False, highlight=False, emoji=False)
    console.width = min(console.width, width) if console.is_terminal else width
    return console


def solution_report(outcome: Outcome) -> RenderableType:
    """One problem: answer, chosen solution, one check, tree of judged steps, votes."""
    parts: list[RenderableType] = [_headline(outcome)]
    if outcome.chosen is not None:
        judged = outcome.candidates[outcome.chosen]
        parts.append(_solution(judged))
        parts += _check(judged)
    parts += [search_tree(outcome), *_votes(outcome), *_failures(outcome)]
    return Group(*_spaced(parts))


def cost_report(outcomes: Sequence[Outcome]) -> RenderableType:
    """What both models cost, by role."""
    table = Table(title="Cost", title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    table.add_column("role")
    for name in COSTS.values():
        table.add_column(name, justify="right")
    usage = usage_by_role(outcomes)
    total = {key: sum(spent[key] for spent in usage.values()) for key in COSTS}
    for role, spent in (*usage.items(), ("total", total)):
        table.add_row(role, *(short(spent[key]) for key in COSTS), style="bold" if role == "total" else "")
    return table


def set_report(summary: Mapping[str, Any], strategy: str) -> RenderableType:
    """A problem set: accuracy with intervals, beside not searching; what it cost; what went wrong."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("", "accuracy", "95 % interval", "tokens/problem", "FLOPs/problem"):
        table.add_column(name, justify="right" if name else "left")
    for row in _comparison(summary, strategy):
        table.add_row(*row)
    title = Text(f"{summary['problems']} problems, {summary['graded']} with a reference answer", style="bold")
    return Group(title, table, *_notes(summary))


def _comparison(summary: Mapping[str, Any], strategy: str) -> Iterator[tuple[RenderableType, ...]]:
    cost = short(summary["tokens_per_problem"]), short(summary["flops_per_problem"])
    if "accuracy" in summary:
        accuracy = summary["accuracy"]
        yield Text(strategy, style="bold"), Text(percent(accuracy["value"]), style="bold"), share(accuracy), *cost
    plain = summary.get("baseline")
    if plain:
        n = plain["samples"]
        tokens, flops = plain["tokens_per_problem"], plain["flops_per_problem"]
        yield "one sample, no search", percent(plain["pass@1"]), "", short(tokens / n), short(flops / n)
        majority = plain["majority"]
        yield f"majority of {n}", percent(majority["value"]), share(majority), short(tokens), short(flops)
        yield f"any of {n} (pass@{n})", percent(plain[f"pass@{n}"]), "", short(tokens), short(flops)
    if "oracle" in summary:
        yield "any candidate (oracle)", percent(summary["oracle"]["value"]), share(summary["oracle"]), *cost


def _notes(summary: Mapping[str, Any]) -> Iterator[Text]:
    plain = summary.get("baseline")
    if plain:
        for name, key in (("one sample", "gain_over_one_sample"), ("the majority vote", "gain_over_majority")):
            gain = plain[key]
            text = f"{100 * gain['value']:+.1f} points over {name}"
            yield Text(f"{text} (95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}, paired)")
    if "selection_gap" in summary:
        yield Text(f"selection gap to the oracle: {100 * summary['selection_gap']:.1f} points")
    if len(summary.get("by_level", ())) > 1:
        levels = (f"{level}: {percent(accuracy['value'])}" for level, accuracy in summary["by_level"].items())
        yield Text(f"accuracy by level: {', '.join(levels)}")
    if summary["invalid_verdicts"] is not None:
        yield Text(f"unparseable judgements: {percent(summary['invalid_verdicts'])}")
    yield Text(f"stopped: {_counts(summary['stop_reasons'])}")
    if summary["failures"]:
        yield Text(f"failures: {_counts(summary['failures'])}", style="red")
    if summary.get("retries"):
        yield Text(f"model calls made again: {_counts(summary['retries'])}", style="yellow")
    if losses := _losses(summary.get("ray", {})):
        yield Text("; ".join(losses), style="yellow")


def _losses(ray: Mapping[str, Any]) -> list[str]:
    losses = []
    if lost := ray.get("lost"):
        given_up = f", {ray['given_up']} given up" if ray["given_up"] else ""
        losses = [f"workers lost: {len(lost)} ({lost[-1]})", f"problems moved to another: {ray['moved']}{given_up}"]
    if unstarted := ray.get("not_started"):
        losses.append(f"workers that did not start: {len(unstarted)} ({unstarted[-1]})")
    return losses


def _headline(outcome: Outcome) -> RenderableType:
    marks = {True: " ✓ right", False: f" ✗ wrong, reference {outcome.problem.answer}", None: ""}
    colour = {True: "green", False: "red", None: "cyan"}[outcome.correct]
    answer = Text.assemble(("Answer: ", "bold"), (outcome.answer or "none found", f"bold {colour}"))
    answer.append(marks[outcome.correct], style=colour)
    body = Text.assemble(outcome.problem.prompt, "\n\n", answer)
    return Panel(body, title=f"problem {outcome.problem.id}", title_align="left", border_style=colour)


def _solution(judged: Judged) -> RenderableType:
    table = Table(
        title="Chosen solution", title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
    )
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("step")
    scores = judged.verdict.step_scores if judged.verdict else ()
    for index, step in enumerate(judged.candidate.steps):
        score = score_text(scores[index] if index < len(scores) else None) if judged.verdict else ""
        table.add_row(score, Text(step.text))
    if judged.verdict:
        value = Text(f"whole solution, by {len(judged.verdict.samples)} verifier samples")
        table.add_row(score_text(judged.verdict.value), value, style="dim")
    return table


def _check(judged: Judged) -> Iterator[RenderableType]:
    found = _first_check(judged)
    if found is not None:
        sample, step, run = found
        title = Text(f"A check that was run (verifier sample {sample + 1}, step {step + 1})", style="bold")
        code = Syntax(run.code.rstrip(), "python", theme="ansi_dark", background_color="default", word_wrap=True)
        yield Group(title, code, Text.assemble(("→ ", "dim"), run.output.strip() or "(no output)"))


def _first_check(judged: Judged) -> tuple[int, int, CodeRun] | None:
    for number, sample in enumerate(judged.verdict.samples if judged.verdict else ()):
        for step, judgement in enumerate(sample):
            for run in judgement.code_runs:
                return number, step, run
    return None


def _votes(outcome: Outcome) -> Iterator[RenderableType]:
    counts = select(outcome.candidates, "majority").weights
    if not counts:
        return
    judged = any(judged.verdict is not None for judged in outcome.candidates)
    scores = select(outcome.candidates, "weighted").weights if judged else {}
    best = select(outcome.candidates, "best").weights if judged else {}
    table = Table(title="Votes", title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    for name in ("answer", "candidates", *(("sum of scores", "best score") if judged else ())):
        table.add_column(name, justify="left" if name == "answer" else "right")
    ranked = sorted(counts, key=lambda answer: (-scores.get(answer, 0.0), -counts[answer]))
    for answer in ranked[:MOST_ANSWERS]:
        mark = " ✓" if is_right(answer, outcome.problem.answer) else ""
        cells = [Text(f"{scores[answer]:.2f}"), score_text(_finite(best[answer]))] if judged else []
        table.add_row(one_line(answer, 40) + mark, f"{counts[answer]:.0f}", *cells)
    if len(ranked) > MOST_ANSWERS:
        table.add_row(Text(f"and {len(ranked) - MOST_ANSWERS} more answers", style="dim"))
    yield table


def _failures(outcome: Outcome) -> Iterator[RenderableType]:
    if outcome.stop_reason != "finished":
        yield Text(f"stopped: {outcome.stop_reason}", style="yellow")
    if outcome.retries:
        yield Text(f"model calls made again: {_counts(outcome.retries)}", style="yellow")
    places: dict[str, list[str]] = {}
    for failure in outcome.failures:
        places.setdefault(failure.where, []).append(f"{failure.error}: {failure.message}")
    for where, messages in places.items():
        text = f"{len(messages)} failures in {where}, the first: {one_line(messages[0], 200)}"
        yield Text(text, style="yellow" if where == "budget" else "red")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _finite(value: float) -> float | None:
    return value if value > -1 else None


def _spaced(parts: Sequence[RenderableType]) -> Iterator[RenderableType]:
    for index, part in enumerate(parts):
        if index:
            yield ""
        yield part
