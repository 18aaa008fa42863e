import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.backends.base import ModelShape
from tts_engine.compute.budget import Amount
from tts_engine.compute.cost import CostModel, Prices, call_flops
from tts_engine.errors import ConfigError
from tts_engine.types import Usage


def published(d: int, m: int, layers: int, vocabulary: int) -> ModelShape:
    """The published formula's model: multi-head attention, an MLP of two matrices."""
    return ModelShape(layers=layers, width=d, mlp=m, vocabulary=vocabulary, kv_width=d, gated=False)


# d, m, L, V, prompt, completion -> FLOPs, from running the published code (exact integers).
PUBLISHED = [
    ((5120, 27648, 64, 152064), 133, 10602, 625131826708480),
    ((5120, 27648, 64, 152064), 5525, 10500, 980453982208000),
    ((1536, 8960, 28, 1), 5082, 1, 12744068803584),
]
QWEN = ModelShape(layers=28, width=1536, mlp=8960, vocabulary=151936, kv_width=256, gated=True)
counts = st.integers(0, 3000)


@pytest.mark.parametrize(("sizes", "prompt", "completion", "flops"), PUBLISHED)
def test_published_values(sizes: tuple[int, int, int, int], prompt: int, completion: int, flops: int) -> None:
    assert call_flops(published(*sizes), prompt, completion) == flops


def by_counting_matrices(shape: ModelShape, prompt: int, completion: int, cached: int) -> int:
    """Every matrix product of every computed token, one by one."""
    d, kv, total = shape.width, shape.kv_width, 0
    for position in range(cached, prompt + completion):
        generated = position >= prompt
        keys = position if generated else position + 1  # the published convention: a generated token sees those before
        for rows, columns in [(d, d), (d, kv), (d, kv), (d, d)] + [(d, shape.mlp)] * (3 if shape.gated else 2):
            total += shape.layers * 2 * rows * columns
        total += shape.layers * (2 * d * keys + 2 * keys * d)
        total += 2 * d * shape.vocabulary * generated
    return total


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("prompt", "completion", "cached"), [(0, 3, 0), (7, 0, 0), (7, 5, 0), (7, 5, 4), (7, 5, 7)])
def test_equals_counting_every_matrix(prompt: int, completion: int, cached: int, gated: bool) -> None:
    shape = ModelShape(layers=3, width=8, mlp=20, vocabulary=50, kv_width=2, gated=gated)
    assert call_flops(shape, prompt, completion, cached) == by_counting_matrices(shape, prompt, completion, cached)


@given(counts, counts, counts, counts)
def test_a_prefix_is_paid_once(a: int, b: int, c: int, completion: int) -> None:
    low, middle, high = sorted((a, b, c))
    whole = call_flops(QWEN, high, completion, low)
    assert whole == call_flops(QWEN, middle, 0, low) + call_flops(QWEN, high, completion, middle)


@given(counts, counts, st.integers(0, 3000), st.data())
def test_the_upper_bound_is_never_below_the_price(prompt: int, most: int, cancelled: int, data: st.DataObject) -> None:
    cost = CostModel(QWEN, Prices(prompt=0.3, cached=0.3, completion=1.1))
    cancelled = min(cancelled, most)
    completion = data.draw(st.integers(0, most - cancelled))
    usage = Usage(prompt=prompt, cached=data.draw(st.integers(0, prompt)), completion=completion, cancelled=cancelled)
    priced, bound = cost.price(usage), cost.upper_bound(prompt, most)
    assert priced.tokens <= bound.tokens
    assert priced.flops <= bound.flops
    assert priced.dollars <= bound.dollars


def test_dollars_per_million_tokens() -> None:
    cost = CostModel(prices=Prices(prompt=2.0, cached=0.5, completion=8.0))
    usage = cost.price(Usage(prompt=1000, cached=400, completion=90, cancelled=10, seconds=1.5, calls=1))
    assert usage.dollars == (600 * 2.0 + 400 * 0.5 + 100 * 8.0) / 1e6
    assert (usage.flops, usage.seconds, usage.calls) == (0.0, 1.5, 1)


def test_without_a_shape_two_flops_a_parameter_and_token() -> None:
    assert CostModel(parameters=7).flops(prompt=10, completion=5, cached=4) == 2 * 7 * 11
    assert CostModel(parameters=7).counts_flops
    assert CostModel(QWEN).counts_flops
    assert not CostModel().counts_flops


@pytest.mark.parametrize(
    "left", [Amount(), Amount(tokens=40), Amount(flops=9e11), Amount(dollars=3.2e-5), Amount(seconds=0.0)]
)
def test_affordable_tokens_against_trying_them_all(left: Amount) -> None:
    cost = CostModel(QWEN, Prices(prompt=0.5, cached=0.1, completion=1.0))
    for prompt, most in itertools.product((0, 12, 39, 40, 41), (1, 30)):
        fitting = [n for n in range(1, most + 1) if left.fits(cost.upper_bound(prompt, n))]
        assert cost.affordable_tokens(left, prompt, most) == max(fitting, default=0)


def test_affordable_tokens_known_answer() -> None:
    assert CostModel().affordable_tokens(Amount(tokens=100), prompt=60, max_tokens=256) == 40
    assert CostModel().affordable_tokens(Amount(tokens=60), prompt=60, max_tokens=256) == 0


@pytest.mark.parametrize("prices", [{"prompt": -1.0}, {"completion": float("nan")}, {"prompt": 1.0, "cached": 2.0}])
def test_nonsense_prices(prices: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="price"):
        Prices(**prices)
