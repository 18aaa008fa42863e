"""Answer equivalence on recorded cases, by tag, and the speed of grouping free text for a vote.

python benchmarks/equivalence.py --data FOLDER [--answers 256] [--show]

FOLDER holds JSONL files (also .gz) with `prediction`, `reference` and `equal`; `tag` is optional, and rows whose
`agree` is false (machine verdicts that are disputed) are left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tts_engine.formats.answers import group_answers, same_answer
from tts_engine.report.intervals import wilson

TEXT = "the answer is not a number but red green blue seven x apples per hour and about 12 of 3/4 them x^2"
WORDS = TEXT.split()


def cases(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tag and content of each usable row."""
    for path in sorted(folder.glob("*.jsonl*")):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row.get("agree", True):
                    yield row.get("tag", path.name.split(".")[0].split("__")[-1]), row


def table(folder: Path, show: bool) -> None:
    """Print, by tag, how many verdicts are right and how long one takes."""
    right, all_, seconds = Counter[str](), Counter[str](), Counter[str]()
    for tag, row in cases(folder):
        started = time.perf_counter()
        verdict = same_answer(row["prediction"], row["reference"])
        seconds[tag] += time.perf_counter() - started  # type: ignore[assignment]
        all_[tag] += 1
        right[tag] += verdict == row["equal"]
        if show and verdict != row["equal"]:
            print(f"{tag}: {row['prediction'][:80]!r} against {row['reference'][:80]!r} is {row['equal']}")
    print("| tag | right | of | 95 % interval | ms each |", "|---|---|---|---|---|", sep="\n")
    for tag, count in all_.items():
        share = wilson(right[tag], count)
        bounds = f"{100 * share.low:.1f} to {100 * share.high:.1f} %"
        print(f"| {tag} | {right[tag]} | {count} | {bounds} | {1000 * seconds[tag] / count:.1f} |")


def grouping(count: int, seed: int = 0) -> None:
    """Print how long it takes to group answers of each kind."""
    draw = random.Random(seed)
    kinds = {
        "numbers": [str(draw.randrange(40)) for _ in range(count)],
        "words": [" ".join(draw.choices(WORDS[:9], k=3)) for _ in range(count)],
        "free text with numbers": [" ".join(draw.choices(WORDS, k=6)) for _ in range(count)],
        "expressions": [f"\\frac{{x+{draw.randrange(6)}}}{{{draw.randrange(1, 6)}}}" for _ in range(count)],
    }
    group_answers(["x+1", "1+x"])  # starts the process
    print("\n| answers | groups | seconds |", "|---|---|---|", sep="\n")
    for name, answers in kinds.items():
        started = time.perf_counter()
        groups = group_answers(answers)
        print(f"| {count} {name} | {len(groups)} | {time.perf_counter() - started:.2f} |", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--answers", type=int, default=256)
    parser.add_argument("--show", action="store_true", help="the cases that are wrong")
    arguments = parser.parse_args()
    if arguments.data:
        table(arguments.data, arguments.show)
    grouping(arguments.answers)


if __name__ == "__main__":
    main()
