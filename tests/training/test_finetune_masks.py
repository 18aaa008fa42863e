"""Loss masks token by token, and that what is trained is what inference reads and writes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tts_engine.backends.embedded import embedded_path
from tts_engine.backends.local_text import Encoder
from tts_engine.formats import genprm, policy, prm
from tts_engine.types import Message, Prompt
from tts_engine.verifiers.training.encode import IGNORE
from tts_engine.verifiers.training.masks import (
    Example,
    Said,
    Sample,
    chat_of,
    cut_solution,
    encode_examples,
    read_examples,
    render,
    samples,
)
from tts_engine.verifiers.training.recipe import Recipe

GOLDEN = Path(__file__).parents[1] / "fixtures" / "genprm_mask.json"
TRIMS = (  # as Llama 3 does; an earlier turn is then not what the verifier wrote
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def embedded() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(embedded_path("embedded:genprm"))


@pytest.fixture(scope="module")
def general() -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows nothing of the protocol, so that tokens could cross the borders of its segments."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    golden = json.loads(GOLDEN.read_text())["example"]["messages"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([message["content"] for message in golden] * 3, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[1])
    made.chat_template = TRIMS.replace(" | trim", "")
    return made


@pytest.fixture
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())  # type: ignore[no-any-return]


def example(tmp_path: Path, data: dict[str, Any]) -> Example:
    (tmp_path / "data.jsonl").write_text(json.dumps(data))
    return read_examples(tmp_path / "data.jsonl")[0]


def encoded(
    tokenizer: PreTrainedTokenizerFast, data: dict[str, Any], tmp_path: Path, **settings: object
) -> list[Sample]:
    recipe = Recipe.model_validate(settings)
    return [sample for _, sample in samples(tokenizer, [example(tmp_path, data)], recipe)]


def marked(tokenizer: PreTrainedTokenizerFast, sample: Sample) -> list[tuple[str, int]]:
    """Each token's text and whether it is learnt: whether the position before it has it as its target."""
    learnt = [0, *(int(target != IGNORE) for target in sample.targets[:-1])]
    assert all(target in (IGNORE, token) for target, token in zip(sample.targets[:-1], sample.ids[1:], strict=True))
    return [(tokenizer.decode([token]), one) for token, one in zip(sample.ids, learnt, strict=True)]


def text_of(tokenizer: PreTrainedTokenizerFast, sample: Sample, wanted: int) -> str:
    """The learnt (1) or the other (0) tokens as one text."""
    flags = [one for _, one in marked(tokenizer, sample)]
    return str(tokenizer.decode([int(token) for token, one in zip(sample.ids, flags, strict=True) if one == wanted]))


def test_the_mask_of_the_golden_transcript_token_by_token(
    embedded: PreTrainedTokenizerFast, golden: dict[str, Any], tmp_path: Path
) -> None:
    (sample,) = encoded(embedded, golden["example"], tmp_path)
    assert marked(embedded, sample) == [(text, one) for text, one in golden["tokens"]]


def test_the_golden_transcript_is_learnt_where_a_person_marked_it(
    general: PreTrainedTokenizerFast, golden: dict[str, Any], tmp_path: Path
) -> None:
    (sample,) = encoded(general, golden["example"], tmp_path)
    assert text_of(general, sample, 1) == "".join(golden["learnt"])
    for output in golden["outputs"]:
        assert output in text_of(general, sample, 0)


@pytest.mark.parametrize(
    ("settings", "added"),
    [({"learn_output": True}, "outputs"), ({"learn_forced": True}, "forced")],
)
def test_code_output_and_forced_prefixes_are_learnt_if_the_recipe_says_so(
    general: PreTrainedTokenizerFast, golden: dict[str, Any], tmp_path: Path, settings: dict[str, bool], added: str
) -> None:
    (sample,) = encoded(general, golden["example"], tmp_path, **settings)
    (usual,) = encoded(general, golden["example"], tmp_path)
    more = len("".join(golden[added]))
    assert len(text_of(general, sample, 1)) == len("".join(golden["learnt"])) + more
    assert (sample.ids == usual.ids).all()


