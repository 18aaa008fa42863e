"""`tts-compare`: which strategy, N, K and selector is worth its compute; recommends a configuration for a budget."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tts_engine.cli.common import add_options, guarded, make_parser, positive

EPILOG = """\
examples:
  tts-compare                                      20 problems of the built-in set, the embedded models
  tts-compare --limit 100 --seeds 3 --verifier genprm --verifier prm --budget tokens=1500
  tts-compare --grid configs/compare-embedded.yaml --out runs/sweep
  tts-compare --resume runs/sweep                  go on where it was stopped; larger N or K add to what is there
  tts-compare --recorded samples.jsonl.gz --recorded runs/mine

Samples are drawn once, at the largest N and K; every smaller configuration is evaluated on subsets of them. In the
output folder: summary.json, points.csv, points.jsonl, report.html, plots (with matplotlib), recommended.yaml.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = make_parser(
        "tts-compare", "Measure strategies, numbers of solutions and of judgements against what they cost.", EPILOG
    )
    _add_sources(command.add_argument_group("what is compared"))
    _add_grid(command.add_argument_group("grid"))
    _add_report(command.add_argument_group("report"))
    return command


def _add_sources(group: Any) -> None:  # noqa: ANN401  # argparse keeps the type of groups to itself
    group.add_argument("--recorded", action="append", metavar="PATH", help="recorded samples instead of new ones")
    group.add_argument(
        "--verify-ratio", type=ratio, metavar="R", help="cost of a judgement that was not recorded, in solutions"
    )
    group.add_argument("--dataset", metavar="FILE|NAME", help="problems with answers (default: arith-test)")
    group.add_argument("--limit", type=positive, metavar="M", help="only the first M problems (default: 20)")
    group.add_argument("--seeds", type=positive, metavar="S", help="draw every problem under S seeds (default: 1)")
    group.add_argument("--grid", metavar="FILE", help="YAML that names all of this, and searches to run")
    add_options(group, "--config", help="configuration of tts-run to start from")
    add_options(group, "--set", help="any key of that configuration")


def _add_grid(group: Any) -> None:  # noqa: ANN401
    group.add_argument("--n", type=numbers, metavar="N,...", help="solutions (default: 1,2,4,8,16)")
    group.add_argument("--k", type=numbers, metavar="K,...", help="judgements of each (default: 1,2,4,8)")
    group.add_argument("--select", type=words, metavar="RULE,...", help="majority,best,weighted,pessimistic,confidence")
    add_options(group, "--policy", action="append", help="model that writes; may be repeated")
    add_options(group, "--verifier", action="append", help="verifier; may be repeated, or none")
    group.add_argument(
        "--search", action="append", metavar="NAME", help="also run this strategy at every N and K; may be repeated"
    )


def _add_report(group: Any) -> None:  # noqa: ANN401
    group.add_argument("--budget", metavar="LIMITS", help="recommend for this mean cost a problem: tokens=1500")
    group.add_argument("--unit", choices=("flops", "tokens", "seconds", "dollars", "chars"), help="unit of the report")
    group.add_argument("--out", metavar="DIR", help="output folder (default: runs/<time>-compare)")
    group.add_argument("--resume", metavar="DIR", help="go on with the sweep in this folder")
    group.add_argument("--draws", type=positive, default=256, metavar="D", help="random subsets of a problem's samples")
    add_options(group, "--json")
    group.add_argument("--quiet", action="store_true", help="no progress, and only the recommendation")


def _listed(text: str, one: Callable[[str], Any]) -> list[Any]:
    return [one(part.strip()) for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[int]:
    """`1,2,4` as whole numbers of at least 1."""
    found = _listed(text, positive)
    if not found:
        raise argparse.ArgumentTypeError("it names no number; write it like 1,2,4")
    return found


def words(text: str) -> list[str]:
    """`majority,best` as a list."""
    return _listed(text, str)


def ratio(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} must be a number of at least 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 2 for bad input, 130 when interrupted, 1 for any other failure."""
    arguments = parser().parse_args(argv)

    def work() -> int:
        from tts_engine.cli.compare_session import execute

        return execute(arguments)

    return guarded("tts-compare", work)


if __name__ == "__main__":
    sys.exit(main())
