"""LoRA fine-tuning of a real instruct model into a GenPRM, with its ProcessBench score before and after; resumable.

python benchmarks/finetune.py --model DIR --data DIR --out runs/finetune [--items 40] [--steps 24] [--turns 3]
python benchmarks/finetune.py --model DIR --data DIR --out runs/qwen --turns 100 --max-length 1024 --steps 130 \\
    --backend vllm
python benchmarks/finetune.py --model DIR --data DIR --out runs/qwen --turns 100 --max-length 1024 --steps 60 --unscored

`--model` is a folder in Hugging Face format; `--data` has `processbench/gsm8k.json`. Solutions to problems that are not
among the evaluated ones become conversations: each step up to the first wrong one is a turn that names the equation in
the step, checks it with Python (run in the sandbox) and gives the human label. A run that is stopped with Ctrl-C goes
on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tts_engine.cli.evaluate import main as evaluate
from tts_engine.cli.train import main as train
from tts_engine.formats import genprm
from tts_engine.report.words import bounded
from tts_engine.sandbox.pool import SubprocessSandbox

RECIPE = {
    "method": "lora",
    "lora.rank": 16,
    "lora.alpha": 32,
    "rate": 1e-3,
    "packing": False,
    "batch": 2,
    "precision": "auto",
    "schedule": "cosine",
    "warmup": 0.05,
    "held_out": 0.03,
    "every": 12,
    "keep": 1,
}
VLLM = {"context": 4096, "slots": 64}
"""Options of the backend that evaluates, if that is vLLM."""
TOKENS = 96
"""Bound of an analysis and of a check."""
NUMBER = r"\d+(?:\.\d+)?"
EQUATION = re.compile(rf"({NUMBER}(?:\s*[-+*/]\s*{NUMBER})+)\s*=\s*(\d+(?:\.\d+)?)")


def equation(step: str) -> tuple[str, str] | None:
    """The first arithmetic expression in a step, and what the step says it is."""
    plain = re.sub(r"\\d?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", re.sub(r"\\[()\[\]]|[$,%]|\\text\{[^}]*\}", " ", step))
    for sign, operator in (("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("×", "*")):
        plain = plain.replace(sign, operator)
    found = EQUATION.search(plain)
    return (found[1], found[2]) if found else None


async def turn(sandbox: SubprocessSandbox, index: int, step: str, right: bool) -> str:
    """The verification of a step: its equation, an executed check, and the human judgement."""
    found = equation(step)
    analysis = f"it says that {found[0]} is {found[1]}." if found else "it computes nothing; is it what is asked for?"
    code = f"print(r:={found[0]}, abs(r-{found[1]})<0.01)" if found else "print('nothing to compute')"
    session = sandbox.session()
    output = (await session.run(code)).output
    await session.close()
    segments = genprm.turn_segments(index, analysis, code, output, "Yes" if right else "No")
    return "".join(segment.text for segment in segments)


async def conversation(sandbox: SubprocessSandbox, item: dict[str, Any], most: int) -> dict[str, Any]:
    """A training conversation about the steps up to the first wrong one, `most` at most."""
    label = item["label"]
    steps = tuple(item["steps"][:most] if label < 0 else item["steps"][: min(label + 1, most)])
    turns = [await turn(sandbox, i, step, i != label) for i, step in enumerate(steps)]
    messages = genprm.conversation(item["problem"], steps, tuple(turns[:-1]))
    lines = [{"role": m.role, "content": m.content, "train": m.role == "assistant"} for m in messages]
    lines.append({"role": "assistant", "content": turns[-1], "train": True})
    return {"id": item["id"], "problem": item["problem"], "messages": lines}


async def conversations(items: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    async with SubprocessSandbox() as sandbox:
        return [await conversation(sandbox, item, most) for item in items]


def write_data(arguments: argparse.Namespace) -> None:
    """`train.jsonl` and `test.json`: as many right as wrong solutions, no problem in both."""
    items = json.loads((arguments.data / "processbench" / "gsm8k.json").read_text(encoding="utf-8"))
    random.Random(arguments.seed).shuffle(items)
    right, wrong = ([item for item in items if (item["label"] < 0) is kind] for kind in (True, False))
    test = [*right[: arguments.items // 2], *wrong[: arguments.items - arguments.items // 2]]
    kept = {item["problem"] for item in test}
    rest = [item for item in items if item["problem"] not in kept]
    (arguments.out / "test.json").write_text(json.dumps(test), encoding="utf-8")
    lines = [json.dumps(found) for found in asyncio.run(conversations(rest, arguments.turns))]
    (arguments.out / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def composition(path: Path) -> str:
    """What the judgements of the conversations are, and whether their checks say the same."""
    conversations = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    turns = [m["content"] for found in conversations for m in found["messages"] if m["role"] == "assistant"]
    wrong = [turn for turn in turns if genprm.verdict_text("No") in turn]
    failed, caught = (sum("False" in turn for turn in some) for some in (turns, wrong))
    return (
        f"{len(turns)} turns, {len(wrong)} of them on a wrong step; the check fails in {failed}, {caught} of them wrong"
    )


def score(model: Path, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The summary of the evaluation of a model; what an earlier call has judged is not judged again."""
    folder = arguments.out / name
    settings = [f"{key}_tokens={TOKENS}" for key in ("analysis", "check")] + ["generation_prompt=true"]
    changes = [f"--set=verifier.params.{setting}" for setting in settings]
    if arguments.backend == "vllm":
        changes += [f"--set=verifier.{setting}" for setting in ("backend=vllm", f"options={json.dumps(VLLM)}")]
    asked = [str(arguments.out / "test.json"), "--verifier", "genprm", "--verifier-model", str(model), "--quiet"]
    done = evaluate(["processbench", *asked, "--verifier-samples", "1", *changes, "--out", str(folder), "--resume"])
    if done:
        raise SystemExit(done)
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())["samples"]["1"]
    return found


