"""A stochastic task with known truth, for the simulated backend: chains of arithmetic, a policy that errs at a known
rate and a verifier with known rates of true and false alarms.

    Start with 17. Add 5. Multiply by 3. What is the result?
    Step 1: 17+5=22.
    Step 2: 22*3=66. The answer is \\\\boxed{66}.

Everything written is a pure function of the prompt and the request's key. Truth is recomputed from the text: a step is
right when it takes up the value of the step before, applies the problem's next operation, and calculates correctly.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

from tts_engine.errors import BackendError, ConfigError
from tts_engine.formats import genprm, prm
from tts_engine.formats.policy import heading
from tts_engine.types import Key, Problem, Prompt

VERBS = {"Add": "+", "Subtract": "-", "Multiply by": "*"}
SLIPS = (-10, -2, -1, 1, 2, 10)
"""How far off a wrong result is: few ways, so that wrong answers agree with each other now and then."""

_START = re.compile(r"Start with (-?\d+)\.")
_OPERATION = re.compile(rf"({'|'.join(VERBS)}) (\d+)\.")
_CLAIM = re.compile(r"(-?\d+)([+*-])(\d+)=(-?\d+)")

Operation = tuple[str, int]


def apply(value: int, operation: Operation) -> int:
    """The value after `+`, `-` or `*` with a number."""
    sign, number = operation
    return {"+": value + number, "-": value - number, "*": value * number}[sign]


def read_problem(text: str) -> tuple[int, list[Operation]]:
    """The start value and the operations of a problem, from any text that contains it.

    Raises:
        BackendError: the text has no problem of this task.
    """
    start = _START.search(text)
    operations = [(VERBS[verb], int(number)) for verb, number in _OPERATION.findall(text)]
    if start is None or not operations:
        raise BackendError("the simulated model solves only problems of its own task; make them with Task.problem")
    return int(start[1]), operations


def is_right(problem: str, steps: tuple[str, ...]) -> bool:
    """Whether the last of `steps` follows from the one before it and the problem."""
    start, operations = read_problem(problem)
    claims = [_CLAIM.search(step) for step in steps]
    last, before = claims[-1], claims[-2] if len(claims) > 1 else None
    if last is None or len(steps) > len(operations):
        return False
    value = start if len(steps) == 1 else (int(before[4]) if before else None)
    operation = (last[2], int(last[3]))
    return value == int(last[1]) and operation == operations[len(steps) - 1] and apply(value, operation) == int(last[4])


@dataclass(frozen=True, slots=True)
class Writing:
    """What the model would write up to the end of its turn; `chance` is p(Yes) (or p(+)) where it judges."""

    text: str
    chance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The task and how well it is done; all rates in [0, 1].

    Attributes:
        error_rate: chance of a wrong result in a step of a problem of average difficulty.
        spread: how much that varies between problems: it is multiplied by a number in [1 - spread, 1 + spread] that
            the problem's text determines.
        true_positive: chance that the verifier says Yes to a right step.
        false_positive: chance that it says Yes to a wrong step.
        invalid_rate: chance that its judgement cannot be parsed.
        confidence: the word it says has a probability between this and 1.
    """

    error_rate: float = 0.15
    spread: float = 0.0
    true_positive: float = 0.95
    false_positive: float = 0.15
    invalid_rate: float = 0.0
    confidence: float = 0.8

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} of the simulated task must be between 0 and 1")

    def problem(self, key: Key, steps: int = 3) -> Problem:
        """A random problem of so many steps."""
        draw = random.Random(key.int())
        value = start = draw.randint(2, 60)
        sentences = []
        for _ in range(steps):
            verb = draw.choice(list(VERBS))
            number = draw.randint(2, 5) if verb == "Multiply by" else draw.randint(2, 40)
            value = apply(value, (VERBS[verb], number))
            sentences.append(f"{verb} {number}.")
        text = f"Start with {start}. {' '.join(sentences)} What is the result?"
        return Problem(id=str(key), prompt=text, answer=str(value), meta={"steps": steps})

    def error_rate_of(self, problem: str) -> float:
        """The chance of a wrong result in each step of that problem."""
        name = repr(read_problem(problem))
        factor = 1 + self.spread * (2 * _draw(name, Key(0)).random() - 1)
        return min(1.0, self.error_rate * factor)

    def write(self, prompt: Prompt, key: Key) -> Writing:
        """The whole continuation of a prompt, by the verifier where the protocol of formats/genprm.py or formats/prm.py
        asks for one, else by the policy.

        Raises:
            BackendError: the prompt has no problem of this task.
        """
        users = tuple(message.content for message in prompt.messages if message.role == "user") or ("",)
        said = "".join(prompt.continuation)
        if said.endswith(prm.MARKER):
            chance = self._chance(users[0], prompt.continuation[::2], _draw(users[0] + said, key))
            return Writing(prm.GOOD if chance >= 0.5 else prm.BAD, chance)
        if any(message.role == "system" for message in prompt.messages):
            return self._verify(users, said, key)
        return Writing(self._solve(users[0], said, key))

    def _solve(self, problem: str, said: str, key: Key) -> str:
        value, operations = read_problem(problem)
        claims = _CLAIM.findall(said)
        value = int(claims[-1][3]) if claims else value
        error_rate, steps = self.error_rate_of(problem), []
        for index in range(len(claims), len(operations)):
            operation = operations[index]
            draw = _draw(f"{value}{operations}", key.child(index))
            slip = draw.choice(SLIPS) if draw.random() < error_rate else 0
            result = apply(value, operation) + slip
            steps.append(f"{heading(index)}{value}{operation[0]}{operation[1]}={result}.")
            value = result
        text = "\n".join(steps) + f" The answer is \\boxed{{{value}}}."
        return text.removeprefix(heading(len(claims))) if said.endswith(heading(len(claims))) else text

    def _verify(self, users: tuple[str, ...], said: str, key: Key) -> Writing:
        claim = _CLAIM.search(users[-1])
        shown = claim[0] if claim else "nothing to check"
        if said.endswith(genprm.VERIFY):
            left, _, right = shown.partition("=")
            code = f"print(r:={left}, r=={right})" if claim else "print()"
            return Writing(code + genprm.CODE_END)
        draw = _draw("\x1e".join(users), key)
        direct = said.endswith(genprm.OUTPUT)
        if not (direct or said.endswith(genprm.CODE_END)):
            return Writing(f"It claims {shown}.\n{genprm.ANALYZE_END}")
        chance = self._chance(users[0], users, draw)
        word = genprm.JUDGEMENTS[chance < 0.5]
        if draw.random() < self.invalid_rate:
            word = "Perhaps"
        text = genprm.verdict_text(word)
        return Writing(text.removeprefix(genprm.OUTPUT) if direct else genprm.VERIFY_END + text, chance)

    def _chance(self, problem: str, steps: tuple[str, ...], draw: random.Random) -> float:
        """p(Yes) of a judgement of the last step, at least one half where it says Yes."""
        rate = self.true_positive if is_right(problem, steps) else self.false_positive
        yes = draw.random() < rate
        sure = max(0.5, draw.uniform(self.confidence, 1.0))
        return sure if yes else min(1.0 - sure, math.nextafter(0.5, 0.0))


def _draw(text: str, key: Key) -> random.Random:
    return random.Random(key.child(text).int())
