"""The GenPRM protocol, to the letter (arXiv 2504.00891): rendering, stages, parsing, reward.

Each solution step ("paragraph") is one user turn; each verification is one assistant turn that stays in the history:

    <analyze>\\nLet's analyze the Paragraph 1 step by step: ...</analyze>\\n
    <verify>\\nLet's use python code to find any potential error:\\n```python\\n...\\n```\\n
    [Code Output]\\n\\n```\\n...\\n```\\n ...</verify>\\n
    <output>\\n**Judgement**: $\\\\boxed{Yes}$\\n</output>\\n

Inference and training both build turns from the constants and functions of this module.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from tts_engine.types import Message, Prompt, TokenLogprob

FORMAT_VERSION = 1
"""Stored with every checkpoint that is trained on this format and checked when it is loaded."""

SYSTEM = "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
SYSTEM_DIRECT = (
    "You are a math teacher. Your task is to review and critique the paragraphs in solution directly. Output your"
    " judgement in the format of `\\boxed{Yes}` if the paragraph is correct, or `\\boxed{No}` if the paragraph is"
    " incorrect."
)
ANALYZE = "<analyze>\nLet's analyze the Paragraph {index} step by step: "
ANALYZE_END = "</analyze>\n"
VERIFY = "<verify>\nLet's use python code to find any potential error:\n```python\n"
VERIFY_END = "</verify>\n"
CODE_END = "\n```\n"
OUTPUT = "<output>\n**Judgement**: $\\boxed"
OUTPUT_END = "</output>\n"
JUDGEMENTS = ("Yes", "No")
MAX_CODE_ROUNDS = 3

_BOXED = re.compile(r"\\boxed\{\s*(Yes|No)\s*\}")
_ANALYSIS = re.compile(r"<analyze>\n(.*?)(?:</analyze>|\Z)", re.DOTALL)
_BEFORE, _AFTER = map(re.escape, ANALYZE.split("{index}"))
_ADDED = re.compile(
    rf"(?P<forced>\A{_BEFORE}\d+{_AFTER}"
    rf"|(?:\A|(?<={ANALYZE_END}))(?:{re.escape(VERIFY)}|{re.escape(OUTPUT)}))"
    rf"|(?P<injected>(?<={CODE_END})\[Code Output\]\n\n```\n.*?{CODE_END})",
    re.DOTALL,
)

QuestionForm = Literal["question", "plain"]


def analyze_prefix(index: int) -> str:
    """The forced beginning of the turn on the `index`-th step (0-based; the text counts from 1)."""
    return ANALYZE.format(index=index + 1)


def verdict_text(judgement: str) -> str:
    """The end of a complete turn, from the forced output prefix on."""
    return f"{OUTPUT}{{{judgement}}}$\n{OUTPUT_END}"


def conversation(
    problem: str,
    steps: tuple[str, ...],
    turns: tuple[str, ...],
    *,
    direct: bool = False,
    question: QuestionForm = "question",
) -> tuple[Message, ...]:
    """The messages before the verification of step `len(turns)`.

    Args:
        problem: problem text.
        steps: steps of the solution, at least `len(turns) + 1`.
        turns: complete verification turns of the earlier steps.
        direct: system prompt of the mode that judges without reasoning.
        question: `question` renders `Question: {problem}`, `plain` the bare problem, before the first step.
    """
    if len(steps) <= len(turns):
        raise ValueError(f"{len(turns)} turns leave no step to verify in a solution of {len(steps)} steps")
    head = f"Question: {problem}" if question == "question" else problem
    separator = "\n\n" if question == "question" else "\n"
    messages = [Message(role="system", content=SYSTEM_DIRECT if direct else SYSTEM)]
    for index in range(len(turns) + 1):
        text = f"{head}{separator}{steps[0]}" if index == 0 else steps[index]
        messages.append(Message(role="user", content=text))
        if index < len(turns):
            messages.append(Message(role="assistant", content=turns[index]))
    return tuple(messages)


def turn_prompt(messages: tuple[Message, ...], *segments: str, generation_prompt: bool) -> Prompt:
    """The open verification turn with what stands in it so far."""
    return Prompt(messages=messages, continuation=segments, generation_prompt=generation_prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a verification turn.

    kind: `forced` (prefix put there by the protocol), `model` (the verifier's own words: the loss falls here),
    `injected` (output of executed code).
    """

    text: str
    kind: Literal["forced", "model", "injected"]


