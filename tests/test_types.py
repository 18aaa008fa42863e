"""Values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tts_engine.types import Completion, Finish, Key, Prompt, Request, Role, Sampling, Usage, altered

USAGE = Usage(prompt=7, completion=3, seconds=0.5, calls=1, code_seconds=2.0)
REQUEST = Request(
    role=Role.VERIFY, model="m", prompt=Prompt(messages=()), sampling=Sampling(stop=("a",)), key=Key(1, ("p", 2))
)


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (USAGE, {}),
        (USAGE, {"flops": 1e9, "dollars": 0.25}),
        (REQUEST, {"priority": 3}),
        (Completion(text="x", tokens=1, finish=Finish.EOS, mean_logprob=-1.0, usage=USAGE), {"usage": Usage()}),
        (REQUEST.prompt, {"continuation": ("Step 1: ",)}),
    ],
)
def test_altered_is_dataclasses_replace(value: object, changes: dict[str, object]) -> None:
    before, other = repr(value), altered(value, **changes)
    assert other == replace(value, **changes)  # type: ignore[type-var]
    assert repr(other) == repr(replace(value, **changes))  # type: ignore[type-var]
    assert type(other) is type(value)
    assert hash(other) == hash(replace(value, **changes))  # type: ignore[type-var]
    assert repr(value) == before


def test_a_usage_as_a_dictionary() -> None:
    found = USAGE.asdict()
    assert list(found) == [*Usage.__dataclass_fields__, "tokens"]
    assert (found["prompt"], found["code_seconds"], found["tokens"]) == (7, 2.0, 10)
