"""How a policy is asked and how its solutions are cut into steps.

Solutions are written with step forcing (as in GenPRM): every step begins with `Step {i}: `, the first one forced, and a
solution is split on `\\nStep `. The same headings are used in training, in whole solutions and in step-wise search.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tts_engine.types import Message, Prompt

FORMAT_VERSION = 1
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
STEP_STOP = "\nStep "
REFINE_REQUEST = (
    "There might be some problem in this paragraph of your reasoning, please rethink and refine your answer:\n"
)

_SPLIT = re.compile(r"\n+(?=Step )")
_HEADING = re.compile(r"^Step (\d+):[ \t]*")


def heading(index: int) -> str:
    """`Step 1: ` for the first step (index 0)."""
    return f"Step {index + 1}: "


def solve_messages(problem: str) -> tuple[Message, ...]:
    """The conversation that asks for a solution."""
    return (Message(role="user", content=f"{problem}\n\n{INSTRUCTION}"),)


@lru_cache(256)
def solve_prompt(problem: str, steps: tuple[str, ...] = ()) -> Prompt:
    """The prompt for the step after `steps` (or, without a step stop, for the rest of the solution).

    Args:
        steps: texts of the earlier steps, each with its heading.
    """
    return Prompt(messages=solve_messages(problem), continuation=continuation(steps))


def continuation(steps: tuple[str, ...]) -> tuple[str, ...]:
    """The assistant's turn up to and including the heading of the next step, cut where steps were generated."""
    segments: list[str] = []
    for index in range(len(steps) + 1):
        segments.append(heading(index) if index == 0 else f"\n{heading(index)}")
        if index < len(steps):
            segments.append(_HEADING.sub("", steps[index], count=1))
    return tuple(segments)


def refine_messages(problem: str, solution: str, step: str, critique: str) -> tuple[Message, ...]:
    """The conversation that asks for a better solution after a critique of one step, as in GenPRM."""
    return (
        *solve_messages(problem),
        Message(role="assistant", content=solution),
        Message(role="user", content=f"{REFINE_REQUEST}>{step}\n\n{critique}"),
    )


def split_steps(text: str) -> tuple[str, ...]:
    """Steps of a solution whose first heading may be missing (it was forced).

    >>> split_steps("1+1=2.\\n\\nStep 2: 2+2=4.\\n\\nStep 3:So 4.")
    ('Step 1: 1+1=2.', 'Step 2: 2+2=4.', 'Step 3: So 4.')
    """
    if text == "<INVALID>":
        return (text,)
    if not _HEADING.match(text):
        text = heading(0) + text
    return tuple([_headed(part).rstrip() for part in _SPLIT.split(text)])


def _headed(part: str) -> str:
    """With one blank behind the heading, where there is one."""
    found = _HEADING.match(part)
    return f"Step {found[1]}: {part[found.end() :]}" if found else part