@pytest.mark.parametrize("turns", ["joined", "separate"])
@pytest.mark.parametrize("which", ["embedded", "general"])
def test_what_is_trained_is_what_inference_encodes(
    which: str, turns: str, golden: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Up to each stretch that the verifier writes, the tokens are those of the request that makes it write."""
    tokenizer = request.getfixturevalue(which)
    messages = [Message(role=m["role"], content=m["content"]) for m in golden["example"]["messages"]]
    found = encoded(tokenizer, golden["example"], tmp_path, turns=turns)
    turn_places = [i for i, message in enumerate(messages) if message.role == "assistant"]
    assert len(found) == (1 if turns == "joined" else len(turn_places))
    encoder = Encoder(tokenizer)
    for number, place in enumerate(turn_places):
        segments = tuple(segment.text for segment in genprm.parse_turn(messages[place].content))
        for count in range(len(segments) + 1):
            prompt = Prompt(messages=tuple(messages[:place]), continuation=segments[:count], generation_prompt=True)
            ids = encoder.prompt(prompt)
            if turns == "separate" or which == "embedded" or number == 0:
                assert found[0 if turns == "joined" else number].ids[: len(ids)].tolist() == ids
            else:  # a general tokenizer may cut the history otherwise when it is one text; the text is the same
                assert tokenizer.decode(found[0].ids).startswith(tokenizer.decode(ids))


def test_a_template_that_changes_earlier_turns_gives_each_turn_its_own_document(
    general: PreTrainedTokenizerFast, golden: dict[str, Any], tmp_path: Path
) -> None:
    whole = encoded(general, golden["example"], tmp_path)
    general.chat_template = TRIMS
    try:
        apart = encoded(general, golden["example"], tmp_path)
        assert (len(whole), len(apart)) == (1, 2)
        assert "".join(text_of(general, sample, 1) for sample in apart) == "".join(golden["learnt"])
        assert "</output><|end|>" in general.decode(apart[1].ids)  # trimmed in the history
    finally:
        general.chat_template = TRIMS.replace(" | trim", "")


def test_without_the_assistant_tag_each_turn_follows_the_question(
    embedded: PreTrainedTokenizerFast, golden: dict[str, Any], tmp_path: Path
) -> None:
    """A quirk of GenPRM's own data: the open turn has no tag, the closed ones have."""
    apart = encoded(embedded, golden["example"], tmp_path, generation_prompt=False)
    assert len(apart) == 2
    texts = [embedded.decode(sample.ids) for sample in apart]
    assert texts[0].count("<|assistant|>") == 0
    assert texts[1].count("<|assistant|>") == 1
    assert "<|end|><analyze>" in texts[1]


def test_a_model_without_chat_template_reads_contents_and_blank_lines(
    general: PreTrainedTokenizerFast, golden: dict[str, Any], tmp_path: Path
) -> None:
    template, general.chat_template = general.chat_template, None
    try:
        apart = encoded(general, golden["example"], tmp_path)
        messages = [Message(role=m["role"], content=m["content"]) for m in golden["example"]["messages"]]
        ids = Encoder(general).prompt(Prompt(messages=tuple(messages[:2]), generation_prompt=True))
        assert apart[0].ids[: len(ids)].tolist() == ids
    finally:
        general.chat_template = template


def test_entries_of_one_turn_are_taken_as_the_data_cut_them(general: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    entries = [("user", "1+1?", False), ("assistant", "It is ", False), ("assistant", "2.", True)]
    data = {"id": "a", "messages": [{"role": r, "content": c, "train": t} for r, c, t in entries]}
    (sample,) = encoded(general, data, tmp_path, format="chat")
    assert text_of(general, sample, 1) == "2.<|end|>"
    assert general.decode(sample.ids) == "<|user|>1+1?<|end|><|assistant|>It is 2.<|end|>"


def test_a_refinement_learns_the_second_solution_and_its_end(embedded: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    wrong, right = "Step 1: 3+4=8.\nStep 2: so \\boxed{8}.", "Step 1: 3+4=7.\nStep 2: so \\boxed{7}."
    messages = policy.refine_messages("3 + 4?", wrong, "Step 1: 3+4=8.", "3+4 is 7.")
    lines = [{"role": m.role, "content": m.content, "train": False} for m in messages]
    data = {"id": "a", "messages": [*lines, {"role": "assistant", "content": right}]}
    (sample,) = encoded(embedded, data, tmp_path, format="policy")
    assert text_of(embedded, sample, 1) == right.removeprefix("Step 1: ") + embedded.eos_token
    head = Encoder(embedded).prompt(Prompt(messages=messages, continuation=policy.continuation(())))
    assert sample.ids[: len(head)].tolist() == head


@pytest.mark.parametrize("text", ["Step 1: a.\nStep 2: b.", "no heading", "Step 1: a.\n\nStep 2: b.", ""])
def test_a_cut_solution_is_the_solution(text: str) -> None:
    assert "".join(segment.text for segment in cut_solution(text)) == text


def test_step_labels_are_learnt_at_the_markers(general: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    data = {"id": "a", "problem": "9 pens?", "steps": ["Step 1: 3*4=12.", "Step 2: 9*12=109."], "labels": [1, 0]}
    (sample,) = encoded(general, data, tmp_path, format="prm")
    signs = [general.encode(sign, add_special_tokens=False)[0] for sign in (prm.GOOD, prm.BAD)]
    places = [i for i, target in enumerate(sample.targets) if target != IGNORE]
    assert [sample.targets[i] for i in places] == signs
    for place, count in zip(places, (1, 2), strict=True):
        ids = Encoder(general).prompt(prm.step_prompt("9 pens?", tuple(data["steps"][:count])))
        assert sample.ids[: place + 1].tolist() == ids


def test_long_and_empty_documents_are_counted(
    general: PreTrainedTokenizerFast, golden: dict[str, Any], tmp_path: Path
) -> None:
    short = {"id": "s", "messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2."}]}
    silent = {"id": "n", "messages": [short["messages"][0], {"role": "assistant", "content": "2.", "train": False}]}
    lines = [golden["example"] | {"id": "g"}, short, silent]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = encode_examples(general, read_examples(tmp_path / "all.jsonl"), Recipe(format="chat"), 50)
    assert [sample.id for sample in found.samples] == ["s"]
    assert dict(found.skipped) == {"longer than the context": 1, "nothing to learn": 1}


def test_the_renderer_is_the_chat_template(
    embedded: PreTrainedTokenizerFast, golden: dict[str, Any], tmp_path: Path
) -> None:
    chat: Sequence[Said] = chat_of(example(tmp_path, golden["example"]), Recipe())
    text = render(embedded, chat, generation_prompt=False)
    plain = [{"role": m["role"], "content": m["content"]} for m in golden["example"]["messages"]]
    assert text == embedded.apply_chat_template(plain, tokenize=False)
    assert all(a.message.role != b.message.role for a, b in itertools.pairwise(chat))
