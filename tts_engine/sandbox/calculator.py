"""A bounded evaluator for the simplest checks: arithmetic, comparisons, names, `print`.

Most checks of a step look like `print(r:=73+84, r==167)`. They need no interpreter: this module walks their syntax
tree and computes on plain Python numbers and strings, so that the result is what Python would print, without executing
any model-written code. It declines (raises `Declined`) everything else: attributes, subscripts, imports, loops,
definitions, long texts, large numbers. What it declines goes to an isolated interpreter.

The time of one call is bounded because the text is short, no construct repeats, and every value is small.
Standard library only: the worker loads this file by its path.
"""

from __future__ import annotations

import ast
import builtins
import operator
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

MAX_CODE = 2000
"""Characters of a text that is looked at; more is declined."""
MAX_BITS = 4096
"""Size of the largest integer (Python prints up to 14 000 bits)."""
MAX_ITEMS = 1000
"""Length of the longest string, tuple or list."""
MAX_DIGITS = 100
"""Largest number of digits to round to."""
MAX_OUTPUT = 8000
"""Characters that may be printed; more is declined."""

Value = Any
"""A plain Python value: int, float, bool, str, None, or a tuple or list of such."""
Namespace = dict[str, Value]


class Declined(Exception):
    """The code is not simple enough for the calculator."""


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _round(value: float, digits: int | None = None) -> float:
    if digits is not None and abs(digits) > MAX_DIGITS:
        raise Declined("rounding to a huge power of ten")
    return round(value, digits)


_CALLS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "bool": bool,
    "divmod": divmod,
    "float": float,
    "int": int,
    "len": len,
    "max": max,
    "min": min,
    "round": _round,
    "str": str,
    "sum": sum,
}
_STATEMENT = re.compile(r"^[ \t]*(?:assert|class|def|del|for|from|import|raise|try|while|with)\b", re.MULTILINE)
_FORMAT = re.compile(r",?(\.\d{1,2})?[fdeg%]?")
_ERRORS = (ArithmeticError, NameError, SyntaxError)


def hopeless(code: str) -> bool:
    """Whether asking the calculator is hardly worth it: a line starts with the word of a statement that it declines.

    >>> hopeless("import sympy"), hopeless("x = 5"), hopeless("x = imports")
    (True, False, False)
    """
    return len(code) > MAX_CODE or _STATEMENT.search(code) is not None


class Calculator:
    """Answers checks of many chains. A chain is named by the texts that it ran before: equal pasts, equal states."""

    def __init__(self, cached: int = 4096) -> None:
        """Keep the states of the `cached` pasts that were used last; others are computed again."""
        self._cached = cached
        self._states: OrderedDict[tuple[str, ...], Namespace] = OrderedDict()

    def run(self, log: tuple[str, ...], code: str) -> tuple[bool, str]:
        """Run `code` in the state that the texts of `log` leave behind.

        Returns:
            Whether it ended without an exception, and the stripped output or `{Type}: {message}`.

        Raises:
            Declined: the code, or a text of the log, needs a real interpreter.
        """
        names = dict(self._state(log))
        ok, output = evaluate(code, names)
        self._remember((*log, code), names)
        return ok, output

    def _state(self, log: tuple[str, ...]) -> Namespace:
        known = next(end for end in range(len(log), -1, -1) if end == 0 or log[:end] in self._states)
        names = self._states.get(log[:known], {})
        for end in range(known, len(log)):
            names = dict(names)
            evaluate(log[end], names)
            self._remember(log[: end + 1], names)
        return names

    def _remember(self, log: tuple[str, ...], names: Namespace) -> None:
        self._states[log] = names
        self._states.move_to_end(log)
        if len(self._states) > self._cached:
            self._states.popitem(last=False)


def evaluate(code: str, names: Namespace) -> tuple[bool, str]:
    """Evaluate `code`, updating `names` (also when it ends in an error, as `exec` would).

    Returns:
        As `Calculator.run`.

    Raises:
        Declined: the code is not simple enough; `names` is undefined then.
    """
    if len(code) > MAX_CODE:
        raise Declined("long text")
    try:
        tree = ast.parse(code, "<string>")
        compile(tree, "<string>", "exec", dont_inherit=True)  # finds the errors that the parser does not
        run = _Run(names)
        run.body(tree.body)
        return True, "".join(run.printed).strip()
    except _ERRORS as error:
        return False, f"{type(error).__name__}: {error}"
    except (RecursionError, MemoryError, TypeError, ValueError, AttributeError) as error:
        raise Declined("an interpreter words this error better") from error


