"""Readers of recorded samples: our run folders and sample files, and the forms in which others publish theirs.

A file is recognised by its first row. What a form does not say (tokens, FLOPs, the verifier's cost) stays unknown: it
is reported as not estimable rather than as zero.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tts_engine.config import Config
from tts_engine.errors import DataError
from tts_engine.formats.answers import extract_answer
from tts_engine.problems import list_items, read_text, reference_answer
from tts_engine.report.compare import Recording
from tts_engine.report.pools import Arm, Sample
from tts_engine.report.samplefile import Rows, read_samples, recorded
from tts_engine.report.summary import is_right

Lines = Sequence[tuple[str, Any]]
"""Place and value of each row."""
Recorded = tuple[Arm, Rows]
"""An arm with its samples."""
INDEPENDENT = ("best-of-n", "self-consistency")
"""Strategies whose candidates are independent samples; those of a search cannot be subsampled."""
FORMS = (
    "tts-run folders with independent samples, sample files of tts-compare, and JSON lines with"
    ' {"problem", "answer", "completions", and "scores" if they were judged}'
)


def load_recordings(paths: Iterable[Path], verify_ratio: float | None = None) -> list[Recording]:
    """Every arm that files and run folders record; what they have of the same arm is pooled, as seeds are.

    Args:
        verify_ratio: cost of one judgement in costs of generating what it judges, for recordings that do not say.

    Raises:
        DataError: one cannot be read, is of no known form, or holds no verdicts.
    """
    found: dict[Arm, Rows] = {}
    for path in paths:
        for arm, rows in _load(path):
            found.setdefault(arm, []).extend(_with_ratio(rows, verify_ratio))
    return [recorded(arm, rows) for arm, rows in found.items()]


def _load(path: Path) -> list[Recorded]:
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise DataError(f"there is no recording {path}; give {FORMS}")
    lines = read_lines(path)
    first = lines[0][1] if isinstance(lines[0][1], dict) else {}
    reader = next((read for known, read in _FORMS if known(first)), None)
    if reader is None:
        raise DataError(f"{path} is of no known form; give {FORMS}")
    try:
        return reader(path, lines)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} has a row that is not like its first ({error!r}); see to it") from None


def read_lines(path: Path) -> Lines:
    """Place and value of each JSON line, or of each item of a JSON list. `DataError` where it is neither."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        lines = list(list_items(text, str(path), "row"))
    else:
        lines = [
            (f"{path} line {i}", _json(line, path, i)) for i, line in enumerate(text.split("\n"), 1) if line.strip()
        ]
    if not lines:
        raise DataError(f"{path} is empty; give {FORMS}")
    return lines


def _json(line: str, path: Path, number: int) -> Any:  # noqa: ANN401  # any JSON value
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {number} is not JSON ({error.msg}); give {FORMS}") from None


def _with_ratio(rows: Rows, ratio: float | None) -> Rows:
    """Judgements whose cost is not recorded, priced by what was generated."""
    if ratio is None:
        return rows
    return [(problem, level, [_priced(sample, ratio) for sample in samples]) for problem, level, samples in rows]


def _priced(sample: Sample, ratio: float) -> Sample:
    if not sample.chains or sample.verify:
        return sample
    return replace(sample, verify=[{u: c * ratio * len(sample.chains) for u, c in sample.generate.items()}])


def _folder(path: Path) -> list[Recorded]:
    """A run folder: the chains of each solution are in its trees."""
    if (path / "samples").is_dir():
        return [found for file in sorted((path / "samples").glob("*.jsonl")) for found in _load(file)]
    config = Config.load(path / "config.yaml")
    if config.strategy.name not in INDEPENDENT:
        raise DataError(
            f"{path} holds a run of {config.strategy.name}, whose candidates are no independent samples; record one"
            " with --strategy best-of-n"
        )
    outcomes = {row["id"]: row for _, row in read_lines(path / "outcomes.jsonl")}
    trees = {row["id"]: row for _, row in read_lines(path / "trees.jsonl")}
    rows = [(name, str(row.get("level", "")), _of_tree(row, trees[name])) for name, row in outcomes.items()]
    judged = config.verifier.name if any(sample.chains for _, _, samples in rows for sample in samples) else None
    arm = Arm(
        name=judged or "none",
        policy=config.policy.model,
        verifier=judged,
        aggregation=config.verifier.params.get("aggregation", "product"),
        config=config.model_dump(mode="json"),
    )
    return [(arm, rows)]


def _of_tree(outcome: Mapping[str, Any], tree: Mapping[str, Any]) -> list[Sample]:
    samples: list[Sample] = []
    seen: set[str] = set()
    for node in tree["nodes"][1:]:
        text, answer = node["text"], node.get("answer")
        right = is_right(answer, outcome["answer"])
        chains = [[turn["score"] for turn in chain] for chain in node.get("samples", ())]
        chains = chains or ([node["step_scores"]] if node.get("score") is not None else [])
        found = Sample(text=text, answer=answer, right=right, generate=_spent(node["usage"], text))
        said = "".join(turn["rationale"] for chain in node.get("samples", ()) for turn in chain)
        verify = [_spent(node["verify"], said)] if "verify" in node else []
        samples.append(found if text in seen else replace(found, chains=chains, verify=verify))
        seen.add(text)
    return _scaled(samples, outcome["usage"].get("verify", {}))


