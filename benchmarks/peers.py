"""Side by side with the peers that can be installed, against one simulated server.

    python benchmarks/peers.py --peer its_hub=VENV/bin/python --peer crucible=... [--works beam-64 mcts] [--rounds 3]

Ours needs the package uvloop; a peer's interpreter has the peer and aiohttp or httpx: its_hub[lm] 1.2.0, treequest
0.3.3, crucible-ttc 0.1.1, llm-reasoners 1.0.2. Everybody solves the same problems of the simulated task on the same
server (peers_server.py: its own process, HTTP on this machine), in shuffled turns; round r of one contestant is paired
with round r of ours. Every run adds a line to the file of results; the tables are made from all lines, so that rounds
can be measured in pieces.

`floor` is the time that our search would take if engine and network took none: the same calls on a clock that leaps.
`seconds` and `cpu` are those of the client, without start-up; `calls` are counted by the server. With `--rounds 0`
nothing is measured and the tables are printed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peers_server import TASK

from tts_engine.types import Key

HERE = Path(__file__).parent
SPARE, SCARCE = 4096, 8
FLOOR = "floor of tts-engine"
Row = dict[str, Any]
MORE = {
    "beam": ["speculative beam"],
    "mcts": ["speculative mcts"],
    "self-consistency": ["self-consistency, uvloop"],
}
"""Further ways in which ours solves it."""


def work(algorithm: str, n: int, problems: int, rivals: Sequence[str], slots: int = SPARE, **more: Any) -> Row:  # noqa: ANN401
    """A piece of work: `n` and the number of problems, all at once, of five steps."""
    ours = [algorithm, *MORE.get(algorithm, ())]
    base = {"algorithm": algorithm, "n": n, "problems": problems, "at_once": problems, "steps": 5, "slots": slots}
    return {**base, "ours": ours, "rivals": rivals, **more}


WORKS: Mapping[str, Row] = {
    "beam-64": work("beam", 64, 1, ["its_hub"]),
    "beam-16x8": work("beam", 16, 8, ["its_hub", "crucible", "llm-reasoners"]),
    "mcts-32": work("mcts", 32, 1, ["treequest", "treequest:ABMCTSA", "crucible", "llm-reasoners"]),
    "best-of-8x20": work("best-of-n", 8, 20, ["its_hub", "crucible"]),
    "beam-64, 8 slots": work("beam", 64, 1, ["its_hub"], SCARCE),
    "mcts-32, 8 slots": work("mcts", 32, 1, ["treequest"], SCARCE),
    "best-of-8x20, 8 slots": work("best-of-n", 8, 20, ["its_hub"], SCARCE),
    "256 in flight": work("self-consistency", 256, 8, ["its_hub"], at_once=1, steps=1),
}
WORDS = {
    "beam-64": "Beam, N=64, one problem, slots spare",
    "beam-16x8": "Beam, N=16, 8 problems at once, slots spare",
    "mcts-32": "MCTS, 32 simulations, one problem, slots spare",
    "best-of-8x20": "Best of 8, 20 problems at once, slots spare",
    "beam-64, 8 slots": "Beam, N=64, one problem, 8 slots a model",
    "mcts-32, 8 slots": "MCTS, 32 simulations, one problem, 8 slots a model",
    "best-of-8x20, 8 slots": "Best of 8, 20 problems at once, 8 slots a model",
    "256 in flight": "Self-consistency, N=256, one problem after the other: 256 requests in flight",
}


@contextmanager
def server(slots: int) -> Iterator[str]:
    """The address of a running server."""
    command = [sys.executable, str(HERE / "peers_server.py"), json.dumps({"slots": slots})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def counted(url: str) -> Row:
    """What the server has counted since the last time."""
    with urllib.request.urlopen(f"{url}/stats") as answer:
        return dict(json.load(answer))


def run(command: Sequence[str], task: Row) -> Row | None:
    """What one contestant measured; None where it failed or took too long."""
    try:
        done = subprocess.run(
            [*command, json.dumps(task)], capture_output=True, text=True, timeout=180, cwd=HERE, check=True
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, IndexError, ValueError) as error:
        print(f"  {command[1:]}: {error} {getattr(error, 'stderr', '')}", file=sys.stderr)
        return None


def measure(name: str, round_: int, peers: Mapping[str, str]) -> Iterator[Row]:
    """One round of one piece of work, the contestants in shuffled order."""
    task = WORKS[name] | {"seed": round_}
    problems = [TASK.problem(Key(round_, (i,)), steps=task["steps"]) for i in range(task["problems"])]
    task["texts"] = [problem.prompt for problem in problems]
    ours = [sys.executable, str(HERE / "peers_ours.py")]
    contestants = [(f"tts-engine, {algorithm}", ours, {"algorithm": algorithm}) for algorithm in task["ours"]]
    theirs = str(HERE / "peers_theirs.py")
    contestants += [(peer, [peers[key], theirs, peer], {}) for peer in task["rivals"] if (key := _key(peer)) in peers]
    random.Random(round_).shuffle(contestants)
    with server(task["slots"]) as url:
        for who, command, change in contestants:
            counted(url)
            found = run([*command, url], task | change)
            if found is not None:
                yield {"work": name, "round": round_, "who": who, **found, "server": counted(url)}
    for algorithm in task["ours"]:
        found = run([*ours, "none"], task | {"algorithm": algorithm, "floor": True})
        if found is not None:
            yield {"work": name, "round": round_, "who": f"{FLOOR}, {algorithm}", **found}


def _key(peer: str) -> str:
    return peer.partition(":")[0]


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: a table for each piece of work that was measured."""
    for name in WORKS:
        here: dict[str, dict[int, Row]] = defaultdict(dict)
        for row in rows:
            if row["work"] == name:
                here[row["who"]][row["round"]] = row
        if here:
            yield from (f"**{WORDS[name]}**", "")
            yield "| | rounds | seconds | times its floor | times tts-engine's | calls | CPU ms a call |"
            yield "|---|---|---|---|---|---|---|"
            shown = [who for who in here if not who.startswith(FLOOR)]
            plain = f"tts-engine, {WORKS[name]['algorithm']}"
            yield from (_line(who, here, plain) for who in sorted(shown, key=lambda who: _median(here[who])))
            yield ""


