"""From a request to what the engine is asked to do: names resolved, limits kept, everything checked, nothing paid."""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tts_engine.compute.budget import Budget
from tts_engine.compute.stopping import VoteRule
from tts_engine.config import judges
from tts_engine.errors import TTSError
from tts_engine.jobs import Job
from tts_engine.run import Engine
from tts_engine.serve.problems import Refusal, refusal
from tts_engine.serve.schema import ChatMessage, ChatRequest, CompletionRequest, Limits, Options, VerifyRequest
from tts_engine.serve.settings import ServeConfig
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Key, Message, Problem, Prompt, Sampling

WORDS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
PLAIN = "plain"
"""The name of doing without a search: the policy's model as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a completion request comes to.

    Attributes:
        jobs: one a choice; empty for plain calls of the policy's model.
        content: the problem, as text.
        prompt, sampling, choices: for plain calls.
        strategy: its name, or `plain`; params: those the request gave.
        seed: of all random draws, drawn where the request gave none.
        budget: of the whole request, which came at `began` (monotonic seconds).
    """

    strategy: str
    verifier: str | None
    seed: int
    sampling: Sampling
    options: Options
    content: str
    prompt: Prompt
    choices: int
    budget: Budget
    params: Mapping[str, Any]
    jobs: Sequence[Job] = ()
    began: float

    def key(self, choice: int) -> Key:
        """Where the random draws of a plain call come from."""
        return Key(self.seed, (PLAIN, choice))


def models(engine: Engine) -> list[str]:
    """The names under which the policy can be asked: by itself, and with each strategy that can be run here."""
    policy = engine.config.policy.model
    return [policy, *(f"{name}/{policy}" for name in STRATEGIES if engine.verifiers or not judges(STRATEGIES[name]))]


def takes(strategy: str) -> dict[str, Any]:
    """Whether a strategy has use for a verifier, and what `tts` may say to it besides what it may say to all."""
    function = STRATEGIES[strategy]
    names = [name for name in inspect.signature(function).parameters if name not in ("search", "samples")]
    return {"verifier": judges(function), "parameters": names}


def plan_chat(engine: Engine, request: ChatRequest, limits: ServeConfig) -> Plan:
    """The plan of a chat completion. Raises Refusal."""
    messages = tuple(Message(role=_role(m), content=m.text) for m in request.messages)
    if request.messages[-1].role != "user":
        raise Refusal(400, "the last message must be the user's", "invalid_value", param="messages")
    if not messages[-1].content.strip():
        raise Refusal(400, "the last message is empty; ask something", "invalid_value", param="messages")
    return _plan(engine, request, limits, one_text(request.messages), Prompt(messages=messages))


def plan_completion(engine: Engine, request: CompletionRequest, limits: ServeConfig) -> Plan:
    """The plan of a completion: plain, the model goes on with the text; with a strategy, it is the problem."""
    text = request.text
    return _plan(engine, request, limits, text, Prompt(messages=(), continuation=(text,), generation_prompt=False))


def one_text(messages: Sequence[ChatMessage]) -> str:
    """A conversation as the one text that a search (and its verifier) works on.

    A single user message is taken as it is; system messages stand before it; earlier turns are quoted by their roles.
    """
    *before, last = messages
    if not before:
        return last.text
    if all(message.role in ("system", "developer") for message in before):
        return "\n\n".join(message.text for message in messages)
    return "\n\n".join(f"{WORDS[message.role]}: {message.text}" for message in messages)


def budget_of(given: str | Limits | None, seconds: float) -> Budget:
    """The budget of a request, at most so many seconds.

    Raises:
        Refusal: it makes no sense.
    """
    try:
        budget = Budget.parse(given) if isinstance(given, str) else Budget(**(given.model_dump() if given else {}))
    except (TTSError, OverflowError) as error:
        raise Refusal(400, str(error), "invalid_value", param="budget") from None
    return replace(budget, seconds=min(budget.seconds or seconds, seconds))


def check_samples(given: int | str | None, limits: ServeConfig) -> None:
    """Refuse too many verifier samples, and an `auto` that is none."""
    try:
        number = VoteRule.parse(given[:64]).most if isinstance(given, str) else given or 1
    except TTSError as error:
        raise refusal(error) from None
    if number > limits.samples:
        message = f"{number} verifier samples are too many; take at most {limits.samples}"
        raise Refusal(400, message, "invalid_value", param="verifier_samples")


def check_verify(engine: Engine, request: VerifyRequest, limits: ServeConfig) -> str:
    """The verifier that a request for verification names.

    Raises:
        Refusal: there is none of the kind, or too much is asked of it.
    """
    if len(request.steps) > limits.steps:
        raise Refusal(
            400, f"{len(request.steps)} steps are too many; send at most {limits.steps}", "invalid_value", param="steps"
        )
    try:
        name = engine.judging(request.verifier)
    except TTSError as error:
        raise refusal(error) from None
    if name is None:
        raise Refusal(
            400,
            f"name a verifier: {', '.join(engine.verifiers) or 'this gateway has none'}",
            "invalid_value",
            param="verifier",
        )
    return name


