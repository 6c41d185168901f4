"""Hostile input: all of it is tried, and none of it may reach anything.

A canary listens on loopback, a file holds a secret, a path must stay empty. Each corpus is counted, and
positive controls show that the canary, the secret and the path would tell.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.web import Answer, WebServer, web_server

from luxx.adapters.tools.python.bubblewrap import BubblewrapSandbox, SandboxUnusable
from luxx.adapters.tools.python.monty import MontySandbox
from luxx.adapters.tools.python.sandbox import PythonSandbox
from luxx.adapters.tools.web.addresses import AddressRules
from luxx.adapters.tools.web.client import WebClient
from luxx.domain.errors import InvalidInput, ToolBroken, ToolError, ToolRefused, ToolTimeout

from . import hostile
from .conftest import Run

WORDS = "the secret of the canary"


@dataclass
class Traps:
    """What must not be reached."""

    canary: WebServer
    secret: Path
    out: Path
    environment: str

    def aimed(self, text: str) -> str:
        port = str(self.canary.port)
        known = {"PORT": port, "SECRET": str(self.secret), "OUT": str(self.out), "URL": self.canary.url()}
        for word, value in known.items():
            text = text.replace(word, value)
        return text

    def sprung(self, *said: object) -> list[str]:
        """Tell what was reached, and set the traps again."""
        text = repr(said)
        found = []
        if self.canary.asked or self.canary.most_open:
            found.append("the canary was called")
        if WORDS in text or self.environment in text:
            found.append("a secret came out")
        if os.path.lexists(self.out):
            found.append("a file was made")
            subprocess.run(["rm", "-rf", self.out], check=True)
        self.canary.asked.clear()
        self.canary.most_open = 0
        return found


@pytest.fixture
async def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traps]:
    secret = tmp_path / "secret.txt"
    secret.write_text(WORDS, encoding="utf-8")
    # Whoever gets out of the sandbox shall find open doors, also as nobody.
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o777)
    monkeypatch.setenv("LUXX_CANARY", "the word in the environment")
    async with web_server() as canary:
        canary.pages["*"] = Answer(WORDS)
        yield Traps(canary, secret, tmp_path / "out.txt", "the word in the environment")


def report(capsys: pytest.CaptureFixture[str], what: str, tried: int, reached: Collection[object]) -> None:
    with capsys.disabled():
        print(f"\n{what}: tried {tried}, reached {len(reached)}", end="")  # noqa: T201 - the figure is for the reader
    assert not reached


async def test_no_address_reaches_the_canary(
    tools: Callable[..., Run], traps: Traps, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tools()
    reached = []
    for address in hostile.ADDRESSES:
        said: object = None
        try:
            said = await run("fetch_page", url=traps.aimed(address))
            reached.append((address, said))
        except (ToolError, InvalidInput) as error:
            said = str(error)
        reached += [(address, way) for way in traps.sprung(said)]
    report(capsys, "addresses", len(hostile.ADDRESSES), reached)
    assert len(hostile.ADDRESSES) >= 60


async def test_no_redirect_reaches_the_canary(
    tools: Callable[..., Run], traps: Traps, site: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tools(allow_hosts=frozenset({site.host}))
    reached = []
    for status in (301, 302, 303, 307, 308):
        for location in hostile.REDIRECTS:
            site.pages["/"] = Answer(status=status, headers={"Location": traps.aimed(location)})
            with pytest.raises(ToolError):
                await run("fetch_page", url=site.url())
            reached += [(status, location, way) for way in traps.sprung()]
    report(capsys, "redirects", 5 * len(hostile.REDIRECTS), reached)


async def test_no_name_reaches_the_canary_whatever_it_resolves_to(
    traps: Traps, capsys: pytest.CaptureFixture[str]
) -> None:
    client = WebClient(AddressRules.allowing([]), look_up=lambda host: hostile.NAMES[host])
    reached = []
    for name in hostile.NAMES:
        with pytest.raises(ToolRefused, match="may not be reached"):
            await client.get(f"http://{name}:{traps.canary.port}/")
        reached += [(name, way) for way in traps.sprung()]
    await client.aclose()
    report(capsys, "names", len(hostile.NAMES), reached)


async def test_a_name_that_changes_its_address_is_looked_up_once(site: WebServer, traps: Traps) -> None:
    answers = [["127.0.0.1"], ["::1"]]
    client = WebClient(AddressRules.allowing([site.host]), look_up=lambda _: answers.pop(0))
    site.pages["/"] = "<p>first"
    assert (await client.get(f"http://rebinding.example:{site.port}/")).body == b"<p>first"
    assert site.asked[-1].headers["host"] == f"rebinding.example:{site.port}"
    assert len(answers) == 1
    await client.aclose()
    assert not traps.sprung()


async def test_the_canary_is_reached_where_an_operator_allows_it(tools: Callable[..., Run], traps: Traps) -> None:
    for allowed in (
        "127.0.0.1",
        f"127.0.0.1:{traps.canary.port}",
        "127.0.0.0/8",
        f"[::ffff:127.0.0.1]:{traps.canary.port}",
    ):
        run = tools(allow_hosts=frozenset({allowed}))
        host = "[::ffff:127.0.0.1]" if "ffff" in allowed else "127.0.0.1"
        page = await run("fetch_page", url=f"http://{host}:{traps.canary.port}/")
        assert page["content"] == WORDS
        assert set(traps.sprung(page)) == {"the canary was called", "a secret came out"}
    run = tools(allow_hosts=frozenset({"127.0.0.1:1", "other.example", "10.0.0.0/8"}))
    with pytest.raises(ToolRefused, match="may not be reached"):
        await run("fetch_page", url=traps.canary.url())
    run = tools(allow_hosts=frozenset({"localhost"}))
    assert (await run("fetch_page", url=f"http://localhost:{traps.canary.port}/"))["content"] == WORDS


@pytest.fixture(params=["monty", "bubblewrap"])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[PythonSandbox]:
    opened: PythonSandbox
    if request.param == "monty":
        opened = MontySandbox(workers=1)
    else:
        try:
            opened = BubblewrapSandbox(at_once=1)
            await opened.run("1", seconds=10)
        except (SandboxUnusable, ToolBroken) as error:
            pytest.skip(str(error))
    yield opened
    await opened.aclose()


async def test_no_python_gets_out(sandbox: PythonSandbox, traps: Traps, capsys: pytest.CaptureFixture[str]) -> None:
    reached = []
    for code in hostile.PYTHON:
        said: object = None
        try:
            said = await sandbox.run(traps.aimed(code), seconds=5)
        except ToolError as error:
            said = str(error)
        reached += [(code, way) for way in traps.sprung(said)]
    report(capsys, f"Python in {type(sandbox).__name__}", len(hostile.PYTHON), reached)
    assert len(hostile.PYTHON) >= 60


async def test_the_same_python_does_get_out_of_a_plain_interpreter(traps: Traps) -> None:
    ways = set()
    for code in (hostile.PYTHON[0], hostile.PYTHON[9], hostile.PYTHON[31]):
        ran = await asyncio.create_subprocess_exec(
            sys.executable, "-c", traps.aimed(code), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        said, _ = await ran.communicate()
        ways |= set(traps.sprung(said))
    assert ways == {"the canary was called", "a secret came out", "a file was made"}


async def test_no_python_bomb_outlives_its_time(sandbox: PythonSandbox, capsys: pytest.CaptureFixture[str]) -> None:
    late = []
    slowest = 0.0
    for code in hostile.BOMBS:
        started = time.monotonic()
        await sandbox.run(code, seconds=0.3)
        taken = time.monotonic() - started
        slowest = max(slowest, taken)
        if taken > 5:
            late.append((code, taken))
    assert (await sandbox.run("6 * 7", seconds=10)).value == 42
    report(capsys, f"bombs in {type(sandbox).__name__} (slowest {slowest:.1f} s)", len(hostile.BOMBS), late)


async def test_no_sql_reaches_anything_but_its_table(
    tools: Callable[..., Run], traps: Traps, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tools()
    reached = []
    for sql in hostile.SQL:
        said: object = None
        try:
            said = await run("query_table", data="a\n1", sql=traps.aimed(sql))
        except ToolError as error:
            said = str(error)
        reached += [(sql, way) for way in traps.sprung(said)]
        settings = await run(
            "query_table",
            data="a\n1",
            sql="SELECT current_setting('enable_external_access'), current_setting('lock_configuration')",
        )
        if settings["rows"] != [[False, True]]:
            reached.append((sql, "the settings were changed"))
    report(capsys, "SQL", len(hostile.SQL), reached)
    assert len(hostile.SQL) >= 40


async def test_the_same_sql_does_reach_the_file_without_the_settings(traps: Traps) -> None:
    code = "import duckdb, sys; print(duckdb.sql(sys.argv[1]).fetchall())"
    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, traps.aimed(hostile.SQL[2]), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await ran.communicate()
    assert traps.sprung(said) == ["a secret came out"]


@pytest.mark.slow
async def test_no_sql_bomb_outlives_its_time(tools: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = tools()
    late = []
    started = time.monotonic()
    results = await asyncio.gather(
        *(run("query_table", data="a\n1", sql=sql) for sql in hostile.SQL_BOMBS[:2]), return_exceptions=True
    )
    assert all(isinstance(result, ToolRefused) for result in results)
    for sql in hostile.SQL_BOMBS[2:]:
        started = time.monotonic()
        with suppress(ToolRefused, ToolTimeout, InvalidInput):
            await run("query_table", data="a\n1", sql=sql)
        if time.monotonic() - started > 20:
            late.append(sql)
    report(capsys, "SQL bombs", len(hostile.SQL_BOMBS), late)


async def test_no_expression_is_more_than_arithmetic(
    tools: Callable[..., Run], traps: Traps, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tools()
    reached = []
    for expression in hostile.EXPRESSIONS:
        started = time.monotonic()
        said: Any = None
        try:
            said = await run("calculate", expression=traps.aimed(expression))
        except (ToolRefused, InvalidInput) as error:
            said = str(error)
        if isinstance(said, dict) and not isinstance(json.loads(json.dumps(said["value"])), int | float | None):
            reached.append((expression, "a value that is no number"))
        if time.monotonic() - started > 2:
            reached.append((expression, "too much time"))
        reached += [(expression, way) for way in traps.sprung(said)]
    report(capsys, "expressions", len(hostile.EXPRESSIONS), reached)
    assert len(hostile.EXPRESSIONS) >= 40
