"""The configuration: sources and their rank, strictness, messages, digest; signatures as schemas."""

from __future__ import annotations

import inspect
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from tts_engine.config import BackendName, Config, check_params, resolve
from tts_engine.configfile import parse_set
from tts_engine.errors import ConfigError
from tts_engine.strategies import STRATEGIES
from tts_engine.verifiers import VERIFIERS


def test_later_sources_win(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("strategy: {name: best-of-n, n: 4}\nrun: {seed: 1, concurrency: 2}\npolicy: {top_k: 5}\n")
    config = Config.load(path, ["run.seed=2", "run.concurrency=3"], {"run": {"seed": 9}})
    assert (config.run.seed, config.run.concurrency, config.policy.top_k) == (9, 3, 5)
    assert config.strategy.params == {"n": 4}
    assert config.verifier == Config().verifier


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = Config.load(None, ["budget.flops=1e12", "budget.per_problem.tokens=20k", "policy.prices.prompt=2.5"])
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert Config.load(tmp_path / "c.yaml") == config
    assert config.budget.build().flops == 1e12
    assert config.budget.per_problem.build().tokens == 20_000


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().run.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("polcy.n=1", r"no key 'polcy'; did you mean 'policy'\? use one of policy, verifier"),
        ("policy.temprature=1", r"section policy has no key 'temprature'; did you mean 'temperature'\?"),
        ("budget.per_problem.tokns=1", r"section budget.per_problem has no key 'tokns'; did you mean 'tokens'\?"),
        ("policy.prices.zoo=1", r"section policy.prices has no key 'zoo'; use one of prompt, cached, completion"),
        ("verifier.samples=0", "verifier.samples=0 is wrong: it should be greater than or equal to 1"),
        ("verifier.samples=true", "it should be a valid integer"),
        ("run.seed=1.5", "it should be a valid integer"),
        ("budget.seconds=0", "greater than 0"),
        ("budget.seconds=.inf", "finite"),
        ("budget.tokens=many", "is not a number"),
        ("policy.backend=magic", "it should be 'local', 'openai', 'pooling', 'simulated', 'replay' or 'vllm'"),
        ("policy=3", "policy=3 is wrong"),
        ("policy.top_p=0", "greater than 0"),
        ("strategy", "not of the form"),
        ("strategy..n=3", "not of the form"),
        ("strategy.n=[", "not YAML"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Config.load(None, [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1\n", "line 2 is not valid YAML"), ("- 1\n", "not a list"), ("\udcff", "not UTF-8")],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=message):
        Config.load(path)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert Config.load(tmp_path / "c.yaml") == Config()
    with pytest.raises(ConfigError, match="No such file"):
        Config.load(tmp_path / "missing.yaml")


def test_the_verifier_brings_its_embedded_model_unless_one_is_named() -> None:
    assert Config().verifier.model == "embedded:genprm"
    assert Config.load(None, ["verifier.name=prm"]).verifier.model == "embedded:prm"
    assert Config.load(None, ["verifier.name=prm", "verifier.model=x"]).verifier.model == "x"


def test_the_digest_names_what_changes_results() -> None:
    base = Config().digest()
    for same in ("run.concurrency=1", "run.journal=false", "run.baseline=false", "sandbox.workers=5"):
        assert Config.load(None, [same]).digest() == base
    for other in ("run.seed=1", "strategy.n=3", "verifier.samples=2", "budget.tokens=5", "policy.temperature=0.5"):
        assert Config.load(None, [other]).digest() != base


def test_resolving_writes_out_every_parameter_of_the_signatures() -> None:
    config = resolve(Config.load(None, ["strategy.n=4"]), STRATEGIES, VERIFIERS)
    signature = inspect.signature(STRATEGIES["beam"]).parameters
    assert config.strategy.params.keys() == signature.keys() - {"search", "samples"}
    assert config.strategy.params["n"] == 4
    assert config.verifier.params.keys() == inspect.signature(VERIFIERS["genprm"]).parameters.keys() - {
        "model",
        "sandbox",
        "sampling",
    }
    assert resolve(config, STRATEGIES, VERIFIERS) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("strategy.name=bean", r"unknown strategy 'bean'; did you mean 'beam'\?"),
        ("strategy.widht=2", r"strategy beam has no parameter 'widht'; did you mean 'width'\?"),
        ("strategy.n=0", "strategy beam: n=0 is wrong"),
        ("strategy.select=bst", "it should be 'weighted', 'best'"),
        ("strategy.samples=3", "set verifier.samples"),
        ("verifier.name=none", "needs a verifier"),
        ("verifier.name=genprn", r"did you mean 'genprm'\? .*none"),
        ("verifier.params.mode=fast", "verifier genprm: mode='fast' is wrong"),
        ("verifier.params.sandbox=1", "no parameter 'sandbox'"),
    ],
)
def test_resolving_refuses(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(Config.load(None, [setting]), STRATEGIES, VERIFIERS)


def _function(engine: object, *, n: Annotated[int, Field(ge=1)], how: Literal["a", "b"] = "a", x: float = 0.5) -> None:
    """A schema."""


def test_a_signature_is_a_schema() -> None:
    assert check_params(_function, {"n": 2, "x": 1}, "f", ("engine",)) == {"n": 2, "how": "a", "x": 1.0}
    for given_, message in (
        ({}, "f needs the parameter 'n'"),
        ({"n": "2"}, "valid integer"),
        ({"n": 1, "how": "c"}, "'a' or 'b'"),
        ({"n": 1, "engine": 2}, "no parameter 'engine'"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_params(_function, given_, "f", ("engine",))


def test_a_type_that_cannot_be_hashed_is_a_schema_too() -> None:
    def function(n: Annotated[int, Field(ge=1), {"unit": "steps"}]) -> None: ...

    assert check_params(function, {"n": 2}, "f") == {"n": 2}
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        check_params(function, {"n": 0}, "f")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("ab "), lambda inner: st.lists(inner), max_leaves=4
    )
)
def test_set_reads_yaml_values(value: object) -> None:
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    assert parse_set(f"a.b={text}") == {"a": {"b": value}}


def test_floats_without_a_dot_are_numbers() -> None:
    assert parse_set("a=1e-3") == {"a": 0.001}
    assert parse_set("a=20k") == {"a": "20k"}


def test_every_backend_of_the_schema_exists() -> None:
    from tts_engine.backends.factory import BACKENDS

    assert set(BackendName.__args__) == set(BACKENDS)  # type: ignore[attr-defined]


OF_OTHER_COMMANDS = ("accelerate-*", "compare-*", "serve", "train-*", "*-sft")
RUNS = [
    path
    for path in sorted(Path(__file__).parents[1].glob("configs/*.yaml"))
    if not any(fnmatch(path.stem, pattern) for pattern in OF_OTHER_COMMANDS)
]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_ready_made_configurations_are_valid(path: Path) -> None:
    resolve(Config.load(path), STRATEGIES, VERIFIERS)
