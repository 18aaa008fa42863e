"""Time from the shell: importing the package, `tts-run --help`, and the first report of the main job.

    python benchmarks/startup.py

Each command runs as a process of its own; the median of --runs is printed with the smallest and the largest, and the
most memory that it took.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

BARE = [sys.executable, "-c", "pass"]
PROBLEM = "Ann has 12 pens. Ann buys 30 more pens. How many pens does Ann have now?"
COMMANDS = {
    "python -c pass": (BARE, None),
    "import tts_engine": ([sys.executable, "-c", "import tts_engine"], 0.3),
    "tts-run --help": (["tts-run", "--help"], 0.5),
    "tts-run, one problem, beam, K=8": (
        ["tts-run", PROBLEM, "--strategy", "beam", "--verifier-samples", "8"],
        60.0,
    ),
}


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall-clock seconds and most memory (MiB) of one run; a failing command ends the benchmark with its output."""
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read()}")
    return took, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    title = f"{options.runs} runs each, after one warm-up"
    table = Table("command", "median s", "min", "max", "aim", "MiB", title=title)
    with tempfile.TemporaryDirectory() as folder:
        for name, (command, aim) in COMMANDS.items():
            measured(command, Path(folder))
            times, sizes = zip(*(measured(command, Path(folder)) for _ in range(options.runs)), strict=True)
            figures = [f"{value:.2f}" for value in (statistics.median(times), min(times), max(times))]
            table.add_row(name, *figures, f"< {aim}" if aim else "", f"{max(sizes):.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
