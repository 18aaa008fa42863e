import asyncio
import math
import random
from dataclasses import replace

import pytest

from tts_engine.backends.arithmetic import Task, is_right
from tts_engine.backends.simulated import SimulatedBackend, tokenize
from tts_engine.errors import BackendError, ConfigError, ContextExceeded
from tts_engine.formats import genprm, policy, prm
from tts_engine.formats.answers import extract_answer
from tts_engine.types import Completion, Finish, Key, Message, Prompt, Request, Role, Sampling

PROBLEM = "Start with 17. Add 5. Multiply by 3. Subtract 4. What is the result?"
RIGHT = ("Step 1: 17+5=22.", "Step 2: 22*3=66.", "Step 3: 66-4=62. The answer is \\boxed{62}.")


def request(prompt: Prompt, draw: int = 0, role: Role = Role.GENERATE, **sampling: object) -> Request:
    settings = replace(Sampling(), **sampling)  # type: ignore[arg-type]
    return Request(role=role, model="m", prompt=prompt, sampling=settings, key=Key(3, ("draw", draw)))


async def say(task: Task, *requests: Request) -> list[Completion]:
    async with SimulatedBackend("m", task=task) as model:
        return await asyncio.gather(*(model.complete(r) for r in requests))


def verification(steps: tuple[str, ...], *said: str) -> Prompt:
    """The open turn on the last of `steps`; the earlier turns are complete."""
    turns = (genprm.verdict_text("Yes"),) * (len(steps) - 1)
    return genprm.turn_prompt(genprm.conversation(PROBLEM, steps, turns), *said, generation_prompt=False)


@pytest.mark.parametrize(
    ("steps", "right"),
    [
        (RIGHT[:1], True),
        (RIGHT[:2], True),
        (RIGHT, True),
        (("Step 1: 17+5=23.",), False),
        (("Step 1: 17-5=12.",), False),
        (("Step 1: 18+5=23.",), False),
        (("Step 1: I do not know.",), False),
        (("Step 1: 17+5=23.", "Step 2: 23*3=69."), True),
        (("Step 1: 17+5=23.", "Step 2: 22*3=66."), False),
        ((*RIGHT, "Step 4: 62+1=63."), False),
    ],
)
def test_truth_is_read_from_the_text(steps: tuple[str, ...], right: bool) -> None:
    assert is_right(PROBLEM, steps) is right


async def test_a_perfect_policy_writes_the_solution_whole_or_step_by_step() -> None:
    task = Task(error_rate=0.0)
    (whole,) = await say(task, request(policy.solve_prompt(PROBLEM)))
    assert policy.split_steps(policy.heading(0) + whole.text) == RIGHT
    assert whole.finish is Finish.EOS
    steps: tuple[str, ...] = ()
    for index in range(3):
        (step,) = await say(task, request(policy.solve_prompt(PROBLEM, steps), index, stop=(policy.STEP_STOP,)))
        steps += (policy.heading(index) + step.text.strip(),)
    assert steps == RIGHT
    assert step.finish is Finish.EOS


async def test_problems_carry_their_answer() -> None:
    problems = [Task().problem(Key(1, (i,)), steps=1 + i % 5) for i in range(20)]
    solved = await say(Task(error_rate=0.0), *(request(policy.solve_prompt(p.prompt)) for p in problems))
    assert [extract_answer(s.text) for s in solved] == [p.answer for p in problems]
    assert len({p.prompt for p in problems}) == 20


async def test_error_rate_a_step() -> None:
    task, n = Task(error_rate=0.2), 1000
    drawn = await say(task, *(request(policy.solve_prompt(PROBLEM), i) for i in range(n)))
    steps = [policy.split_steps(policy.heading(0) + d.text) for d in drawn]
    wrong = sum(not is_right(PROBLEM, s[: i + 1]) for s in steps for i in range(3))
    assert abs(wrong / (3 * n) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / (3 * n))


def test_difficulty_belongs_to_the_problem() -> None:
    task = Task(error_rate=0.2, spread=0.5)
    rates = [task.error_rate_of(task.problem(Key(i)).prompt) for i in range(200)]
    assert rates[0] == task.error_rate_of(f"Please solve: {task.problem(Key(0)).prompt} Thanks.")
    assert min(rates) >= 0.1
    assert max(rates) <= 0.3
    assert abs(sum(rates) / 200 - 0.2) < 0.02
    assert max(rates) - min(rates) > 0.15


