"""Measure the training pipeline on the embedded domain: labels against the exact checker, their cost, what they train.

    python benchmarks/training.py --work runs/training                   # everything: hours on 2 cores
    python benchmarks/training.py --work runs/training --minutes 9       # nine minutes of it; run again to go on
    python benchmarks/training.py --work runs/training --report          # only write the figures into docs/training.md

Part one draws 128 rollouts of every prefix of some solutions once; every way of labelling and of stopping early is
replayed on these draws, so that all are paired. Part two (training_arms.py) varies one thing at a time around
configs/train-embedded.yaml, trains a GenPRM each and searches with it; `--arms` names some, so that two processes can
share the work once the first arm is done. What is measured of trained verifiers is kept in benchmarks/recordings/, from
which the tables can be made without them. Intervals: percentile bootstrap over problems, 95 %.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from training_arms import (
    ARMS,
    BASE,
    Settings,
    arm_report,
    bootstrap,
    data_folder,
    record_arms,
    run_stage,
    work_off_arms,
)

from tts_engine.report.intervals import Interval
from tts_engine.report.words import bounded
from tts_engine.verifiers.training.labels import Method, exact_labels, labels_of
from tts_engine.verifiers.training.manifest import Folder, Record
from tts_engine.verifiers.training.plans import (
    ROOT,
    Case,
    Plan,
    all_draws,
    by_halves,
    replay,
    until_decided,
    until_right,
)
from tts_engine.verifiers.training.rolling import case_of
from tts_engine.verifiers.training.rpe import first_bad

RECORDING = Path(__file__).parent / "recordings" / "training-arms.jsonl.gz"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
Labels = tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The solutions to one problem with 128 draws of each prefix."""

    solutions: list[Record]
    draws: Mapping[tuple[str, ...], list[bool]]
    tokens: Mapping[tuple[str, ...], float]
    exact: Mapping[str, Labels]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of labelling: a plan of rollouts, the labels made of its counts, and how many rollouts a step at most."""

    plan: Callable[[Case], Plan]
    method: Method = "rpe"
    threshold: Fraction = Fraction(4, 5)
    k: int | None = None
    root: bool = False


def ways() -> dict[str, Way]:
    """Those that are compared; K is 128, 64 or 32 by Pass@1 where none is named."""
    found = {
        "hard, K=8 (Math-Shepherd)": Way(plan=until_right, method="hard", k=8),
        "binary search, K=8 (OmegaPRM)": Way(plan=by_halves, method="omega", k=8),
        "hard": Way(plan=until_right, method="hard"),
        "soft, at least 0.5": Way(plan=all_draws, method="soft", threshold=Fraction(1, 2)),
    }
    for text in ("0.5", "0.8", "1.0"):
        found[f"RPE {text}"] = Way(plan=all_draws, threshold=Fraction(text))
    found["RPE 0.8, K=128"] = Way(plan=all_draws, k=128)
    found["RPE 0.8, MC before the first step drawn"] = Way(plan=all_draws, root=True)
    for doubt in (0.1, 0.05, 0.02, 0.01):
        found[f"RPE 0.8, stopped at doubt {doubt}"] = Way(plan=lambda case, d=doubt: until_decided(case, doubt=d))  # type: ignore[misc]
    return found


def read_recorded(folder: Folder) -> list[Recorded]:
    """What part one has drawn."""
    solutions: dict[str, list[Record]] = {}
    sampled = folder.read("sample")
    for solution in sampled:
        solutions.setdefault(solution["problem_id"], []).append(solution)
    exact = exact_labels(folder.read("problems"), sampled)
    return [
        Recorded(
            solutions[entry["id"]],
            {tuple(node["prefix"]): [c == "1" for c in node["draws"]] for node in entry["nodes"]},
            {tuple(node["prefix"]): node["tokens"] / len(node["draws"]) for node in entry["nodes"]},
            {s["id"]: exact[s["id"]] for s in solutions[entry["id"]]},
        )
        for entry in folder.read("rollouts")
    ]


def labelled(recorded: Recorded, way: Way) -> tuple[dict[str, Labels], float]:
    """The labels that a way gives to the solutions of a problem, and the tokens of the rollouts it takes."""
    labels: dict[str, Labels] = {}
    taken: dict[tuple[str, ...], int] = {}
    for solution in recorded.solutions:
        case = replace(case_of(solution, way.k or "adaptive", "pass1"), root=way.root)
        prefixes = [tuple(solution["steps"][: step + 1]) for step in range(ROOT, case.steps)]

        def draws(step: int, n: int, prefixes: Sequence[tuple[str, ...]] = prefixes) -> list[bool]:
            found = recorded.draws.get(prefixes[step + 1])  # missing beyond the first MC of 0: nothing was right there
            return found[:n] if found else [False] * n

        counts, used = replay(way.plan(case), draws)
        labels[solution["id"]] = labels_of(case, counts, way.method, way.threshold)
        for step, n in used.items():
            taken[prefixes[step + 1]] = max(n, taken.get(prefixes[step + 1], 0))
    return labels, sum(n * recorded.tokens.get(prefix, 0.0) for prefix, n in taken.items())


def resampled(rows: Sequence[Sequence[float]]) -> Interval:
    """A ratio of sums, with problems resampled: each row is what a problem adds above and below the line."""
    above, below = np.array(rows, dtype=float).T
    return bootstrap(len(rows)).ratio(above, below)


def quality(recorded: Sequence[Recorded], found: Sequence[dict[str, Labels]]) -> dict[str, Interval]:
    """Against the exact checker: solutions with the right first error, right steps kept, first wrong steps caught.

    A step counts where the label has got so far: all steps before it were labelled good.
    """
    rows: dict[str, list[list[float]]] = {"solutions": [], "kept": [], "caught": []}
    for problem, labels in zip(recorded, found, strict=True):
        pairs = [(problem.exact[name], labels[name]) for name in labels]
        same = [first_bad(exact) == first_bad(label) for exact, label in pairs]
        steps = [step for exact, label in pairs for step in zip(exact, label, strict=False)]
        rows["solutions"].append([sum(same), len(same)])
        rows["kept"].append([sum(a and b for a, b in steps), sum(a for a, _ in steps)])
        rows["caught"].append([sum(not a and not b for a, b in steps), sum(not a for a, _ in steps)])
    return {name: resampled(table) for name, table in rows.items()}


def agreement(first: Sequence[dict[str, Labels]], second: Sequence[dict[str, Labels]]) -> dict[str, Interval]:
    """Of two ways: solutions with the same first error, and steps of the first's that the second labels alike."""
    solutions, steps = [], []
    for one, other in zip(first, second, strict=True):
        solutions.append([sum(first_bad(one[n]) == first_bad(other[n]) for n in one), len(one)])
        alike = [sum(a == b for a, b in zip(one[n], other[n], strict=False)) for n in one]
        steps.append([sum(alike), sum(len(one[n]) for n in one)])
    return {"solutions": resampled(solutions), "steps": resampled(steps)}


