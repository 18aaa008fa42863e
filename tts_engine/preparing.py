"""From what is asked for to a job: parameters checked, the problem measured, nothing paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tts_engine.config import check_params, judges, lookup
from tts_engine.errors import ConfigError, DataError
from tts_engine.formats.policy import solve_prompt
from tts_engine.jobs import Job, Run
from tts_engine.parts import Parts
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Key, Problem, Sampling


def bind_strategy(name: str, params: Mapping[str, Any], samples: int | None) -> Run:
    """The named strategy with its parameters.

    Args:
        samples: verifier samples for each candidate; None where there is no verifier.

    Raises:
        ConfigError: unknown strategy or parameter, or it needs a verifier.
    """
    function = lookup(name, STRATEGIES, "strategy")
    checked = check_params(function, params, f"strategy {name}", ("search", "samples"))
    if judges(function):
        if samples is None:
            raise ConfigError(f"strategy {name} needs a verifier: choose one, or use self-consistency")
        checked["samples"] = samples
    return partial(function, **checked)


def make_job(
    parts: Parts,
    problem: Problem,
    strategy: Run,
    key: Key,
    judging: str | None,
    *,
    priority: int = 0,
    sampling: Sampling | None = None,
) -> Job:
    """Everything about one problem; arguments as for `Job`, `judging` names the verifier, `sampling` None is as usual.

    Raises:
        DataError: the problem leaves the policy no room.
    """
    policy = parts.policy if sampling is None else replace(parts.policy, sampling=sampling)
    model = parts.models[policy.model]
    prompt = model.backend.count_tokens(solve_prompt(problem.prompt))
    room = model.backend.info.context - prompt
    if room < 1:
        raise DataError(
            f"problem {problem.id} has {prompt} tokens, but {policy.model} takes {model.backend.info.context}:"
            " shorten it or use a policy with a longer context"
        )
    return Job(
        problem=problem,
        strategy=strategy,
        policy=policy,
        verifier=parts.verifiers[judging] if judging else None,
        key=key,
        whole=model.cost.upper_bound(prompt, min(policy.sampling.max_tokens, room)),
        step=model.cost.upper_bound(prompt, min(policy.step_tokens, room)),
        priority=priority,
    )
