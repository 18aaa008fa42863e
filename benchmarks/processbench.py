"""First-error F1 of the shipped verifiers on the embedded domain, as a Markdown table; resumable.

python benchmarks/processbench.py --out runs/processbench [--items 500] [--samples 1,2,4,8,16,32]
"""

from __future__ import annotations

import argparse
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tts_engine.cli.evaluate import main as evaluate
from tts_engine.report.words import bounded

HEAD = "| verifier | K | F1, mean rule | F1, vote rule | err-acc | corr-acc | AUC in problem | tokens | unparseable |"


def judge(verifier: str, samples: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The summary of one evaluation; what an earlier call has judged is not judged again."""
    folder = Path(arguments.out) / verifier
    asked = ["--verifier", verifier, "--verifier-samples", samples, "--limit", str(arguments.items)]
    with redirect_stdout(StringIO()):
        done = evaluate(["processbench", "embedded", *asked, "--out", str(folder), "--resume", "--quiet"])
    if done:
        raise SystemExit(done)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def row(verifier: str, k: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    mean, tokens = found["mean"], found["per_solution"]["tokens"]
    shares = (mean["f1"], found["vote"]["f1"], mean["err_acc"], mean["corr_acc"])
    area = found["auc_within"]
    cells = [*map(bounded, shares), bounded(area, ".3f", 1), f"{tokens:,.0f}"]
    return f"| `{verifier}` | {k} | {' | '.join(cells)} | {found['invalid_share']:.1%} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--samples", default="1,2,4,8,16,32")
    arguments = parser.parse_args()
    print(HEAD, "|---" * 9 + "|", sep="\n")
    for verifier, samples in (("prm", "1"), ("genprm", arguments.samples)):
        summary = judge(verifier, samples, arguments)
        for k, found in summary["samples"].items():
            print(row(verifier, k, found), flush=True)
    counts, areas = summary["samples"][k]["mean"]["counts"], summary["samples"][k]["auc_within"]["problems"]
    print(f"\n{summary['items']} solutions ({counts['err']} with an error); {areas} problems with right and wrong ones")


if __name__ == "__main__":
    main()
