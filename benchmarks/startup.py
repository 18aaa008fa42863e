"""Time from the shell: importing the package, `tts-run --help`, and the first report of the main job.

    python benchmarks/startup.py

Each command runs as a process of its own; the median of --runs is printed with the smallest and the largest.
"""

from __future__ import annotations

import argparse
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


def seconds(command: list[str], folder: Path) -> float:
    """Wall-clock of one run; a failing command ends the benchmark with its output."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    table = Table("command", "median s", "min", "max", "aim", title=f"{options.runs} runs each, after one warm-up")
    with tempfile.TemporaryDirectory() as folder:
        for name, (command, aim) in COMMANDS.items():
            seconds(command, Path(folder))
            times = [seconds(command, Path(folder)) for _ in range(options.runs)]
            figures = [f"{value:.2f}" for value in (statistics.median(times), min(times), max(times))]
            table.add_row(name, *figures, f"< {aim}" if aim else "")
    Console().print(table)


if __name__ == "__main__":
    main()
