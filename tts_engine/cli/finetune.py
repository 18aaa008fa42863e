"""`tts-train sft`: fine-tune any Hugging Face model on a file of conversations, or plan that with `--dry-run`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tts_engine.cli.common import INTERRUPTED_EXIT, add_options, positive
from tts_engine.errors import UsageError

if TYPE_CHECKING:
    from tts_engine.verifiers.training.prepare import Prepared


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse keeps the type of sub-parsers to itself
    """Add `sft` to the sub-commands."""
    parser = commands.add_parser("sft", help="fine-tune a Hugging Face model on conversations (docs/finetuning.md)")
    parser.add_argument("--model", required=True, help="folder, embedded:NAME or hub name of the model to start from")
    parser.add_argument("--data", type=Path, help="JSONL, one conversation a line; a dry run can do without")
    parser.add_argument("--out", type=Path, help="folder to write; the trained model is its folder `model`")
    parser.add_argument("--recipe", type=Path, help="YAML, such as configs/genprm-7b-sft.yaml")
    add_options(parser, "--set", help="change a key of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument("--dry-run", action="store_true", help="build the batches and print what the run will take")
    parser.add_argument("--tokenizer", help="dry run: folder of a tokenizer, where --model holds a config.json only")
    parser.add_argument("--devices", type=positive, help="dry run: on how many devices")
    parser.set_defaults(work=run)


def run(options: argparse.Namespace) -> int:
    """Plan, and train unless it is a dry run; returns the exit code."""
    _check(options)
    try:
        from tts_engine.verifiers.training import prepare as preparing
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs {error.name}: pip install 'tts-engine[train]'") from None
    from tts_engine.verifiers.training.recipe import parse_change, read_recipe

    recipe = read_recipe(options.recipe, dict(parse_change(text) for text in options.set))
    count = options.devices or preparing.devices()
    prepared = preparing.prepare(options.model, options.data, recipe, tokenizer=options.tokenizer, count=count)
    if options.dry_run:
        _show(prepared)
        return 0
    return _train(prepared, options)


def _check(options: argparse.Namespace) -> None:
    if not options.dry_run and (options.data is None or options.out is None):
        raise UsageError("training needs --data FILE and --out DIR (or --dry-run to plan only)")
    if not options.dry_run and (options.tokenizer or options.devices):
        raise UsageError("--tokenizer and --devices only plan: leave them out, or add --dry-run")
    if options.dry_run and options.resume:
        raise UsageError("--dry-run plans a whole run: leave --resume out")


def _show(prepared: Prepared) -> None:
    from tts_engine.report.terminal import make_console
    from tts_engine.report.training import plan_table
    from tts_engine.verifiers.training.prepare import device_memory

    make_console().print(plan_table(asdict(prepared.plan), prepared.skipped or {}, device_memory()))


def _train(prepared: Prepared, options: argparse.Namespace) -> int:
    try:
        from accelerate import PartialState
    except ModuleNotFoundError:
        raise UsageError("training needs accelerate: pip install 'tts-engine[train]'") from None
    from tts_engine.report.terminal import make_console
    from tts_engine.report.training import write_report
    from tts_engine.verifiers.training.finetune import finetune
    from tts_engine.verifiers.training.prepare import make_job, open_folder
    from tts_engine.verifiers.training.quiet import quiet
    from tts_engine.verifiers.training.watch import LOG, Watch

    job = make_job(prepared, options.data, options.out)
    first = PartialState().is_main_process
    stderr = make_console(stderr=True)
    if first:
        open_folder(job, resume=options.resume)
        _show(prepared)
        if not stderr.is_terminal:
            sys.stderr.write(f"training; the losses are in {options.out / LOG}\n")
    PartialState().wait_for_everyone()
    watch = Watch(options.out / LOG, stderr if first and stderr.is_terminal else None)
    with watch.open(), quiet():
        done = finetune(job, watch, resume=options.resume)
    if not done:
        sys.stderr.write(f"stopped; the same command with --resume goes on from the checkpoint in {options.out}\n")
        return INTERRUPTED_EXIT
    if first:
        print(write_report(options.out))
        print(f"trained: {options.out / 'model'}")
    return 0
