"""Recognisable secrets are planted everywhere, and everything that comes out is searched for them."""

import asyncio
import contextlib
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.support.until import until
from tests.support.web import Answer, Asked, web_server

from luxx.testing.chaos.processes import ServiceProcess
from luxx.testing.fault_proxy import FaultProxy
from luxx.testing.upstream import ScriptedUpstream, asking, failing, saying

MODEL_KEY = "PLANTED-model-key-7f3a"
SEARCH_KEY = "PLANTED-search-key-5c1d"
JWT_SECRET = "PLANTED-jwt-secret-of-more-than-32-bytes"
DATABASE_PASSWORD = "PLANTED-database-password-9b2e"
PASSWORD = "PLANTED-user-password-4d8f"
CONTENT = "PLANTED-content-of-a-message"
ANSWER = "PLANTED-answer-of-the-model"
QUERY = "PLANTED-query-string"
UPSTREAM = "PLANTED-words-of-an-upstream"
PLANTED = re.compile(r"PLANTED-[a-z-]+")

READ_EVERYTHING = """
found = []
try:
    import os
    found.append(str(dict(os.environ)))
except Exception as error:
    found.append(repr(error))
for number in ('self', '1', '%d', '%d'):
    try:
        found.append(open('/proc/' + number + '/environ').read())
    except Exception as error:
        found.append(repr(error))
found
"""


