"""Any OpenAI-compatible chat-completions endpoint: GLM, OpenAI, DeepSeek, Qwen, vLLM, Ollama, llama.cpp …"""

import asyncio
import contextlib
import functools
import logging
import random
import ssl
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Protocol

from luxx.adapters.alarm import Alarm
from luxx.adapters.models.openai_failures import error_by_filter, error_for, error_in, retry_after_of
from luxx.application.ports import ModelEnd, ModelEvent, ModelRequest
from luxx.domain.errors import ModelError, ModelTimeout, ModelUnavailable
from luxx.extras import needs

with needs("luxx.adapters.models.openai", "the extra `openai`"):
    import certifi

    from luxx.adapters.models.connections import (
        BrokenOff,
        Connections,
        ConnectTimedOut,
        Endpoint,
        Unreachable,
        Untrusted,
    )
    from luxx.adapters.models.openai_request import ThinkingStyle, request_body
    from luxx.adapters.models.openai_wire import AnswerReader, Chunk, chunk_of
    from luxx.adapters.models.openai_wording import USUAL, Wording
    from luxx.adapters.models.sse import EventStreamReader, EventTooLong, ServerEvent


_USAGE_GRACE_S: Final = 5.0
"""How long a finished answer waits for its usage."""

_REUSE_GRACE_S: Final = 0.2
"""How long a finished answer waits for the end of its body, so that the connection can be used again."""

_REFUSAL_GRACE_S: Final = 1.0
"""How long the words of a refusal are waited for."""

_REFUSAL_LIMIT: Final = 1 << 14
_WORDINGS_LIMIT: Final = 1000

_INFLATED_SLICE: Final = 1 << 16

_BEFORE: Final = b"\xef\xbb\xbf \t\r\n"
"""What may come before an answer: a byte order mark, and empty lines that show that somebody is there."""

_IN_WORDS: Final = frozenset({400, 404, 422, 500})
"""Statuses that may come of the wording of a request; for what a template refuses, llama.cpp has 500 and MLX 404."""

_BROKEN_REASONS: Final = frozenset(
    {
        "abort",
        "error",
        "function_call_filter",
        "insufficient_system_resource",
        "malformed_function_call",
        "network_error",
    }
)
"""Reasons to finish that say that the answer is not whole; some say more behind a colon."""

