"""The routes.

POST /predict               rows, or one row               GET /health    what is served, and what is wrong
POST /v1/chat/completions   the OpenAI protocol            GET /ready     200 while requests are taken
GET  /v1/models                                            GET /metrics   for Prometheus
"""

import asyncio
import hmac
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.bench import Bench
from serving.batching import Full, Late
from serving.chat import ChatRequest, Form, Refusal, completion, events
from serving.follower import Follower, Served
from serving.meters import Meters
from serving.options import Options
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig, BakeoffError
from tasks.predicting.rows import Inputs, read_row
from tasks.prompting.reverse import Reader
from tasks.records import Answer, Failure

logger = logging.getLogger(__name__)
ROUTES = ("/predict", "/v1/chat/completions", "/v1/models", "/health", "/ready", "/metrics")
BAD_ROW = {
    Failure.EMPTY: "the row has no text",
    Failure.NOT_TEXT: "the row is no text that can be read (a NUL, half a character)",
    Failure.TOO_LONG: "the row has more characters than dataset.max_characters",
}


class PredictRequest(BaseModel):
    """One row or several, each with the champion's input columns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: dict[str, str] | None = None
    rows: list[dict[str, str]] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> "PredictRequest":
        if (self.row is None) == (self.rows is None):
            raise ValueError("give row (one) or rows (several)")
        return self


class Serving:
    """What the routes share."""

    def __init__(self, config: BakeoffConfig, bench: Bench, options: Options) -> None:
        self.config, self.options, self.meters = config, options, Meters()
        self.follower = Follower(config, bench, options, self.meters)
        self.stopping: Callable[[], bool] = lambda: False
        """Whether the server was told to end."""

    async def answer(self, served: Served, rows: Sequence[Inputs]) -> list[Answer]:
        """One answer a row. Raises as `Batcher.ask`."""
        answers = await served.batcher.ask(rows)
        self.meters.answered(answers)
        return answers


def make_app(config: BakeoffConfig, bench: Bench, options: Options) -> FastAPI:
    """The application; the champion is loaded when it starts."""
    serving = Serving(config, bench, options)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(serving.follower.follow())
        yield
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await serving.follower.stop()

    app = FastAPI(title=f"bakeoff {config.name}", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.serving = serving
    app.add_middleware(Door, serving=serving)
    for path, method, endpoint in (
        ("/predict", "POST", predict),
        ("/v1/chat/completions", "POST", chat),
        ("/v1/models", "GET", models),
        ("/v1/models/{name}", "GET", model),
        ("/health", "GET", health),
        ("/ready", "GET", ready),
        ("/metrics", "GET", metrics),
    ):
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    for kind in (RequestValidationError, HTTPException, Refusal, BakeoffError, Full, Late):
        app.add_exception_handler(kind, _explain)
    return app


def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


Shared = Annotated[Serving, Depends(_serving)]


async def predict(body: PredictRequest, serving: Shared) -> dict[str, Any]:
    """The champion's answers, in the rows' order."""
    rows = [body.row] if body.row is not None else body.rows or []
    with serving.follower.holding() as served:
        champion = served.champion
        inputs = _checked(rows, champion.manifest.inputs, serving)
        answers = await serving.answer(served, inputs)
    shown = {"label", "probability", "answer", "reason", "failure", "cost_usd", "input_tokens", "output_tokens"}
    return {
        "champion": {"name": champion.version.name, "version": champion.version.version, "contender": champion.version.contender},
        "answers": [answer.model_dump(mode="json", include=shown) for answer in answers],
    }


async def chat(body: ChatRequest, serving: Shared) -> Response:
    """A chat completion by the champion."""
    with serving.follower.holding() as served:
        champion = served.champion
        form = Form(body, champion.manifest.labels)
        read = _row_of(body, champion.reader, champion.manifest.inputs, serving)
        (answer,) = await serving.answer(served, [read])
    whole = completion(body, form, answer, champion.manifest, _model_name(champion.version.name, champion.version.version))
    if not body.stream:
        return JSONResponse(whole)
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return StreamingResponse(events(whole, usage), media_type="text/event-stream")


def _row_of(body: ChatRequest, reader: Reader, columns: Sequence[str], serving: Serving) -> Inputs:
    """The row that a chat asks about. Raises Refusal where there is none that can be asked about."""
    try:
        row = reader.inputs_of(body.questions())
    except BadConfig as error:
        raise Refusal(str(error), "messages") from None
    read = read_row(row, columns, serving.config.dataset.max_characters)
    if isinstance(read, Failure):
        raise Refusal(BAD_ROW[read], "messages", code=read.value)
    return read


async def models(serving: Shared) -> dict[str, Any]:
    """The one model that there is; chats may name any other."""
    return {"object": "list", "data": [_model(serving)]}


async def model(name: str, serving: Shared) -> dict[str, Any]:
    """The same by its name."""
    there = _model(serving)
    if name not in (there["id"], serving.config.name):
        raise Refusal(f"there is no model {name[:100]!r}", "model", 404, "model_not_found")
    return there | {"id": name}


async def health(serving: Shared) -> dict[str, Any]:
    """What is served, and what is wrong; 200 as long as the server answers."""
    follower = serving.follower
    served = follower.current
    version = served.champion.version if served else None
    return {
        "status": "degraded" if follower.trouble else "ok",
        "trouble": follower.trouble or None,
        "champion": version and version.champion().model_dump(mode="json"),
        "pointer_read_s_ago": round(time.time() - follower.read_at, 1),
        "stopping": serving.stopping(),
    }


async def ready(serving: Shared) -> Response:
    """200 while requests are taken."""
    there = serving.follower.current is not None and not serving.stopping()
    return JSONResponse({"ready": there}, status_code=200 if there else 503)


async def metrics(serving: Shared) -> Response:
    """Prometheus' text form."""
    return Response(serving.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _checked(rows: Sequence[dict[str, str]], columns: Sequence[str], serving: Serving) -> list[Inputs]:
    """The rows as the champion sees them. Raises RequestValidationError, which names each bad row by its place."""
    most = serving.options.request_rows
    if len(rows) > most:
        raise RequestValidationError([_fault(["rows"], f"{len(rows)} rows in one request; at most {most} are taken")])
    inputs, faults = [], []
    for place, row in enumerate(rows):
        wrong = set(row) ^ set(columns)
        read = None if wrong else read_row(row, columns, serving.config.dataset.max_characters)
        if wrong:
            faults.append(_fault(["rows", place], f"the columns are {', '.join(columns)}; this row has {', '.join(row) or 'none'}"))
        elif isinstance(read, Failure):
            faults.append(_fault(["rows", place], BAD_ROW[read]))
        else:
            inputs.append(read)
    if faults:
        raise RequestValidationError(faults[:20])
    return [each for each in inputs if each is not None]


def _fault(place: list[Any], message: str) -> dict[str, Any]:
    return {"type": "value_error", "loc": ("body", *place), "msg": message[:500]}


def _model_name(name: str, version: int) -> str:
    return f"{name}:v{version}"


def _model(serving: Serving) -> dict[str, Any]:
    served = serving.follower.current
    assert served
    version = served.champion.version
    return {
        "id": _model_name(version.name, version.version),
        "object": "model",
        "created": int(version.published.timestamp()),
        "owned_by": "bakeoff",
    }


async def _explain(request: Request, error: Exception) -> Response:
    """Every error that a client may see, in the words of the protocol that it speaks. What was sent is not repeated."""
    status, message, extra = 500, "the champion could not answer", {}
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        faults = [{key: fault[key] for key in ("type", "loc", "msg") if key in fault} for fault in error.errors()]
        places = "; ".join(f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}" for fault in faults)
        status, message, extra = 422, places, {"detail": faults}
    elif isinstance(error, HTTPException):
        status, message = error.status_code, str(error.detail)
    elif isinstance(error, Full):
        status, message, headers = 503, str(error), {"Retry-After": str(error.retry_after_s)}
    elif isinstance(error, Late):
        status, message = 504, str(error)
    elif isinstance(error, BakeoffError):
        logger.error("rows could not be answered: %s", error)
        status, message, headers = 503, str(error), {"Retry-After": "30"}
    if not request.url.path.startswith("/v1/"):
        return JSONResponse({"detail": message} | extra, status, headers)
    refusal = error if isinstance(error, Refusal) else Refusal(message, status=400 if status == 422 else status)
    return JSONResponse(refusal.body(), refusal.status, headers)


class Door:
    """What every request passes: the key, the size of its body, and the clock."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self.app, self.serving = app, serving
        self.key = os.environ.get(serving.options.key_env, "") if serving.options.key_env else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or turn it away."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), [500]

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            wrong = self._turned_away(scope)
            if wrong:
                await (await _explain(Request(scope), wrong))(scope, receive, told)
            else:
                await self.app(scope, self._limited(receive), told)
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self.serving.meters.requests.labels(route, str(status[0])).inc()
            self.serving.meters.seconds.labels(route).observe(time.perf_counter() - started)

    def _turned_away(self, scope: Scope) -> HTTPException | None:
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        guarded = scope["path"].startswith(("/predict", "/v1"))
        if self.key and guarded and not hmac.compare_digest(headers.get("authorization", b""), f"Bearer {self.key}".encode()):
            return HTTPException(401, "no key, or a wrong one: send it as a bearer token")
        length = headers.get("content-length", b"0")
        if not length.isdigit() or int(length) > self.serving.options.request_bytes:
            return self._too_large()
        return None

    def _limited(self, receive: Receive) -> Receive:
        """A body that says nothing of its size is counted as it comes."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.serving.options.request_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self.serving.options.request_bytes:,} bytes: send fewer rows at once")