def descendants(pid: int) -> list[int]:
    """Give the processes that `pid` started, and those that they did."""
    children = [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
    return [found for child in children for found in (child, *descendants(child))]


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_no_secret_is_in_anything_that_comes_out(postgres_url: str, tmp_path: Path) -> None:
    address = urlsplit(postgres_url)
    seen: dict[str, str] = {}

    def refuse(asked: Asked) -> Answer:
        return Answer(f"{UPSTREAM} {asked.headers.get('x-subscription-token')} {asked.target}", 500)

    async with (
        web_server() as search,
        ScriptedUpstream() as upstream,
        FaultProxy(address.hostname or "", address.port or 5432) as database,
    ):
        search.pages["*"] = refuse
        environ = {
            "LUXX_DATABASE_URL": f"postgresql://{address.username}:{DATABASE_PASSWORD}@127.0.0.1:{database.port}{address.path}",
            "LUXX_JWT_SECRET": JWT_SECRET,
            "LUXX_LLM_BASE_URL": upstream.url,
            "LUXX_LLM_API_KEY": MODEL_KEY,
            "LUXX_LLM_RETRIES": "0",
            "LUXX_SEARCH_ENGINE": "brave",
            "LUXX_SEARCH_URL": f"http://{search.host}",
            "LUXX_SEARCH_KEY": SEARCH_KEY,
            "LUXX_LOG_LEVEL": "debug",
            "LUXX_LOG_FORMAT": "json",
            "LUXX_TOOL_WORKERS": "1",
            "LUXX_DATA_DIR": str(tmp_path),
        }
        async with (
            ServiceProcess(environ, directory=tmp_path) as service,
            httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60) as http,
        ):
            account = {"username": "someone", "email": "someone@example.com", "password": PASSWORD}
            answer = await http.post("/api/auth/register", json=account)
            assert answer.status_code == 201, service.said
            seen["register"] = answer.text
            wrong = {"username": "someone", "password": PASSWORD[::-1] + PASSWORD}
            seen["wrong login"] = (await http.post("/api/auth/login", json=wrong)).text
            answer = await http.post("/api/auth/login", json={"username": "someone", "password": PASSWORD})
            token = str(answer.json()["data"]["access_token"])
            seen["login"] = answer.text.replace(token, "")
            http.headers["Authorization"] = f"Bearer {token}"
            seen["bad body"] = (await http.post("/api/auth/login", content=f'{{"password": "{PASSWORD}')).text
            seen["bad field"] = (await http.post("/api/auth/login", json={"password": [PASSWORD]})).text
            seen["query"] = (await http.get("/api/conversations/", params={"page": QUERY})).text
            seen["bad token"] = (await http.get("/api/auth/me", headers={"Authorization": f"Bearer {token}x"})).text

            conversation = (await http.post("/api/conversations/", json={})).json()["data"]["id"]
            message = {"conversation_id": conversation, "content": CONTENT}
            upstream.play(asking(("web_search", json.dumps({"query": QUERY}))), saying(ANSWER))
            answer = await http.post("/api/messages/", json=message)
            assert answer.status_code == 201, answer.text
            seen["message"] = answer.text.replace(CONTENT, "").replace(ANSWER, "").replace(QUERY, "")
            for status in (400, 401, 429, 500):
                upstream.play(failing(status, body=json.dumps({"error": {"message": UPSTREAM + MODEL_KEY}}).encode()))
                answer = await http.post("/api/messages/", json=message)
                assert answer.status_code in {429, 502}, answer.text
                seen[f"upstream {status}"] = answer.text

            code = READ_EVERYTHING % (service.pid, os.getpid())
            answer = await http.post("/api/tools/execute_python/execute", json={"code": code})
            assert answer.status_code == 200, answer.text
            seen["execute_python"] = answer.text
            seen["web_search"] = (await http.post("/api/tools/web_search/execute", json={"query": QUERY})).text
            table = {
                "data": "a\n1",
                "sql": f"SELECT '{CONTENT}' FROM nothing, read_text('/proc/{service.pid}/environ')",
            }
            answer = await http.post("/api/tools/query_table/execute", json=table)
            assert answer.status_code == 422
            seen["query_table"] = answer.text.replace(CONTENT, "")
            seen["schema"] = (await http.get("/schema/openapi.json")).text
            seen["schema page"] = (await http.get("/schema")).text

            children = descendants(service.pid)
            assert children, "no tool ran in a process of its own"
            for child in children:
                # What is closed to its own user can give nothing away; root sees it all the same.
                with contextlib.suppress(PermissionError):
                    seen[f"environment of {child}"] = proc(child, "environ")
                seen[f"command of {child}"] = proc(child, "cmdline")
            seen["command"] = proc(service.pid, "cmdline")
            assert MODEL_KEY in proc(service.pid, "environ"), "the search would find what is there"

            database.target_port = 1
            database.cut()
            answer = await http.post("/api/messages/", json=message)
            assert answer.status_code == 503
            seen["database away"] = answer.text
            seen["not ready"] = (await http.get("/health/ready")).text
            seen["metrics"] = (await http.get("/metrics")).text
            assert "luxx_turns_total" in seen["metrics"]
            await until(lambda: '"route": "/metrics"' in service.said)
            seen["log"] = service.said
            assert '"event": "turn"' in seen["log"]
            assert '"level": "debug"' in seen["log"]
    leaks = {place: found for place, text in seen.items() if (found := PLANTED.findall(text))}
    assert leaks == {}
    assert [place for place, text in seen.items() if token in text] == []


async def test_a_start_that_fails_tells_no_secret(tmp_path: Path) -> None:
    """Bad settings, and a database that is away or refuses the password."""
    for settings in (
        {"LUXX_DATABASE_URL": f"postgresql://u:{DATABASE_PASSWORD}@127.0.0.1:1/x", "LUXX_JWT_SECRET": JWT_SECRET},
        {"LUXX_DATABASE_URL": f"postgresql://u:{DATABASE_PASSWORD}@[bad/x", "LUXX_JWT_SECRET": "PLANTED-short"},
        {"LUXX_SEARCH_KEY": SEARCH_KEY, "LUXX_LLM_API_KEYS": MODEL_KEY, "LUXX_SEARCH_ENGINE": "none"},
    ):
        kept = {name: text for name, text in os.environ.items() if not name.startswith("LUXX_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "luxx.entrypoints.cli", "serve", "--port", "0"),
            env=kept | settings | {"LUXX_LOG_LEVEL": "debug", "LUXX_DATA_DIR": str(tmp_path)},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == (2 if "[bad" in str(settings) or "none" in settings.values() else 1)
        assert said
        assert PLANTED.findall(said.decode()) == []
