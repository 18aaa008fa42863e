"""What the commands share: bad input ends in one sentence on standard error and exit code 2, never in a traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit code 2."""
        self.exit(USAGE_EXIT, f"{self.prog}: {message}; see {self.prog} --help\n")


def positive(text: str) -> int:
    """An argument that must be a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def guarded(program: str, work: Callable[[], int]) -> int:
    """Run a command's work and return its exit code; errors of the user's making become one sentence."""
    from tts_engine.errors import TTSError, UsageError

    try:
        return work()
    except UsageError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return USAGE_EXIT
    except TTSError as error:
        sys.stderr.write(f"{program}: {type(error).__name__}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
