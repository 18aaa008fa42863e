"""Measure the compute-optimal frontier of the embedded models and write it into docs/comparing.md.

    python benchmarks/compare.py --work runs/recorded     # journals of benchmarks/results.py, made where missing
    python benchmarks/compare.py --limit 30 --seeds 1 --docs /tmp/comparing.md

The samples are those of benchmarks/results.py (N=16 solutions, K=8 GenPRM chains, and the discriminative PRM, for each
problem and seed), so that both share their journals. With --data FOLDER the recorded real samples in it (GSM8K's
example_model_solutions, math_cot_100, Game of 24) are analysed too. Tables go between the markers of the document.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path
from typing import Any

from recorded import WORK
from results import measure

import tts_engine
from tts_engine.cli.compare_session import write_report
from tts_engine.compute.budget import Budget
from tts_engine.report.compare import Comparison, compare, main_unit, recommendation, summarize
from tts_engine.report.comparetable import exponent_lines, points_of, verdict_lines
from tts_engine.report.points import Grid
from tts_engine.report.recordings import load_recordings
from tts_engine.report.words import bounded, short

BUDGETS = ("tokens=150", "tokens=300", "tokens=1000", "tokens=3000")
REAL = ("example_model_solutions.jsonl.gz", "sampled_qwen25math_rm__math_cot_100.jsonl.gz", "gpt-4_0.7_naive_cot")
Record = dict[str, Any]


def analysed(files: list[Path], out: Path, ratio: float | None = None) -> tuple[Comparison, Record]:
    """What `tts-compare --recorded` makes of the files; its report is written to `out`."""
    found = compare(load_recordings(files, ratio), (), Grid())
    summary = {"version": tts_engine.__version__, **summarize(found, main_unit(found.points))}
    write_report(out, summary)
    return found, summary


def embedded(summary: Record, advice: list[Record]) -> str:
    """The section on the embedded models."""
    most = summary["arms"][0]
    lines = [
        f"{summary['problems']} problems of `arith-test`, {most['solutions']} recorded solutions each (all seeds),"
        f" K up to {most['chains']}; {len(summary['points'])} configurations; 95 % bootstrap intervals over problems;"
        f" random subsets leave a standard error of at most {100 * summary['subsampling_error']:.2f} points (version"
        f" {tts_engine.__version__}).",
        "",
        *frontier_table(summary, "tokens"),
        "",
        *(f"- {line}" for unit in ("tokens", "flops") for line in verdict_lines(summary | {"unit": unit})),
        *(f"- {line}" for line in exponent_lines(summary)),
        "",
        *difficulty_table(summary["difficulty"]),
        "",
        *advice_table(advice),
    ]
    return "\n".join(lines)


def frontier_table(summary: Record, unit: str) -> list[str]:
    rows = [f"| frontier by {unit} | {unit} a problem | accuracy | points gained |", "|---|---|---|---|"]
    for entry in summary["frontier"][unit]:
        gain = points_of(entry["gain"]) if entry["gain"] else ""
        rows.append(f"| {entry['name']} | {short(entry['cost'])} | {bounded(entry['accuracy'])} | {gain} |")
    return rows


def difficulty_table(bins: list[Record]) -> list[str]:
    rows = [
        "| pass@1 on other samples | problems | best plain | best verified | points gained |",
        "|---|---|---|---|---|",
    ]
    for entry in bins:
        span = f"{entry['pass1_low']:.2f} to {entry['pass1_high']:.2f}"
        cells = " | ".join(bounded(entry[kind]) for kind in ("plain", "verified"))
        rows.append(f"| {span} | {entry['problems']:g} | {cells} | {points_of(entry['gain'])} |")
    return rows


def advice_table(advice: list[Record]) -> list[str]:
    rows = [
        "| budget a problem | recommended | accuracy | on held-out problems | over the best plain one |",
        "|---|---|---|---|---|",
    ]
    for entry in advice:
        budget = ", ".join(f"{unit}={limit:g}" for unit, limit in entry["budget"].items())
        gain = "is plain" if entry["plain"] else points_of(entry["gain_over_plain"])
        cells = [budget, entry["name"], bounded(entry["accuracy"]), f"{100 * entry['held_out']:.1f}", gain]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def recorded_table(name: str, found: Comparison, summary: Record) -> str:
    """Every configuration of a recording, and what could not be estimated."""
    passes = ", ".join(f"pass@{n} {bounded(rate)}" for n, rate in summary["pass"].items())
    lines = [
        f"**{name}**: {summary['problems']} problems. {summary['pass_policy']}: {passes}",
        "",
        "| configuration | accuracy | minus the first, paired |",
        "|---|---|---|",
    ]
    for point in found.points:
        gain = points_of(found.bootstrap.interval(point.accuracy - found.points[0].accuracy).asdict())
        accuracy = bounded(found.bootstrap.interval(point.accuracy))
        lines.append(f"| {point.setting.name.replace(f'{name}: ', '')} | {accuracy} | {gain} |")
    lines += ["", *(f"- {line}" for line in verdict_lines(summary))]
    lines += [f"- cost in {unit}: not estimable, {why}" for unit, why in summary["not_estimable"].items()]
    return "\n".join(lines)


def put(document: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name`, or add them at the end."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = document.read_text(encoding="utf-8") if document.exists() else ""
    block = f"{start}\n\n{text}\n\n{end}"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old.rstrip()}\n\n{block}\n"
    document.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="problems")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=WORK, help="journals and sample files")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="reports")
    parser.add_argument("--docs", type=Path, default=Path("docs/comparing.md"))
    parser.add_argument("--data", type=Path, help="folder with recorded real samples")
    options = parser.parse_args()
    files = asyncio.run(measure(options.limit, options.seeds, options.work))
    found, summary = analysed(files, options.out / "embedded")
    advice = [recommendation(found, Budget.parse(budget))[1] for budget in BUDGETS]
    put(options.docs, "embedded", embedded(summary, advice))
    real = sorted(options.data.rglob("*.gz")) if options.data else []
    for file in (f for f in real if f.name.startswith(REAL)):
        name = file.name.partition(".json")[0]
        comparison, summary = analysed([file], options.out / name, 1.0 if "rm__" in name else None)
        put(options.docs, name, recorded_table(name, comparison, summary))
    print(f"written to {options.docs} and {options.out}")


if __name__ == "__main__":
    main()
