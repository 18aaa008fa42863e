"""What is sent to each kind of server, and what its answers mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tts_engine.backends.openai_reply import Reply, certain_tokens, first_stop, read_logprobs
from tts_engine.backends.openai_wire import DIALECTS, GO_ON, Wire, chat_body, chat_messages, completions_body
from tts_engine.errors import BackendError, ConfigError
from tts_engine.formats import genprm
from tts_engine.types import Completion, Finish, Key, Message, Prompt, Request, Role, Sampling

PROMPT = Prompt(messages=(Message(role="user", content="1 + 1?"),), continuation=("Step 1: ", "1 + 1 is"))


def wire(dialect: str = "vllm", **changes: Any) -> Wire:  # noqa: ANN401
    kind = DIALECTS[dialect]
    plain = Wire(
        name="m", served="org/m", api="chat", dialect=kind, open_turn=kind.open_turn, server_stops=kind.tells_stop
    )
    return replace(plain, **changes)


def request(prompt: Prompt = PROMPT, **sampling: Any) -> Request:  # noqa: ANN401
    sampled = Sampling(**{"max_tokens": 8, **sampling})
    return Request(role=Role.GENERATE, model="m", prompt=prompt, sampling=sampled, key=Key(7))


@pytest.mark.parametrize(
    ("dialect", "open_turn", "last", "keys"),
    [
        ("vllm", "continue", [("assistant", "Step 1: 1 + 1 is")], {"continue_final_message", "add_generation_prompt"}),
        ("openai", "prefix", [("assistant", "Step 1: 1 + 1 is")], set()),
        ("llamacpp", "assistant", [("assistant", "Step 1: 1 + 1 is")], set()),
        ("openai", "ask", [("assistant", "Step 1: 1 + 1 is"), ("user", GO_ON)], set()),
    ],
)
def test_an_open_turn_is_the_last_message(
    dialect: str, open_turn: str, last: list[tuple[str, str]], keys: set[str]
) -> None:
    turns, how = chat_messages(wire(dialect, open_turn=open_turn), PROMPT)
    assert [(turn["role"], turn["content"]) for turn in turns] == [("user", "1 + 1?"), *last]
    assert set(how) == keys
    assert [turn.get("prefix") for turn in turns if turn["role"] == "assistant"] == [
        True if open_turn == "prefix" else None
    ]


def test_without_an_open_turn_nothing_is_added() -> None:
    turns, how = chat_messages(wire("plain"), replace(PROMPT, continuation=()))
    assert turns == [{"role": "user", "content": "1 + 1?"}]
    assert how == {}


def test_what_a_server_cannot_be_told_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"set options\.open_turn"):
        chat_messages(wire("plain"), PROMPT)
    with pytest.raises(ConfigError, match="generation_prompt to true"):
        chat_messages(wire(), replace(PROMPT, generation_prompt=False))
    with pytest.raises(ConfigError, match="takes no top_k"):
        chat_body(wire("openai"), request(top_k=20))


def test_sampling_is_sent_in_full_and_server_defaults_are_switched_off() -> None:
    body = completions_body(wire(api="completions"), request(top_p=0.9, stop=("\n",)), [1, 2, 3])
    assert body["prompt"] == [1, 2, 3]
    assert "add_special_tokens" not in body  # ids are complete
    assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (1.0, 0.9, -1, 8)
    assert (body["repetition_penalty"], body["min_p"], body["stop"]) == (1.0, 0.0, ["\n"])
    assert 0 <= body["seed"] < 2**31
    assert body["stream"] is True
    assert body["logprobs"] == 1
    text = completions_body(wire(api="completions"), request(top_k=5, watch=("Yes", "No")), "1 + 1?")
    assert (text["add_special_tokens"], text["top_k"], text["logprobs"]) == (False, 5, 20)


def test_the_seed_depends_on_the_key_alone() -> None:
    one, same = chat_body(wire(), request()), chat_body(wire(), request(temperature=0.5))
    other = chat_body(wire(), replace(request(), key=Key(8)))
    assert one["seed"] == same["seed"] != other["seed"]


def test_each_dialect_takes_what_it_knows() -> None:
    theirs = chat_body(wire("openai"), request(stop=("\n",)))
    assert "max_completion_tokens" in theirs
    assert not {"max_tokens", "top_k", "stop", "min_p"} & set(theirs)  # stops are looked for here
    assert chat_body(wire("llamacpp"), request())["verbose"] is True
    changed = chat_body(wire(extra={"reasoning_effort": "low"}, drop=frozenset({"seed"})), request())
    assert changed["reasoning_effort"] == "low"
    assert "seed" not in changed
    assert "logprobs" not in chat_body(wire(logprobs="needed"), request())
    assert chat_body(wire(logprobs="needed"), request(watch=("Yes",)))["top_logprobs"] == 20
    assert "logprobs" not in chat_body(wire(logprobs="text"), request(watch=("Yes",)))


def read(wire: Wire, request: Request, *chunks: dict[str, Any]) -> Completion:
    reply = Reply(wire, request)
    for chunk in chunks:
        if reply.add(chunk):
            break
    assert reply.complete
    return reply.completion(prompt=5, seconds=0.5)


def chat(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    logprobs = {"content": [{"token": text, "logprob": -0.5, "top_logprobs": []}]} if text else None
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish, "logprobs": logprobs, **more}]}


USED = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 6}},
}


def test_usage_and_logprobs_are_the_servers() -> None:
    done = read(wire(), request(), chat("2"), chat("."), chat("", "stop", stop_reason=None), USED)
    assert (done.text, done.finish, done.stop, done.tokens) == ("2.", Finish.EOS, None, 2)
    assert (done.usage.prompt, done.usage.cached, done.usage.completion, done.usage.tokens) == (9, 6, 2, 5)
    assert done.mean_logprob == pytest.approx(-0.5)
    assert done.logprobs == ()  # nobody asked


def test_without_usage_tokens_are_counted_here() -> None:
    done = read(wire(logprobs="text"), request(), chat("2"), chat(".", "length"))
    assert (done.finish, done.tokens, done.usage.prompt, done.usage.completion) == (Finish.LENGTH, 2, 5, 2)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("key", ["stop_reason", "matched_stop"])
def test_a_server_names_its_stop_string(key: str, include: bool) -> None:
    asked = request(stop=("\nStep ",), include_stop=include)
    done = read(wire(), asked, chat("2."), chat("", "stop", **{key: "\nStep "}), USED)
    assert (done.text, done.finish, done.stop) == ("2." + "\nStep " * include, Finish.STOP, "\nStep ")


def test_an_end_token_is_no_stop_string() -> None:
    done = read(wire("sglang"), request(stop=("\n",)), chat("2", "stop", matched_stop=151645), USED)
    assert (done.finish, done.stop) == (Finish.EOS, None)


def test_llama_cpp_names_it_in_verbose_or_not_at_all() -> None:
    asked = request(stop=("\n",))
    told = chat("", "stop") | {"__verbose": {"stopping_word": "\n"}}
    assert read(wire("llamacpp"), asked, chat("2"), told).stop == "\n"
    ended = chat("", "stop") | {"__verbose": {"stopping_word": ""}}
    assert read(wire("llamacpp"), asked, chat("2"), ended).finish is Finish.EOS
    with pytest.raises(ConfigError, match=r"set options\.stops to client"):
        read(wire("llamacpp"), asked, chat("2"), chat("", "stop"))


def test_llama_cpp_may_say_the_open_turn_again() -> None:
    """Seen of its server: the first piece holds the turn as it was sent. A model that repeats itself is left alone."""
    asked = request(stop=(".",))
    ended = chat("", "stop") | {"__verbose": {"stopping_word": "."}}
    echoed = [chat("Step 1: 1 + 1 is two"), ended]
    assert read(wire("llamacpp"), asked, *echoed).text == " two"
    assert read(wire("llamacpp", server_stops=False), asked, *echoed).text == " two"
    tokens = [chat("Step"), chat(" 1: 1 + 1 is"), ended]
    assert read(wire("llamacpp"), asked, *tokens).text == "Step 1: 1 + 1 is"
    assert read(wire("vllm"), asked, *echoed).text == "Step 1: 1 + 1 is two"


def test_a_stop_string_is_found_here_across_chunks() -> None:
    asked = request(stop=("\nStep ", "xyz"))
    done = read(wire("openai"), asked, chat("2.\nS"), chat("te"), chat("p 3: and"), chat(" more"))
    assert (done.text, done.finish, done.stop) == ("2.", Finish.STOP, "\nStep ")
    assert (done.tokens, done.usage.completion, done.usage.cancelled) == (3, 3, 0)  # the last chunk was never read
    kept = read(wire("openai"), replace(asked, sampling=replace(asked.sampling, include_stop=True)), chat("2.\nStep 3"))
    assert kept.text == "2.\nStep "


def test_the_stop_string_that_ends_first_wins() -> None:
    assert first_stop("ab\n```\n c", ["\n```\n", "```"], 0) == (3, "```")
    assert first_stop("nothing", ["x"], 0) is None


def test_both_forms_of_logprobs_read_alike() -> None:
    lists = {"tokens": ["Yes"], "token_logprobs": [-0.1], "top_logprobs": [{"Yes": -0.1, "No": -2.4, "So": -4.0}]}
    entries = [{"token": text, "logprob": value} for text, value in lists["top_logprobs"][0].items()]  # type: ignore[attr-defined]
    rows = {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": entries}]}
    sampling = Sampling(watch=("Yes", "No"))
    (one,), (other,) = read_logprobs(lists, sampling), read_logprobs(rows, sampling)
    assert one == other
    assert dict(one.alternatives) == dict(other.alternatives) == {"Yes": -0.1, "No": -2.4}
    expected = math.exp(-0.1) / (math.exp(-0.1) + math.exp(-2.4))
    brace = replace(one, text="{", alternatives={})
    assert genprm.reward((brace, one, replace(brace, text="}"))) == pytest.approx(expected)


def test_a_watched_word_that_is_not_listed_takes_the_smallest_logprob() -> None:
    lists = {"tokens": ["Yes"], "token_logprobs": [-0.1], "top_logprobs": [{"Yes": -0.1, "So": -4.0}]}
    (token,) = read_logprobs(lists, Sampling(watch=("Yes", "No")))
    assert token.alternatives["No"] == -4.0


def test_votes_without_logprobs_are_zero_or_one() -> None:
    asked = request(watch=("Yes", "No"))
    with pytest.raises(ConfigError, match="gives no logprobs"):
        read(wire(), asked, {"choices": [{"delta": {"content": "{No}"}, "finish_reason": "stop"}]})
    done = read(wire(logprobs="text"), asked, {"choices": [{"delta": {"content": "{No}"}, "finish_reason": "stop"}]})
    assert genprm.reward(done.logprobs) == pytest.approx(0.0, abs=1e-9)
    assert genprm.reward(tuple(certain_tokens("so \\boxed{Yes}$", ("Yes", "No")))) == pytest.approx(1.0)


def test_an_answer_to_the_question_to_go_on_is_freed_of_repetitions() -> None:
    asked = request(Prompt(messages=PROMPT.messages, continuation=("Step 1: 1 + 1 = 2.", "\nStep 2: ")))
    done = read(wire("openai"), asked, chat("Step 2: so it is 2.", "stop"))
    assert done.text == "so it is 2."


def test_a_content_filter_is_a_failure() -> None:
    with pytest.raises(BackendError, match="content filter"):
        read(wire(), request(), chat("", "content_filter"))


def test_logprobs_that_nobody_asked_for_have_no_alternatives() -> None:
    entry = {"token": "2", "logprob": -0.1, "top_logprobs": [{"token": "3", "logprob": -2.0}]}
    (bare,) = read_logprobs({"content": [entry]}, Sampling())
    assert (bare.text, bare.logprob, bare.alternatives) == ("2", -0.1, {})
    (full,) = read_logprobs({"content": [entry]}, Sampling(logprobs=1))
    assert full.alternatives == {"3": -2.0}
    (certain,) = read_logprobs({"tokens": ["2"], "token_logprobs": [None]}, Sampling())
    assert (certain.logprob, certain.alternatives) == (0.0, {})