async def test_the_stages_of_a_verification_turn() -> None:
    task = Task(true_positive=1.0)
    prompt = verification(RIGHT[:2], genprm.analyze_prefix(1))
    (said,) = await say(task, request(prompt, stop=(genprm.ANALYZE_END,), include_stop=True))
    assert said.text == f"It claims 22*3=66.\n{genprm.ANALYZE_END}"
    assert said.stop == genprm.ANALYZE_END
    prompt = prompt.then(said.text, genprm.VERIFY)
    ends = (genprm.CODE_END, genprm.OUTPUT_END)
    (said,) = await say(task, request(prompt, stop=ends, include_stop=True))
    assert said.text == f"print(r:=22*3, r==66){genprm.CODE_END}"
    prompt = prompt.then(said.text, "[Code Output]\n\n```\n66 True\n```\n")
    (said,) = await say(task, request(prompt, stop=ends, include_stop=True, watch=genprm.JUDGEMENTS))
    turn = "".join(prompt.continuation) + said.text
    assert turn.endswith(genprm.VERIFY_END + genprm.verdict_text("Yes"))
    assert genprm.judgement_of(turn) == "Yes"
    assert (genprm.reward(said.logprobs) or 0.0) >= 0.8


@pytest.mark.parametrize(("result", "rate"), [(22, 0.9), (23, 0.3)])
@pytest.mark.parametrize("said", [(genprm.OUTPUT,), (genprm.analyze_prefix(0), genprm.VERIFY, genprm.CODE_END)])
async def test_rates_of_the_verifier(result: int, rate: float, said: tuple[str, ...]) -> None:
    task, n = Task(true_positive=0.9, false_positive=0.3), 600
    prompt = verification((f"Step 1: 17+5={result}.",), *said)
    judged = await say(task, *(request(prompt, i, Role.VERIFY, watch=genprm.JUDGEMENTS) for i in range(n)))
    rewards = [genprm.reward(j.logprobs) for j in judged]
    texts = [genprm.judgement_of("\\boxed" + j.text) for j in judged]
    assert [text == "Yes" for text in texts] == [reward is not None and reward >= 0.5 for reward in rewards]
    yes = texts.count("Yes") / n
    assert abs(yes - rate) < 4 * math.sqrt(rate * (1 - rate) / n)


async def test_an_invalid_judgement_has_no_reward() -> None:
    asked = request(verification(RIGHT[:1], genprm.OUTPUT), watch=genprm.JUDGEMENTS)
    (said,) = await say(Task(invalid_rate=1.0), asked)
    assert genprm.reward(said.logprobs) is None


async def test_the_step_token_verifier() -> None:
    task = Task(true_positive=1.0, false_positive=0.0)
    for steps, right in ((RIGHT, True), (("Step 1: 17+5=23.",), False)):
        asked = request(prm.step_prompt(PROBLEM, steps), max_tokens=1, watch=(prm.GOOD, prm.BAD))
        (said,) = await say(task, asked)
        assert (prm.score(said.logprobs[0]) > 0.5) is right
        assert said.tokens == 1


async def test_bounds_on_what_is_written() -> None:
    prompt = policy.solve_prompt(PROBLEM)
    task = Task(error_rate=0.0)
    cut, stopped, kept, exact = await say(
        task,
        request(prompt, max_tokens=3),
        request(prompt, stop=("=", ".")),
        request(prompt, stop=(".", "="), include_stop=True),
        request(prompt, max_tokens=5, stop=("=",)),
    )
    assert (cut.text, cut.finish, cut.tokens) == ("17+", Finish.LENGTH, 3)
    assert (stopped.text, stopped.finish, stopped.stop, stopped.tokens) == ("17+5", Finish.STOP, "=", 5)
    assert (kept.text, kept.tokens) == ("17+5=", 5)
    assert exact.finish is Finish.STOP
    assert cut.logprobs == ()


