"""Do backends agree? The same problems and seeds under configurations that differ in what runs the models.

    python benchmarks/agreement.py local vllm endpoint --limit 150
    python benchmarks/agreement.py mine.yaml other.yaml --dataset problems.jsonl

`local`, `vllm` and `endpoint` are best of 4 over the embedded models by the vote of GenPRM with K=2: with torch in this
process, with vLLM in this process, and through two of vLLM's own servers, which are started here. Prints the accuracy
of each and its paired difference to the first, with 95 % bootstrap intervals over problems: they agree where the
interval holds 0. Calls are journalled below --work; the same command goes on with an interrupted run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tts_engine import Engine, Problem
from tts_engine.backends.embedded import embedded_path
from tts_engine.config import Config
from tts_engine.errors import UsageError
from tts_engine.problems import load_problems
from tts_engine.report.points import Bootstrap
from tts_engine.report.pools import Array
from tts_engine.report.words import bounded
from tts_engine.resolving import resolved

EMBEDDED = {"verifier": {"samples": 2}, "strategy": {"name": "best-of-n", "n": 4}}
SERVER = ["--enforce-eager", "--no-enable-chunked-prefill", "--block-size", "32", "--max-num-seqs", "64"]
SERVER += ["--max-logprobs", "20", "--enable-prompt-tokens-details"]
START = 240
"""Seconds that a server may take to start."""


@contextlib.contextmanager
def configuration(name: str) -> Iterator[Config]:
    """One of ours, or a file; servers run while it is used."""
    if name not in ("local", "vllm", "endpoint"):
        yield Config.load(name)
        return
    config = resolved(Config.build(EMBEDDED)).model_dump()
    with contextlib.ExitStack() as stack:
        for role in ("policy", "verifier") if name != "local" else ():
            model = config[role]["model"]
            options: dict[str, object] = {"slots": 64}
            if name == "endpoint":
                options = {"url": stack.enter_context(server(model)), "tokenizer": model, "concurrency": 64}
            config[role] |= {"backend": "vllm" if name == "vllm" else "openai", "options": options}
        yield Config.build(config)


@contextlib.contextmanager
def server(model: str) -> Iterator[str]:
    """vLLM's server of an embedded model; yields the base of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(embedded_path(model))]
    command += ["--served-model-name", model, "--host", "127.0.0.1", "--port", str(port), *SERVER]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"} | os.environ
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", model)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, model: str) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.5)
    sys.exit(f"the vLLM server of {model} did not start; see above")


async def accuracy(config: Config, problems: list[Problem], journal: Path) -> Array:
    """[problems] whether the answer was right."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    right: dict[str, bool] = {}
    async with Engine(config, journal=journal, resume=True) as engine:
        async for outcome in engine.run(problems):
            right[outcome.problem.id] = bool(outcome.correct)
            for failure in outcome.failures:
                print(f"{journal.stem}, {outcome.problem.id}: {failure.where}: {failure.message}")
    return np.array([right[problem.id] for problem in problems], dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="local, vllm, endpoint, or YAML files")
    parser.add_argument("--dataset", default="arith-test")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("runs/agreement"))
    options = parser.parse_args()
    problems = load_problems(options.dataset)[: options.limit]
    found: dict[str, Array] = {}
    for name in options.configs:
        try:
            with configuration(name) as config:
                found[name] = asyncio.run(accuracy(config, problems, options.work / f"{Path(name).stem}.sqlite"))
        except UsageError as error:
            parser.error(f"{name}: {error}")
    bootstrap, first = Bootstrap.of(len(problems)), found[options.configs[0]]
    print(f"{len(problems)} problems; percent with 95 % intervals")
    for name, right in found.items():
        whole, gap = bootstrap.interval(right), bootstrap.interval(right - first)
        print(f"{name}: {bounded(whole)}, difference {bounded(gap)}")


if __name__ == "__main__":
    main()
