"""First-error metrics: the published table, both definitions of votes, what counts as invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tts_engine.report.labelled import Labelled
from tts_engine.report.processbench import (
    f1,
    item_record,
    localisation,
    majority,
    mean_prediction,
    sample_prediction,
    step_pairs,
    summarize,
    total_usage,
)
from tts_engine.types import Problem, StepJudgement, Usage
from tts_engine.verifiers.verdicts import make_verdict

TABLE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "fixtures" / "processbench_table.json").read_text())


def chain(*scores: float | None) -> tuple[StepJudgement, ...]:
    return tuple(StepJudgement(score=score, usage=Usage(completion=10)) for score in scores)


@pytest.mark.parametrize("model", TABLE["rows"])
def test_f1_of_the_published_table(model: str) -> None:
    for err, corr, published in TABLE["rows"][model]:
        assert 100 * f1(err / 100, corr / 100) == pytest.approx(published, abs=TABLE["tolerance"])


@pytest.mark.parametrize("model", TABLE["rows"])
def test_counted_hits_give_the_published_table_within_half_an_item(model: str) -> None:
    for (n_err, n_corr), (err, corr, published) in zip(TABLE["n_err_corr"], TABLE["rows"][model], strict=True):
        hits_err, hits_corr = round(n_err * err / 100), round(n_corr * corr / 100)
        labels = [2] * n_err + [-1] * n_corr
        predictions = [2] * hits_err + [1] * (n_err - hits_err) + [-1] * hits_corr + [0] * (n_corr - hits_corr)
        found = localisation(labels, predictions)
        half = 50 / min(n_err, n_corr) + TABLE["tolerance"]
        for name, expected in (("err_acc", err), ("corr_acc", corr), ("f1", published)):
            assert 100 * found[name]["value"] == pytest.approx(expected, abs=half)
        assert found["f1"]["low"] < found["f1"]["value"] < found["f1"]["high"]
        assert found["counts"] == {"err": n_err, "corr": n_corr}


def test_a_missing_prediction_is_wrong_and_counted() -> None:
    found = localisation([-1, -1, 0], [-1, None, 0])
    assert (found["corr_acc"]["value"], found["err_acc"]["value"], found["invalid"]) == (0.5, 1.0, 1)
    assert found["f1"]["value"] == pytest.approx(2 / 3)
    assert localisation([0, 1], [0, 0])["f1"] is None


def test_what_a_sample_predicts() -> None:
    assert sample_prediction(chain(0.9, 0.4), 3) == 1
    assert sample_prediction(chain(0.9, 0.5, 0.6), 3) == -1
    assert sample_prediction(chain(0.9, None), 3) is None
    assert sample_prediction((), 3) is None


def test_the_two_definitions_of_votes_differ() -> None:
    samples = [chain(0.9, 0.9, 0.9), chain(0.9, 0.6, 0.6), chain(0.01), chain(0.02)]
    verdict = make_verdict(samples, "product")
    assert mean_prediction(verdict, 3) == 0
    assert majority([sample_prediction(sample, 3) for sample in samples]) == -1
    assert majority([0, -1, -1, 0]) == 0


def test_a_step_without_a_valid_judgement_leaves_the_item_without_a_prediction() -> None:
    verdict = make_verdict([chain(0.9, None), chain(None)], "product")
    assert mean_prediction(verdict, 2) is None
    assert mean_prediction(make_verdict([chain(0.9, None), chain(0.8, 0.9)], "product"), 2) == -1


def item(name: str, label: int, prompt: str = "q") -> Labelled:
    return Labelled(problem=Problem(id=name, prompt=prompt), steps=("a", "b"), label=label)


def records() -> list[dict[str, Any]]:
    """Two solutions to q (0.9 right, 0.1 wrong), one to r, one that failed."""
    good, bad = [chain(1.0, 0.9), chain(1.0, 0.9)], [chain(0.1), chain(1.0, 0.8)]
    judged = [(item("1", -1), good), (item("2", 0), bad), (item("3", -1, "r"), bad)]
    found = [item_record(each, {k: make_verdict(samples[:k], "product") for k in (1, 2)}) for each, samples in judged]
    return [*found, item_record(item("4", 1, "r"), {}, failure="BackendError: gone")]


def test_everything_that_is_reported() -> None:
    summary = summarize(records(), (1, 2))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    one, two = summary["samples"]["1"], summary["samples"]["2"]
    assert one["mean"]["err_acc"]["value"] == 0.5
    assert one["mean"]["corr_acc"]["value"] == 0.5
    assert one["mean"]["invalid"] == 1
    assert one["per_solution"]["tokens"] == pytest.approx((20 + 10 + 10) / 3)
    assert two["per_solution"]["tokens"] == pytest.approx((40 + 30 + 30) / 3)
    assert one["auc_within"] == {"value": 1.0, "low": 1.0, "high": 1.0, "problems": 1}
    assert one["auc_pooled"] == pytest.approx(0.75)
    assert two["mean"]["corr_acc"]["value"] == 1.0
    assert summary["failures"] == {"BackendError": 1}
    assert total_usage(records())["tokens"] == 100


def test_steps_after_the_first_error_have_no_label() -> None:
    (found,) = [item_record(item("1", 0), {1: make_verdict([chain(0.9, 0.2)], "min")})]
    assert step_pairs([found], "1") == [(0.9, False)]