def label_report(folder: Folder) -> list[str]:
    """Tables of label quality and of the cost of rollouts."""
    recorded = read_recorded(folder)
    found = {name: [labelled(problem, way) for problem in recorded] for name, way in ways().items()}
    labels = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
    spent = {name: [pair[1] for pair in pairs] for name, pairs in found.items()}
    solutions = sum(len(problem.solutions) for problem in recorded)
    lines = [
        f"### Labels against the exact checker: {len(recorded)} problems, {solutions} solutions",
        "",
        "| labels | first error right, % | right steps kept, % | first wrong steps caught, % | tokens a solution |",
        "|---|---|---|---|---|",
    ]
    for name in found:
        cells = [bounded(interval) for interval in quality(recorded, labels[name]).values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(spent[name]) / solutions:,.0f} |")
    lines += ["", "### Early stopping against all draws of the published K", ""]
    lines += [
        "| | same first error, % | same step labels, % | tokens, % of adaptive K | % of K=128 |",
        "|---|---|---|---|---|",
    ]
    for name in found:
        if "stopped" in name or name == "RPE 0.8, K=128":
            same = agreement(labels["RPE 0.8"], labels[name])
            others = ("RPE 0.8", "RPE 0.8, K=128")
            cells = [*same.values(), *(resampled(list(zip(spent[name], spent[o], strict=True))) for o in others)]
            lines.append(f"| {name} | {' | '.join(map(bounded, cells))} |")
    return lines


def work_off(options: argparse.Namespace) -> None:
    """Both parts, as far as time goes; what is finished is skipped, what was begun is gone on with."""
    if options.measured:
        draw_labels(options)
    work_off_arms(options)


def draw_labels(options: argparse.Namespace) -> None:
    """Part one: 128 draws of every prefix of some solutions."""
    measure: Settings = {
        "problems": {"limit": options.measured},
        "sample": {"per_problem": 16},
        "rollouts": {"k": 128, "stop": "zero", "root": "drawn"},
    }
    folder = Folder(options.work / "labels")
    folder.make()
    for name, section in measure.items():
        run_stage(folder, 100, name, section)