def fit(arguments: argparse.Namespace) -> None:
    """The run, begun or gone on with."""
    out = arguments.out / "run"
    if (out / "model").is_dir():
        return
    chosen = {"seed": arguments.seed, "max_steps": arguments.steps, "max_length": arguments.max_length}
    changes = [f"--set={key}={json.dumps(value)}" for key, value in (RECIPE | chosen).items()]
    resume = ["--resume"] if (out / "run.json").is_file() else []
    asked = ["--model", str(arguments.model), "--data", str(arguments.out / "train.jsonl"), "--out", str(out)]
    done = train(["sft", *asked, *changes, *resume])
    if done:
        raise SystemExit(done)


def row(name: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    mean = found["mean"]
    cells = [bounded(mean[key]) if mean[key] else "none" for key in ("f1", "err_acc", "corr_acc")]
    return f"| {name} | {' | '.join(cells)} | {found['per_solution']['tokens']:,.0f} | {found['invalid_share']:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of 2 conversations")
    parser.add_argument("--turns", type=int, default=3, help="of a conversation at most; else few are short enough")
    parser.add_argument("--max-length", type=int, default=512, help="tokens; longer conversations are left out")
    parser.add_argument("--backend", choices=("local", "vllm"), default="local", help="that evaluates")
    parser.add_argument("--unscored", action="store_true", help="train only")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not (arguments.out / "train.jsonl").is_file():
        write_data(arguments)
    if arguments.unscored:
        fit(arguments)
        return
    start = time.monotonic()
    before = score(arguments.model, "before", arguments)
    fit(arguments)
    after = score(arguments.out / "run" / "model", "after", arguments)
    print("| ProcessBench GSM8K, K=1 | F1 | err-acc | corr-acc | tokens a solution | unparseable |")
    print("|---|---|---|---|---|---|")
    print(row("before", before))
    print(row("after", after))
    print(composition(arguments.out / "train.jsonl"))
    print((arguments.out / "run" / "report.md").read_text())
    print(f"n = {arguments.items}; {time.monotonic() - start:.0f} s since the last start, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