def _line(who: str, here: Mapping[str, Mapping[int, Row]], plain: str) -> str:
    rows, ours = here[who], here.get(plain, {})
    floors = here.get(who.replace("tts-engine", FLOOR), {}) if who.startswith("tts-engine") else {}
    over = [row["seconds"] / floors[i]["seconds"] for i, row in rows.items() if i in floors]
    faster = [row["seconds"] / ours[i]["seconds"] for i, row in rows.items() if i in ours and who != plain]
    calls = statistics.mean(row["server"]["calls"] for row in rows.values())
    cpu = [1000 * row["cpu"] / row["server"]["calls"] for row in rows.values()]
    return (
        f"| {who} | {len(rows)} | {_spread([row['seconds'] for row in rows.values()])} | {_spread(over, 'x')} |"
        f" {_spread(faster, 'x')} | {calls:.0f} | {_spread(cpu)} |"
    )


def _median(rows: Mapping[int, Row]) -> float:
    return statistics.median(row["seconds"] for row in rows.values())


def _spread(values: Sequence[float], unit: str = "") -> str:
    """Median, and the range of the rounds."""
    if not values:
        return ""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.2f}{unit} ({low:.2f} to {high:.2f})" if len(values) > 1 else f"{middle:.2f}{unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="a peer's interpreter")
    parser.add_argument("--works", nargs="*", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("runs/peers.jsonl"))
    options = parser.parse_args()
    peers = dict(text.split("=", 1) for text in options.peer)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    lines = options.results.read_text(encoding="utf-8").splitlines() if options.results.exists() else []
    rows = [json.loads(line) for line in lines]
    measured = {(row["work"], row["round"]) for row in rows}
    for round_ in range(options.rounds):
        for name in options.works:
            if (name, round_) not in measured:
                print(f"round {round_}: {name}", file=sys.stderr)
                found = list(measure(name, round_, peers))
                rows += found
                with options.results.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in found)
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