def _plan(
    engine: Engine, request: ChatRequest | CompletionRequest, limits: ServeConfig, text: str, prompt: Prompt
) -> Plan:
    options = request.tts or Options()
    strategy = _strategy(engine, request)
    choices = request.n or 1
    if choices > limits.choices:
        raise Refusal(
            400, f"n={choices} choices are too many; take at most {limits.choices}", "invalid_value", param="n"
        )
    seed = _seed(request.seed, options.seed)
    plan = Plan(
        strategy=strategy,
        verifier=None,
        seed=seed,
        sampling=_sampling(engine, request),
        options=options,
        prompt=prompt,
        choices=choices,
        budget=budget_of(options.budget, limits.deadline),
        params=_params(options, limits),
        content=text,
        began=time.monotonic(),
    )
    if strategy == PLAIN:
        return plan
    check_samples(options.verifier_samples, limits)
    try:
        verifier = engine.judging(options.verifier)
        jobs = [
            engine.prepare(
                Problem(id="problem" if i == 0 else f"problem-{i}", prompt=text),
                strategy=strategy,
                verifier=options.verifier,
                verifier_samples=options.verifier_samples,
                seed=seed,
                sampling=plan.sampling,
                **plan.params,
            )
            for i in range(choices)
        ]
    except TTSError as error:
        raise refusal(error) from None
    _check_judged(strategy, options)
    return replace(plan, jobs=jobs, verifier=verifier if judges(STRATEGIES[strategy]) else None)


def _check_judged(strategy: str, options: Options) -> None:
    """Refuse what is said of a verifier to a strategy that asks none."""
    for name in ("verifier", "verifier_samples"):
        if not judges(STRATEGIES[strategy]) and getattr(options, name) not in (None, "none"):
            message = f"{strategy} asks no verifier; leave {name} out, or take another strategy"
            raise Refusal(400, message, "invalid_value", param=f"tts.{name}")


def _role(message: ChatMessage) -> Any:  # noqa: ANN401  # one of the three roles of the engine
    return "system" if message.role == "developer" else message.role


def _strategy(engine: Engine, request: ChatRequest | CompletionRequest) -> str:
    """The strategy's name, from the model's name, from `tts`, or the configured one."""
    policy, name, options = engine.config.policy.model, request.model, request.tts
    wanted = options.strategy if options else None
    prefix, _, rest = name.partition("/")
    if name != policy and (rest != policy or prefix not in STRATEGIES):
        message = (
            f"there is no model {name[:80]!r}; use {policy}, or STRATEGY/{policy} with one of {', '.join(STRATEGIES)}"
        )
        raise Refusal(404, message, "model_not_found", param="model")
    if name == policy:
        return (wanted or engine.config.strategy.name) if options else PLAIN
    if wanted is not None and wanted != prefix:
        message = f"the model says strategy {prefix} and tts.strategy says {wanted[:80]}; say it once"
        raise Refusal(400, message, "invalid_value", param="tts.strategy")
    return prefix


def _seed(outer: int | None, inner: int | None) -> int:
    if outer is not None and inner is not None and outer != inner:
        raise Refusal(400, "seed and tts.seed differ; give one", "invalid_value", param="tts.seed")
    given = outer if outer is not None else inner
    return secrets.randbits(32) if given is None else given


def _sampling(engine: Engine, request: ChatRequest | CompletionRequest) -> Sampling:
    given: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p, "max_tokens": request.limit}
    sampling = replace(engine.sampling, **{key: value for key, value in given.items() if value is not None})
    return replace(sampling, stop=request.stops)


def _params(options: Options, limits: ServeConfig) -> dict[str, Any]:
    """The strategy's own parameters; none of them may be used to fill the memory."""
    params = dict(options.model_extra or {}) | ({} if options.n is None else {"n": options.n})
    for name, value in params.items():
        values = value if isinstance(value, list) else [value]
        if len(values) > 64 or any(isinstance(each, int | float) and abs(each) > limits.parameter for each in values):
            message = f"tts.{name[:64]} is too large; take at most {limits.parameter}"
            raise Refusal(400, message, "invalid_value", param=f"tts.{name[:64]}")
    reserved = params.keys() & {"strategy", "problem", "sampling", "search", "samples"}
    if reserved:
        name = min(reserved)
        fix = "verifier_samples" if name == "samples" else "another name"
        raise Refusal(400, f"tts.{name} is not a parameter; use {fix}", "unknown_parameter", param=f"tts.{name}")
    return params
