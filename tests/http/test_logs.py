"""The log tells who, what, how long and how it ended, and never what was said."""

import io
import json
import logging
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.support.live import Account, Live
from tests.support.until import until

from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.adapters.telemetry.logs import configure, formatter
from luxx.domain.errors import ModelTimeout
from luxx.domain.message import Usage

Lines: TypeAlias = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def restored() -> Iterator[None]:
    """Put the loggers back as they were."""
    root, ours = logging.getLogger(), logging.getLogger("luxx")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], root.level, ours.level = before


@pytest.fixture
def lines(restored: None) -> Lines:  # noqa: ARG001  # for what it does
    """Write the log as JSON and give its lines, those that have all of the given fields."""
    stream = io.StringIO()
    configure(style="json", level="debug", stream=stream)

    def read(**wanted: Any) -> list[dict[str, Any]]:
        told = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [line for line in told if wanted.items() <= line.items()]

    return read


async def test_a_request_is_one_line_with_its_route_and_never_its_path(lines: Lines, user: Account) -> None:
    answer = await user.get("/api/messages/conv_private?limit=77&before=private", headers={"X-Request-ID": "mine"})
    assert answer.status_code == 404
    await until(lambda: lines(event="request", request_id="mine"))
    (line,) = lines(event="request", request_id="mine")
    assert line["duration_ms"] > 0
    assert line["level"] == "info"
    told = {name: line[name] for name in ("method", "route", "status", "user_id")}
    assert told == {"method": "GET", "route": "/api/messages/{id}", "status": 404, "user_id": user.user_id}
    assert "private" not in json.dumps(lines())
    assert "77" not in json.dumps({**line, "duration_ms": 0, "timestamp": ""})


async def test_a_turn_is_one_line_that_its_request_can_be_found_by(
    lines: Lines, user: Account, model: ScriptedChatModel
) -> None:
    usage = Usage(prompt_tokens=7, completion_tokens=5, total_tokens=12)
    model.then(calling(("calculate", {"expression": "1+1"}), usage=usage), spoken("It is two.", usage=usage))
    conversation = await user.new_conversation()
    streamed = await user.stream(conversation, "What is 1+1?")
    await until(lambda: lines(event="turn"))
    (line,) = lines(event="turn")
    assert (line["turn_id"], line["user_id"], line["conversation_id"]) == (
        streamed.message_id,
        user.user_id,
        conversation,
    )
    assert (line["outcome"], line["error"], line["rounds"]) == ("complete", None, 2)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (14, 10)
    assert 0 < line["first_token_ms"] <= line["duration_ms"]
    await until(lambda: lines(event="request", request_id=line["request_id"], route="/api/messages/stream"))
    (tool,) = lines(event="tool")
    assert (tool["tool"], tool["outcome"], tool["turn_id"]) == ("calculate", "ok", streamed.message_id)
    assert not [text for text in ("1+1", "It is two") if text in json.dumps(lines())]


async def test_a_failed_turn_says_by_which_code(lines: Lines, user: Account, model: ScriptedChatModel) -> None:
    model.then((ModelTimeout("too slow"),))
    await user.send(await user.new_conversation(), "hi")
    await until(lambda: lines(event="turn"))
    assert [(line["outcome"], line["error"]) for line in lines(event="turn")] == [("failed", "model_timeout")]


async def test_what_a_library_or_a_use_case_logs_comes_as_the_same_lines(lines: Lines) -> None:
    logging.getLogger("luxx.application.anything").warning("the turn %s is odd", "msg_1")
    logging.getLogger("somebody.else").warning("careful")
    logging.getLogger("somebody.else").info("INSERT INTO messages ('what a person wrote')")
    told = [(line["logger"], line["level"], line["event"]) for line in lines()]
    assert told == [
        ("luxx.application.anything", "warning", "the turn msg_1 is odd"),
        ("somebody.else", "warning", "careful"),
    ]


@pytest.mark.usefixtures("restored")
def test_a_line_tells_the_event_first_then_what_it_was_given_and_when() -> None:
    stream = io.StringIO()
    configure(style="json", level="info", stream=stream)
    logging.getLogger("luxx").error({"odd": 1}, extra={"place": Path("here"), "name_": "ü\n"})
    told = json.loads(stream.getvalue())
    assert list(told) == ["event", "level", "logger", "place", "name_", "timestamp"]
    assert (told["event"], told["place"], told["name_"]) == ("{'odd': 1}", repr(Path("here")), "ü\n")
    assert datetime.fromisoformat(told["timestamp"]).utcoffset() == timedelta(0)
    assert stream.getvalue().count("\n") == 1


def logger_to(stream: io.StringIO, *, style: str, secrets: Sequence[str] = ()) -> logging.Logger:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(style=style, secrets=secrets))
    logger = logging.Logger("luxx.test")  # noqa: LOG001  # one that nobody else has
    logger.addHandler(handler)
    return logger


