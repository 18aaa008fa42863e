import pytest

from tts_engine.compute.budget import Amount, Budget
from tts_engine.errors import ConfigError
from tts_engine.types import Usage


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("tokens=20000,flops=1e12,seconds=30", Budget(tokens=20000, flops=1e12, seconds=30)),
        ("tokens=20k", Budget(tokens=20000)),
        (" tokens = 1.5K , dollars = 0.25 ", Budget(tokens=1500, dollars=0.25)),
        ("flops=1.5e9", Budget(flops=1.5e9)),
        ("flops=3T", Budget(flops=3e12)),
        ("seconds=2m", Budget(seconds=120)),
        ("seconds=1.5h", Budget(seconds=5400)),
        ("seconds=45s", Budget(seconds=45)),
    ],
)
def test_parse(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget
    assert budget.tokens is None or isinstance(Budget.parse(text).tokens, int)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("token=5", "use tokens, flops, seconds, dollars"),
        ("20k", "names no unit"),
        ("", "names no unit"),
        ("tokens=", "not a number"),
        ("tokens=lots", "not a number"),
        ("tokens=0", "above zero"),
        ("flops=-1", "above zero"),
        ("seconds=nan", "above zero"),
        ("dollars=inf", "leave dollars out"),
        ("tokens=inf", "leave tokens out"),
        ("tokens=10.5", "whole number"),
        ("tokens=5,tokens=6", "twice"),
    ],
)
def test_nonsense_names_the_fix(text: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=fix):
        Budget.parse(text)


def test_fits_in_every_unit() -> None:
    call = Usage(prompt=6, cached=1, completion=5, flops=100.0, dollars=0.1)
    assert Amount().fits(call)
    assert Amount(tokens=10, flops=100.0, dollars=0.1, seconds=1.0).fits(call)
    assert not Amount(tokens=9).fits(call)
    assert not Amount(flops=99.0).fits(call)
    assert not Amount(dollars=0.0999).fits(call)
    assert not Amount(seconds=-1.0).fits(call)
