"""Generated tokens a second of the local backend, beside plain `generate` and transformers' continuous batching.

    python benchmarks/local_backend.py [--model DIR] [--concurrent 1 8 64 256] [--json FILE]

Every request has a prompt of its own of about 100 tokens and gets up to 64 new ones at temperature 1. `generate` runs a
static batch of the same size, for the same number of tokens, on the same number of threads. `--chains` measures instead
what verification does: the same conversations continued again and again by short calls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, GenerationConfig

from tts_engine.backends.local import LocalBackend
from tts_engine.types import Key, Message, Prompt, Request, Role, Sampling

EMBEDDED = Path(__file__).parents[1] / "tts_engine" / "assets" / "policy"
SENTENCE = "Tom has 12 apples and buys 30 more boxes of pens; "
Row = dict[str, float]


def request(text: str, key: int, prompt: Prompt | None = None, **sampling: Any) -> Request:  # noqa: ANN401
    """A call of the model under test."""
    prompt = prompt or Prompt(messages=(Message(role="user", content=text),))
    return Request(role=Role.GENERATE, model="", prompt=prompt, sampling=Sampling(**sampling), key=Key(key))


def prompts(backend: LocalBackend, n: int, length: int, salt: int) -> list[str]:
    """n texts of about `length` tokens that differ from the first words on."""
    cost = max(1, backend.count_tokens(request(SENTENCE, 0).prompt))
    return [f"{salt * 100_003 + i} " + SENTENCE * (length // cost + 1) for i in range(n)]


async def measure_backend(backend: LocalBackend, n: int, length: int, new: int) -> Row:
    """Tokens a second of n requests at once."""
    calls = [request(text, i, max_tokens=new) for i, text in enumerate(prompts(backend, n, length, n))]
    before, began = backend.counters(), time.perf_counter()
    results = await asyncio.gather(*(backend.complete(call) for call in calls))
    seconds = time.perf_counter() - began
    busy = backend.counters()["busy_seconds"] - before["busy_seconds"]
    tokens = sum(result.tokens for result in results)
    prompt = sum(result.usage.prompt for result in results) / n
    return {"concurrent": n, "prompt": prompt, "tok/s": tokens / seconds, "busy": busy / seconds}


async def measure_chains(backend: LocalBackend, n: int, turns: int) -> Row:
    """n conversations of `turns` short calls each, the text of each call being appended to the next prompt."""

    async def chain(i: int, text: str) -> int:
        prompt, tokens = request(text, i).prompt, 0
        for turn in range(turns):
            result = await backend.complete(
                request("", i * 1000 + turn, prompt, temperature=0, max_tokens=1 + (i + turn) % 30)
            )
            prompt = prompt.then(result.text, f"\n[Code Output] {turn} True\n")
            tokens += result.tokens
        return tokens

    texts, before, began = prompts(backend, n, 60, 7), backend.counters(), time.perf_counter()
    tokens = sum(await asyncio.gather(*(chain(i, text) for i, text in enumerate(texts))))
    seconds, after = time.perf_counter() - began, backend.counters()
    return {
        "concurrent": n,
        "calls/s": n * turns / seconds,
        "tok/s": tokens / seconds,
        "cached": (after["cached"] - before["cached"]) / (after["prompt"] - before["prompt"]),
        "busy": (after["busy_seconds"] - before["busy_seconds"]) / seconds,
    }


def timed(work: Callable[[], int]) -> float:
    """Tokens a second of `work`, which returns how many it made."""
    began = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - began)


def measure_generate(model: Any, n: int, length: int, new: int) -> float:  # noqa: ANN401
    """Tokens a second of a static batch."""
    ids = torch.randint(3, model.config.vocab_size, (n, length))
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "pad_token_id": 0}

    def work() -> int:
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return int(out.shape[0] * (out.shape[1] - length))

    return timed(work)


def measure_continuous(model: Any, n: int, length: int, new: int) -> float:  # noqa: ANN401
    """Tokens a second of transformers' own continuous batching (what the local backend would have been)."""
    from transformers import ContinuousBatchingConfig

    ids = torch.randint(3, model.config.vocab_size, (n, length)).tolist()
    config = GenerationConfig(max_new_tokens=new, eos_token_id=-1, do_sample=True, pad_token_id=0)
    batching = ContinuousBatchingConfig(num_blocks=n * (length + new) // 32 + n, max_batch_tokens=1024)

    def work() -> int:
        out = model.generate_batch(ids, config, continuous_batching_config=batching, progress_bar=False)
        return sum(len(one.generated_tokens) for one in out.values())

    return timed(work)


async def run(options: argparse.Namespace) -> list[Row]:
    """All rows of the table."""
    rows = []
    async with LocalBackend(options.model, dtype=options.dtype, threads=options.threads) as backend:
        await measure_backend(backend, 8, 20, 8)  # warm up
        for n in options.concurrent:
            if options.chains:
                rows.append(await measure_chains(backend, n, 12))
            else:
                rows.append(await measure_backend(backend, n, options.prompt, options.new))
    if not options.chains:
        compare(rows, options)
    return rows


def compare(rows: list[Row], options: argparse.Namespace) -> None:
    """Add what transformers does, and the ratio."""
    torch.set_num_threads(options.threads)
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
        name = f"generate {str(dtype).removeprefix('torch.')}"
        for row in rows:
            row[name] = measure_generate(model, int(row["concurrent"]), int(row["prompt"]), options.new)
            row["ratio"] = row["tok/s"] / max(row[name], row.get("generate float32", 0.0))
    if options.continuous:
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation="sdpa")
        for row in rows:
            row["continuous"] = measure_continuous(
                model.eval(), int(row["concurrent"]), int(row["prompt"]), options.new
            )


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:,.2f}" if value < 100 else f"{value:,.0f}" for value in row.values()))
    Console().print(table)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--prompt", type=int, default=100, help="tokens of a prompt, about")
    parser.add_argument("--new", type=int, default=64, help="new tokens at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--chains", action="store_true", help="measure chains of short calls")
    parser.add_argument("--continuous", action="store_true", help="measure transformers' generate_batch too (slow)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows = asyncio.run(run(options))
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
