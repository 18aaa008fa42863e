"""The stages `fit` and `prm`: embedded verifiers, trained from scratch on what the pipeline made.

For other models the conversations of the stage `filter` go to `tts-train sft`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from transformers import PreTrainedTokenizerFast

from tts_engine.backends.embedded import folder_of
from tts_engine.errors import DataError
from tts_engine.formats import genprm, prm
from tts_engine.types import Key, Message
from tts_engine.verifiers.training import model as checkpoints
from tts_engine.verifiers.training import vocabulary
from tts_engine.verifiers.training.collection import Positive
from tts_engine.verifiers.training.embedded import GENPRM_PARAMS
from tts_engine.verifiers.training.encode import Document, Piece, encode, labelled_pieces, render
from tts_engine.verifiers.training.manifest import Record
from tts_engine.verifiers.training.sft import Schedule, train
from tts_engine.verifiers.training.stages import Run

CHUNK = 256
TOKENIZER = "embedded:policy"
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How an embedded verifier is trained; the arguments of both stages."""

    tokens: int
    rate: float
    share: float
    tokenizer: str
    device: str


def fit(
    run: Run,
    *,
    tokens: Positive = 2_500_000,
    rate: Rate = 5e-3,
    share: Share = 1.0,
    tokenizer: str = TOKENIZER,
    device: Device = "cpu",
) -> None:
    """Stage `fit`: a GenPRM from scratch on the filtered conversations, in the shape of the embedded models.

    Args:
        tokens: to train on, padding included; the data are repeated in a new order as often as that takes.
        rate: learning rate.
        share: of the conversations that are used, by lot.
        tokenizer: `embedded:NAME`, or a folder with one that `tts-train embedded` made.
        device: where it is trained.
    """
    how = Fitting(tokens=tokens, rate=rate, share=share, tokenizer=tokenizer, device=device)
    identity = run.folder.identity("fit", asdict(how), run.seed, ("filter",))
    if run.folder.finished("fit", identity):
        return
    code = run.folder.facts("rationales")["identity"]["params"]["code"]
    words = own_tokenizer(tokenizer)
    records = portion(run.folder.read("filter"), share, run.seed)
    documents = encoded(words, [conversation_pieces(words, record) for record in records])
    _train(
        run, "fit", identity, words, documents, how, "genprm", GENPRM_PARAMS | ({} if code else {"mode": "analysis"})
    )


def prm_(
    run: Run,
    *,
    tokens: Positive = 2_500_000,
    rate: Rate = 5e-3,
    share: Share = 1.0,
    tokenizer: str = TOKENIZER,
    device: Device = "cpu",
) -> None:
    """Stage `prm`: the discriminative baseline on the same labels: steps are good before the first bad one, bad after.

    Args:
        tokens, rate, share, tokenizer, device: as for `fit`.
    """
    how = Fitting(tokens=tokens, rate=rate, share=share, tokenizer=tokenizer, device=device)
    identity = run.folder.identity("prm", asdict(how), run.seed, ("problems", "sample", "label"))
    if run.folder.finished("prm", identity):
        return
    words = own_tokenizer(tokenizer)
    texts = {entry["id"]: entry["problem"] for entry in run.folder.read("problems")}
    steps = {entry["id"]: entry["steps"] for entry in run.folder.read("sample")}
    entries = portion(run.folder.read("label"), share, run.seed)
    pieces = [
        labelled_pieces(words, texts[e["problem_id"]], steps[e["id"]], spread(e["labels"], len(steps[e["id"]])))
        for e in entries
    ]
    _train(run, "prm", identity, words, encoded(words, pieces), how, "prm", {})


def own_tokenizer(name: str = TOKENIZER) -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded models, or of a folder.

    Raises:
        DataError: there is none, or not one of that kind.
    """
    return vocabulary.load(folder_of(name))


def portion(records: Sequence[Record], share: float, seed: int) -> list[Record]:
    """That share of the records, by lot; a smaller share is part of a larger one."""
    lots = sorted(records, key=lambda record: Key(seed, ("portion", record["id"])).int())
    return lots[: max(1, round(share * len(lots)))]


def spread(labels: Sequence[bool], steps: int) -> list[bool]:
    """Labels of all steps: what follows the first bad one is bad."""
    return [*labels, *[False] * (steps - len(labels))]


def conversation_pieces(tokenizer: PreTrainedTokenizerFast, record: Record) -> list[Piece]:
    """A conversation in the pieces that inference makes it of; loss on the model's own words in turns that train."""
    pieces: list[Piece] = []
    before: list[Message] = []
    seen = ""
    for message in record["messages"]:
        if message["role"] == "assistant":
            head = render(tokenizer, before)
            pieces.append(Piece(head.removeprefix(seen)))
            segments = genprm.parse_turn(message["content"])
            pieces += [Piece(s.text, learn=message["train"] and s.kind == "model") for s in segments]
            seen = head + message["content"]
        before.append(Message(role=message["role"], content=message["content"]))
    return pieces


def encoded(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Sequence[Piece]]) -> list[Document]:
    """The documents that fit the context, as tokens.

    Raises:
        DataError: none does.
    """
    found: list[Document] = []
    for start in range(0, len(documents), CHUNK):
        found += encode(tokenizer, documents[start : start + CHUNK])
    fitting = [document for document in found if len(document.ids) <= checkpoints.CONTEXT]
    if not fitting:
        raise DataError(f"no conversation fits {checkpoints.CONTEXT} tokens; the embedded models take short ones only")
    return fitting


def repeated(documents: Sequence[Document], seed: int) -> Iterator[Document]:
    """The documents over and over, each time in another order."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(documents, len(documents))


def _train(
    run: Run,
    stage: str,
    identity: Record,
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[Document],
    how: Fitting,
    form: str,
    params: Record,
) -> None:
    torch.set_num_threads(1)
    if how.device == "cuda" and not torch.cuda.is_available():
        raise DataError(f"the stage {stage} asks for device cuda, and torch sees none: set {stage}.device to cpu")
    model = checkpoints.new_model(tokenizer, run.seed, how.device)
    log = run.folder.path / f"{stage}.log.jsonl"
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    schedule = Schedule(tokens=how.tokens, rate=how.rate)
    batches = train(model, repeated(documents, run.seed), schedule, seed=run.seed, pad=pad, log=log)
    version = {"genprm": genprm.FORMAT_VERSION, "prm": prm.FORMAT_VERSION}[form]
    facts = {"seed": run.seed, "tokens": how.tokens, "documents": len(documents), "params": params}
    checkpoints.save(model, tokenizer, run.folder.path / form, form=form, version=version, **facts)
    run.folder.seal(
        stage,
        identity,
        run.folder.path / form / "model.safetensors",
        counts={
            "documents": len(documents),
            "batches": batches,
            "tokens in documents": sum(len(d.ids) for d in documents),
        },
    )