async def test_usage_and_simulated_seconds() -> None:
    prompt = policy.solve_prompt(PROBLEM)
    async with SimulatedBackend("m", prefill_rate=100.0, decode_rate=10.0, overhead=0.5) as model:
        usage = (await model.complete(request(prompt, max_tokens=4))).usage
        assert (usage.prompt, usage.completion, usage.calls) == (model.count_tokens(prompt), 4, 1)
        assert usage.seconds == pytest.approx(0.5 + usage.prompt / 100 + 0.4)
    async with SimulatedBackend("m", prefill_rate=100.0, decode_rate=10.0, overhead=0.5, jitter=0.5) as model:
        drawn = [(await model.complete(request(prompt, i, max_tokens=4))).usage.seconds for i in range(20)]
        assert all(usage.seconds <= seconds < 1.5 * usage.seconds for seconds in drawn)
        assert len(set(drawn)) == 20


def test_tokens_join_to_the_text() -> None:
    text = "Step 1: 17+5=22.\n $\\boxed{Yes}$\t naïve_123 数学"
    assert "".join(tokenize(text)) == text
    assert tokenize("{Yes}") == ["{", "Yes", "}"]


async def test_the_context_window() -> None:
    prompt = policy.solve_prompt(PROBLEM)
    async with SimulatedBackend("m", context=70) as model:
        room = 70 - model.count_tokens(prompt)
        said = await model.complete(request(prompt))
        assert (said.finish, said.tokens) == (Finish.LENGTH, room)
        with pytest.raises(ContextExceeded):
            await model.complete(request(prompt.then("more " * 70)))


async def test_the_order_of_completion_changes_nothing_else() -> None:
    async def run(order_seed: int | None, order: list[int]) -> tuple[list[int], dict[int, Completion]]:
        arrivals: list[int] = []
        results: dict[int, Completion] = {}

        async def call(i: int) -> None:
            results[i] = await model.complete(request(policy.solve_prompt(PROBLEM), i))
            arrivals.append(i)

        async with SimulatedBackend("m", slots=7, order_seed=order_seed, jitter=0.3) as model:
            await asyncio.gather(*(call(i) for i in order))
        return arrivals, results

    plain = await run(None, list(range(30)))
    shuffled = await run(5, random.Random(1).sample(range(30), 30))
    assert plain[0] != shuffled[0]
    assert plain[1] == shuffled[1]


async def test_slots_and_cancellation_with_a_real_clock() -> None:
    long = policy.solve_prompt(Task().problem(Key(0), steps=200).prompt)
    async with SimulatedBackend("m", slots=1, decode_rate=100.0, overhead=0.0, clock="real", speed=2.0) as model:
        slow = [asyncio.create_task(model.complete(request(long, i, max_tokens=2000))) for i in range(2)]
        await asyncio.sleep(0.1)
        for task in slow:
            task.cancel()
        said = await model.complete(request(long, 2, max_tokens=1))
        assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*slow, return_exceptions=True))
    assert said.usage.seconds >= 0.01
    assert model.cancelled.calls == 1
    assert 0 < model.cancelled.cancelled < 2000


async def test_failures_are_drawn_from_the_key() -> None:
    async with SimulatedBackend("m", failure_rate=0.5) as model:

        async def failed(i: int) -> bool:
            try:
                await model.complete(request(policy.solve_prompt(PROBLEM), i))
            except BackendError:
                return True
            return False

        first = [await failed(i) for i in range(60)]
        assert first == [await failed(i) for i in range(60)]
        assert 15 < sum(first) < 45


async def test_misuse_is_refused() -> None:
    model = SimulatedBackend("m")
    with pytest.raises(BackendError, match="async with"):
        await model.complete(request(policy.solve_prompt(PROBLEM)))
    foreign = Prompt(messages=(Message(role="user", content="What is love?"),))
    with pytest.raises(BackendError, match=r"Task\.problem"):
        await say(Task(), request(foreign))
    with pytest.raises(ConfigError, match="error_rate=2"):
        Task(error_rate=2.0)
    with pytest.raises(ConfigError, match="slots"):
        SimulatedBackend("m", slots=0)


def test_the_fingerprint_tells_what_is_written() -> None:
    plain = SimulatedBackend("m", task=Task()).info.fingerprint
    assert plain == SimulatedBackend("m", decode_rate=1.0).info.fingerprint
    assert plain != SimulatedBackend("m", task=Task(error_rate=0.5)).info.fingerprint
