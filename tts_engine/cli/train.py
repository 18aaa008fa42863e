"""`tts-train`: makes models. `tts-train embedded` makes the ones that come with the package.

`tts-train genprm` makes a verifier from problems alone: solutions, rollouts, labels, rationales, training, evaluation;
each of these stages is a command too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tts_engine.cli import finetune
from tts_engine.cli.common import Parser, add_options, guarded
from tts_engine.errors import UsageError

PIPELINE = {
    "genprm": "all stages of the configuration, in order: from problems to an evaluated verifier",
    "problems": "the problems that solutions are sampled to",
    "sample": "solutions of a policy, balanced",
    "rollouts": "Monte Carlo counts of their steps",
    "label": "labels of the steps from the counts",
    "rationales": "a teacher's analysis and executed check of each labelled step",
    "filter": "what is worth learning from, as conversations",
    "refinements": "failed solutions with a critique and a right solution, for a policy",
    "fit": "an embedded GenPRM on the conversations",
    "prm": "the discriminative baseline on the labels",
    "eval": "first-error F1, AUC and search accuracy",
}
STAGES = ("all", "problems", "tokenizer", "policy", "verifiers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2 for bad input)."""
    options = _parser().parse_args(arguments)
    work = options.work if "work" in options else _embedded if options.command == "embedded" else _staged
    return guarded("tts-train", lambda: work(options))


def _staged(options: argparse.Namespace) -> int:
    try:
        from tts_engine.cli.training import run_stages
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs {error.name}: pip install 'tts-engine[train]'") from None
    return run_stages(options)


def _embedded(options: argparse.Namespace) -> int:
    if not options.scale > 0:
        raise UsageError(f"--scale {options.scale} makes no sense: give a number above 0, such as 0.01 for a trial")
    try:
        from tts_engine.cli.embedding import make_embedded
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs {error.name}: pip install 'tts-engine[train]'") from None
    return make_embedded(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="tts-train", description="Train the models of the engine.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in PIPELINE.items():
        stage = commands.add_parser(name, help=text)
        sections = "YAML with a section a stage, such as configs/train-embedded.yaml"
        add_options(stage, "--config", type=Path, help=sections)
        add_options(stage, "--set", metavar="STAGE.KEY=VALUE", help="any key of it")
        stage.add_argument("--out", type=Path, required=True, help="folder of the pipeline, one output a stage")
        add_options(stage, "--seed", help="of every random draw; default: the configuration's, else 0")
        stage.add_argument("--again", action="store_true", help="make this stage, and what follows, anew")
    finetune.add_parser(commands)
    embedded = commands.add_parser("embedded", help="make the problem sets, tokenizer and models of the package")
    embedded.add_argument("--out", type=Path, required=True, help="folder to write, laid out like tts_engine/assets")
    embedded.add_argument("--seed", type=int, default=0)
    embedded.add_argument("--stage", choices=STAGES, default="all", help="one stage, on what earlier ones left")
    embedded.add_argument("--recipe", type=Path, help="YAML; default: the package's assets/recipe.yaml")
    embedded.add_argument("--scale", type=float, default=1.0, help="factor on all amounts of data, such as 0.01")
    embedded.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(main())
