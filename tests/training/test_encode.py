"""Tokenizer and loss masks: what is trained is what inference produces, token for token."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.training.chains import chain_pieces, verification_pieces
from tts_engine.formats import genprm, policy, prm
from tts_engine.formats.code import extract_code, feedback_block
from tts_engine.verifiers.training import policy_data, verifier_data, vocabulary
from tts_engine.verifiers.training.domain import first_error, gold_steps
from tts_engine.verifiers.training.embedded import vocabulary_texts
from tts_engine.verifiers.training.encode import (
    IGNORE,
    Document,
    Piece,
    encode,
    labelled_pieces,
    prompt_pieces,
    render,
    solution_pieces,
)
from tts_engine.verifiers.training.stories import generate
from tts_engine.verifiers.training.verifier_data import Attempt, turn_of


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.train(vocabulary_texts(seed=1, count=300)).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def ids_of(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[int]:
    return [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False)]


def learnt(tokenizer: PreTrainedTokenizerFast, document: Document) -> str:
    return tokenizer.decode([t for t in document.targets if t != IGNORE])


def test_training_the_tokenizer_twice_gives_the_same(tokenizer: PreTrainedTokenizerFast) -> None:
    again = vocabulary.train(vocabulary_texts(seed=1, count=300))
    assert again.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("text", [*vocabulary.literals(), prm.GOOD, prm.BAD, *"0123456789", *vocabulary.SPECIALS])
def test_literals_labels_and_digits_are_one_token(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert len(tokenizer.encode(text, add_special_tokens=False)) == 1


@settings(max_examples=30, deadline=None)
@given(st.text())
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def chain(tokenizer: PreTrainedTokenizerFast, seed: int) -> tuple[Attempt, list[Piece]]:
    rng = random.Random(seed)
    attempt = verifier_data.synthetic(rng)
    return attempt, chain_pieces(tokenizer, rng, attempt)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_verification_chain_has_the_same_tokens_in_pieces_and_as_one_text(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    _, pieces = chain(tokenizer, seed)
    texts = [piece.text for piece in pieces]
    assert ids_of(tokenizer, texts) == ids_of(tokenizer, ["".join(texts)])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_solution_has_the_same_tokens_in_steps_and_as_one_text(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    story = generate(seed, 1 + seed % 5)
    steps = gold_steps(story)
    whole = solution_pieces(tokenizer, policy.solve_messages(story.text), steps)
    head = [piece.text for piece in prompt_pieces(tokenizer, policy.solve_prompt(story.text, steps[:-1]))]
    own = steps[-1].split(": ", 1)[1]
    assert ids_of(tokenizer, [*head, own, vocabulary.END]) == ids_of(tokenizer, ["".join(p.text for p in whole)])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_chain_is_what_inference_asks_turn_by_turn(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    attempt, pieces = chain(tokenizer, seed)
    text = "".join(piece.text for piece in pieces)
    done: tuple[str, ...] = ()
    for index in range(sum(piece.text == genprm.VERIFY for piece in pieces)):
        prompt = render(tokenizer, genprm.conversation(attempt.story.text, attempt.steps[: index + 1], done))
        assert text.startswith(prompt + genprm.analyze_prefix(index))
        end = text.index(genprm.OUTPUT_END, len(prompt)) + len(genprm.OUTPUT_END)
        done += (text[len(prompt) : end],)
    judged = [genprm.judgement_of(turn) for turn in done]
    error = first_error(attempt.story, attempt.steps)
    assert judged == ["Yes"] * len(attempt.steps) if error is None else judged == ["Yes"] * error + ["No"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_check_of_a_turn_prints_what_the_turn_says(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    rng = random.Random(seed)
    attempt = verifier_data.synthetic(rng)
    error = first_error(attempt.story, attempt.steps)
    turn = turn_of(rng, attempt.story, attempt.steps, 0 if error is None else error)
    code = extract_code(genprm.VERIFY + turn.code + genprm.CODE_END)
    assert code is not None
    printed: list[str] = []
    exec(code, {"print": lambda *values: printed.append(" ".join(map(str, values)))})
    assert printed == [turn.output]
    assert turn.judgement == ("Yes" if turn.output.endswith("True") else "No")


def test_the_loss_falls_on_the_verifiers_own_words(tokenizer: PreTrainedTokenizerFast) -> None:
    story = generate(3, 1)
    steps = gold_steps(story)
    turns = [turn_of(random.Random(0), story, steps, i) for i in range(2)]
    (document,) = encode(tokenizer, [verification_pieces(tokenizer, story.text, steps, turns)])
    expected = "".join(
        f"{turn.analysis}\n{genprm.ANALYZE_END}{turn.code}{genprm.CODE_END}{genprm.VERIFY_END}"
        f"{genprm.verdict_text(turn.judgement)}"
        for turn in turns
    )
    assert learnt(tokenizer, document) == expected
    assert feedback_block(turns[0].output) in tokenizer.decode(document.ids)


def test_the_loss_falls_on_the_solution_after_its_forced_heading(tokenizer: PreTrainedTokenizerFast) -> None:
    story = generate(3, 2)
    steps = gold_steps(story)
    (document,) = encode(tokenizer, [solution_pieces(tokenizer, policy.solve_messages(story.text), steps)])
    assert learnt(tokenizer, document) == "\n".join(steps).removeprefix("Step 1: ") + vocabulary.END


def test_step_labels_are_learnt_at_the_markers_and_stand_nowhere(tokenizer: PreTrainedTokenizerFast) -> None:
    steps = ("Step 1: 3*4=12.", "Step 2: 9*12=109.")
    (document,) = encode(tokenizer, [labelled_pieces(tokenizer, "Ann has 9 pens.", steps, [True, False])])
    marker = tokenizer.convert_tokens_to_ids(prm.MARKER)
    places = [i for i, token in enumerate(document.ids) if token == marker]
    good, bad = (tokenizer.convert_tokens_to_ids(sign) for sign in (prm.GOOD, prm.BAD))
    assert [document.targets[i] for i in places] == [good, bad]
    assert sum(target != IGNORE for target in document.targets) == 2
    assert good not in document.ids
    assert bad not in document.ids


def test_a_target_is_the_next_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for document in itertools.islice(policy_data.documents(tokenizer, 0), 200):
        pairs = zip(document.targets, (*document.ids[1:], None), strict=True)
        assert all(target in (IGNORE, token) for target, token in pairs)
        assert len(document.ids) < 512
