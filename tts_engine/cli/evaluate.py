"""`tts-eval`: how good verifiers are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tts_engine.cli.common import add_options, guarded, make_parser, positive

EPILOG = """\
examples:
  tts-eval processbench embedded --verifier-samples 1,2,4,8 --out runs/steps
  tts-eval processbench processbench/gsm8k.json --verifier-model DIR --limit 100 --out runs/gsm8k --resume
  tts-eval score predictions.jsonl --gold processbench/gsm8k.json
  tts-eval calibrate runs/steps/items.jsonl --out calibration.json
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = make_parser("tts-eval", "Measure verifiers on solutions whose first wrong step is known.", EPILOG)
    commands = command.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_processbench(commands.add_parser("processbench", help="judge a labelled set (ProcessBench or PRMBench form)"))
    _add_score(commands.add_parser("score", help="score the recorded predictions of another system"))
    _add_calibrate(commands.add_parser("calibrate", help="fit a calibration on a judged set"))
    _add_make(commands.add_parser("make-embedded", help="sample a labelled set of the embedded domain"))
    return command


def _add_processbench(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="FILE|embedded", help="JSON or JSONL with id, problem, steps, label")
    command.add_argument("--limit", type=positive, metavar="M", help="M items, drawn by their ids (of embedded: 300)")
    command.add_argument("--skip-malformed", action="store_true", help="leave malformed rows out, and say how many")
    add_options(command, "--verifier", "--verifier-model")
    command.add_argument(
        "--verifier-samples", type=sample_counts, metavar="K,K,...", help="judgements an item; only the largest is paid"
    )
    command.add_argument("--budget", metavar="LIMITS", help="for the run: tokens=2M,flops=1e15,seconds=10m")
    add_options(command, "--config", "--set", "--seed", "--unsafe-sandbox")
    command.add_argument("--concurrency", type=positive, metavar="C", help="items at once")
    command.add_argument("--out", metavar="DIR", help="folder for items.jsonl, summary.json, journal and plots")
    command.add_argument("--resume", action="store_true", help="go on with what is in --out; nothing is paid twice")
    _add_output(command)


def _add_score(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="FILE", help='JSONL with "id" and "prediction" (-1: no error, null: none)')
    command.add_argument("--gold", metavar="FILE", help="labelled set; left out where the rows have labels themselves")
    command.add_argument("--partial", action="store_true", help="items without a prediction do not count")
    add_options(command, "--seed", default=0, help="of the bootstrap")
    _add_output(command)


def _add_calibrate(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="ITEMS", help="items.jsonl of an evaluation")
    command.add_argument(
        "--out", required=True, metavar="FILE|DIR", help="calibration file, or the checkpoint's folder"
    )
    command.add_argument("--k", type=positive, metavar="K", help="number of samples (default: the largest there is)")
    command.add_argument("--method", choices=("isotonic", "temperature"), default="isotonic")
    command.add_argument("--level", choices=("solutions", "steps"), default="solutions", help="what is calibrated")
    add_options(command, "--seed", default=0, help="of the cross-validation")


def _add_make(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", required=True, metavar="FILE", help="JSONL to write, in ProcessBench form")
    command.add_argument("--n", type=positive, default=300, metavar="N", help="solutions (default 300)")
    command.add_argument("--per-problem", type=positive, default=3, metavar="M", help="most of one problem (default 3)")
    command.add_argument("--problems", default="arith-dev", metavar="NAME", help="problem set with plans")
    command.add_argument("--policy", default="embedded:policy", metavar="DIR", help="model that writes the solutions")
    add_options(command, "--seed", default=0, help="of the sampling")


def _add_output(command: argparse.ArgumentParser) -> None:
    add_options(command, "--json", help="print the summary as JSON instead of the table")
    command.add_argument("--quiet", action="store_true", help="no progress, and only the F1")


def sample_counts(text: str) -> tuple[int, ...]:
    """`1,2,4,8` as numbers, each once, in order."""
    return tuple(sorted({positive(part) for part in text.split(",")}))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 2 for bad input, 130 when interrupted, 1 for any other failure."""
    arguments = parser().parse_args(argv)

    def work() -> int:
        from tts_engine.cli import evaluation

        commands: dict[str, Any] = {
            "processbench": evaluation.processbench,
            "score": evaluation.score,
            "calibrate": evaluation.calibrate,
            "make-embedded": evaluation.make_embedded,
        }
        code: int = commands[arguments.command](arguments)
        return code

    return guarded("tts-eval", work)


if __name__ == "__main__":
    sys.exit(main())
