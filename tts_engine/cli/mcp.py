"""`tts-mcp`: the tools `solve` and `verify` for agents that speak the Model Context Protocol."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from tts_engine import __version__
from tts_engine.cli.common import Parser, guarded

EPILOG = """\
An MCP client starts this command itself and talks to it over standard input and output. As an entry of its settings:
  {"mcpServers": {"tts": {"command": "tts-mcp", "args": ["--set", "budget.per_problem.tokens=50k"]}}}

A value comes from the defaults, then --config, then --set, then the other options; the later wins.
docs/agents.md has more.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = Parser(
        prog="tts-mcp",
        description="Serve verifier-guided search and verification to agents (Model Context Protocol, stdio).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--policy", metavar="DIR", help="model that writes: folder in Hugging Face format, or hub name"
    )
    command.add_argument("--verifier", metavar="NAME", help="how solutions are judged (default: genprm)")
    command.add_argument("--verifier-model", metavar="DIR", help="model that verifies")
    command.add_argument("--config", metavar="FILE", help="YAML configuration, as for tts-run")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the configuration")
    command.add_argument("--unsafe-sandbox", action="store_true", default=None, help="run checks even unconfined")
    command.add_argument("--version", action="version", version=f"tts-engine {__version__}")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 2 for bad input, 130 when interrupted, 1 for any other failure."""
    arguments = parser().parse_args(argv)
    return guarded("tts-mcp", lambda: start(arguments))


def start(arguments: argparse.Namespace) -> int:
    """Serve until the client is gone.

    Raises:
        UsageError: bad configuration, or the extra is missing.
    """
    from tts_engine.config import Config
    from tts_engine.errors import ConfigError

    try:
        from tts_engine.adapters.mcp import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"tts-mcp needs {error.name}: pip install 'tts-engine[mcp]'") from None
    asyncio.run(serve(Config.load(arguments.config, arguments.set, overrides(arguments))))
    return 0


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the command line as a nested configuration."""
    options = {
        "policy": {"model": arguments.policy},
        "verifier": {"name": arguments.verifier, "model": arguments.verifier_model},
        "sandbox": {"unsafe": arguments.unsafe_sandbox},
    }
    given = {section: {k: v for k, v in keys.items() if v is not None} for section, keys in options.items()}
    return {section: keys for section, keys in given.items() if keys}


if __name__ == "__main__":
    sys.exit(main())
