"""The ThinkPRM protocol (arXiv 2504.16828): one long verification of a solution prefix, then a question.

The checkpoints answer the question with a capital (`Is the solution correct? Yes`); the paper writes it small. Both are
read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tts_engine.types import Message, TokenLogprob

PROMPT = (
    "You are given a math problem and a proposed step-by-step solution:\n\n[Math Problem]\n\n{problem}\n\n[Solution]"
    "\n\n{solution}\n\nReview and critique each step in the proposed solution to determine whether each step is"
    " correct. If the solution is incomplete, only verify the provided steps."
)
START = "\nLet's verify step by step:"
QUESTION = "\nIs the solution correct? "
PHRASES = ("Let me double check", "Let's verify again", "Did I miss something?")
"""What makes it think again, in this order (sequential scaling)."""

_HEADING = re.compile(r"^Step \d+:")
_BOXED = re.compile(r"\\boxed\{\s*(correct|incorrect)\s*\}")


def messages(problem: str, steps: Sequence[str]) -> tuple[Message, ...]:
    """The conversation that asks for a verification of `steps`, which are written `Step i: ...`."""
    lines = [step if _HEADING.match(step) else f"Step {i}: {step}" for i, step in enumerate(steps, start=1)]
    # replaced one after the other, so that braces in a problem or a solution mean nothing
    head, _, rest = PROMPT.partition("{problem}")
    middle, _, tail = rest.partition("{solution}")
    return (Message(role="user", content=f"{head}{problem}{middle}{chr(10).join(lines)}{tail}"),)


def step_verdicts(text: str) -> tuple[bool, ...]:
    r"""The boxed verdicts of a verification in order, up to the first `incorrect`.

    >>> step_verdicts(r"Step 1: fine. The step is \boxed{correct} Step 2: no. The step is \boxed{incorrect}")
    (True, False)
    """
    verdicts: list[bool] = []
    for word in _BOXED.findall(text):
        verdicts.append(word == "correct")
        if word == "incorrect":
            break
    return tuple(verdicts)


def share_of_yes(tokens: Sequence[TokenLogprob]) -> float | None:
    """p(yes) / (p(yes) + p(no)) at the first token that could be either; None where neither is among those reported.

    Args:
        tokens: the generated tokens with the logprobs of the most likely alternatives. A missing word takes the
            smallest reported logprob.
    """
    for token in tokens:
        known = {token.text: token.logprob} | dict(token.alternatives)
        yes, no = (_mass(known, word) for word in ("yes", "no"))
        if yes or no:
            floor = math.exp(min(known.values()))
            return (yes or floor) / ((yes or floor) + (no or floor))
    return None


def _mass(logprobs: dict[str, float], word: str) -> float:
    return math.fsum(math.exp(value) for text, value in logprobs.items() if text.strip().lower() == word)
