"""Where the problems of a run come from, and which run is resumed."""

from __future__ import annotations

import os
import select
import stat
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tts_engine.errors import DataError
from tts_engine.problems import load_problems, parse_problems
from tts_engine.report.writer import RunFolder
from tts_engine.types import Problem

DEFAULT_SET, DEFAULT_LIMIT = "arith-test", 20
"""What is solved when nothing is asked."""
PATIENCE = 1.0
"""Seconds that a pipe on standard input may take to say something; `-` waits for ever."""


def pick_problems(arguments: Namespace, stderr: Console, stored: Sequence[Problem] = ()) -> list[Problem]:
    """The problems of this run.

    Args:
        stored: those of the run that is resumed: taken where none are given, required to be the same where some are.

    Raises:
        DataError: none, two sources at once, or others than the resumed run's.
    """
    if arguments.problem is not None and arguments.dataset:
        raise DataError("give a problem or --dataset, not both")
    given = _given_problems(arguments, default=not stored, stderr=stderr)
    if stored and given and given[: arguments.limit] != list(stored):
        raise DataError("the run that is resumed has other problems; leave out the problem, --dataset and --limit")
    return list(stored) if stored else given[: arguments.limit]


def pick_run(arguments: Namespace) -> RunFolder | None:
    """The run to resume; None when a new one is started.

    Raises:
        DataError: there is none to resume.
    """
    if arguments.resume is None:
        return None
    name = arguments.resume or arguments.out
    if name and arguments.out and Path(name) != Path(arguments.out):
        raise DataError("--resume and --out name different folders; give one of them")
    if name:
        return RunFolder(Path(name))
    runs = sorted((path for path in Path("runs").glob("*/config.yaml")), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise DataError("there is no run in runs/ to resume; name the run folder: --resume DIR")
    return RunFolder(runs[-1].parent)


def _given_problems(arguments: Namespace, *, default: bool, stderr: Console) -> list[Problem]:
    if arguments.dataset:
        return load_problems(arguments.dataset)
    if arguments.problem == "-":
        return _from_text(sys.stdin.read(), "standard input")
    if arguments.problem is not None:
        return _from_text(arguments.problem, "the problem")
    if not default:
        return []
    text = _waiting_input()
    if text.strip():
        return _from_text(text, "standard input")
    limit = arguments.limit or DEFAULT_LIMIT
    problems = load_problems(DEFAULT_SET)[:limit]
    if not arguments.quiet:
        stderr.print(f"no problem given: taking {len(problems)} of the built-in set {DEFAULT_SET}", style="dim")
    return problems


def _from_text(text: str, where: str) -> list[Problem]:
    """One problem in plain text, or JSON lines."""
    if not text.strip():
        raise DataError(f"{where} is empty; give the text of a problem")
    if text.lstrip().startswith('{"'):
        return parse_problems(text, where, lines=True)
    return [Problem(id="problem", prompt=text.strip())]


def _waiting_input() -> str:
    """What stands on standard input; nothing when it is a terminal or a pipe on which nothing comes."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and not select.select([sys.stdin], [], [], PATIENCE)[0]:
        return ""
    return sys.stdin.read()
