"""Measure `--verifier-samples auto` against a fixed number of votes, on recorded draws.

    python benchmarks/votes.py --out votes.md

Uses the recordings of benchmarks/recorded.py (arith-test, N=16, K=8). A text's votes are taken in their recorded
order until the rule is settled; turns that several texts share are paid once. Intervals: paired bootstrap, 95 %.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import numpy as np
from allocator import record
from recorded import WORK, K, N

from tts_engine.compute.replay import judged
from tts_engine.compute.stopping import VoteRule
from tts_engine.report.points import Bootstrap
from tts_engine.report.words import bounded

RULES = [VoteRule(most=K, error=error, test=test) for test in ("sprt", "beta") for error in (0.01, 0.05, 0.2)]  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="arith-test")
    parser.add_argument("--limit", type=int, default=500, help="problems")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=WORK, help="journals")
    parser.add_argument("--out", type=Path, help="where to write the table (default: print it)")
    options = parser.parse_args()
    each = [asyncio.run(record(options.dataset, seed, options.limit, options.work)) for seed in range(options.seeds)]
    recordings = [item for found in each for item in found]
    boot = Bootstrap.grouped([item.problem for item in recordings])
    full = np.array([judged(item, 0, N, RULES[0], fixed=True) for item in recordings])
    lines = [
        f"{options.limit} problems, {options.seeds} seeds, score-weighted vote of {N} solutions; fixed K={K}: accuracy"
        f" {100 * full[:, 0].mean():.1f}, {full[:, 1].mean():.0f} verifier tokens a problem.",
        "",
        "| test | error | votes a text | accuracy | less K=8 | share of the verifier's tokens |",
        "|---|---|---|---|---|---|",
    ]
    for rule in RULES:
        rows = np.array([judged(item, 0, N, rule, fixed=False) for item in recordings])
        gain, share = boot.interval(rows[:, 0] - full[:, 0]), boot.ratio(rows[:, 1], full[:, 1])
        texts = full[:, 2].mean() / K
        lines.append(
            f"| {rule.test} | {rule.error:g} | {rows[:, 2].mean() / texts:.2f} | {100 * rows[:, 0].mean():.1f} |"
            f" {bounded(gain, '.2f')} | {bounded(share, '.3f', 1)} |"
        )
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
