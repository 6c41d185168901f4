"""Logs: one line per event of the standard library's loggers, as JSON or, by structlog, for the eye.

A line tells who, what, how long and with which outcome. What people and models write is not in it: a traceback
names types and places, and of exceptions only those words that the system or Luxx itself chose.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

import structlog

from luxx.adapters.telemetry.requests import RequestRecord
from luxx.application.observer import RoundRecord, ToolRecord, TurnRecord, Unobserved
from luxx.domain.errors import ModelError, StorageUnavailable
from luxx.domain.fields import visible

_request: ContextVar[RequestRecord | None] = ContextVar("luxx_request", default=None)
_turn: ContextVar[TurnRecord | None] = ContextVar("luxx_turn", default=None)

_requests: Final = logging.getLogger("luxx.requests")
_turns: Final = logging.getLogger("luxx.turns")
_logins: Final = logging.getLogger("luxx.logins")

_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*|luxx_[A-Za-z0-9_-]{40,}")
"""Access tokens, and keys for programs."""
_OF_EVERY_RECORD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
"""What a record has of its own, besides what its logger was given as `extra`."""
SHORTEST: Final = 6
"""Characters of a secret, at least, that is looked for: shorter ones stand in every second line by chance."""


def configure(*, style: str, level: str, secrets: Sequence[str] = (), stream: TextIO | None = None) -> None:
    """Send all of the standard library's logging to standard error (or `stream`), as `json` or `pretty`.

    `level` counts for Luxx; other libraries may speak from `warning` on, because at lower levels they quote
    statements and requests. Whatever of `secrets`, and any access token, comes up in a line is blotted out.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(style=style, secrets=secrets, colours=(stream or sys.stderr).isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # No line shows these, and looking them up takes a quarter of the time of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - how the logging documentation says to do without the caller's place
    logging.getLogger("luxx").setLevel(level.upper())


def formatter(*, style: str, secrets: Sequence[str] = (), colours: bool = False) -> logging.Formatter:
    """Make a formatter for handlers of the standard library."""
    blotted = _blotting(secrets)
    if style == "json":
        return _Blotting(json.JSONEncoder(ensure_ascii=False, default=repr).encode, blotted)
    for_the_eye = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
    return _Blotting(lambda event: for_the_eye(None, "", _shown(event, blotted)), blotted)


def _shown(event: Mapping[str, Any], blotted: Callable[[str], str]) -> dict[str, Any]:
    """Escape all that an event tells, before structlog quotes it; a traceback keeps its lines."""
    texts = {name: blotted(value if isinstance(value, str) else repr(value)) for name, value in event.items()}
    shown = {name: visible(text) for name, text in texts.items()}
    if "exception" in texts:
        shown["exception"] = "\n".join(map(visible, texts["exception"].split("\n")))
    return shown


def _blotting(secrets: Sequence[str]) -> Callable[[str], str]:
    """Give what blots `secrets` and tokens out of a text."""
    forms = sorted({form for one in secrets if len(one) >= SHORTEST for form in _forms(one)}, key=len, reverse=True)

    def blotted(text: str) -> str:
        for form in forms:
            text = text.replace(form, "[secret]")
        return _TOKEN.sub("[token]", text)

    return blotted


def _forms(secret: str) -> set[str]:
    """Give a secret as it stands, and as it may stand in a line: by `repr` or as JSON, and that in JSON."""
    plain = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    return plain | {json.dumps(one, ensure_ascii=False)[1:-1] for one in plain}


class _Blotting(logging.Formatter):
    """What a record holds, in one order, as one line; and the last line of defence: no secret leaves in it.

    structlog's own formatter copies each record and runs a chain over it, for twice the time.
    """

    def __init__(self, render: Callable[[dict[str, Any]], str], blotted: Callable[[str], str]) -> None:
        super().__init__()
        self._render: Final = render
        self._blotted: Final = blotted

    def format(self, record: logging.LogRecord) -> str:
        event = {"event": record.getMessage(), "level": record.levelname.lower(), "logger": record.name}
        event |= {name: value for name, value in record.__dict__.items() if name not in _OF_EVERY_RECORD}
        _add_context(event)
        event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            event["exception"] = "\n".join(_told(error))
        return self._blotted(self._render(event))


def _add_context(event: dict[str, Any]) -> None:
    if (request := _request.get()) is not None:
        event.setdefault("request_id", request.id)
        if request.user_id is not None:
            event.setdefault("user_id", request.user_id)
    if (turn := _turn.get()) is not None:
        event.setdefault("turn_id", turn.message_id)
        event.setdefault("user_id", turn.user_id)


def _told(error: BaseException, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _told(cause, seen | {id(error)})
        yield "which led to"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _told(one, seen | {id(error)})
    trace: TracebackType | None = error.__traceback__
    yield from (line.rstrip("\n") for line in traceback.format_tb(trace, limit=-20))
    kind = type(error)
    words = f": {_words(error)}" if _words(error) else ""
    yield f"{kind.__module__}.{kind.__qualname__}{words}"


def _words(error: BaseException) -> str:
    # An exception of a library quotes what it choked on: a message, a row, an address with its query.
    match error:
        case OSError():
            return error.strerror or ""
        case StorageUnavailable() | ModelError():
            return error.to_operator()
        case _:
            # SQLite's name of the fault quotes nothing, and its type alone does not tell of a damaged file.
            return str(getattr(error, "sqlite_errorname", ""))


class LogObserver(Unobserved):
    """Writes one line per request, turn and login, and at the level `debug` one per round and tool call."""

    @contextmanager
    def request(self, record: RequestRecord, carrier: Mapping[str, str]) -> Iterator[None]:  # noqa: ARG002  # the port's
        before = _request.set(record)
        try:
            yield
        finally:
            fields = {
                "method": record.method,
                "route": record.route,
                "status": record.status,
                "duration_ms": _ms(record.duration_s),
            }
            _requests.info("request", extra=fields)
            _request.reset(before)

    @contextmanager
    def turn(self, record: TurnRecord) -> Iterator[None]:
        before = _turn.set(record)
        try:
            yield
        finally:
            usage = record.usage
            fields = {
                "conversation_id": record.conversation_id,
                "outcome": record.outcome,
                "error": record.error,
                "rounds": record.rounds,
                "prompt_tokens": None if usage is None else usage.prompt_tokens,
                "completion_tokens": None if usage is None else usage.completion_tokens,
                "first_token_ms": None if record.first_token_s is None else _ms(record.first_token_s),
                "duration_ms": _ms(record.duration_s),
            }
            _turns.info("turn", extra=fields)
            _turn.reset(before)

    @contextmanager
    def round(self, record: RoundRecord) -> Iterator[None]:
        try:
            yield
        finally:
            fields = {
                "round": record.number,
                "outcome": record.outcome,
                "error": record.error,
                "duration_ms": _ms(record.duration_s),
            }
            _turns.debug("round", extra=fields)

    @contextmanager
    def tool(self, record: ToolRecord) -> Iterator[None]:
        try:
            yield
        finally:
            fields = {"tool": record.name, "outcome": record.outcome, "duration_ms": _ms(record.duration_s)}
            _turns.debug("tool", extra=fields)

    def login(self, outcome: str) -> None:
        _logins.info("login", extra={"outcome": outcome})


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