class _Run:
    """One evaluation: its names and what it has printed."""

    def __init__(self, names: Namespace) -> None:
        self.names = names
        self.printed: list[str] = []

    def body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            match statement:
                case ast.Expr(value):
                    self.value(value)
                case ast.Assign(targets, value):
                    result = self.value(value)
                    for target in targets:
                        self.assign(target, result)
                case ast.AugAssign(ast.Name(id=name), op, value):
                    self.names[name] = self.binary(op, self.load(name), self.value(value))
                case ast.If(test, body, orelse):
                    self.body(body if self.value(test) else orelse)
                case _:
                    raise Declined(type(statement).__name__)

    def assign(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(id=name):
                self.names[_plain(name)] = value
            case ast.Tuple(elts) if isinstance(value, tuple) and len(elts) == len(value):
                for part, item in zip(elts, value, strict=True):
                    self.assign(part, item)
            case _:
                raise Declined("assignment to " + type(target).__name__)

    def value(self, node: ast.expr) -> Value:
        evaluate_node = _NODES.get(type(node))
        if evaluate_node is None:
            raise Declined(type(node).__name__)
        return _small(evaluate_node(self, node))

    def load(self, name: str) -> Value:
        if name in self.names:
            return self.names[name]
        if hasattr(builtins, name) or name.startswith("__"):
            raise Declined(f"builtin {name}")
        raise NameError(f"name {name!r} is not defined")

    def binary(self, op: ast.operator, left: Value, right: Value) -> Value:
        apply = _BINARY.get(type(op))
        if apply is None or not (_numbers(left, right) or (type(op) is ast.Add and type(left) is type(right) is str)):
            raise Declined(type(op).__name__)
        if type(op) is ast.Pow and isinstance(left, int) and left.bit_length() * abs(right) > MAX_BITS:
            raise Declined("large power")
        return _small(apply(left, right))

    def compare(self, node: ast.Compare) -> bool:
        left, result = self.value(node.left), True
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            if type(op) not in _COMPARE:
                raise Declined(type(op).__name__)
            right = self.value(right_node)
            result = _COMPARE[type(op)](left, right)
            if not result:
                break
            left = right
        return result

    def boolean(self, node: ast.BoolOp) -> Value:
        stop_at = isinstance(node.op, ast.Or)
        result: Value = None
        for part in node.values:
            result = self.value(part)
            if bool(result) is stop_at:
                break
        return result

    def call(self, node: ast.Call) -> Value:
        if not isinstance(node.func, ast.Name) or node.func.id in self.names:
            raise Declined("call")
        arguments = [self.value(argument) for argument in node.args]
        if node.func.id == "print":
            return self.print(arguments, node.keywords)
        function = _CALLS.get(node.func.id)
        if function is None or node.keywords:
            raise Declined(f"call of {node.func.id}")
        return function(*arguments)

    def print(self, arguments: list[Any], keywords: list[ast.keyword]) -> None:
        options = {keyword.arg: self.value(keyword.value) for keyword in keywords}
        separator, end = options.pop("sep", " "), options.pop("end", "\n")
        if options or len(keywords) > 2 or type(separator) is not str or type(end) is not str:
            raise Declined("print")
        self.printed.append(separator.join(map(str, arguments)) + end)
        if sum(map(len, self.printed)) > MAX_OUTPUT:
            raise Declined("long output")

    def walrus(self, node: ast.NamedExpr) -> Value:
        result = self.value(node.value)
        self.assign(node.target, result)
        return result

    def formatted(self, node: ast.FormattedValue) -> str:
        value = self.value(node.value)
        spec = self.value(node.format_spec) if node.format_spec else ""
        if node.conversion not in (-1, ord("s"), ord("r")) or not _FORMAT.fullmatch(spec):
            raise Declined("format")
        text = repr(value) if node.conversion == ord("r") else value
        return format(str(text) if node.conversion == ord("s") else text, spec)


_NODES: dict[type[ast.expr], Callable[[_Run, Any], Any]] = {
    ast.Constant: lambda run, node: node.value,
    ast.Name: lambda run, node: run.load(node.id),
    ast.BinOp: lambda run, node: run.binary(node.op, run.value(node.left), run.value(node.right)),
    ast.UnaryOp: lambda run, node: _unary(node.op, run.value(node.operand)),
    ast.BoolOp: _Run.boolean,
    ast.Compare: _Run.compare,
    ast.IfExp: lambda run, node: run.value(node.body if run.value(node.test) else node.orelse),
    ast.Tuple: lambda run, node: tuple(run.value(part) for part in node.elts),
    ast.List: lambda run, node: [run.value(part) for part in node.elts],
    ast.NamedExpr: _Run.walrus,
    ast.Call: _Run.call,
    ast.JoinedStr: lambda run, node: "".join(run.value(part) for part in node.values),
    ast.FormattedValue: _Run.formatted,
}


def _unary(op: ast.unaryop, operand: Value) -> Value:
    if type(op) not in _UNARY:
        raise Declined(type(op).__name__)
    return _UNARY[type(op)](operand)


def _plain(name: str) -> str:
    if name.startswith("__"):
        raise Declined(f"assignment to {name}")
    return name


def _numbers(*values: Value) -> bool:
    return all(type(value) in (int, float, bool) for value in values)


def _small(value: Value) -> Value:
    """`value` if it is a plain value of bounded size, so that no operation on such values can be slow."""
    if _is_small_scalar(value):
        return value
    if type(value) in (tuple, list) and len(value) <= MAX_ITEMS and all(map(_is_small_scalar, value)):
        return value
    raise Declined("large or unusual value")


def _is_small_scalar(value: Value) -> bool:
    kind = type(value)
    if kind is int:
        return bool(value.bit_length() <= MAX_BITS)
    if kind is str:
        return len(value) <= MAX_ITEMS
    return kind in (bool, float) or value is None