@pytest.mark.parametrize("style", ["json", "pretty"])
def test_a_traceback_names_types_and_places_but_quotes_nothing(style: str) -> None:
    stream = io.StringIO()
    logger = logger_to(stream, style=style)
    wrote, too = "what a person wrote", "and what a model wrote"
    try:
        try:
            int(wrote)
        except ValueError as error:
            raise ExceptionGroup(too, [ConnectionRefusedError(111, "Connection refused")]) from error
    except ExceptionGroup:
        logger.exception("it failed")
    told = stream.getvalue()
    assert all(part in told for part in ("ValueError", "test_logs.py", "Connection refused", "it failed"))
    assert style == "json" or told.count("\n") > 4, "a traceback keeps its lines"
    assert wrote not in told
    assert too not in told


def test_a_damaged_file_is_told_as_one(tmp_path: Path) -> None:
    stream, damaged = io.StringIO(), tmp_path / "luxx.db"
    damaged.write_bytes(b"no database" * 1000)
    with closing(sqlite3.connect(damaged)) as connection:
        try:
            connection.execute("SELECT * FROM turns")
        except sqlite3.DatabaseError:
            logger_to(stream, style="pretty").exception("it failed")
    assert "sqlite3.DatabaseError: SQLITE_NOTADB" in stream.getvalue()


@pytest.mark.usefixtures("restored")
def test_secrets_and_tokens_are_blotted_out_of_whatever_is_logged() -> None:
    stream = io.StringIO()
    configure(style="pretty", level="info", secrets=("the-api-key", "abc"), stream=stream)
    key = "luxx_" + "aB3-" * 11
    logging.getLogger("luxx").info("%s %s %s abc", "the-api-key", "eyJhbGciOi.eyJzdWIi.c2ln", key)
    assert "[secret] [token] [token] abc" in stream.getvalue()


def logged(style: str, *message: object, secrets: Sequence[str] = (), extra: dict[str, Any] | None = None) -> str:
    """Give what one call of a logger writes."""
    stream = io.StringIO()
    logger_to(stream, style=style, secrets=secrets).error(*message, extra=extra)
    return stream.getvalue()


@pytest.mark.parametrize("style", ["json", "pretty"])
@pytest.mark.parametrize("secret", ['se"cret\\key', "it's\"secret", "gehe\\im-ü", "two\nlines"])
@pytest.mark.parametrize("shown", [str, repr, json.dumps], ids=["as it is", "by repr", "as JSON"])
def test_a_secret_is_blotted_out_however_a_line_escapes_it(
    style: str, secret: str, shown: Callable[[str], str]
) -> None:
    class Odd:
        def __repr__(self) -> str:
            return f"<Odd {shown(secret)}>"

    line = logged(style, "with %s", shown(secret), secrets=[secret], extra={"key": shown(secret), "odd": Odd()})
    assert line.count("[secret]") == 3
    assert not [part for part in ("cret", "key\\", "gehe", "lines") if part in line.replace("[secret]", "")]


def test_what_is_logged_makes_no_lines_of_its_own_and_commands_no_terminal() -> None:
    sly = "a\nb\rc\x1b[31md\x9b1me\u2028f\x85g\x00h\x7f"
    line = logged("pretty", "%s", sly, extra={"route": sly})
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert r"a\nb\rc\x1b[31md" in line


@pytest.mark.usefixtures("restored")
def test_the_level_is_that_of_the_setting() -> None:
    stream = io.StringIO()
    configure(style="json", level="error", stream=stream)
    logging.getLogger("luxx.turns").warning("not worth a line")
    logging.getLogger("luxx.turns").error("worth a line")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["worth a line"]


@asynccontextmanager
async def stalled(served: Live, user: Account, model: ScriptedChatModel) -> AsyncIterator[None]:
    """Hold a request whose client reads nothing of a long answer."""
    model.then(spoken("x" * 16_000_000))  # more than sockets and buffers hold
    conversation = await user.new_conversation()
    answer = (await user.send(conversation, "Write a book.")).json()["data"]["assistant_message"]
    with socket.create_connection((served.http.base_url.host, served.http.base_url.port)) as reader:
        asked = (
            f"GET /api/messages/{answer['id']}/stream HTTP/1.1\r\nHost: luxx\r\nAuthorization: Bearer {user.token}\r\n"
        )
        reader.sendall(f"{asked}X-Request-ID: slow\r\n\r\n".encode())
        await until(lambda: served.server.server_state.tasks)
        yield


async def test_a_reader_too_slow_for_the_end_of_the_process_costs_no_traceback(
    lines: Lines, served: Live, user: Account, model: ScriptedChatModel
) -> None:
    served.server.config.timeout_graceful_shutdown = 0
    async with stalled(served, user, model):
        served.server.should_exit = True
        await until(lambda: lines(event="request", request_id="slow"))
        await until(lambda: not served.server.server_state.tasks)
    (told,) = lines(level="error")
    assert told["event"] == "Cancel 1 running task(s), timeout graceful shutdown exceeded"


async def test_a_request_that_is_cancelled_while_the_process_serves_is_a_fault_in_the_log(
    lines: Lines, served: Live, user: Account, model: ScriptedChatModel
) -> None:
    async with stalled(served, user, model):
        for task in served.server.server_state.tasks:
            task.cancel()
        await until(lambda: lines(event="request", request_id="slow"))
        await until(lambda: not served.server.server_state.tasks)
    (told,) = lines(level="error")
    assert "CancelledError" in json.dumps(told)
