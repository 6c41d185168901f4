"""deploy/nginx.conf as it stands, run by a real nginx on loopback in front of the real server."""

import asyncio
import json
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.http.conftest import SECRET, container_of
from tests.http.test_stream import Gate
from tests.support.live import Account, Live, check_stream, events_of, live
from tests.support.web import Answer, web_server

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel, spoken
from luxx.application.ports import ModelEnd, ModelText
from luxx.settings import Settings

CONFIGURATION: Final = Path(__file__).parents[2] / "deploy/nginx.conf"
NGINX: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx: apt-get install nginx-light")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def rendered(place: Path, *, listen: int, upstream: str, read_timeout: str | None = None) -> str:
    """Put addresses of this machine into the configuration; all else stays."""
    text = CONFIGURATION.read_text()
    changes = {"server luxx:8000;": f"server {upstream};", "listen 8080;": f"listen 127.0.0.1:{listen};"}
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    if read_timeout is not None:
        text = re.sub(r"proxy_read_timeout \d+s;", f"proxy_read_timeout {read_timeout};", text)
    return text.replace("/tmp/", f"{place}/").replace("/dev/stdout", f"{place}/access.log")


@asynccontextmanager
async def nginx(place: Path, upstream: str, **options: Any) -> AsyncIterator[str]:
    """Run nginx in front of `upstream` (host:port); gives its URL."""
    assert NGINX is not None
    port = free_port()
    configuration = place / "nginx.conf"
    configuration.write_text(rendered(place, listen=port, upstream=upstream, **options))
    # Its workers would become `nobody`, who may not enter a test's directory.
    directives = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    process = await asyncio.create_subprocess_exec(
        *(NGINX, "-p", str(place), "-c", str(configuration), "-g", directives),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    assert process.returncode is None, (await process.communicate())[1].decode()
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@asynccontextmanager
async def proxied(served: Live, place: Path, **options: Any) -> AsyncIterator[Live]:
    """Give the same service, as it is seen through nginx."""
    async with (
        nginx(place, served.url.removeprefix("http://"), **options) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
    ):
        yield Live(container=served.container, server=served.server, url=url, http=http)


@pytest.fixture
async def behind(served: Live, tmp_path: Path) -> AsyncIterator[Live]:
    async with proxied(served, tmp_path) as found:
        yield found


@pytest.fixture
async def person(behind: Live) -> Account:
    return await behind.account()


async def test_events_arrive_one_by_one_as_they_are_committed(person: Account, model: ScriptedChatModel) -> None:
    gates = [Gate() for _ in range(5)]
    model.then((*(cue for n, gate in enumerate(gates) for cue in (ModelText(f"{n} "), gate)), ModelEnd("stop")))
    conversation = await person.new_conversation()
    async with asyncio.timeout(20), person.streaming(conversation, "count") as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        seen = []
        async for event in events_of(response):
            seen.append(event)
            if event.name == "text":
                # The model goes on only once its last word has been read here: nothing may hold it back.
                gates[int(event.data["delta"])].opened.set()
    check_stream(seen)
    assert [event.data["delta"] for event in seen if event.name == "text"] == ["0 ", "1 ", "2 ", "3 ", "4 "]


async def test_a_reader_goes_on_where_it_left_off_while_the_answer_is_written(
    person: Account, model: ScriptedChatModel
) -> None:
    gate = Gate()
    model.then((*(ModelText(f"{number} ") for number in range(20)), gate, ModelText("end"), ModelEnd("stop")))
    conversation = await person.new_conversation()
    async with person.streaming(conversation, "count") as response:
        seen = []
        async for event in events_of(response):
            seen.append(event)
            if len(seen) == 2:
                break
    message_id = seen[0].data["message_id"]
    assert seen[-1].id is not None
    going_on = asyncio.create_task(person.resume(message_id, after=seen[-1].id))
    whole = asyncio.create_task(person.resume(message_id))
    await gate.reached.wait()
    gate.opened.set()
    rest = await going_on
    assert [*seen, *rest.events] == (await whole).events


async def test_a_silent_stream_outlives_the_read_timeout_by_its_heartbeats(
    tmp_path: Path, model: ScriptedChatModel
) -> None:
    gate = Gate()
    model.then((ModelText("so "), gate, ModelText("far"), ModelEnd("stop")))
    settings = replace(Settings(data_dir=tmp_path, jwt_secret=SECRET), heartbeat_seconds=0.25)
    container = container_of(settings, model)
    container.storage.override(MemoryStorage())
    async with live(container) as served, proxied(served, tmp_path, read_timeout="1s") as behind:
        person = await behind.account()
        beats = 0
        text = ""
        async with asyncio.timeout(20), person.streaming(await person.new_conversation(), "hi") as response:
            async for line in response.aiter_lines():
                text += line + "\n"
                beats += line.startswith(":")
                if beats == 7:  # 1.75 s, which is more than nginx waits
                    gate.opened.set()
        assert beats >= 7
        assert "event: done" in text


def test_timeouts_are_above_the_heartbeat_and_the_longest_answer() -> None:
    text = CONFIGURATION.read_text()
    timeouts = [int(found) for found in re.findall(r"proxy_read_timeout (\d+)s;", text)]
    settings = Settings()
    assert len(timeouts) == 3
    assert min(timeouts) > 2 * settings.heartbeat_seconds
    assert max(timeouts) > settings.llm_total_seconds


@pytest.mark.parametrize("size", [4 * 1024 * 1024 + 1, 6 * 1024 * 1024])
async def test_a_body_that_is_too_large_is_told_so_in_the_envelope(person: Account, size: int) -> None:
    body = b'{"title": "' + b"x" * size + b'"}'
    answer = await person.post("/api/conversations/", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "payload_too_large"
    assert answer.json()["error"]["request_id"]


async def test_a_body_just_below_the_limit_arrives(person: Account) -> None:
    body = {"title": "x", "system_prompt": "x" * (4 * 1024 * 1024 - 100)}
    answer = await person.post("/api/conversations/", json=body)
    assert answer.json()["error"]["details"][0]["field"] == "system_prompt"


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/api/../metrics", "/api/%2e%2e/metrics", "/anything"]
)
async def test_what_is_not_named_is_not_reached(behind: Live, path: str) -> None:
    host, _, port = behind.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 404 ")
    assert json.loads(body)["error"]["code"] == "not_found"


async def test_health_and_the_schema_are_reached(behind: Live) -> None:
    for path in ("/health/live", "/health/ready", "/schema", "/schema/openapi.json"):
        assert (await behind.http.get(path)).status_code == 200


async def test_while_no_replica_is_there_clients_are_told_to_come_back(tmp_path: Path) -> None:
    async with nginx(tmp_path, f"127.0.0.1:{free_port()}") as url, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{url}/api/auth/me")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "overloaded"


async def test_what_luxx_answers_is_passed_on_as_it_is(person: Account, model: ScriptedChatModel) -> None:
    answer = await person.get("/api/messages/conv_none", headers={"X-Request-ID": "mine", "Accept-Language": "en"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "conversation_not_found")
    assert answer.headers["x-request-id"] == "mine"
    model.then((RuntimeError("x"),), spoken("x"))
    answer = await person.send(await person.new_conversation(), "hi")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


async def test_a_client_cannot_claim_an_address_and_queries_are_not_logged(tmp_path: Path) -> None:
    async with (
        web_server() as upstream,
        nginx(tmp_path, upstream.host) as url,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        upstream.pages["*"] = Answer("{}")
        claimed = {"X-Forwarded-For": "203.0.113.7"}
        await http.get(f"{url}/api/auth/me?token=private", headers=claimed)
        assert upstream.asked[0].headers["x-forwarded-for"] == "127.0.0.1"
    log = (tmp_path / "access.log").read_text()
    assert json.loads(log)["path"] == "/api/auth/me"
    assert "private" not in log
