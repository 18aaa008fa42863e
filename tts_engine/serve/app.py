"""The routes of the gateway."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from tts_engine import __version__
from tts_engine.errors import TTSError
from tts_engine.run import Engine
from tts_engine.serve import answers
from tts_engine.serve.accounts import Account, Accounts
from tts_engine.serve.admission import Admission
from tts_engine.serve.answers import Json, Kind
from tts_engine.serve.gate import LOCAL_NAMES, Gate
from tts_engine.serve.metrics import Metrics
from tts_engine.serve.plan import (
    Plan,
    budget_of,
    check_samples,
    check_verify,
    models,
    plan_chat,
    plan_completion,
    takes,
)
from tts_engine.serve.problems import Answer, Refusal, dumps, invalid, refusal
from tts_engine.serve.schema import ChatRequest, CompletionRequest, ErrorBody, VerifyRequest
from tts_engine.serve.settings import ServeConfig
from tts_engine.serve.work import Done, Stream, Tell, carry_out, failed, merged, queued, remaining, unless_gone
from tts_engine.types import Problem, Verdict

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 408, 413, 415, 429, 502, 503)
}
BOTH: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}


class Gateway:
    """What the routes share.

    Args:
        engine: running, and forgetting its calls (`keep=False`).
        settings: the section `serve` of the configuration.
        accounts: who may use it.
    """

    def __init__(self, engine: Engine, settings: ServeConfig, accounts: Accounts) -> None:
        self.engine = engine
        self.settings = settings
        self.accounts = accounts
        self.door = Admission(settings.running, settings.waiting, settings.waiting_per_key)
        self.metrics = Metrics(engine.ledger, self.door)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """A chat completion; with a strategy, the last message is a problem and the answer its solution."""
        return await self._complete("chat.completion", plan_chat(self.engine, body, self.settings), body, request)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """A text completion; with a strategy, the prompt is a problem."""
        return await self._complete("text_completion", plan_completion(self.engine, body, self.settings), body, request)

    async def verify(self, body: VerifyRequest, request: Request) -> Response:
        """What the verifier says of each step of a solution, with its reasons, its checks and what that took."""
        name = check_verify(self.engine, body, self.settings)
        check_samples(body.samples, self.settings)
        budget = budget_of(body.budget, self.settings.deadline)
        account, seed, began = self._enter(request), body.seed if body.seed is not None else 0, time.monotonic()
        note(request, strategy="verify", verifier=name)

        async def work() -> Json:
            with account.scope.child(f"request:{request.state.id}", remaining(budget, began)) as scope:
                number = body.samples or self.engine.samples(name)
                problem = Problem(id="problem", prompt=body.problem)
                try:
                    found: dict[int, Verdict] = await self.engine.judge(
                        problem, body.steps, [number], verifier=name, seed=seed, account=scope
                    )
                except TTSError as error:
                    raise failed(error, account) from error
            if not found[number].samples:
                raise Refusal(400, "the budget is too small for one sample; raise `budget`", "budget_too_small")
            usage = answers.usage_json(scope.spent)
            note(request, tokens=usage["tts"]["total"]["tokens"])
            said = answers.verdict_json(found[number])
            return {
                "id": f"verify-{request.state.id}",
                "object": "verification",
                "verifier": name,
                "seed": seed,
                **said,
                "usage": usage,
            }

        ticket = self.door.ticket(account.name)
        said = await unless_gone(queued(work, ticket, account, self.settings.deadline), request.receive)
        return _nobody(request) if said is None else Answer(said)

    async def list_models(self) -> Response:
        """The policy, by itself and with each strategy."""
        entries = [self._model(name) for name in models(self.engine)]
        return Answer({"object": "list", "data": entries})

    async def model(self, name: str) -> Response:
        """One of them."""
        if name not in models(self.engine):
            raise Refusal(404, "there is no such model; GET /v1/models lists them", "model_not_found", param="model")
        return Answer(self._model(name))

    async def page(self) -> Response:
        """The page."""
        return HTMLResponse(PAGE, headers={"content-security-policy": POLICY, "referrer-policy": "no-referrer"})

    async def health(self) -> Response:
        """The process lives."""
        return Answer({"status": "ok", "version": __version__})

    async def ready(self) -> Response:
        """Requests are taken."""
        return Answer({"status": "stopping"}, 503) if self.door.draining else Answer({"status": "ready"})

    async def exposition(self) -> Response:
        """Metrics for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _model(self, name: str) -> Json:
        entry = {"id": name, "object": "model", "created": 0, "owned_by": "tts-engine"}
        if name == self.engine.config.policy.model:
            return entry
        return entry | {"tts": takes(name.partition("/")[0])}

    def _enter(self, request: Request) -> Account:
        account: Account = request.state.account
        self.accounts.afford(account)
        return account

    async def _complete(
        self, kind: Kind, plan: Plan, body: ChatRequest | CompletionRequest, request: Request
    ) -> Response:
        account = self._enter(request)
        note(request, strategy=plan.strategy, verifier=plan.verifier, seed=plan.seed, stream=bool(body.stream))
        if self.settings.log_content:
            note(request, problem=plan.content)
        ticket, number = self.door.ticket(account.name), request.state.id
        run = partial(carry_out, self.engine, plan, account, number)
        if body.stream:

            async def work(tell: Tell) -> Done:
                return await queued(lambda: run(tell), ticket, account, self.settings.deadline)

            usage = bool(body.stream_options and body.stream_options.include_usage)
            lines = self._lines(kind, plan, body.model, request, merged(work), usage=usage)
            return Stream(lines, patience=self.settings.deadline, ended=ticket.leave)
        done = await unless_gone(queued(run, ticket, account, self.settings.deadline), request.receive)
        if done is None:
            return _nobody(request)
        self._note_done(request, done)
        told = {"choices": answers.choices(kind, plan, done.results), "usage": answers.usage_json(done.spent)}
        return Answer({**answers.head(kind, number, body.model), **told, "tts": answers.about(plan)})

    async def _lines(
        self,
        kind: Kind,
        plan: Plan,
        model: str,
        request: Request,
        items: AsyncIterator[Any],
        *,
        usage: bool,
    ) -> AsyncIterator[str]:
        """The events of a stream."""
        head = answers.head(kind, request.state.id, model, chunk=True)
        try:
            for index in range(plan.choices):
                yield answers.event(head, answers.delta(kind, index, first=True))
            async for item in items:
                if item is None:
                    yield ": working\n\n"
                elif isinstance(item, Done):
                    self._note_done(request, item)
                    for line in answers.finish(kind, head, plan, item.results, item.spent, usage=usage):
                        yield line
                else:
                    yield answers.event(head, answers.delta(kind, item[0]), {"choice": item[0], **item[1]})
            yield "data: [DONE]\n\n"
        except Refusal as error:
            note(request, refused=error.code)
            yield f"data: {dumps(error.body)}\n\n"
        finally:
            await items.aclose()  # type: ignore[attr-defined]  # it is a generator

    def _note_done(self, request: Request, done: Done) -> None:
        tokens = sum(usage.tokens for usage in done.spent.values())
        note(request, tokens=tokens)
        if self.settings.log_content:
            note(request, answers=[getattr(result, "answer", getattr(result, "text", None)) for result in done.results])


