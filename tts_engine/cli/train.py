"""`tts-train`: makes models. `tts-train embedded` makes the ones that come with the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tts_engine.errors import UsageError

STAGES = ("all", "problems", "tokenizer", "policy", "rollouts", "genprm", "prm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2 for bad input)."""
    options = _parser().parse_args(arguments)
    try:
        _embedded(options)
    except UsageError as error:
        print(f"tts-train: {error}", file=sys.stderr)
        return 2
    return 0


def _embedded(options: argparse.Namespace) -> None:
    if not options.scale > 0:
        raise UsageError(f"--scale {options.scale} makes no sense: give a number above 0, such as 0.01 for a trial")
    try:
        import torch

        from tts_engine.verifiers.training import embedded
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs {error.name}: pip install 'tts-engine[train]'") from None
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    recipe = embedded.load_recipe(options.recipe)
    job = embedded.Job(out=options.out, seed=options.seed, recipe=recipe, scale=options.scale, device=device)
    embedded.run(job, options.stage)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tts-train", description="Train the models of the engine.")
    commands = parser.add_subparsers(dest="command", required=True)
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
