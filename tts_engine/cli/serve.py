"""`tts-serve`: the gateway, and the keys to it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tts_engine.cli.common import Parser, add_options, given, guarded, make_parser, models

EPILOG = """\
examples:
  tts-serve                                            the embedded models on http://127.0.0.1:8000
  tts-serve --config configs/serve.yaml --port 9000
  tts-serve keys add alice --keys keys.json --budget tokens=5M --rate 60
  tts-serve --keys keys.json --host 0.0.0.0

A value comes from the defaults, then --config, then --set, then the other options; the later wins.
docs/serving.md has the protocol.
"""
DEFAULT_KEYS = Path("keys.json")


def parser() -> argparse.ArgumentParser:
    """The command line without sub-command."""
    command = make_parser(
        "tts-serve", "Serve verifier-guided search behind OpenAI's protocol; `tts-serve keys` manages API keys.", EPILOG
    )
    command.add_argument("--host", metavar="ADDRESS", help="where to listen (default: this machine only)")
    command.add_argument("--port", type=int, metavar="P", help="default 8000; 0 takes a free one")
    command.add_argument("--keys", metavar="FILE", help="API keys; without, whoever reaches the gateway may use it")
    command.add_argument("--open", action="store_true", default=None, help="listen to other machines without keys")
    add_options(command, "--policy", "--verifier", "--verifier-model")
    add_options(command, "--config", help="YAML configuration, with a section `serve`")
    add_options(command, "--set")
    command.add_argument("--log-content", action="store_true", default=None, help="log problems and answers too")
    add_options(command, "--unsafe-sandbox")
    return command


def keys_parser() -> argparse.ArgumentParser:
    """The command line of `tts-serve keys`."""
    command = Parser(prog="tts-serve keys", description="Add, list and remove API keys. Only hashes are kept.")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("add", "make a key and print it, once"),
        ("list", "show the names"),
        ("remove", "revoke a key"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--keys", type=Path, default=DEFAULT_KEYS, metavar="FILE", help="default: keys.json")
        if name != "list":
            action.add_argument("name", metavar="NAME", help="letters, digits, _ and .")
        if name == "add":
            action.add_argument("--budget", metavar="LIMITS", help="in each period: tokens=5M,flops=1e15,dollars=2")
            action.add_argument("--period", type=float, default=86400.0, metavar="SECONDS", help="default: a day")
            action.add_argument("--rate", type=float, metavar="R", help="requests a minute")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 2 for bad input, 130 when interrupted, 1 for any other failure."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["keys"]:
        arguments = keys_parser().parse_args(given[1:])
        return guarded("tts-serve", lambda: manage(arguments))
    arguments = parser().parse_args(given)
    return guarded("tts-serve", lambda: start(arguments))


def start(arguments: argparse.Namespace) -> int:
    """Run the gateway until it is stopped.

    Raises:
        UsageError: bad configuration, or the extra is missing.
    """
    from tts_engine.errors import ConfigError

    try:
        from tts_engine.serve.server import run
        from tts_engine.serve.settings import GatewayConfig
    except ModuleNotFoundError as error:
        raise ConfigError(f"tts-serve needs {error.name}: pip install 'tts-engine[serve]'") from None
    own = {name: getattr(arguments, name) for name in ("host", "port", "keys", "open", "log_content")}
    return run(GatewayConfig.load(arguments.config, arguments.set, given(models(arguments) | {"serve": own})))


def manage(arguments: argparse.Namespace) -> int:
    """`tts-serve keys`.

    Raises:
        UsageError: a file that is none, a name that is taken or unknown.
    """
    from tts_engine.errors import DataError
    from tts_engine.serve import keys

    records = keys.load(arguments.keys) if arguments.action != "add" or arguments.keys.exists() else {}
    if arguments.action == "list":
        for record in records.values():
            rate = "" if record.rate is None else f", {record.rate:g} requests a minute"
            sys.stdout.write(f"{record.name}: {record.budget or 'no budget'} in {record.period:g} s{rate}\n")
        return 0
    if arguments.action == "add":
        if arguments.name in records:
            raise DataError(f"there is a key {arguments.name} already: remove it, or choose another name")
        key, record = keys.new_key(
            arguments.name, budget=arguments.budget, period=arguments.period, rate=arguments.rate
        )
        keys.save(arguments.keys, {**records, record.name: record})
        sys.stdout.write(f"{key}\n")
        return 0
    if arguments.name not in records:
        raise DataError(f"there is no key {arguments.name}; there are {', '.join(records) or 'none'}")
    keys.save(arguments.keys, {name: record for name, record in records.items() if name != arguments.name})
    return 0


if __name__ == "__main__":
    sys.exit(main())
