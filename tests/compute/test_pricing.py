"""One price for all problems: the curve, and a pacer that just uses its budget."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.compute.pricing import Pacer, price_for, rounded

CURVE = ((0.08, 2.0), (0.02, 8.0), (0.005, 32.0))


def test_prices_from_the_curve() -> None:
    assert price_for(8.0, CURVE) == pytest.approx(0.02)
    assert price_for(4.0, CURVE) == pytest.approx(0.04)
    assert price_for(0.1, CURVE) == pytest.approx(0.08)
    assert price_for(1e3, CURVE) == pytest.approx(0.005)


@given(st.floats(1e-4, 1.0))
def test_rounded_prices_are_near(price: float) -> None:
    assert rounded(price) == pytest.approx(price, rel=0.1)
    assert rounded(rounded(price)) == rounded(price)


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.0])
def test_the_budget_is_just_used_even_where_the_curve_is_wrong(truth: float) -> None:
    """Problems cost `truth` times what the curve says, with wide scatter; prices correct for it."""
    draw, pacer, spent = random.Random(1), Pacer(CURVE, total=2400.0, problems=200), 0.0
    running: list[tuple[float, float]] = []
    for _ in range(200):
        if len(running) == 8:
            pacer.settle(*running.pop(0))
        price, planned = pacer.next()
        took = truth * 0.16 / price * draw.expovariate(1.0)
        running.append((planned, took))
        spent += took
    assert spent == pytest.approx(2400.0, rel=0.15)