def turn_segments(index: int, analysis: str, code: str, output: str, judgement: str) -> tuple[Segment, ...]:
    """A complete turn with one executed check, in the segments in which inference produces it.

    Args:
        index: 0-based step.
        analysis: what the verifier says, without the forced prefix and the closing tag.
        code: the check, without fences.
        output: the feedback of its execution, as `code.feedback_block` takes it.
        judgement: `Yes` or `No`.
    """
    from tts_engine.formats.code import feedback_block

    return (
        Segment(text=analyze_prefix(index), kind="forced"),
        Segment(text=f"{analysis}\n{ANALYZE_END}", kind="model"),
        Segment(text=VERIFY, kind="forced"),
        Segment(text=f"{code}{CODE_END}", kind="model"),
        Segment(text=feedback_block(output), kind="injected"),
        Segment(text=f"{VERIFY_END}{verdict_text(judgement)}", kind="model"),
    )


def parse_turn(turn: str) -> tuple[Segment, ...]:
    """The segments of a turn, complete or still open; joined they are the turn again, to the letter.

    A judgement that follows the analysis at once counts as forced, as inference forces it there.

    >>> [segment.kind for segment in parse_turn(OUTPUT + "{Yes}$")]
    ['forced', 'model']
    """
    segments: list[Segment] = []
    end = 0
    for match in _ADDED.finditer(turn):
        if match.start() > end:
            segments.append(Segment(text=turn[end : match.start()], kind="model"))
        segments.append(Segment(text=match.group(), kind="forced" if match.lastgroup == "forced" else "injected"))
        end = match.end()
    if end < len(turn):
        segments.append(Segment(text=turn[end:], kind="model"))
    return tuple(segments)


def analysis_of(turn: str) -> str:
    """What the turn says of the step: inside `<analyze>`, after the first colon (what refinement reads)."""
    match = _ANALYSIS.search(turn)
    if not match:
        return ""
    _, colon, rest = match.group(1).partition(":")
    return (rest if colon else match.group(1)).strip()


def judgement_of(turn: str) -> str | None:
    """`Yes` or `No` from the last boxed judgement, None if there is none."""
    found = _BOXED.findall(turn)
    return found[-1] if found else None


def reward(tokens: tuple[TokenLogprob, ...]) -> float | None:
    """r = p(Yes) / (p(Yes) + p(No)) at the last Yes/No inside `\\boxed{}`; None if there is no judgement.

    An alternative that is not among those reported takes the smallest reported logprob (upstream's rule).

    Args:
        tokens: the generated tokens; their alternatives are logprobs in nats. Text that was forced before them (such
            as `$\\boxed`) may be missing: a leading `{Yes}` is a judgement too.
    """
    text = "".join(token.text for token in tokens)
    matches = list(re.finditer(r"(?:\\boxed|^)\{\s*(Yes|No)\s*\}", text))
    if not matches:
        return None
    start = matches[-1].start(1)
    offset = 0
    for token in tokens:
        if offset <= start < offset + len(token.text):
            return _share_of_yes(token, before=token.text[: start - offset])
        offset += len(token.text)
    return None


def _share_of_yes(token: TokenLogprob, before: str) -> float:
    known = {text.strip(): logprob for text, logprob in token.alternatives.items()}
    known.setdefault(token.text.strip(), token.logprob)
    floor = min(known.values())
    yes, no = (known.get(f"{before}{word}".strip(), floor) for word in JUDGEMENTS)
    return 1.0 / (1.0 + math.exp(min(no - yes, 700.0)))
