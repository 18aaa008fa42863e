"""A real model on real problems, on a CPU: write docs/real-model.md.

    python benchmarks/real_model.py --model DIR --dataset gsm8k/test.jsonl --minutes 10    # measure, or go on
    python benchmarks/real_model.py                                                        # the report, without a model

DIR is Qwen2.5-Coder-0.5B-Instruct in Hugging Face format; the backend is vLLM in this process, one engine for both
roles. Each problem gets N=8 solutions. Every solution is judged once in GenPRM's format (the mode without reasoning: an
instruct model does not know the tags of the others), and K=4 times by the same model as a judge that grades it. Every
call is in the journal below --work before it is used, so a measurement can be stopped at any time and goes on where it
was; what is finished is written to --samples, from which the report is made by exact subsampling
(tts_engine/report/subsample.py).
"""

from __future__ import annotations

import argparse
import asyncio
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
from tts_engine.report.pools import Arm, Array, Sample, known_units, samples_of
from tts_engine.report.recordings import load_recordings
from tts_engine.report.samplefile import write_samples
from tts_engine.types import Aggregation, Verdict

N = 8
NAME = "Qwen2.5-Coder-0.5B-Instruct"
STAGES = {"samples": 0, "genprm": 1, "judge": 4}
"""What is done, one after the other, and how many judgements of a solution it takes."""
AGGREGATION: dict[str, Aggregation] = {"genprm": "product", "judge": "mean"}
SELECTORS = ("majority", "confidence", "best", "weighted")


