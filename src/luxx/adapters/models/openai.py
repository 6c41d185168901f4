"""Any OpenAI-compatible chat-completions endpoint: GLM, OpenAI, DeepSeek, Qwen, vLLM, Ollama, llama.cpp …"""

import asyncio
import contextlib
import functools
import random
import ssl
import zlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, cast

import httpx

from luxx.adapters.alarm import Alarm
from luxx.adapters.models.openai_wire import AnswerReader, Chunk, ThinkingStyle, chunk_of, joined, request_body
from luxx.adapters.models.sse import EventStreamReader, EventTooLong, ServerEvent
from luxx.adapters.models.transport import StreamTransport
from luxx.application.ports import ModelEnd, ModelEvent, ModelRequest
from luxx.domain.errors import ModelError, ModelRateLimited, ModelRejected, ModelTimeout, ModelUnavailable

_USAGE_GRACE_S: Final = 5.0
"""How long a finished answer waits for its usage."""

_REUSE_GRACE_S: Final = 0.2
"""How long a finished answer waits for the end of its body, so that the connection can be used again."""

_INFLATED_SLICE: Final = 1 << 16

_REFUSALS: Final = {
    400: "check the model name, the length of the conversation, max_tokens and the thinking style",
    401: "check the API key",
    402: "check the balance of the account",
    403: "check the API key, and whether its account may use the model",
    404: "check the model name and the base URL, which usually ends in /v1",
    405: "check the base URL, which usually ends in /v1",
    413: "the conversation is too long for it; shorten it or start a new one",
    422: "check the model name, max_tokens, temperature and the thinking style",
}
"""What to check when a provider refuses a request, by HTTP status."""

_BROKEN_REASONS: Final = frozenset({"error", "network_error", "abort"})
"""Reasons to finish that say that the answer is not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings:
    """Where a provider is and how patient to be with it. Times are in seconds, sizes in bytes.

    `first_token_s` runs from sending a request to the first token; `idle_s` is the longest pause
    between tokens (comments and empty chunks are none); `total_s` bounds an answer with its retries.
    `retries` counts further tries after the first, which are made only before an answer has begun: after
    a failed or broken connection, 408, 429 and 5xx. A `Retry-After` above `retry_after_limit_s` is not
    waited for. `line_limit` bounds one event of the stream, `response_limit` a whole answer.

    Raises ValueError for an address or key that no request can be made with.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    thinking: ThinkingStyle = ThinkingStyle.GLM
    connect_s: float = 10.0
    first_token_s: float = 60.0
    idle_s: float = 60.0
    total_s: float = 600.0
    retries: int = 2
    backoff_s: float = 0.5
    retry_after_limit_s: float = 10.0
    line_limit: int = 1 << 20
    response_limit: int = 64 << 20

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:
            raise ValueError("the base URL cannot be read; it looks like https://host/v1") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError("the base URL must begin with http:// or https:// and a host, as in https://host/v1")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("the base URL must have no user, query or fragment; a key goes into the API key")
        # Checked here, because a header that cannot be sent is quoted in the error about it.
        if self.api_key is not None and not (
            self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key
        ):
            raise ValueError("the API key must consist of visible ASCII characters")


