"""What tests of the commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def exit_code(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """What a shell is told when a command has ended."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
