"""`tts-mcp`: the tools `solve` and `verify` for agents that speak the Model Context Protocol."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from tts_engine.cli.common import add_options, given, guarded, make_parser, models

EPILOG = """\
An MCP client starts this command itself and talks to it over standard input and output. As an entry of its settings:
  {"mcpServers": {"tts": {"command": "tts-mcp", "args": ["--set", "budget.per_problem.tokens=50k"]}}}

A value comes from the defaults, then --config, then --set, then the other options; the later wins.
docs/agents.md has more.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = make_parser(
        "tts-mcp", "Serve verifier-guided search and verification to agents (Model Context Protocol, stdio).", EPILOG
    )
    add_options(command, "--policy", "--verifier", "--verifier-model")
    add_options(command, "--config", help="YAML configuration, as for tts-run")
    add_options(command, "--set", "--unsafe-sandbox")
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
    asyncio.run(serve(Config.load(arguments.config, arguments.set, given(models(arguments)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