_NO_CHUNK: Final = (
    "The model provider sent what is no part of a chat completion: check that the base URL leads to an "
    "OpenAI-compatible endpoint."
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings:
    """Where a provider is and how patient to be with it. Times are in seconds, sizes in bytes.

    `first_token_s` runs from sending a request to the first token; `idle_s` is the longest pause
    between tokens (comments and empty chunks are none); `total_s` bounds an answer with its retries.
    `retries` counts further tries after the first, which are made only before an answer has begun: after
    a failed or broken connection, 408, 429 and 5xx. A `Retry-After` above `retry_after_limit_s` is not
    waited for. Beside them, a request that is refused for its wording goes out again in another one.
    `line_limit` bounds one event of the stream, `response_limit` a whole answer.

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
            Endpoint.of(self.base_url)
        except ValueError as error:
            raise ValueError(f"the base URL {error}") from None
        # Checked here, because a header that cannot be sent is quoted in the error about it.
        if self.api_key is not None and not (
            self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key
        ):
            raise ValueError("the API key must consist of visible ASCII characters")


class Response(Protocol):
    """What a provider answers: a status, headers with lower-case names, and a body that comes in slices.

    `ready` tells whether `read` would give something at once; it gives nothing at the end.
    """

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def ready(self) -> bool: ...
    async def read(self) -> bytes: ...
    def close(self) -> None: ...


class Network(Protocol):
    """What carries requests to the provider; `Connections` tells what it raises."""

    async def post(self, body: bytes) -> Response: ...
    async def aclose(self) -> None: ...


class OpenAIChatModel:
    """A `ChatModel` over `POST {base_url}/chat/completions`. One of it serves any number of streams.

    Texts of errors say what went wrong and what to check. They never hold the key, nor what the
    provider said word for word.
    """

    def __init__(
        self,
        settings: OpenAISettings,
        *,
        network: Network | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`network` replaces the connections; `jitter` gives numbers from 0 to 1 that spread retries."""
        self._settings = settings
        self._jitter = jitter
        self._network = network or _network(settings)
        self._wordings: dict[str, Wording] = {}
        """How models are asked whose provider refused the usual wording."""

    async def aclose(self) -> None:
        """Close all connections."""
        await self._network.aclose()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `ChatModel.stream`."""
        patience = _Patience(self._settings)
        response: Response | None = None
        try:
            response = await self._opened(request, patience)
            answer = _Answer(response, request, patience, self._settings)
            while not answer.done and (data := await answer.read()):
                for event in answer.events_in(data):
                    yield event
            if answer.done:
                await answer.read_out()
            for event in answer.end():
                yield event
        finally:
            patience.close()
            if response is not None:
                response.close()

    async def _opened(self, request: ModelRequest, patience: "_Patience") -> Response:
        known = wording = self._wordings.get(request.model, USUAL)
        body = request_body(request, self._settings.thinking, wording)
        tries = 0
        while True:
            outcome = await self._tried(body, patience)
            if not isinstance(outcome, _Failure):
                if wording != known:
                    self._remember(request.model, wording)
                return outcome
            wording = wording.after(outcome.said, only_roles=outcome.again)
            refused, body = body, request_body(request, self._settings.thinking, wording)
            if body != refused:
                continue
            pause = self._pause(outcome, tries)
            if pause is None or pause >= patience.left_in_all():
                raise outcome.error from None
            await asyncio.sleep(pause)
            tries += 1

    def _remember(self, model: str, wording: Wording) -> None:
        if len(self._wordings) >= _WORDINGS_LIMIT:
            self._wordings.clear()  # whoever may choose a model may make names up
        self._wordings[model] = wording
        if not wording.tools:
            _log.warning("the provider takes no tools for the model %r: it is asked without them", model)

    def _pause(self, failure: "_Failure", tries: int) -> float | None:
        if not failure.again or tries >= self._settings.retries:
            return None
        if failure.retry_after is not None:
            return failure.retry_after if failure.retry_after <= self._settings.retry_after_limit_s else None
        return self._settings.backoff_s * 2.0**tries * (0.5 + self._jitter() / 2)

    async def _tried(self, body: bytes, patience: "_Patience") -> "Response | _Failure":
        patience.begin()
        try:
            with patience:
                response = await self._network.post(body)
        except ModelTimeout as error:
            return _Failure(error, again=False)
        except ConnectTimedOut:
            return _Failure(
                ModelTimeout(
                    f"The model provider could not be connected to within {self._settings.connect_s:g} s: "
                    "check the base URL and the network."
                )
            )
        except Untrusted:
            return _Failure(
                ModelUnavailable(
                    "The model provider's certificate is not trusted: check the base URL, or name the file of the "
                    "authority that vouches for it in SSL_CERT_FILE."
                ),
                again=False,
            )
        except Unreachable:
            return _Failure(
                ModelUnavailable(
                    "The model provider cannot be reached: check the base URL, and that the provider is running."
                )
            )
        except BrokenOff:
            return _Failure(ModelUnavailable("The model provider broke off the connection before it answered."))
        if 200 <= response.status < 300:
            return response
        try:
            said = await _refusal_of(response) if response.status in _IN_WORDS else b""
        finally:
            response.close()
        return _failed(response, said)


async def _refusal_of(response: Response) -> bytes:
    """Read the beginning of a refusal, as far as it comes at once; it is told to nobody."""
    said = b""
    with contextlib.suppress(BrokenOff, TimeoutError):
        async with asyncio.timeout(_REFUSAL_GRACE_S):
            while len(said) < _REFUSAL_LIMIT and (data := await response.read()):
                said += data
    return said


def _network(settings: OpenAISettings) -> Connections:
    endpoint = Endpoint.of(settings.base_url)
    headers = {
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": "luxx",
    }
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key}"
    return Connections(
        replace(endpoint, path=endpoint.path.rstrip("/") + "/chat/completions"),
        headers=headers,
        # The other deadlines are kept here, where it is known what is being waited for.
        connect_s=settings.connect_s,
        tls=trusted_authorities() if endpoint.secure else None,
    )


@functools.cache
def trusted_authorities() -> ssl.SSLContext:
    """Read the certificate authorities once: it takes longer than all the rest of making a client.

    Beside certifi's, those of the system, and of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    """
    tls = ssl.create_default_context(cafile=certifi.where())
    tls.set_default_verify_paths()
    tls.set_alpn_protocols(["http/1.1"])
    return tls


@dataclass(frozen=True, slots=True)
class _Failure:
    """A try without an answer; `again` tells whether another may do, `retry_after` (s) when; `said` is its body."""

    error: ModelError
    again: bool = True
    retry_after: float | None = None
    said: bytes = b""


def _failed(response: Response, said: bytes) -> _Failure:
    status = response.status
    retry_after = retry_after_of(response.headers.get("retry-after"))
    error = error_by_filter(said.decode(errors="replace")) or error_for(status, retry_after)
    return _Failure(error, again=status in {408, 429} or status >= 500, retry_after=retry_after, said=said)


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

    def check(self) -> None:
        """Raise `ModelTimeout` where the whole answer takes too long, although nothing is waited for."""
        if self.left_in_all() <= 0:
            raise self._over()

    def _over(self) -> ModelTimeout:
        return ModelTimeout(f"The model provider is too slow: no whole answer within {self._settings.total_s:g} s.")

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
            if self._deadline == self._ends_at:
                raise self._over() from None
            what = self._what or f"no further token within {self._settings.idle_s:g} s"
            raise ModelTimeout(f"The model provider is too slow: {what}.") from None


class _Answer:
    """An answer that is being read: its bytes, inflated where need be, and the events in them."""

    __slots__ = (
        "_begun",
        "_compressed",
        "_error",
        "_fold",
        "_inflater",
        "_limit",
        "_patience",
        "_reader",
        "_response",
        "_size",
        "_whole",
        "done",
    )

    def __init__(
        self, response: Response, request: ModelRequest, patience: _Patience, settings: OpenAISettings
    ) -> None:
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == "text/html":
            raise ModelUnavailable(
                "The model provider answered with a web page: check the base URL, which usually ends in /v1."
            )
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", "x-gzip", "deflate", ""}:
            raise ModelUnavailable("The model provider's answer is in an encoding that was not asked for.")
        # 47: zlib's widest window, with the gzip or zlib header found by itself.
        self._inflater = None if encoding in {"identity", ""} else zlib.decompressobj(wbits=47)
        self._compressed = b""
        self._begun = False
        self._whole: list[bytes] | None = None
        self._response = response
        self._reader = EventStreamReader(limit=settings.line_limit)
        self._fold = AnswerReader(request)
        self._patience = patience
        self._limit = settings.response_limit
        self._size = 0
        self._error: ModelError | None = None
        self.done = False

    async def read(self) -> bytes:
        """Give some bytes, never more than the limit in all, or none at the end of the answer. Raises `ModelError`."""
        try:
            if self._error is not None:
                raise self._error
            data = await (self._came() if self._inflater is None else self._inflated(self._inflater))
            self._size += len(data)
            if self._size > self._limit:
                raise ModelUnavailable(
                    f"The model provider's answer is longer than {self._limit} bytes, and was cut off."
                )
        except BrokenOff:
            if not self._fold.finished:
                raise ModelUnavailable("The model provider broke off its answer in the middle.") from None
        except ModelError:
            if not self._fold.finished:
                raise
        else:
            return data
        # The answer is there; what failed to come is only the count of its tokens.
        return b""

    async def _came(self) -> bytes:
        """Give what has come, or wait for it. All is given at once, and more comes only while others run."""
        if self._response.ready:
            self._patience.check()
            return await self._response.read()
        with self._patience:
            return await self._response.read()

    async def _inflated(self, inflater: "zlib._Decompress") -> bytes:
        data = b""
        while not data and not inflater.eof:
            if self._compressed:
                # Little can hold so much that reading it takes seconds.
                self._patience.check()
                await asyncio.sleep(0)
            else:
                self._compressed = await self._came()
            if not self._compressed:
                raise BrokenOff
            try:
                data = inflater.decompress(self._compressed, _INFLATED_SLICE)
            except zlib.error:
                raise ModelUnavailable("The model provider's answer cannot be decompressed.") from None
            self._compressed = inflater.unconsumed_tail
        return data

    async def read_out(self) -> None:
        """Read what is left behind the end of the answer, but not for long: the connection can be used again then."""
        with contextlib.suppress(BrokenOff, TimeoutError):
            async with asyncio.timeout(_REUSE_GRACE_S):
                while await self._response.read():
                    pass

    def _beginning(self, data: bytes) -> bytes:
        data = data.lstrip(_BEFORE)
        self._begun = bool(data)
        # An answer may come in one piece although a stream was asked for; not all name the type of what they send.
        if data.startswith((b"{", b"[")):
            self._whole = []
        return data

    def events_in(self, data: bytes) -> list[ModelEvent]:
        """Fold the next bytes. An error among them is raised by the next `read`, after what came before it."""
        if not self._begun:
            data = self._beginning(data)
        if self._whole is not None:
            self._whole.append(data)
            return []
        try:
            told = self._reader.feed(data)
        except EventTooLong as error:
            told = error.events
            self._error = ModelUnavailable("The model provider sent a line that is too long to be part of an answer.")
        try:
            self._take(told)
        except _Unreadable:
            self._error = ModelUnavailable(_NO_CHUNK)
        except ModelError as error:
            self._error = error
        events = self._fold.told()
        if events or self._fold.progressed():
            self._patience.progressed()
        if self._fold.finished:
            self._patience.finished()
        return events

    def _take(self, told: list[ServerEvent]) -> None:
        for event in told:
            payload = event.data.strip()
            if payload == b"[DONE]":
                self.done = True
            elif payload:
                try:
                    self._fold.take(_chunk(event))
                except _Unreadable:
                    lines = event.data.split(b"\n")
                    if len(lines) == 1:
                        raise
                    # Some servers leave out the empty lines between events.
                    self._take([ServerEvent(event.type, line) for line in lines])
            if self.done:
                break

    def _take_rest(self) -> None:
        """Some servers leave out the empty line behind the last event. What is half an event is none."""
        try:
            self._take(self._reader.feed(b"\n\n"))
        except (EventTooLong, _Unreadable):
            pass
        except ModelError:
            if not self._fold.finished:
                raise

    def end(self) -> list[ModelEvent]:
        """Give the last events; raises `ModelUnavailable` where the answer is not whole."""
        if self._whole is not None:
            try:
                chunk = _chunk(ServerEvent(b"", b"".join(self._whole)))
            except _Unreadable:
                raise ModelUnavailable(_NO_CHUNK) from None
            if not chunk.choices:
                raise ModelUnavailable("The model provider's answer is no chat completion: check the base URL.")
            self._fold.take(chunk)
            self._fold.finish_reason = self._fold.finish_reason or "stop"
        elif not self.done:
            self._take_rest()
        reason = self._fold.finish_reason
        if reason is None:
            raise ModelUnavailable("The model provider ended its answer before it was whole.")
        if reason.partition(":")[0].lower() in _BROKEN_REASONS:
            raise ModelUnavailable("The model provider gave up in the middle of its answer: try again.")
        return [*self._fold.finish(), ModelEnd(reason, self._fold.usage)]


class _Unreadable(Exception):
    """What came is no chunk."""


def _chunk(event: ServerEvent) -> Chunk:
    """Read a chunk; raises the `ModelError` that it stands for, or `_Unreadable` where it is none."""
    try:
        chunk = chunk_of(event.data)
    except (ValueError, RecursionError):
        raise _Unreadable from None
    if chunk.error:
        raise error_in(chunk.error)
    if chunk.object == "error" or event.type == b"error":
        raise error_in({"code": chunk.code, "type": chunk.type})
    return chunk