def filter_report(options: argparse.Namespace) -> list[str]:
    """What each filter removed in the recipe's own arm."""
    folder = data_folder(options, BASE)
    if not folder.manifest("filter").exists():
        return []
    counts = folder.facts("filter")["counts"]
    lines = [
        "",
        "### What the filters removed (recipe)",
        "",
        "| filter | no bad step | a bad step |",
        "|---|---|---|",
    ]
    for name, found in [*counts["removed"].items(), ("**kept**", counts["kept"])]:
        lines.append(f"| {name} | {found.get('good', 0)} | {found.get('bad', 0)} |")
    before, after = (wrong_labels(folder, names) for names in (None, {entry["id"] for entry in folder.read("filter")}))
    return [
        *lines,
        "",
        f"Solutions whose first error is wrong: {bounded(before)} % before the filters, {bounded(after)} % after.",
    ]


def wrong_labels(folder: Folder, names: set[str] | None) -> Interval:
    """Share of the labelled solutions (of those with these names) whose first bad step is not the checker's."""
    exact = exact_labels(folder.read("problems"), folder.read("sample"))
    rows: dict[str, list[float]] = {}
    for entry in folder.read("label"):
        if names is None or entry["id"] in names:
            counted = rows.setdefault(entry["problem_id"], [0, 0])
            counted[0] += entry["error"] != first_bad(exact[entry["id"]])
            counted[1] += 1
    return resampled(list(rows.values()))


def stopping_report(options: argparse.Namespace) -> list[str]:
    """What the recipe's rollouts took of all K draws of the prefixes that they looked at."""
    folder = data_folder(options, BASE)
    if not folder.manifest("rollouts").exists():
        return []
    rows, draws = [], []
    for entry in folder.read("rollouts"):
        nodes = entry["nodes"]
        rows.append([sum(n["tokens"] for n in nodes), sum(entry["k"] * n["tokens"] / len(n["draws"]) for n in nodes)])
        draws.append([sum(len(n["draws"]) for n in nodes), sum(entry["k"] for _ in nodes)])
    counts = folder.facts("rollouts")["counts"]
    return [
        "",
        f"Rollouts of the recipe: {counts['rollouts']:,} for {counts['solutions']:,} solutions to {len(rows)} problems;"
        f" {bounded(resampled(draws))} % of all K draws of the prefixes that they looked at,"
        f" {bounded(resampled(rows))} % of their tokens.",
    ]


def report(options: argparse.Namespace) -> None:
    """Write the figures between the marks of docs/training.md; tables whose data are not here stay as they are."""
    folder = Folder(options.work / "labels")
    parts = label_report(folder) if folder.manifest("rollouts").exists() else []
    record_arms(options)
    parts += ["", *arm_report(options), *filter_report(options), *stopping_report(options)]
    document = options.out.read_text(encoding="utf-8")
    before, _, rest = document.partition(BEGIN)
    old, _, after = rest.partition(END)
    body = "\n\n".join((sections(old) | sections("\n".join(parts))).values())
    options.out.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")
    print(body)


def sections(text: str) -> dict[str, str]:
    """The parts of a text by their titles up to the first colon."""
    parts = [f"### {part.strip()}" for part in text.split("### ")[1:]]
    return {part.splitlines()[0].partition(":")[0]: part for part in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/training"))
    parser.add_argument(
        "--measured", type=int, default=300, help="problems whose prefixes are drawn 128 times; 0: none"
    )
    parser.add_argument("--problems", type=int, default=4000, help="problems that each arm is trained on")
    parser.add_argument("--tokens", type=int, default=2_500_000, help="training tokens of each verifier")
    parser.add_argument("--limit", type=int, default=300, help="problems that verifiers search on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training and searches")
    parser.add_argument("--data-seed", type=int, default=0, help="of problems, solutions and rollouts")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--minutes", type=float, help="stop after so long; run the same command again to go on")
    parser.add_argument("--report", action="store_true", help="only write the report")
    parser.add_argument("--recording", type=Path, default=RECORDING, help="keeps what is measured of trained verifiers")
    parser.add_argument("--out", type=Path, default=Path("docs/training.md"))
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 60 * (options.minutes or 0))
    if not options.report:
        try:
            work_off(options)
        except KeyboardInterrupt:
            raise SystemExit("stopped; run the same command again to go on") from None
    report(options)


if __name__ == "__main__":
    main()
