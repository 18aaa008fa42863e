"""Canonical forms of final answers: what can be decided by looking, without a computer algebra system."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

_SPACES = re.compile(r"\s+|\\[,;:!> ]|~")
_WRAPPED = re.compile(r"\\\((.*)\\\)|\\\[(.*)\\\]|\$\$?([^$]*)\$?\$", re.DOTALL)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}")
_GROUPS = re.compile(r"[1-9]\d{0,2}(?:(?:,|\{,\}|\s)\d{3})+(?=\.\d+$|$)")
_DECIMAL = re.compile(r"\d+(\.\d*)?|\.\d+")
_DECIMAL_COMMA = re.compile(r"0,(\d+)")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}|\\[dt]?frac(\d)(\d)|(\d+)/(\d+)")
_WORDS = re.compile(r"[A-Za-z][A-Za-z '-]*")
_LANGUAGE = re.compile(r"[A-Za-z]{4,}|[A-Za-z]{2,} [A-Za-z]|[A-Za-z] [A-Za-z]{2,}")
_MATHS = re.compile(r"sqrt|frac|inf|arc|sin|cos|tan|exp|log|ln|pi", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Form:
    """An answer without its typography.

    Attributes:
        text: what is left of it; equal texts are equal answers.
        number: its value, where it is a plain number or a plain fraction.
        rounded: whether the number is written with decimals, so that it may stand for 1/3.
        words: it is language, not mathematics; then `text` is in lower case.
    """

    text: str
    number: Fraction | None = None
    rounded: bool = False
    words: bool = False

    @property
    def plain(self) -> bool:
        """Whether it means what it says, without algebra."""
        return self.words or self.number is not None


DECIMALS = 6
"""Places to which a decimal number is compared with a fraction; math-verify's default too."""


@lru_cache(maxsize=65536)
def canonical(answer: str) -> Form:
    r"""The form of an answer.

    >>> canonical(r"\$1,000.50").number
    Fraction(2001, 2)
    >>> canonical(r"\text{ Monday }").text
    'monday'
    """
    text = answer.strip().replace("\\$", "").strip()
    wrapped = _WRAPPED.fullmatch(text)
    text = next(filter(None, wrapped.groups()), text) if wrapped else text
    text = _SPACES.sub(" ", _TEXT.sub(r"\1", text)).strip().rstrip(".").strip()
    number, rounded = _number(text)
    if number is not None:
        return Form(text=str(number), number=number, rounded=rounded)
    words = bool(_WORDS.fullmatch(text) and _LANGUAGE.search(text) and not _MATHS.search(text))
    return Form(text=text.casefold() if words else text, words=words)


def decided(a: Form, b: Form) -> bool | None:
    """Whether two answers are the same, where their forms say so; None where algebra has to."""
    if a.text == b.text:
        return bool(a.text)
    if not a.text or not b.text:
        return False
    if a.number is not None and b.number is not None:
        return a.rounded != b.rounded and round(a.number - b.number, DECIMALS) == 0
    return False if a.plain and b.plain else None


def _number(text: str) -> tuple[Fraction | None, bool]:
    sign, digits = (-1, text[1:].strip()) if text[:1] == "-" else (1, text.removeprefix("+").strip())
    grouped = _GROUPS.match(digits)
    if grouped:
        digits = re.sub(r"[^\d.]", "", digits)
    comma = _DECIMAL_COMMA.fullmatch(digits)
    if comma:
        digits = f"0.{comma.group(1)}"
    if _DECIMAL.fullmatch(digits):
        return sign * Fraction(digits.rstrip(".") or "0"), "." in digits
    fraction = _FRACTION.fullmatch(digits)
    if not fraction:
        return None, False
    over, under = map(int, filter(None, fraction.groups()))
    return (sign * Fraction(over, under), False) if under else (None, False)
