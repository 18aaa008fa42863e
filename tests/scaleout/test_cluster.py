"""What a worker takes, how many fit, and what is said of a lost one; no Ray needed."""

from __future__ import annotations

import pytest

from tts_engine.config import Config
from tts_engine.errors import ConfigError
from tts_engine.resolving import resolved
from tts_engine.scaleout.cluster import Need, reason
from tts_engine.scaleout.fleet import Fleet

from .conftest import MakeConfig

TWO = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}]


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"),
    [(1.0, 0.0, 11), (2.0, 0.0, 5), (0.5, 0.0, 22), (1.0, 1.0, 2), (5.0, 1.0, 1), (9.0, 0.0, 0)],
)
def test_workers_fit_on_single_machines(cpus: float, gpus: float, room: int) -> None:
    assert Need(cpus=cpus, gpus=gpus).room(TWO) == room


def test_a_worker_gets_a_gpu_where_it_runs_a_model_itself(make_config: MakeConfig) -> None:
    local = resolved(Config.build({}))
    assert Need.of(local, TWO).gpus == 1.0
    assert Need.of(local, TWO[1:]).gpus == 0.0
    assert Need.of(make_config(), TWO).gpus == 0.0  # simulated
    assert Need.of(make_config(ray={"gpus_per_worker": 0.5}), TWO).gpus == 0.5
    voting = make_config(verifier={"name": "none"}, strategy={"name": "self-consistency"})
    assert Need.of(voting, TWO).gpus == 0.0  # the verifier's backend is local, but there is none


def test_one_price_for_all_problems_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="--allocate adaptive"):
        Fleet(make_config(run={"allocate": "adaptive"}), "auto", problems=1)


def test_workers_do_not_change_whose_run_it_is(make_config: MakeConfig) -> None:
    assert make_config(ray={"workers": 3}).digest() == make_config().digest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "The actor died unexpectedly before finishing this task.\n\tpid: 7\nWorker exit type: SYSTEM_ERROR Worker"
            " exit detail: Worker unexpectedly exits with a connection error code 2. End of file.",
            "Worker unexpectedly exits with a connection error code 2",
        ),
        ("The actor died.\nThe actor is dead because its node has died. Node Id: ab", "its node has died"),
        ("The actor failed:\nModuleNotFoundError: No module named 'tts_engine'", "No module named 'tts_engine'"),
        ("The actor is temporarily unavailable", "temporarily unavailable"),
        ("", "no reason given"),
    ],
)
def test_the_reason_is_one_line(text: str, said: str) -> None:
    assert said in reason(text)
    assert "\n" not in reason(text)
