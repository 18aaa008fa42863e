"""What the commands share: bad input ends in one sentence on standard error and exit code 2, never in a traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tts_engine import __version__

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130

VERIFIERS = "genprm (default), prm, thinkprm, judge, outcome, confidence, checker, ensemble, cascade, none"
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--policy": {"metavar": "DIR", "help": "model that writes: folder in Hugging Face format, or hub name"},
    "--verifier": {"metavar": "NAME", "help": VERIFIERS},
    "--verifier-model": {"metavar": "DIR", "help": "model that verifies"},
    "--config": {"metavar": "FILE", "help": "YAML configuration"},
    "--set": {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "any key of the configuration"},
    "--unsafe-sandbox": {
        "action": "store_true",
        "default": None,
        "help": "run checks even where they cannot be confined",
    },
    "--seed": {"type": int, "metavar": "S", "help": "of every random draw"},
    "--json": {"action": "store_true", "help": "print the summary as JSON instead of the report"},
}
"""Options that several commands have."""


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit code 2."""
        self.exit(USAGE_EXIT, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser(program: str, description: str, epilog: str) -> Parser:
    """The parser of a command that says its version; the epilog keeps its lines."""
    command = Parser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--version", action="version", version=f"tts-engine {__version__}")
    return command


def positive(text: str) -> int:
    """An argument that must be a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def add_options(group: Any, *names: str, **changes: Any) -> None:  # noqa: ANN401  # argparse hides its groups' type
    """Add some of `OPTIONS` to a parser or a group of it, with what this command says otherwise of them."""
    for name in names:
        group.add_argument(name, **{**OPTIONS[name], **changes})


def models(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What `--policy`, `--verifier`, `--verifier-model` and `--unsafe-sandbox` say, as a nested configuration."""
    return {
        "policy": {"model": arguments.policy},
        "verifier": {"name": arguments.verifier, "model": arguments.verifier_model},
        "sandbox": {"unsafe": arguments.unsafe_sandbox},
    }


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration without what the command line left open (None)."""
    nested = {key: given(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


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
