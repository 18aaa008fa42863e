"""Filters, conversations and what is learnt of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.training.chains import verification_pieces
from tts_engine.formats import genprm
from tts_engine.types import Message
from tts_engine.verifiers.training.consensus import Explained, balanced_out, conversation, refinement, sift, table
from tts_engine.verifiers.training.domain import gold_steps, rng_of
from tts_engine.verifiers.training.encode import IGNORE, Turn, encode
from tts_engine.verifiers.training.fitting import conversation_pieces, own_tokenizer, portion, repeated, spread
from tts_engine.verifiers.training.rationales import uncoded
from tts_engine.verifiers.training.stories import generate
from tts_engine.verifiers.training.verifier_data import turn_of

ASK = (Message(role="user", content="?"),)


def turn(said: str | None, ran: bool = True, text: str = "") -> dict[str, Any]:
    return {"text": text, "says": said, "ran": ran}


def entry(name: str, labels: tuple[bool, ...], *turns: dict[str, Any]) -> Explained:
    return Explained(id=name, problem="?", steps=("Step 1: a", "Step 2: b"), labels=labels, turns=turns)


FINE = entry("fine", (True, False), turn("Yes"), turn("No"))
EARLY = entry("early", (True, False), turn("No"))
OPPOSED = entry("opposed", (True, True), turn("Yes"), turn("No"))
MUTE = entry("mute", (True,), turn(None))
BROKEN = entry("broken", (True,), turn("Yes", ran=False))


def test_each_filter_counts_what_it_removes_of_what_was_left() -> None:
    tests = {"unparseable": lambda e: e.parsed, "no consensus": lambda e: e.agrees, "a check failed": lambda e: e.ran}
    stay, removed = sift([FINE, EARLY, OPPOSED, MUTE, BROKEN], tests)
    assert stay == [FINE]
    assert removed == {"unparseable": {"good": 1}, "no consensus": {"bad": 1, "good": 1}, "a check failed": {"good": 1}}
    assert table(removed, stay) == "unparseable 1, no consensus 2, a check failed 1, kept 1"


def test_the_larger_kind_is_cut_to_a_multiple_of_the_smaller() -> None:
    many = [entry(str(i), (True,), turn("Yes")) for i in range(9)]
    even = balanced_out([*many, FINE, EARLY], 2.0, seed=0)
    assert [e.kind for e in even].count("good") == 4
    assert {FINE.id, EARLY.id} < {e.id for e in even}
    assert even == balanced_out([*many, FINE, EARLY], 2.0, seed=0)
    assert balanced_out(many, None, 0) == many
    assert balanced_out(many, 2.0, 0) == []  # nothing to balance with


def chain() -> tuple[str, tuple[str, ...], list[Turn]]:
    story = generate(0, 3, "test")
    steps, rng = gold_steps(story), rng_of(0, "test")
    return story.text, steps, [turn_of(rng, story, steps, index) for index in range(len(steps))]


def test_conversations_give_the_tokens_and_the_mask_of_inference() -> None:
    tokenizer = own_tokenizer()
    problem, steps, turns = chain()
    texts = [
        "".join(s.text for s in genprm.turn_segments(i, t.analysis, t.code, t.output, t.judgement))
        for i, t in enumerate(turns)
    ]
    explained = Explained(
        id="x", problem=problem, steps=steps, labels=(True,) * 4, turns=tuple(turn("Yes", text=text) for text in texts)
    )
    record = explained.conversation()
    assert [m["train"] for m in record["messages"]] == [m["role"] == "assistant" for m in record["messages"]]
    ours, theirs = encode(
        tokenizer, [conversation_pieces(tokenizer, record), verification_pieces(tokenizer, problem, steps, turns)]
    )
    assert ours == theirs
    learnt = tokenizer.decode([t for t in ours.targets if t != IGNORE])
    assert "print(r:=" in learnt
    assert "[Code Output]" not in learnt
    assert "Let's analyze" not in learnt


def test_a_turn_without_a_check_is_what_the_mode_without_code_makes() -> None:
    text = uncoded(1, "half of 8: 8/2.", "No")
    assert [s.kind for s in genprm.parse_turn(text)] == ["forced", "model", "forced", "model"]
    assert genprm.judgement_of(text) == "No"
    assert genprm.analysis_of(text) == "half of 8: 8/2."


def test_refinements_show_the_failure_its_critique_and_a_right_solution() -> None:
    problem, steps, turns = chain()
    said = genprm.turn_segments(0, turns[0].analysis, turns[0].code, turns[0].output, "No")
    failure = Explained(
        id="x", problem=problem, steps=steps, labels=(False,), turns=(turn("No", text="".join(s.text for s in said)),)
    )
    messages = refinement(failure, steps)["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"]
    assert [m["train"] for m in messages] == [False, False, False, True]
    assert f">{steps[0]}\n\n{turns[0].analysis}" in messages[2]["content"]
    assert messages[3]["content"] == "\n".join(steps)


def test_loss_falls_on_the_last_turn_alone_where_that_is_asked() -> None:
    messages = genprm.conversation("?", ("Step 1: a", "Step 2: b"), ("turn",))
    flags = [m["train"] for m in conversation("x", messages, "end", only_last=True)["messages"]]
    assert flags == [False, False, False, False, True]


def test_portions_are_nested_and_repetition_shows_everything_once_a_round() -> None:
    records = [{"id": str(i)} for i in range(20)]
    shares = [portion(records, share, seed=1) for share in (0.25, 0.5, 1.0)]
    assert [len(part) for part in shares] == [5, 10, 20]
    assert all(a == b[: len(a)] for a, b in pairwise(shares))
    tokenizer = own_tokenizer()
    documents = list(
        encode(tokenizer, [conversation_pieces(tokenizer, conversation(str(i), ASK, f"{i}")) for i in range(5)])
    )
    stream = repeated(documents, seed=0)
    rounds = [sorted(next(stream).ids for _ in documents) for _ in range(3)]
    assert rounds[0] == rounds[1] == rounds[2]


def test_labels_spread_over_the_steps_after_the_first_bad_one() -> None:
    assert spread([True, False], 4) == [True, False, False, False]
