"""The calculator against Python itself, and what it must decline."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.sandbox.calculator import MAX_CODE, Calculator, Declined, evaluate


def python(code: str, names: dict[str, Any]) -> tuple[bool, str]:
    """What an interpreter makes of it."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, names)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    return True, printed.getvalue().strip()


SIMPLE = [
    "print(r:=73+84, r==167)",
    "x = 2\nprint(x, x ** 10, -x // 3, x % 3, x / 4)",
    "a, b = 3, 4\na, b = b, a\nprint(a - b, (a, b), [a, b])",
    "total = 0\ntotal += 5\ntotal *= 2.5\nprint(total)",
    "if 1 < 2 <= 2:\n    print('yes')\nelse:\n    print('no')",
    "print('yes' if not 3 > 2 else 'no', True and 0, False or 'x', 1 == 1.0)",
    "print(abs(-3), max(1, 5, 2), min([4, 3]), sum((1, 2)), round(2.675, 2), divmod(7, 2), int('12') + len('abc'))",
    "x = 1 / 3\nprint(f'{x:.3f} {x!r} {10**6:,} {x}')",
    "print('a', 'b', sep='-', end='!')\nprint()",
    "'just a text'",
    "",
    "print(1)\nprint(1 / 0)",
    "print(undefined)",
    "print('open",
    "x = = 3",
    "  indented = 1",
    "print(1.5e308 * 10, 2 ** -1, 0.1 + 0.2)",
    "print(2.0 ** 5000)",
    "print(int(1e400))",
    "print(1 < 0 < undefined)",
]


@pytest.mark.parametrize("code", SIMPLE)
def test_simple_code_gives_what_python_gives(code: str) -> None:
    assert evaluate(code, {}) == python(code, {})


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "print(open('/etc/passwd').read())",
        "().__class__",
        "__import__('os')",
        "print(__builtins__)",
        "__name__ = 1",
        "print(eval('1'))",
        "x = [0][0]",
        "print([i for i in range(3)])",
        "for i in (1, 2): print(i)",
        "while True: pass",
        "def f(): pass",
        "f = lambda: 1",
        "9 ** 9 ** 9",
        "2 ** 5000",
        "x = 1 << 100000",
        "x = 2 ** 4000\nx = x * x",
        "'a' * 10 ** 9",
        "[0] * 10 ** 9",
        "'%999999999d' % 1",
        "f'{1:999999999}'",
        "round(5, -10 ** 9)",
        "a = (1, 1)\nb = (a, a)",
        "print(*[1, 2])",
        "print(1, file=3)",
        "print(1, sep='', **{})",
        "(-8) ** 0.5",
        "1 + 'a'",
        "print = 3\nprint(4)",
        "x: int = 5",
        "x = " + "1 + " * MAX_CODE + "1",
        "x = " + "-" * 1500 + "1",
    ],
)
def test_everything_else_is_declined(code: str) -> None:
    with pytest.raises(Declined):
        evaluate(code, {})


def test_syntax_errors_that_the_parser_does_not_see_are_found() -> None:
    code = "if False:\n    return"
    assert evaluate(code, {}) == python(code, {})
    assert evaluate(code, {})[1] == "SyntaxError: 'return' outside function (<string>, line 2)"


def _expressions() -> st.SearchStrategy[str]:
    leaves = st.one_of(
        st.integers(-1000, 1000).map(str),
        st.floats(-1e6, 1e6).map(repr),
        st.sampled_from(["x", "y", "True", "'ab'", "None", "unknown"]),
    )
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "and", "or"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, operators, inner).map(lambda part: f"({part[0]} {part[1]} {part[2]})"),
            inner.map(lambda part: f"(not {part})"),
            inner.map(lambda part: f"(-{part})"),
            st.tuples(inner, inner).map(lambda part: f"max({part[0]}, {part[1]})"),
            inner.map(lambda part: f"(y := {part})"),
        ),
        max_leaves=8,
    )


@settings(deadline=None)
@given(first=_expressions(), second=_expressions())
def test_whatever_it_does_not_decline_agrees_with_python(first: str, second: str) -> None:
    code = f"x = 7\nx = {first}\nprint(x, y := {second}, x == y)"
    try:
        result = evaluate(code, {})
    except Declined:
        return
    assert result == python(code, {})


def test_a_state_is_named_by_its_log_alone() -> None:
    calculator = Calculator(cached=2)
    assert calculator.run((), "x = 1") == (True, "")
    assert calculator.run(("x = 1",), "print(x)") == (True, "1")
    assert calculator.run((), "print(x)") == (False, "NameError: name 'x' is not defined")
    assert calculator.run(("x = 1", "x += 1", "x += 1"), "print(x)") == (True, "3")
    assert calculator.run(("x = 1",), "print(x)") == (True, "1")


def test_an_error_keeps_what_was_done_before() -> None:
    calculator = Calculator()
    assert not calculator.run((), "x = 1\nx / 0")[0]
    assert calculator.run(("x = 1\nx / 0",), "print(x)") == (True, "1")
