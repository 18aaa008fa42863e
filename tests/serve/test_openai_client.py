"""The official client, unchanged, against a real process with the embedded models."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.serve.conftest import PROBLEM, Running
from tts_engine import Engine

MESSAGES = [{"role": "user", "content": PROBLEM}]
FEW = {"tts": {"n": 4, "verifier_samples": 1}}


@pytest.fixture(scope="module")
def client(embedded: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{embedded.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_search_answers_a_chat_completion(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="beam/embedded:policy", messages=MESSAGES, seed=1, extra_body=FEW)
    assert reply.choices[0].message.content.endswith("\\boxed{40}.")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].tts["answer"] == "40"
    assert reply.tts == {"strategy": "beam", "verifier": "genprm", "seed": 1}
    usage = reply.usage
    split = usage.tts
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    for field in ("prompt", "cached", "completion", "tokens", "flops"):
        assert split["total"][field] == pytest.approx(split["generate"][field] + split["verify"][field])
    assert split["verify"]["code_runs"] > 0
    assert usage.prompt_tokens_details.cached_tokens == split["total"]["cached"]


async def test_the_answer_is_that_of_the_python_api(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="best-of-n/embedded:policy", messages=MESSAGES, seed=7, extra_body=FEW)
    async with Engine.from_config() as engine:
        outcome = await engine.solve(PROBLEM, strategy="best-of-n", seed=7, n=4, verifier_samples=1)
    assert outcome.chosen is not None
    assert reply.choices[0].message.content == outcome.candidates[outcome.chosen].candidate.text
    assert [each["answer"] for each in reply.choices[0].tts["candidates"]] == [
        judged.candidate.answer for judged in outcome.candidates
    ]


def test_streaming_tells_of_the_search_and_ends_with_the_same_text(client: openai.OpenAI) -> None:
    asked = {"model": "best-of-n/embedded:policy", "messages": MESSAGES, "seed": 3}
    tree = {"tts": {**FEW["tts"], "return_tree": True, "budget": "tokens=20k"}}
    whole = client.chat.completions.create(**asked, extra_body={"tts": {**FEW["tts"], "budget": "tokens=20k"}})
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}, extra_body=tree
    )
    chunks = list(stream)
    *body, last = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in body)
    assert text == whole.choices[0].message.content
    events = [chunk.tts for chunk in body if getattr(chunk, "tts", None)]
    nodes = [event["node"] for event in events if event["event"] == "node"]
    assert {node["parent"] for node in nodes} == {"3/problem"}
    assert len({node["id"] for node in nodes}) == 4
    assert any(node.get("samples") for node in nodes)
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["judged"] == progress[-1]["ended"] == 4
    assert 0 < progress[-1]["left"]["tokens"] < 20_000
    assert body[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage.total_tokens > 0


async def test_the_asynchronous_client(embedded: Running) -> None:
    async with openai.AsyncOpenAI(base_url=f"{embedded.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="self-consistency/embedded:policy", messages=MESSAGES, stream=True, extra_body={"tts": {"n": 4}}
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "\\boxed{" in text


def test_plain_completions_honour_the_parameters(client: openai.OpenAI) -> None:
    asked = {"model": "embedded:policy", "prompt": "<|user|>" + PROBLEM + "<|assistant|>Step 1: ", "seed": 5}
    two = client.completions.create(**asked, n=2, temperature=1.0)
    again = client.completions.create(**asked, n=2, temperature=1.0)
    assert [choice.text for choice in two.choices] == [choice.text for choice in again.choices]
    short = client.completions.create(**asked, max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 3
    greedy = client.completions.create(**asked, temperature=0)
    stopped = client.completions.create(**asked, temperature=0, stop=["="])
    assert "=" in greedy.choices[0].text
    assert stopped.choices[0].text == greedy.choices[0].text.partition("=")[0]


@pytest.mark.parametrize("strategy", ["beam", "best-of-n"])
def test_searches_honour_the_parameters(client: openai.OpenAI, strategy: str) -> None:
    asked = {"model": f"{strategy}/embedded:policy", "messages": MESSAGES, "seed": 2, "extra_body": FEW}
    greedy = client.chat.completions.create(**asked, temperature=0)
    assert len({each["answer"] for each in greedy.choices[0].tts["candidates"]}) == 1
    stopped = client.chat.completions.create(**asked, temperature=0, stop="=")
    assert "=" not in stopped.choices[0].message.content
    assert greedy.choices[0].message.content.startswith(stopped.choices[0].message.content)
    cut = client.chat.completions.create(**asked, max_tokens=4)
    assert cut.choices[0].finish_reason == "length"
    assert cut.choices[0].tts["answer"] is None


def test_choices_are_independent_searches(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="self-consistency/embedded:policy", messages=MESSAGES, n=3, seed=1, extra_body={"tts": {"n": 2}}
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.tts["generate"]["calls"] == 6
    assert "verify" not in reply.usage.tts


def test_a_conversation_is_read_as_one_problem(client: openai.OpenAI) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    reply = client.chat.completions.create(model="embedded:policy", messages=turns, seed=1, extra_body=FEW)
    assert reply.tts["strategy"] == "beam"  # the configured one
    assert reply.choices[0].message.content


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "embedded:policy"
    assert "mcts/embedded:policy" in names
    assert client.models.retrieve("beam/embedded:policy").tts["verifier"]
    vote = client.models.retrieve("self-consistency/embedded:policy").tts
    assert not vote["verifier"]
    assert "n" in vote["parameters"]


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="has no parameter 'width'") as error:
        client.chat.completions.create(
            model="best-of-n/embedded:policy", messages=MESSAGES, extra_body={"tts": {"width": 2}}
        )
    assert error.value.code == "invalid_value"


def test_another_verifier_can_be_named(client: openai.OpenAI) -> None:
    asked = {"tts": {"n": 2, "verifier": "prm"}}
    reply = client.chat.completions.create(model="best-of-n/embedded:policy", messages=MESSAGES, extra_body=asked)
    assert reply.tts["verifier"] == "prm"
    assert reply.usage.tts["verify"]["code_runs"] == 0


def test_verification_as_a_service(client: openai.OpenAI) -> None:
    body = {
        "problem": PROBLEM,
        "steps": ["Step 1: packed 4*7=28.", "Step 2: now 12+28=\\boxed{41}."],
        "samples": 2,
        "seed": 1,
    }
    verdict = client.post("/verify", body=body, cast_to=object)
    assert verdict["valid"] is True
    assert verdict["first_error"] == 1
    assert verdict["step_scores"][0] > 0.5 > verdict["step_scores"][1]
    assert len(verdict["samples"]) == 2
    first = verdict["samples"][0][0]
    assert first["checks"][0]["ok"] is True
    assert "28" in first["checks"][0]["output"]
    assert first["analysis"] in first["rationale"]
    assert verdict["usage"]["tts"]["verify"]["code_runs"] >= 3
