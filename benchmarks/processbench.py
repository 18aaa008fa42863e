"""First-error F1 as a Markdown table; resumable.

python benchmarks/processbench.py --out runs/processbench [--items 500] [--samples 1,2,4,8,16,32]
python benchmarks/processbench.py --out runs/gsm8k --source processbench/gsm8k.json --model DIR --items 100

The first measures the shipped verifiers on the embedded domain. The second measures an instruct model (a folder in
Hugging Face format, run by vLLM) as a judge with ProcessBench's prompt and in GenPRM's format without reasoning, beside
what constant answers would get.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tts_engine.cli.evaluate import main as evaluate
from tts_engine.report.labelled import ALL_RIGHT, drawn, load_labelled
from tts_engine.report.processbench import localisation
from tts_engine.report.words import bounded, short

HEAD = (
    "| verifier | K | F1, mean rule | F1, vote rule | err-acc | corr-acc | AUC in problem | AUC pooled | tokens | FLOPs"
    " | unparseable |"
)
OPTIONS = "{context: 2560, slots: 64, engine: {block_size: 32}}"
SAMPLING = ("verifier.temperature=0.7", "verifier.top_p=0.8")
"""As the makers of Qwen's instruct models advise; top-k is the default 20."""
AS_JUDGE = {
    "judge": ("judge", "1,2,4", ("verifier.params.tokens=512",)),
    "genprm, direct": ("genprm", "1", ("verifier.params.mode=direct", "verifier.params.generation_prompt=true")),
}
"""Verifier, numbers of samples and settings of an instruct model."""


def judge(name: str, arguments: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """The summary of one evaluation; what an earlier call has judged is not judged again."""
    folder = Path(options.out) / name.rpartition(" ")[2]
    where = [options.source, "--limit", str(options.items), "--out", str(folder), "--resume", "--quiet"]
    with redirect_stdout(StringIO()):
        done = evaluate(["processbench", *where, *arguments])
    if done:
        raise SystemExit(done)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def evaluations(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of each."""
    if options.model is None:
        for name, samples in (("prm", "1"), ("genprm", options.samples)):
            yield name, ["--verifier", name, "--verifier-samples", samples]
        return
    for name, (verifier, samples, settings) in AS_JUDGE.items():
        chosen = ["--verifier", verifier, "--verifier-samples", samples, "--verifier-model", options.model]
        sets = ("verifier.backend=vllm", f"verifier.options={OPTIONS}", *SAMPLING, *settings)
        yield name, [*chosen, "--concurrency", "16", *(part for each in sets for part in ("--set", each))]


def row(name: str, k: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    mean, cost = found["mean"], found["per_solution"]
    shares = (mean["f1"], found["vote"]["f1"], mean["err_acc"], mean["corr_acc"])
    areas = (bounded(found["auc_within"], ".3f", 1) if found["auc_within"] else "–", f"{found['auc_pooled']:.3f}")
    cells = [*map(bounded, shares), *areas, f"{cost['tokens']:,.0f}", short(cost["flops"])]
    return f"| {name} | {k} | {' | '.join(cells)} | {found['invalid_share']:.1%} |"


def constants(options: argparse.Namespace) -> None:
    """Print what answers that do not read the solution get."""
    labels = [item.label for item in drawn(load_labelled(options.source).items, options.items)]
    for name, answer in (("always `no error`", ALL_RIGHT), ("always the first step", 0)):
        found = localisation(labels, [answer] * len(labels))
        shares = (found["f1"], found["f1"], found["err_acc"], found["corr_acc"])
        print(f"| {name} | – | {' | '.join(map(bounded, shares))} | – | .500 | 0 | 0 | 0.0% |")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--source", default="embedded", help="labelled set")
    parser.add_argument("--model", help="folder of an instruct model")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--samples", default="1,2,4,8,16,32", help="of the embedded genprm")
    options = parser.parse_args()
    print(HEAD, "|---" * 11 + "|", sep="\n")
    for name, arguments in evaluations(options):
        summary = judge(name, arguments, options)
        for k, found in summary["samples"].items():
            print(row(name, k, found), flush=True)
    if options.model:
        constants(options)
    counts, areas = found["mean"]["counts"], found["auc_within"]
    both = f"; {areas['problems']} problems with right and wrong ones" if areas else ""
    print(f"\n{summary['items']} solutions ({counts['err']} with an error){both}")


if __name__ == "__main__":
    main()
