"""A real model on real problems, on a CPU: write docs/real-model.md.

    python benchmarks/real_model.py --model DIR --dataset gsm8k/test.jsonl --minutes 7    # measure, or go on
    python benchmarks/real_model.py                                                       # the report, without a model

DIR is Qwen2.5-Coder-0.5B-Instruct in Hugging Face format; the backend is vLLM in this process, one engine for both
roles. Each problem gets N=8 solutions. Every solution is judged K=4 times by the same model as a judge that grades it,
and --genprm times in GenPRM's format (the mode without reasoning: an instruct model does not know the tags of the
others). Every call is in the journal below --work before it is used, so a measurement can be stopped at any time and
goes on where it was; after --minutes no further stage of a problem is begun, and GRACE later all is cut off. What is
finished is written to --samples, from which the report is made by exact subsampling (tts_engine/report/subsample.py).

The first 6 problems are left out: the judge's parser was mended after they had been looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from tts_engine import Engine, Outcome, Problem
from tts_engine.config import Config, VerifierConfig
from tts_engine.errors import DataError
from tts_engine.problems import load_problems
from tts_engine.report.compare import Comparison, compare
from tts_engine.report.points import Grid, Point, oracle_curve
from tts_engine.report.pools import Arm, Array, Sample, samples_of
from tts_engine.report.recordings import load_recordings, read_lines
from tts_engine.report.samplefile import write_samples
from tts_engine.report.sharing import known_units
from tts_engine.report.words import bounded
from tts_engine.types import Aggregation, Verdict

N = 8
NAME = "Qwen2.5-Coder-0.5B-Instruct"
RECORDINGS = Path(__file__).parent / "recordings" / "real-model"
STAGES = {"samples": 0, "sure": 1, "tail": 1, "judge": 4, "genprm": 4}
"""What is done, one after the other, and how many judgements of a solution it takes."""
GRACE = 2.5
"""Minutes that stages which were begun may still take."""
AGGREGATION: dict[str, Aggregation] = {"genprm": "product"}
ASKED = ("judge", "genprm")
"""Those that cost something."""
LABELS = {"sure": "own confidence, mean", "tail": "own confidence, tail", "judge": "judge", "genprm": "GenPRM format"}
LABELS |= {"samples": "majority"}
WINDOW = 64
"""Tokens at a solution's end whose confidence is read; a solution has about 200."""
FREE = {"tokens": 0.0, "flops": 0.0}


