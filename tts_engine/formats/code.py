"""Python checks inside a verification: finding the code in a turn, and the feedback put after it (as in GenPRM).

The strings are upstream's to the letter, because released checkpoints were trained on them.
"""

from __future__ import annotations

import re

NO_CODE = "Code format error: No code found."
TIMED_OUT = "Code execute time out: Code execution timed out"

_BLOCK = re.compile(r"```python(.*?)```", re.DOTALL)


def extract_code(text: str) -> str | None:
    r"""The last closed ```` ```python ```` block, stripped; None if there is none (the feedback is `NO_CODE` then).

    >>> extract_code("```python\nx = 1\n```\nthen ```python\nprint(x)\n```\n")
    'print(x)'
    """
    blocks = _BLOCK.findall(text)
    return blocks[-1].strip() if blocks else None


def error_feedback(error: str) -> str:
    """What the model reads when its code raised.

    Args:
        error: `{Type}: {message}` of the exception.

    >>> error_feedback("ZeroDivisionError: division by zero")
    'Code execute Error: ZeroDivisionError: division by zero'
    >>> error_feedback("TimeoutError: too slow")
    'Code execute time out: too slow'
    """
    kind, _, message = error.partition(": ")
    return f"Code execute time out: {message}" if kind == "TimeoutError" else f"Code execute Error: {error}"


def feedback_block(output: str) -> str:
    """The text that is injected after executed code.

    Args:
        output: what the code printed, or one of the error texts of this module.
    """
    return f"[Code Output]\n\n```\n{output}\n```\n"
