"""`tts-run`: solve a problem, or a set of them, by verified search."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tts_engine.cli.common import add_options, guarded, make_parser, positive

STRATEGIES = (
    "beam (default), dvts, mcts, best-of-n, self-consistency, adaptive-self-consistency, particle-filter, refine,"
    " revise, beam-refine, budget-forcing, adaptive-allocation"
)

EPILOG = """\
examples:
  tts-run                                             20 problems of the built-in set, the embedded models
  tts-run --strategy best-of-n --n 32 "Ann starts with 12 pens. ..."
  tts-run --dataset problems.jsonl --budget tokens=2M,seconds=10m --out runs/mine
  tts-run --resume runs/mine                          go on where it was stopped; nothing is paid twice
  tts-run --set strategy.width=2 --set verifier.params.aggregation=min

A value comes from the defaults, then --config, then --set, then the other options; the later wins.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = make_parser(
        "tts-run", "Solve problems by search: one model writes solutions step by step, another verifies them.", EPILOG
    )
    _add_problems(command.add_argument_group("problems"))
    _add_search(command.add_argument_group("search"))
    _add_models(command.add_argument_group("models and configuration"))
    _add_run(command.add_argument_group("run"))
    return command


def _add_problems(group: Any) -> None:  # noqa: ANN401  # argparse keeps the type of groups to itself
    group.add_argument("problem", nargs="?", metavar="PROBLEM", help="text of a problem; - reads standard input")
    group.add_argument("--dataset", metavar="FILE|NAME", help="JSONL with problem (or question) and answer, or a set")
    group.add_argument("--limit", type=positive, metavar="M", help="only the first M problems")


def _add_search(group: Any) -> None:  # noqa: ANN401
    group.add_argument("--strategy", metavar="NAME", help=STRATEGIES)
    group.add_argument("--n", type=positive, metavar="N", help="candidates")
    group.add_argument("--select", metavar="RULE", help="weighted (default), best, majority, ...")
    add_options(group, "--verifier")
    group.add_argument(
        "--verifier-samples", type=sample_number, metavar="K", help="judgements of each candidate; or auto[:MOST]"
    )
    group.add_argument("--budget", metavar="LIMITS", help="for the run, both models: tokens=2M,flops=1e15,seconds=10m")
    group.add_argument("--budget-per-problem", metavar="LIMITS", help="the same, for each problem")
    group.add_argument("--allocate", choices=("even", "adaptive"), help="how a budget is spread over the problems")
    add_options(group, "--seed")


def _add_models(group: Any) -> None:  # noqa: ANN401
    add_options(group, "--policy", "--verifier-model", "--config", "--set", "--unsafe-sandbox")


def _add_run(group: Any) -> None:  # noqa: ANN401
    group.add_argument("--out", metavar="DIR", help="run folder (default: runs/<time>-<strategy>)")
    group.add_argument(
        "--resume", nargs="?", const="", metavar="DIR", help="continue a run: DIR, else --out, else the last in runs/"
    )
    group.add_argument("--concurrency", type=positive, metavar="C", help="problems at once")
    group.add_argument("--ray", metavar="ADDRESS", help="share the problems out over a Ray cluster: auto, or HOST:PORT")
    group.add_argument(
        "--ray-workers", type=positive, metavar="W", help="workers there (default: what it has room for)"
    )
    group.add_argument("--no-baseline", action="store_true", help="do not compare with plain samples")
    group.add_argument("--metrics-port", metavar="[HOST:]PORT", help="serve metrics to Prometheus while it runs")
    group.add_argument(
        "--explain", nargs="?", const="", metavar="DEVICE", help="only say what vLLM engines would get (H100, GPU:24)"
    )
    add_options(group, "--json")
    group.add_argument("--quiet", action="store_true", help="no progress, and only the answers or the accuracy")


def sample_number(text: str) -> int | str:
    """A number of judgements, or the rule that decides on it."""
    return text if text.startswith("auto") else positive(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 2 for bad input, 130 when interrupted, 1 for any other failure."""
    arguments = parser().parse_args(argv)

    def work() -> int:
        from tts_engine.cli.session import execute

        return execute(arguments)

    return guarded("tts-run", work)


if __name__ == "__main__":
    sys.exit(main())
