"""The process that compares answers by math-verify, with its options. Started by its path; imports nothing of ours.

It says READY; then requests and answers are lines of JSON: [answer, reference] is answered by [[same?, the other way
round?], guilty text or null], and [answer] by [its mark or null, guilty text or null].
Model-written expressions can be absurd (towers of powers, huge matrices): a comparison is given up after SECONDS, in
the interpreter by an alarm, in compiled code by the kernel, which ends this process.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import signal
import sys
from functools import lru_cache
from typing import Any
from zlib import crc32

READY = "ready\n"
SECONDS = 2.0
"""Processor time of one comparison, both ways; then the answers count as different, on any machine."""
MEMORY = 4 << 30
"""Bytes of address space."""
EXTRACTION = {"fallback_mode": "first_match", "extraction_mode": "any_match"}
COMPARISON = {
    "float_rounding": 6,  # 0.333333 is 1/3
    "numeric_precision": 15,
    "strict": True,  # x+1 is not y+1, a set is not a tuple
    "allow_set_relation_comp": True,  # 1 < x < 2 is (1, 2), whichever of them is the reference
}
"""math-verify's options, all that matter; its own time limits are off, because one alarm serves for everything."""


UNKNOWN: dict[int, Any] = {1: None, 2: (False, False)}
"""What is said of one text, or of two, that cannot be read."""


STRANGE = 1e12
"""Size of the mark of a text that is no mathematics."""


class Late(BaseException):
    """Time is up. No Exception, so that no library takes it for an error of its own."""


def parsed(text: str) -> list[Any]:
    """The readings of an answer, the best one first; a computation such as 2+3=5 is read as its result."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
    from sympy import Eq  # type: ignore[import-untyped]

    how = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    plain = text.replace("\\$", "")
    source = plain if "$" in plain or "\\boxed" in plain or "\\(" in plain or "\\[" in plain else f"${plain}$"
    found = parse(source, extraction_config=how, parsing_timeout=None, **EXTRACTION)
    return [one.rhs if isinstance(one, Eq) and not one.free_symbols else one for one in found]


def compared(answer: str, reference: str) -> tuple[bool, bool]:
    """Whether `answer` gives `reference`, and the other way round."""
    from math_verify import verify

    first, second = readings(answer), readings(reference)
    there = verify(second, first, timeout_seconds=None, **COMPARISON)
    return bool(there), bool(verify(first, second, timeout_seconds=None, **COMPARISON))


def mark(text: str) -> tuple[float, float] | None:
    """Two numbers that equal answers share up to rounding: the least and the greatest value in a set or tuple, or twice
    the value of an expression, where each symbol stands for a number that hangs on its letters.

    None for what has no such value or may equal something of another value (relations, intervals, matrices, %).
    """
    found = readings(text)[:1]
    if not found or isinstance(found[0], str):
        return (STRANGE * (1 + crc32(text.encode())),) * 2  # equal to itself alone
    values = None if "%" in text else _values(found[0])
    return (min(values), max(values)) if values and all(map(math.isfinite, values)) else None


def _values(reading: Any) -> list[float] | None:  # noqa: ANN401  # sympy's
    from sympy import Expr, FiniteSet, Tuple

    if isinstance(reading, FiniteSet | Tuple):
        parts = [_values(part) for part in reading.args]
        return None if None in parts else [value for part in parts for value in part or ()]
    if not isinstance(reading, Expr):
        return None
    value = complex(reading.evalf(15, subs={symbol: _stand_in(symbol.name) for symbol in reading.free_symbols}))
    return [value.real + 1.37 * value.imag]


def _stand_in(name: str) -> float:
    """A product over letters without case, for math-verify takes `abc` for a*b*c, and `e` for its number."""
    letters = name.lower()
    return math.prod(math.e if letter == "e" else 1 + crc32(letter.encode()) % 99991 / 99991 for letter in letters)


def answered(request: list[str]) -> tuple[Any, str | None]:
    """The answer to a request, and the text to blame when it took too long."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    text = request[0]
    try:
        for text in request:
            readings(text)
        text = max(request, key=len)
        return (compared(*request) if len(request) == 2 else mark(text)), None
    except Late:
        return UNKNOWN[len(request)], text
    except Exception:  # a parser's failure on absurd text: it is not shown that anything is the same
        return UNKNOWN[len(request)], None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def serve() -> None:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGPROF, _late)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    parsed("1")  # imports everything
    sys.stdout.write(READY)
    sys.stdout.flush()
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        ceiling = int(used.ru_utime + used.ru_stime + 2 * SECONDS) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (ceiling, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        sys.stdout.write(json.dumps(answered(json.loads(line))) + "\n")
        sys.stdout.flush()


def _late(*_: object) -> None:
    raise Late


readings = lru_cache(maxsize=8192)(parsed)

if __name__ == "__main__":
    serve()