def _scaled(samples: Sequence[Sample], spent: Mapping[str, float]) -> list[Sample]:
    """The samples with the verifier's cost as the run paid it: what several of them begin with was judged once."""
    listed = {u: sum(cost.get(u, 0.0) for s in samples for cost in s.verify) for u in ("tokens", "flops")}
    share = {u: spent.get(u, 0.0) / total for u, total in listed.items() if total}
    return [
        replace(s, verify=[{u: c * share.get(u, 1.0) for u, c in cost.items()} for cost in s.verify]) for s in samples
    ]


def _spent(usage: Mapping[str, float], text: str) -> dict[str, float]:
    known = {unit: usage[unit] for unit in ("flops", "seconds", "dollars") if usage.get(unit)}
    return {"tokens": usage["tokens"], "chars": float(len(text)), **known}


def _ours(path: Path, lines: Lines) -> list[Recorded]:
    return [read_samples(path, lines)]


def _completions(path: Path, lines: Lines) -> list[Recorded]:
    """The form of the field: completions with scores (a number, or one for each step), and the reference answer."""
    rows: Rows = []
    for index, (_, row) in enumerate(lines):
        reference = reference_answer(row)
        answers = row.get("answers") or [extract_answer(text) for text in row["completions"]]
        scores = row.get("scores") or [None] * len(answers)
        right = row.get("right") or [is_right(answer, reference) for answer in answers]
        samples = [
            Sample(text=text, answer=a, right=ok, chains=_scores(score), generate={"chars": float(len(text))})
            for text, a, ok, score in zip(row["completions"], answers, right, scores, strict=True)
        ]
        rows.append((str(row.get("id", row.get("unique_id", index))), str(row.get("level", "")), samples))
    return [(_arm(path, rows), rows)]


def _scores(score: Any) -> list[list[float]]:  # noqa: ANN401  # any JSON value
    if score is None:
        return []
    return [list(map(float, score))] if isinstance(score, list) else [[float(score)]]


def _rewarded(path: Path, lines: Lines) -> list[Recorded]:
    """Samples with verdicts in `score` and a reward model's logit in `pred_score` (Qwen2.5-Math with its reward model).

    A reward has no natural zero; as a weight it is taken through the logistic function, as the model was trained.
    """
    from math import exp

    rows: Rows = []
    for _, row in lines:
        samples = [
            Sample(
                text=text,
                answer=answer or None,
                right=bool(right),
                chains=[[1.0 / (1.0 + exp(-float(reward)))] for reward in rewards],
                generate={"chars": float(len(text))},
            )
            for text, answer, right, rewards in zip(
                row["code"], row["pred"], row["score"], row["pred_score"], strict=True
            )
        ]
        rows.append((str(row["idx"]), str(row.get("level", "")), samples))
    return [(replace(_arm(path, rows), aggregation="mean"), rows)]


def _systems(path: Path, lines: Lines) -> list[Recorded]:
    """One solution by each of several systems (GSM8K's example_model_solutions): an arm each, and all of them pooled.

    The systems differ in size and in how much they sampled, which the file does not say: no cost is estimable.
    """
    by_system: dict[str, Rows] = defaultdict(list)
    for index, (_, row) in enumerate(lines):
        for system, given in row.items():
            if isinstance(given, dict):
                answer = given["solution"].rpartition("A:")[2].strip() or None
                sample = Sample(text=f"{system}: {given['solution']}", answer=answer, right=given["is_correct"])
                by_system[system].append((str(index), "", [sample]))
    return _pooled(by_system)


def _graded(path: Path, lines: Lines) -> list[Recorded]:
    """One answer a line by one of several models, with its verdict (ZeroEval): an arm each, and all of them pooled."""
    by_model: dict[str, Rows] = defaultdict(list)
    for _, row in lines:
        sample = Sample(text=f"{row['model']}: {row['answer']}", answer=row["answer"], right=row["correct"])
        by_model[row["model"]].append((str(row["id"]), "", [sample]))
    return _pooled(by_model)


def _pooled(by_system: Mapping[str, Rows]) -> list[Recorded]:
    every = [row for rows in by_system.values() for row in rows]
    arms = [(Arm(name=name, policy=name), rows) for name, rows in by_system.items()]
    return [*arms, (Arm(name="all systems", policy="all systems"), every)]


def _puzzles(path: Path, lines: Lines) -> list[Recorded]:
    """Many tries at each puzzle with their verdicts (Tree of Thoughts' Game of 24); no answers to vote on."""
    rows: Rows = []
    for _, row in lines:
        samples = [
            Sample(text=text, answer=None, right=bool(info["r"]), generate={"chars": float(len(text))})
            for text, info in zip(row["ys"], row["infos"], strict=True)
        ]
        rows.append((str(row["idx"]), "", samples))
    return [(_arm(path, rows), rows)]


def _arm(path: Path, rows: Rows) -> Arm:
    """An arm named after its file."""
    name = path.name.partition(".json")[0]
    judged = any(sample.chains for _, _, samples in rows for sample in samples)
    return Arm(name=name, policy=name, verifier="recorded" if judged else None)


Known = Callable[[Mapping[str, Any]], bool]
Reader = Callable[[Path, Lines], list[Recorded]]

_FORMS: tuple[tuple[Known, Reader], ...] = (
    (lambda row: "arm" in row, _ours),
    (lambda row: "pred_score" in row and "code" in row, _rewarded),
    (lambda row: "completions" in row, _completions),
    (lambda row: "ys" in row and "infos" in row, _puzzles),
    (lambda row: any(isinstance(v, dict) and "is_correct" in v for v in row.values()), _systems),
    (lambda row: {"model", "answer", "correct"} <= row.keys(), _graded),
)