def configuration(model: Path) -> Config:
    """One engine in both roles. Sampling is the one that the model's makers advise."""
    options = {"context": 2048, "slots": 64, "engine": {"block_size": 32}}
    policy = {"backend": "vllm", "model": str(model), "options": options, "max_tokens": 448}
    policy |= {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    params = {"mode": "direct", "generation_prompt": True}
    genprm = {"name": "genprm", "backend": "vllm", "model": str(model), "params": params}
    return Config.build({"policy": policy, "verifier": genprm, "strategy": {"name": "best-of-n", "n": N}})


def judge(model: Path) -> VerifierConfig:
    """The same model as a judge of whole solutions."""
    params = {"ask": "grade", "tokens": 256}
    return VerifierConfig.model_validate(
        {"name": "judge", "backend": "vllm", "model": str(model), "temperature": 0.7, "params": params}
    )


class Measuring:
    """Works the stages off, as far as the time goes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._problems = load_problems(str(options.dataset))[: options.problems]
        self._found: dict[str, list[tuple[Problem, Outcome]]] = {stage: [] for stage in STAGES}

    async def run(self) -> None:
        """Fill the files of samples with what could be finished."""
        work: Path = self._options.work
        work.mkdir(parents=True, exist_ok=True)
        config, judging = configuration(self._options.model), judge(self._options.model)
        engine = Engine(config, journal=work / "journal.sqlite", resume=True, verifiers=[judging])
        async with engine:
            try:
                async with asyncio.timeout(60 * self._options.minutes if self._options.minutes else None):
                    await self._all(engine)
            except TimeoutError:
                print("time is over: go on with the same command")
        self._write()

    async def _all(self, engine: Engine) -> None:
        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
        gate = asyncio.Semaphore(self._options.at_once)
        with Progress(*columns) as progress:
            task = progress.add_task("problems", total=len(self._problems))

            async def one(problem: Problem) -> None:
                async with gate:
                    for stage in STAGES:
                        self._found[stage].append((problem, await self._stage(engine, stage, problem, progress)))
                progress.advance(task)

            async with asyncio.TaskGroup() as group:
                for problem in self._problems:
                    group.create_task(one(problem))

    async def _stage(self, engine: Engine, stage: str, problem: Problem, progress: Progress) -> Outcome:
        """The solutions of a problem, judged or not: the journal knows those of the stage before."""
        strategy = "best-of-n" if STAGES[stage] else "self-consistency"
        how: dict[str, Any] = {"verifier": stage, "verifier_samples": STAGES[stage]} if STAGES[stage] else {}
        outcome = await engine.solve(problem, strategy=strategy, n=N, **how)
        for failure in outcome.failures:
            progress.console.print(f"{problem.id}, {stage}: {failure.where}: {failure.message}")
        return outcome

    def _write(self) -> None:
        folder: Path = self._options.samples
        folder.mkdir(parents=True, exist_ok=True)
        for stage, found in self._found.items():
            if not found:
                continue
            verifier = stage if STAGES[stage] else None
            arm = Arm(name=stage, policy=NAME, verifier=verifier, aggregation=AGGREGATION.get(stage, "product"))
            pairs = [(problem, samples(outcome)) for problem, outcome in sorted(found, key=lambda pair: pair[0].id)]
            write_samples(folder / f"{stage}.jsonl", arm, pairs)


def samples(outcome: Outcome) -> list[Sample]:
    """The solutions; a judge's opinion of a whole solution is a chain of one score."""
    verdicts = [judged.verdict for judged in outcome.candidates]
    pairs = zip(samples_of(outcome), verdicts, strict=True)
    return [_whole(sample, verdict) if verdict and _is_whole(verdict) else sample for sample, verdict in pairs]


def _is_whole(verdict: Verdict) -> bool:
    return bool(verdict.samples) and not verdict.step_scores


def _whole(sample: Sample, verdict: Verdict) -> Sample:
    if not sample.chains:  # an equal text was judged before
        return sample
    chains = [[chain[-1].score] for chain in verdict.samples]
    return replace(sample, chains=chains, verify=[known_units(verdict.usage, 0)], prefixes=[])


class Report:
    """The figures, and how they are written."""

    def __init__(self, folder: Path) -> None:
        files = [folder / f"{stage}.jsonl" for stage in STAGES if (folder / f"{stage}.jsonl").is_file()]
        if not files:
            raise DataError(f"{folder} holds no samples: measure first, with --model and --dataset")
        self.recordings = load_recordings(files)
        self.found: Comparison = compare(self.recordings, (), Grid(n=(1, 2, 4, N), k=(1, 4), selectors=SELECTORS))

    def share(self, statistic: Array) -> str:
        """Percent with its interval."""
        found = self.found.bootstrap.interval(statistic)
        return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"

    def row(self, point: Point) -> str:
        """A line of the table."""
        setting = point.setting
        who = {"majority": "majority", "confidence": "vote by own confidence"}.get(setting.select)
        who = who or f"{setting.arm.name}, K={setting.k}, {setting.select}"
        tokens, flops = point.mean_cost("tokens"), point.mean_cost("flops") / 1e12
        gain = self.share(point.accuracy - self.majority(setting.n).accuracy)
        return f"| {who} | {self.share(point.accuracy)} | {gain} | {tokens:,.0f} | {flops:.2f} |"

    def majority(self, n: int) -> Point:
        """The plain vote of n."""
        return next(p for p in self.found.points if p.setting.plain and p.setting.n == n)

    def invalid(self, stage: str) -> str:
        """Share of a verifier's judgements that could not be read."""
        chains = [chain for r in self.recordings if r.arm.name == stage for pool in r.pools for chain in pool.chains]
        first = np.concatenate([chain[:, 0] for chain in chains if chain.size])
        return f"{100 * float(np.isnan(first).mean()):.0f} %"

    def text(self) -> str:
        """docs/real-model.md."""
        pools = self.found.recordings[0].pools
        best = oracle_curve(pools, Grid(n=(N,)))[N]
        first = np.array([pool.right.mean() for pool in pools])
        rows = [self.row(point) for point in self.found.points if point.setting.n == N]
        stages = {recording.arm.name: len(recording.pools) for recording in self.recordings}
        judged = [stage for stage in stages if STAGES[stage]]
        return "\n".join(
            [
                "# A real model on real problems",
                "",
                "Written by `python benchmarks/real_model.py` from the recorded samples in `docs/real-model/`; do not"
                f" edit. {NAME} (bf16 from its Q4_K_M file), vLLM on a CPU, one engine in both roles,"
                f" {len(pools)} problems of GSM8K's test set, {N} solutions each (temperature 0.7, top-p 0.8, top-k 20,"
                " at most 448 tokens). Percent with 95 % bootstrap intervals over problems; differences are paired."
                " Tokens are those both roles computed for one problem, prompt tokens from a cache free; FLOPs by the"
                " cost model.",
                "",
                f"One solution: {self.share(first)}. At least one of {N} right: {self.share(best)}.",
                "",
                f"| choice among {N} | accuracy | minus majority | tokens | TFLOPs |",
                "|---|---|---|---|---|",
                *rows,
                "",
                "Judgements that could not be read: "
                + (", ".join(f"{stage} {self.invalid(stage)}" for stage in judged) or "none were made")
                + ". Problems finished by stage: "
                + ", ".join(f"{stage} {count}" for stage, count in stages.items())
                + "; the table uses those that all have.",
                "",
                "A reply of the judge that is nothing but a number counts as its grade: decided after the first 6"
                " problems, where all 192 replies were, and none had the box that was asked for.",
                "",
                "`genprm`: GenPRM's messages in its direct mode, p(Yes) of every step, product over steps; the model"
                " was never trained on them. `judge`: the model grades a solution from 0 to 10. `best` takes the answer"
                " of the highest score, `weighted` that with the largest sum of scores; where no judgement is valid,"
                " both are the majority.",
                "",
            ]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the model; without it only the report is written")
    parser.add_argument("--dataset", type=Path, help="GSM8K's test.jsonl")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--at-once", type=int, default=8, help="problems at once")
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--work", type=Path, default=Path("runs/real-model"), help="the journal")
    parser.add_argument("--samples", type=Path, default=Path("docs/real-model"), help="recorded samples")
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