def configuration(model: Path) -> Config:
    """One engine in both roles. Sampling is the one that the model's makers advise."""
    options = {"context": 2048, "slots": 64, "engine": {"block_size": 32}}
    policy = {"backend": "vllm", "model": str(model), "options": options, "max_tokens": 448, "logprobs": 5}
    policy |= {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    params = {"mode": "direct", "generation_prompt": True}
    genprm = {"name": "genprm", "backend": "vllm", "model": str(model), "params": params}
    return Config.build({"policy": policy, "verifier": genprm, "strategy": {"name": "best-of-n", "n": N}})


def judges(model: Path) -> list[VerifierConfig]:
    """The same model as a judge of whole solutions, and the policy's confidence in the end of its own."""
    grade = {"name": "judge", "backend": "vllm", "model": str(model), "temperature": 0.7}
    grade["params"] = {"ask": "grade", "tokens": 256}
    tail = {"name": "confidence", "params": {"over": "token-tail", "window": WINDOW}}
    return [VerifierConfig.model_validate(each) for each in (grade, tail)]


class Measuring:
    """Works the stages off, as far as the time goes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._problems = load_problems(str(options.dataset))[options.skip : options.skip + options.problems]
        self._found: dict[str, list[tuple[Problem, Outcome]]] = {stage: [] for stage in STAGES}
        self._samples = STAGES | {"genprm": options.genprm}
        self._end = time.monotonic() + 60 * options.minutes

    async def run(self) -> None:
        """Fill the files of samples with what could be finished."""
        work: Path = self._options.work
        work.mkdir(parents=True, exist_ok=True)
        model: Path = self._options.model
        engine = Engine(configuration(model), journal=work / "journal.sqlite", resume=True, verifiers=judges(model))
        async with engine:
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._end + 60 * GRACE - started):
                    await self._all(engine)
            except TimeoutError:
                print("time is over: go on with the same command")
            self._note(engine, time.monotonic() - started)
        self._write()

    async def _all(self, engine: Engine) -> None:
        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
        gate = asyncio.Semaphore(self._options.at_once)
        with Progress(*columns) as progress:
            task = progress.add_task("problems", total=len(self._problems))

            async def one(problem: Problem) -> None:
                async with gate:
                    for stage in STAGES:
                        if time.monotonic() > self._end:
                            return
                        self._found[stage].append((problem, await self._stage(engine, stage, problem, progress)))
                progress.advance(task)

            async with asyncio.TaskGroup() as group:
                for problem in self._problems:
                    group.create_task(one(problem))

    async def _stage(self, engine: Engine, stage: str, problem: Problem, progress: Progress) -> Outcome:
        """The solutions of a problem, judged or not: the journal knows those of the stage before."""
        how: dict[str, Any] = {"strategy": "self-consistency"}
        if stage not in ("samples", "sure"):
            verifier = "confidence" if stage == "tail" else stage
            how = {"strategy": "best-of-n", "verifier": verifier, "verifier_samples": self._samples[stage]}
        outcome = await engine.solve(problem, n=N, **how)
        for failure in outcome.failures:
            progress.console.print(f"{problem.id}, {stage}: {failure.where}: {failure.message}")
        return outcome

    def _note(self, engine: Engine, seconds: float) -> None:
        """What this piece of the measurement took."""
        folder: Path = self._options.work
        counts = sum((Counter(counts) for counts in engine.counters().values()), Counter[str]())
        if counts["calls"]:
            piece = {"seconds": seconds, "generated": counts["completion"]}
            piece |= {"prefill": counts["prompt"] - counts["cached"], "calls": counts["calls"]}
            with (folder / "pieces.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(piece) + "\n")

    def _write(self) -> None:
        folder: Path = self._options.samples
        folder.mkdir(parents=True, exist_ok=True)
        for stage, found in self._found.items():
            if found:
                verifier = stage if STAGES[stage] else None
                arm = Arm(name=stage, policy=NAME, verifier=verifier, aggregation=AGGREGATION.get(stage, "mean"))
                ordered = sorted(found, key=lambda pair: pair[0].id)
                path = folder / f"{stage}.jsonl"
                write_samples(path, arm, [(problem, samples(stage, outcome)) for problem, outcome in ordered])
                packed = gzip.compress(path.read_bytes(), mtime=0)
                path.with_suffix(".jsonl.gz").write_bytes(packed)
                path.unlink()
        shutil.copy(self._options.work / "pieces.jsonl", folder / "pieces.jsonl")


def samples(stage: str, outcome: Outcome) -> list[Sample]:
    """The solutions; an opinion of a whole solution is a chain of one score, and confidence costs nothing."""
    found = samples_of(outcome)
    if stage == "sure":
        return [replace(sample, chains=[[sample.sure]], verify=[FREE]) for sample in found]
    verdicts = [judged.verdict for judged in outcome.candidates]
    pairs = zip(found, verdicts, strict=True)
    return [_whole(sample, verdict) if verdict and _is_whole(verdict) else sample for sample, verdict in pairs]


def _is_whole(verdict: Verdict) -> bool:
    return bool(verdict.samples) and not verdict.step_scores


def _whole(sample: Sample, verdict: Verdict) -> Sample:
    if not sample.chains:  # an equal text was judged before
        return sample
    chains = [[chain[-1].score] for chain in verdict.samples]
    return replace(sample, chains=chains, verify=[FREE | known_units(verdict.usage, 0)], first=(), prefixes=[])


class Report:
    """The figures, and how they are written."""

    def __init__(self, folder: Path) -> None:
        files = [path for stage in STAGES if (path := folder / f"{stage}.jsonl.gz").is_file()]
        if not files:
            raise DataError(f"{folder} holds no samples: measure first, with --model and --dataset")
        self.pieces = [row for _, row in read_lines(folder / "pieces.jsonl")]
        self.recordings = load_recordings(files)
        grid = Grid(n=(N,), k=(1, 4), selectors=("majority", "best", "weighted"))
        self.found: Comparison = compare(self.recordings, (), grid)
        self.pools = self.found.recordings[0].pools
        self.majority = next(point for point in self.found.points if point.setting.plain)

    def share(self, statistic: Array) -> str:
        """Percent with its interval."""
        return bounded(self.found.bootstrap.interval(statistic))

    def row(self, point: Point) -> str:
        """A line of the table."""
        setting = point.setting
        who = LABELS[setting.arm.name] + (f", K={setting.k}" if setting.arm.name in ASKED else "")
        who = "majority | " if setting.plain else f"{who} | {setting.select}"
        gain = "" if setting.plain else self.share((point.accuracy - self.majority.accuracy).round(9) + 0.0)
        tokens, flops = point.mean_cost("tokens"), point.mean_cost("flops") / 1e12
        return f"| {who} | {self.share(point.accuracy)} | {gain} | {tokens:,.0f} | {flops:.2f} |"

    def invalid(self, stage: str) -> str:
        """A verifier's judgements that could not be read, and all of them."""
        chains = [chain for r in self.recordings if r.arm.name == stage for pool in r.pools for chain in pool.chains]
        first = np.concatenate([chain[:, 0] for chain in chains if chain.size])
        return f"{LABELS[stage]} {int(np.isnan(first).sum())} of {first.size}"

    def speed(self) -> str:
        """Wall-clock time and tokens a second of the pieces of the measurement."""
        total = sum((Counter(piece) for piece in self.pieces), Counter[str]())
        seconds = total["seconds"]
        return (
            f"Measured in {len(self.pieces)} pieces of {seconds / 60:.0f} minutes in all: {total['calls']:,} calls,"
            f" {total['generated']:,} tokens generated ({total['generated'] / seconds:.0f} a second) and"
            f" {total['prefill']:,} of prompts computed ({total['prefill'] / seconds:.0f} a second)."
        )

    def text(self) -> str:
        """docs/real-model.md."""
        oracle = oracle_curve(self.pools, Grid(n=(N,)))[N]
        first = np.array([pool.right.mean() for pool in self.pools])
        stages = {recording.arm.name: len(recording.pools) for recording in self.recordings}
        return TEXT.format(
            name=NAME,
            problems=len(self.pools),
            n=N,
            window=WINDOW,
            first=self.share(first),
            oracle=self.share(oracle),
            rows="\n".join(self.row(point) for point in self.found.points),
            invalid=", ".join(self.invalid(stage) for stage in ASKED if stage in stages),
            stages=", ".join(f"{stage} {count}" for stage, count in stages.items()),
            speed=self.speed(),
        )


TEXT = """\
# A real model on real problems

Written by `python benchmarks/real_model.py` from the recorded samples in `benchmarks/recordings/real-model/`, for which
no model is needed; do not edit. {name} (bf16 from its Q4_K_M file) in CPU vLLM, one engine in both roles,
{problems} problems after the first 6 of GSM8K's test set, {n} solutions each (temperature 0.7, top-p 0.8, top-k 20, at
most 448 tokens). Accuracy in percent with 95 % bootstrap intervals over problems; differences are paired. Tokens are
those both roles computed for a problem (prompt tokens from a cache are free), FLOPs by the cost model; K=1 of the judge
is charged a quarter of K=4, though the first judgement pays for the prompt that the others find in the cache.

pass@1 {first}, pass@{n} {oracle}.

| choice among {n} | rule | accuracy | minus majority | tokens | TFLOPs |
|---|---|---|---|---|---|
{rows}

`weighted` takes the answer with the largest sum of scores, `best` that of the highest score; where no judgement is
valid, both are the majority. Own confidence is exp of the mean logprob of the solution's tokens, or DeepConf's
confidence (5 alternatives) in its last {window}; both come with the sampling and cost nothing. `GenPRM format` are
GenPRM's messages in its direct mode: p(Yes) of every step, product over steps, a chain ends at the first step below
0.5; the model was never trained on them. The judge grades a whole solution from 0 to 10; it is the same model.

Judgements that could not be read: {invalid}. A reply of the judge that is nothing but a number counts as its grade:
that was decided after 6 other problems, where all 192 replies were such numbers and none had the box that was asked
for; those problems are left out here. Problems finished by stage: {stages}; the table uses those that all have.

{speed} On two cores; engines that were stopped before the end of a piece are not counted.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the model; without it only the report is written")
    parser.add_argument("--dataset", type=Path, help="GSM8K's test.jsonl")
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--skip", type=int, default=6, help="problems to leave out before them")
    parser.add_argument("--at-once", type=int, default=8, help="problems at once")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after so long")
    parser.add_argument("--genprm", type=int, default=4, help="judgements in GenPRM's format")
    parser.add_argument("--work", type=Path, default=Path("runs/real-model"), help="the journal")
    parser.add_argument("--samples", type=Path, default=RECORDINGS, help="recorded samples")
    parser.add_argument("--out", type=Path, default=Path("docs/real-model.md"))
    options = parser.parse_args()
    if options.model:
        if not options.dataset:
            parser.error("--model needs --dataset")
        asyncio.run(Measuring(options).run())
    text = Report(options.samples).text()
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