class OpenAIChatModel:
    """A `ChatModel` over `POST {base_url}/chat/completions`. One of it serves any number of streams.

    Texts of errors say what went wrong and what to check. They never hold the key, nor what the
    provider said word for word.
    """

    def __init__(
        self,
        settings: OpenAISettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`transport` replaces the network; `jitter` gives numbers from 0 to 1 that spread retries."""
        self._settings = settings
        self._jitter = jitter
        self._url = settings.base_url.rstrip("/") + "/chat/completions"
        headers = {
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "luxx",
        }
        if settings.api_key:
            headers["Authorization"] = f"Bearer {settings.api_key}"
        self._client = httpx.AsyncClient(
            transport=transport or StreamTransport(_tls()),
            headers=headers,
            # The other deadlines are kept here, where it is known what is being waited for. `pool` is
            # all that comes before a connection is there: names are looked up, too.
            timeout=httpx.Timeout(None, connect=settings.connect_s, pool=settings.connect_s),
            trust_env=False,
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `ChatModel.stream`."""
        patience = _Patience(self._settings)
        response: httpx.Response | None = None
        try:
            response = await self._opened(request_body(request, self._settings.thinking), patience)
            async with contextlib.aclosing(_Answer(response, request, patience, self._settings)) as answer:
                while (events := await answer.more()) is not None:
                    for event in events:
                        yield event
                for event in answer.end():
                    yield event
        finally:
            patience.close()
            if response is not None:
                await response.aclose()

    async def _opened(self, body: bytes, patience: "_Patience") -> httpx.Response:
        tries = 0
        while True:
            outcome = await self._tried(body, patience)
            if isinstance(outcome, httpx.Response):
                return outcome
            pause = self._pause(outcome, tries)
            if pause is None or pause >= patience.left_in_all():
                raise outcome.error from None
            await asyncio.sleep(pause)
            tries += 1

    def _pause(self, failure: "_Failure", tries: int) -> float | None:
        if not failure.again or tries >= self._settings.retries:
            return None
        if failure.retry_after is not None:
            return failure.retry_after if failure.retry_after <= self._settings.retry_after_limit_s else None
        return self._settings.backoff_s * 2.0**tries * (0.5 + self._jitter() / 2)

    async def _tried(self, body: bytes, patience: "_Patience") -> "httpx.Response | _Failure":
        patience.begin()
        request = self._client.build_request("POST", self._url, content=body)
        try:
            with patience:
                response = await self._client.send(request, stream=True)
        except ModelTimeout as error:
            return _Failure(error, again=False)
        except httpx.ConnectTimeout:
            return _Failure(
                ModelTimeout(
                    f"The model provider could not be connected to within {self._settings.connect_s:g} s: "
                    "check the base URL and the network."
                )
            )
        except httpx.ConnectError:
            return _Failure(
                ModelUnavailable(
                    "The model provider cannot be reached: check the base URL, and that the provider is running."
                )
            )
        except httpx.HTTPError:
            return _Failure(ModelUnavailable("The model provider broke off the connection before it answered."))
        if response.is_success:
            return response
        failure = _failed(response)
        await response.aclose()
        return failure


@functools.cache
def _tls() -> ssl.SSLContext:
    """Read the certificate authorities once: it takes longer than all the rest of making a client."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A try without an answer; `again` tells whether another may do, `retry_after` (s) when."""

    error: ModelError
    again: bool = True
    retry_after: float | None = None


def _failed(response: httpx.Response) -> _Failure:
    status = response.status_code
    retry_after = _retry_after(response.headers.get("Retry-After"))
    error = _error_for(status, retry_after)
    return _Failure(error, again=status in {408, 429} or status >= 500, retry_after=retry_after)


def _error_for(status: int, retry_after: float | None = None) -> ModelError:
    if status in _REFUSALS:
        return ModelRejected(f"The model provider refuses the request (HTTP {status}): {_REFUSALS[status]}.")
    if status == 429:
        return ModelRateLimited(
            "The model provider asks for a pause (HTTP 429): try again later, or check the limits of the account.",
            retry_after=retry_after,
        )
    if status in {408, 504}:
        return ModelTimeout(f"The model provider took too long by its own clock (HTTP {status}): try again later.")
    if 300 <= status < 400:
        return ModelUnavailable(
            f"The model provider sends elsewhere (HTTP {status}), and redirects are not followed: check the base URL."
        )
    return ModelUnavailable(f"The model provider failed (HTTP {status}): try again later, or check the base URL.")


def _retry_after(value: str | None) -> float | None:
    """Read seconds or an HTTP date (RFC 9110, 10.2.3); None where it is neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return min(float(value), 1e9)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


class _Patience(Alarm):
    """The deadlines of one answer: `with patience: await …` raises `ModelTimeout`, which tells which one passed.

    Only waiting uses up the pause between tokens, not the reader's own time.
    """

    __slots__ = ("_ends_at", "_left", "_settings", "_started", "_what")

    def __init__(self, settings: OpenAISettings) -> None:
        super().__init__(asyncio.get_running_loop())
        self._settings = settings
        self._ends_at = self._loop.time() + settings.total_s
        self.begin()

    def begin(self) -> None:
        """Wait for the first token from here on."""
        self._left = self._settings.first_token_s
        self._what = f"no first token within {self._settings.first_token_s:g} s"

    def progressed(self) -> None:
        """Wait for the next token from here on."""
        self._left = self._settings.idle_s
        self._what = ""

    def finished(self) -> None:
        """Wait for what may come after the last token, but not for long."""
        self._left = min(self._left, self._settings.idle_s, _USAGE_GRACE_S)

    def left_in_all(self) -> float:
        return self._ends_at - self._loop.time()

    def __enter__(self) -> None:
        self._started = self._loop.time()
        self._deadline = min(self._started + self._left, self._ends_at)
        super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left -= self._loop.time() - self._started
        try:
            super().__exit__(kind, error, trace)
        except TimeoutError:
            what = self._what or f"no further token within {self._settings.idle_s:g} s"
            if self._deadline == self._ends_at:
                what = f"no whole answer within {self._settings.total_s:g} s"
            raise ModelTimeout(f"The model provider is too slow: {what}.") from None


class _Body:
    """The bytes of a response, inflated where need be, and never more than `limit` of them."""

    __slots__ = ("_compressed", "_encoded", "_inflater", "_limit", "_patience", "_size")

    def __init__(self, response: httpx.Response, patience: _Patience, limit: int) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", "x-gzip", "deflate", ""}:
            raise ModelUnavailable("The model provider's answer is in an encoding that was not asked for.")
        # 47: zlib's widest window, with the gzip or zlib header found by itself.
        self._inflater = None if encoding in {"identity", ""} else zlib.decompressobj(wbits=47)
        # Not `aiter_raw`, which would only count what comes.
        self._encoded = cast("AsyncGenerator[bytes, None]", aiter(cast("httpx.AsyncByteStream", response.stream)))
        self._compressed = b""
        self._patience = patience
        self._limit = limit
        self._size = 0

    async def aclose(self) -> None:
        """Read no more."""
        await self._encoded.aclose()

    async def read(self) -> bytes:
        """Give some bytes, or none at the end. Raises `ModelTimeout` and `ModelUnavailable`."""
        data = b""
        while not data:
            encoded = self._compressed or await self._next()
            if not encoded:
                if self._inflater is not None and not self._inflater.eof:
                    raise ModelUnavailable("The model provider broke off its answer in the middle.")
                return b""
            data = self._inflated(encoded)
        self._size += len(data)
        if self._size > self._limit:
            raise ModelUnavailable(f"The model provider's answer is longer than {self._limit} bytes, and was cut off.")
        return data

    async def _next(self) -> bytes:
        try:
            with self._patience:
                return await anext(self._encoded, b"")
        except (httpx.HTTPError, httpx.StreamError):
            raise ModelUnavailable("The model provider broke off its answer in the middle.") from None

    def _inflated(self, encoded: bytes) -> bytes:
        if self._inflater is None:
            return encoded
        try:
            data = self._inflater.decompress(encoded, _INFLATED_SLICE)
        except zlib.error:
            raise ModelUnavailable("The model provider's answer cannot be decompressed.") from None
        self._compressed = self._inflater.unconsumed_tail
        return data


class _Answer:
    """An answer that is being read."""

    __slots__ = ("_body", "_done", "_error", "_fold", "_media_type", "_patience", "_reader")

    def __init__(
        self, response: httpx.Response, request: ModelRequest, patience: _Patience, settings: OpenAISettings
    ) -> None:
        self._media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if self._media_type == "text/html":
            raise ModelUnavailable(
                "The model provider answered with a web page: check the base URL, which usually ends in /v1."
            )
        self._body = _Body(response, patience, settings.response_limit)
        self._reader = EventStreamReader(limit=settings.line_limit)
        self._fold = AnswerReader(request)
        self._patience = patience
        self._error: ModelError | None = None
        self._done = False

    async def aclose(self) -> None:
        """Read no more."""
        await self._body.aclose()

    async def more(self) -> list[ModelEvent] | None:
        """Give what the next bytes bring; None at the end of the answer. Raises `ModelError`."""
        if self._done:
            await self._read_out()
            return None
        try:
            if self._error is not None:
                raise self._error
            if self._media_type == "application/json":
                return await self._whole()
            data = await self._body.read()
        except ModelError:
            if self._fold.finish_reason is None:
                raise
            # The answer is there; what failed to come is only the count of its tokens.
            return None
        return self._taken(data) if data else None

    def _taken(self, data: bytes) -> list[ModelEvent]:
        """Fold the events in `data`. An error among them is raised later, after what came before it."""
        events: list[ModelEvent] = []
        try:
            for event in self._reader.feed(data):
                if event.data.strip() == b"[DONE]":
                    self._done = True
                    break
                if event.data.strip():
                    events.extend(self._fold.take(_chunk(event)))
        except EventTooLong:
            self._error = ModelUnavailable("The model provider sent a line that is too long to be part of an answer.")
        except ModelError as error:
            self._error = error
        if events or self._fold.progressed():
            self._patience.progressed()
        if self._fold.finish_reason is not None:
            self._patience.finished()
        return joined(events)

    async def _whole(self) -> list[ModelEvent]:
        """Read an answer that came in one piece although a stream was asked for."""
        pieces = []
        while piece := await self._body.read():
            pieces.append(piece)
        chunk = _chunk(ServerEvent(b"", b"".join(pieces)))
        if not chunk.choices:
            raise ModelUnavailable("The model provider's answer is no chat completion: check the base URL.")
        self._done = True
        events = self._fold.take(chunk)
        self._fold.finish_reason = self._fold.finish_reason or "stop"
        return events

    async def _read_out(self) -> None:
        with contextlib.suppress(ModelError, TimeoutError):
            async with asyncio.timeout(_REUSE_GRACE_S):
                while await self._body.read():
                    pass

    def end(self) -> list[ModelEvent]:
        """Give the last events; raises `ModelUnavailable` where the answer is not whole."""
        reason = self._fold.finish_reason
        if reason is None:
            raise ModelUnavailable("The model provider ended its answer before it was whole.")
        if reason in _BROKEN_REASONS:
            raise ModelUnavailable("The model provider gave up in the middle of its answer: try again.")
        return [*self._fold.finish(), ModelEnd(reason, self._fold.usage)]


def _chunk(event: ServerEvent) -> Chunk:
    """Read a chunk; raises the `ModelError` that it stands for, or `ModelUnavailable` where it is none."""
    try:
        chunk = chunk_of(event.data)
    except (ValueError, RecursionError):
        raise ModelUnavailable(
            "The model provider sent what is no part of a chat completion: check that the base URL leads to an "
            "OpenAI-compatible endpoint."
        ) from None
    if chunk.error:
        raise _error_in(chunk.error)
    if chunk.object == "error" or event.type == b"error":
        raise _error_in({"code": chunk.code, "type": chunk.type})
    return chunk


def _error_in(error: Any) -> ModelError:
    """Tell from an error object inside an answer what kind of error it is."""
    told = error if isinstance(error, dict) else {}
    words = []
    for key in ("code", "status", "type"):
        value = told.get(key)
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if isinstance(number, int) and 400 <= number <= 599:
            return _error_for(number)
        words.append(str(value).lower())
    kind = " ".join(words)
    if any(word in kind for word in ("limit", "quota", "too_many", "exhausted")):
        return _error_for(429) if "context" not in kind else _error_for(413)
    if "timeout" in kind or "deadline" in kind:
        return _error_for(504)
    if any(word in kind for word in ("auth", "api_key", "permission")):
        return _error_for(401)
    if any(word in kind for word in ("invalid", "context_length", "not_found", "unsupported")):
        return _error_for(400)
    return ModelUnavailable("The model provider failed in the middle of its answer: try again later.")