def note(request: Request, **fields: Any) -> None:  # noqa: ANN401  # JSON values
    """Add to what is logged of a request."""
    request.state.note.update(fields)


def _nobody(request: Request) -> Response:
    """What is noted where the client has left."""
    note(request, gone=True)
    return Response(status_code=499)


def make_app(gateway: Gateway) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="tts-engine", version=__version__, docs_url=None, redoc_url=None, separate_input_output_schemas=False
    )
    keyed: dict[str, Any] = {"dependencies": [Depends(HTTPBearer(auto_error=False))], "responses": ERRORS}
    spoken = keyed | {"responses": ERRORS | BOTH}
    app.post("/v1/chat/completions", **spoken)(gateway.chat)
    app.post("/v1/completions", **spoken)(gateway.complete)
    app.post("/v1/verify", **keyed)(gateway.verify)
    app.get("/v1/models", **keyed)(gateway.list_models)
    app.get("/v1/models/{name:path}", **keyed)(gateway.model)
    app.get("/metrics", **keyed, response_class=Response)(gateway.exposition)
    app.get("/healthz")(gateway.health)
    app.get("/readyz", responses={503: {}})(gateway.ready)
    app.get("/", include_in_schema=False)(gateway.page)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(TTSError, _on_error)
    settings = gateway.settings
    app.add_middleware(
        Gate,
        metrics=gateway.metrics,
        accounts=gateway.accounts,
        body_bytes=settings.body_bytes,
        body_seconds=settings.body_seconds,
        hosts=LOCAL_NAMES if settings.local and settings.keys is None else (),
    )
    described = app.openapi()
    for operation in (each for path in described["paths"].values() for each in path.values()):
        operation["responses"].pop("422", None)  # those are 400 here
    return app


def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors()).response()


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: "there is nothing at this address", 405: "this address takes another method"}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_json")
    message = messages.get(error.status_code, "the body is not valid JSON")
    response = Refusal(error.status_code, message, code).response()
    response.headers.update(error.headers or {})
    return response


def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TTSError)
    return refusal(error).response()


PAGE = files("tts_engine").joinpath("assets/serve.html").read_text(encoding="utf-8")


def _sources(tag: str) -> str:
    """The hashes of what stands in the page itself: nothing else may run."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.S)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in found)


POLICY = (
    f"default-src 'none'; script-src {_sources('script')}; style-src {_sources('style')}; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
