"""Summaries with answers that can be worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tts_engine.report.summary import is_plain, outcome_record, powers, summarize
from tts_engine.types import Failure

PAIRS = [("5", 0.9), ("7", 0.6), ("7", 0.5), (None, None), ("5", 0.1)]
"""Majority: a tie, 5 first. Best score: 5. Weighted vote: 7 with 1.1 against 1.0."""


def test_powers() -> None:
    assert [powers(n) for n in (0, 1, 2, 5, 8)] == [[], [1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


def test_the_record_of_an_outcome(make_outcome: Any) -> None:  # noqa: ANN401
    record = json.loads(json.dumps(outcome_record(make_outcome(PAIRS, pred="7")), allow_nan=False))
    assert record["answer"] == "7"
    assert (record["pred"], record["correct"], record["chosen"], record["level"]) == ("7", True, 1, 2)
    assert record["scores"] == [0.9, 0.6, 0.5, 1.0, 0.1]  # the chain with an unparseable end counts as far as it goes
    assert record["step_scores"][:2] == [[1.0, 0.9], [1.0, 0.6]]
    assert record["completions"][1] == "Step 1: add 3 and 4.\nStep 2: the answer is 7."
    assert {n: record[f"pred_weighted@{n}"] for n in (1, 2, 4, 5)} == {1: "5", 2: "5", 4: "7", 5: "7"}
    assert {n: record[f"pred_naive@{n}"] for n in (1, 2, 4, 5)} == {1: "5", 2: "5", 4: "5", 5: "5"}
    assert {n: record[f"pred_maj@{n}"] for n in (1, 2, 4, 5)} == {1: "5", 2: "5", 4: "7", 5: "5"}
    assert record["usage"]["verify"]["tokens"] == 30 - 20 + 40


def test_the_summary_of_a_run(make_outcome: Any) -> None:  # noqa: ANN401
    failure = Failure(where="backend", error="BackendError", message="gone")
    outcomes = [
        make_outcome(PAIRS, pred="7", name="a"),
        make_outcome([("5", 0.9), ("7", 0.1)], pred="5", name="b", failures=(failure,)),
        make_outcome([("5", 0.9), ("6", 0.1)], pred="5", name="c", stop_reason="budget: problem:c"),
        make_outcome([("8", 0.5)], reference=None, pred="8", name="d"),
    ]
    summary = summarize(outcomes)
    json.dumps(summary, allow_nan=False)
    assert (summary["problems"], summary["graded"]) == (4, 3)
    assert summary["accuracy"]["value"] == pytest.approx(1 / 3)
    assert summary["oracle"]["value"] == pytest.approx(2 / 3)
    assert summary["selection_gap"] == pytest.approx(1 / 3)
    assert summary["tokens_per_problem"] == 30 + 50
    assert summary["flops_per_problem"] == 4e6
    assert summary["invalid_verdicts"] == pytest.approx(1 / 10)
    assert summary["failures"] == {"backend": 1}
    assert summary["stop_reasons"] == {"finished": 3, "budget: problem": 1}
    assert summary["by_level"] == {"2": summary["accuracy"]}
    assert summary["curves"]["weighted@5"]["value"] == pytest.approx(1 / 3)
    assert summary["curves"]["naive@5"]["value"] == 0
    assert "baseline" not in summary


def test_the_comparison_with_not_searching(make_outcome: Any) -> None:  # noqa: ANN401
    outcomes = [make_outcome(PAIRS, pred="7", name=name) for name in "ab"]
    plain = [
        make_outcome([("7", None), ("5", None), ("5", None), ("5", None)], pred="5", name="a"),
        make_outcome([("7", None), ("7", None), ("5", None), ("5", None)], pred="7", name="b"),
    ]
    baseline = summarize(outcomes, plain)["baseline"]
    assert baseline["pass@1"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert baseline["pass@2"] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert baseline["pass@4"] == 1
    assert baseline["majority"]["value"] == 0.5
    assert baseline["samples"] == 4
    assert baseline["gain_over_one_sample"]["value"] == pytest.approx(1 - 3 / 8)
    assert baseline["gain_over_majority"]["value"] == 0.5


def test_nothing_to_grade_and_nothing_at_all(make_outcome: Any) -> None:  # noqa: ANN401
    assert "accuracy" not in summarize([make_outcome([], reference=None)])
    assert summarize([])["problems"] == 0
    empty = summarize([make_outcome([])])
    assert (empty["accuracy"]["value"], empty["invalid_verdicts"]) == (0, None)


def test_plain_samples_are_told_from_searched_ones(make_outcome: Any) -> None:  # noqa: ANN401
    from dataclasses import replace

    outcome = make_outcome(PAIRS)
    assert is_plain([outcome])
    first, *others = outcome.candidates
    deeper = replace(first, candidate=replace(first.candidate, parent=first.candidate.key))
    assert not is_plain([outcome, replace(outcome, candidates=(deeper, *others))])
