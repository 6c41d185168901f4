"""The chaos kit against services that break one rule each: it says which, and of a sound one nothing."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from luxx.entrypoints.http.app import create_app
from luxx.testing import serving
from luxx.testing.chaos.run import NotLuxx, Result, run_against
from luxx.testing.upstream import Echo, ScriptedUpstream
from tests.promises.conftest import made
from tests.promises.support import SettingsOf

Sender = Callable[[dict[str, Any]], Awaitable[None]]


class Breach:
    """A service with something before it that breaks no rule; those that do change one of these."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.tokens: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Sender) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        query = self.query(scope["query_string"].decode()).encode()
        asked = scope | {"headers": self.headers(scope["path"], given), "query_string": query}
        begun: dict[str, Any] = {}

        async def sent(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                begun.update(message)
            elif dict(begun["headers"])[b"content-type"] == b"application/json":
                told = json.loads(message["body"] or b"null")
                if told is not None and told["success"]:
                    self.data(scope["path"], told.get("data"))
                body = json.dumps(told).encode()
                await send(begun | {"headers": self.head(_lengthened(begun, body))})
                await send(message | {"body": body})
            else:
                await self.stream(begun, message, send)

        await self._app(asked, receive, sent)

    def headers(self, _path: str, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return given

    def query(self, text: str) -> str:
        return text

    def head(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return headers

    def data(self, path: str, data: Any) -> None:
        pass

    async def stream(self, begun: dict[str, Any], message: dict[str, Any], send: Sender) -> None:
        if begun.pop("type", None):
            await send(begun | {"type": "http.response.start"})
        await send(message)


def _lengthened(begun: dict[str, Any], body: bytes) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in begun["headers"] if name != b"content-length"]
    return [*kept, (b"content-length", b"%d" % len(body))]


class KeysIgnored(Breach):
    def headers(self, _path: str, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [one for one in given if one[0] != b"idempotency-key"]


class EverythingShown(Breach):
    """Every token but the first of all shows what is the first one's."""

    def headers(self, _path: str, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        token = dict(given).get(b"authorization")
        if token is None:
            return given
        if token not in self.tokens:
            self.tokens.append(token)
        return [(name, self.tokens[0] if name == b"authorization" else value) for name, value in given]


class NobodyTrusted(Breach):
    """Who brings no token is taken for whoever was there last."""

    def headers(self, _path: str, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        token = dict(given).get(b"authorization")
        if token is not None:
            self.tokens.append(token)
        elif self.tokens:
            given.append((b"authorization", self.tokens[-1]))
        return given


class QuestionChanged(Breach):
    def data(self, path: str, data: Any) -> None:
        if path == "/api/messages/":
            data["user_message"]["content"] += " "


class OrderChanged(Breach):
    def data(self, path: str, data: Any) -> None:
        if re.fullmatch("/api/messages/conv_[^/]+", path) and len(data["items"]) > 3:
            data["items"][:4] = data["items"][2:4] + data["items"][:2]


class NoRequestId(Breach):
    def head(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [one for one in headers if one[0] != b"x-request-id"]


class PagesIgnored(Breach):
    def query(self, text: str) -> str:
        return re.sub(r"(?<!_)page=\d+", "page=1", text)


class BeforeIgnored(Breach):
    def query(self, text: str) -> str:
        return re.sub("before=[^&]+", "", text)


class AfterIgnored(Breach):
    def query(self, text: str) -> str:
        return re.sub("after=[^&]+", "", text)


class MoreTold(Breach):
    def data(self, _path: str, data: Any) -> None:
        if isinstance(data, dict) and "has_more" in data:
            data["has_more"] = not data["has_more"]


class HeldBack(Breach):
    """As a proxy that buffers."""

    async def stream(self, begun: dict[str, Any], message: dict[str, Any], send: Sender) -> None:
        begun["held"] = begun.get("held", b"") + message["body"]
        if not message["more_body"]:
            await send({name: value for name, value in begun.items() if name != "held"})
            await send(message | {"body": begun["held"]})


class Silent(Breach):
    """No comment, where the model is silent for long."""

    async def stream(self, begun: dict[str, Any], message: dict[str, Any], send: Sender) -> None:
        if not message["body"].startswith(b":"):
            await super().stream(begun, message, send)


@asynccontextmanager
async def provider(delay_s: float, words: int) -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(otherwise=Echo(delay_s=delay_s, words=words)) as upstream:
        yield upstream


async def disturbed(
    settings_of: SettingsOf,
    breach: type[Breach],
    *,
    delay_s: float = 0.01,
    words: int = 0,
    seconds: float = 1.5,
    **options: Any,
) -> Result:
    async with provider(delay_s, words) as upstream:
        app = create_app(made(settings_of(None, llm_base_url=upstream.url, heartbeat_seconds=0.3)))
        async with serving(breach(app)) as url:
            return await run_against([url], seconds=seconds, seed=1, clients=2, **options)


async def test_a_sound_service_is_found_sound(settings_of: SettingsOf) -> None:
    result = await disturbed(settings_of, Breach, seconds=3)
    assert result.tally.violations == 0, result.tally.notes
    assert all(result.tally.checks[promise] for promise in result.promises), result.tally.checks


@pytest.mark.parametrize(
    ("breach", "promise"),
    [
        (KeysIgnored, "P4"),
        (EverythingShown, "P5"),
        (NobodyTrusted, "P5"),
        (AfterIgnored, "P5"),
        (QuestionChanged, "P1"),
        (OrderChanged, "P6"),
        (NoRequestId, "API"),
        (PagesIgnored, "API"),
        (BeforeIgnored, "API"),
        (MoreTold, "API"),
    ],
)
async def test_a_breach_is_noticed(settings_of: SettingsOf, breach: type[Breach], promise: str) -> None:
    result = await disturbed(settings_of, breach)
    assert {broken for broken, _ in result.tally.broken} >= {promise}, result.tally.notes


async def test_a_stream_that_is_held_back_is_noticed(settings_of: SettingsOf) -> None:
    result = await disturbed(settings_of, HeldBack, delay_s=0.7, words=5)
    assert result.tally.broken["P12", "hung"], result.tally.notes


async def test_a_silence_without_a_comment_is_noticed(settings_of: SettingsOf) -> None:
    result = await disturbed(settings_of, Silent, delay_s=1.2, words=2, silence=0.9)
    assert result.tally.broken["P12", "hung"], result.tally.notes
    result = await disturbed(settings_of, Breach, delay_s=1.2, words=2, silence=0.9)
    assert not result.tally.violations, result.tally.notes


async def test_where_no_luxx_answers_it_says_so_at_once() -> None:
    async def hello(_scope: Any, _receive: Any, send: Sender) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"<h1>Hello</h1>"})

    async with serving(hello, lifespan=False) as url:
        with pytest.raises(NotLuxx, match=r"is no Luxx: .* gives 200 '<h1>Hello</h1>'"):
            await run_against([url], seconds=1, seed=1, clients=1)
    with pytest.raises(NotLuxx, match="nothing answers at"):
        await run_against([url], seconds=1, seed=1, clients=1)
    with pytest.raises(NotLuxx, match="is no address"):
        await run_against(["localhost"], seconds=1, seed=1, clients=1)


async def test_as_a_program_it_ends_with_2_where_no_luxx_answers() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "luxx.testing.chaos", "--url", "http://127.0.0.1:9", "--seconds", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert (process.returncode, told.decode().startswith("nothing answers at")) == (2, True), told.decode()
