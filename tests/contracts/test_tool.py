"""The built-in tools keep the contract of `Tool`."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from tests.support.until import until
from tests.support.web import Answer, WebServer, web_server

from luxx.adapters.tools.loading import load_tools
from luxx.adapters.tools.python.monty import MontySandbox
from luxx.adapters.tools.resources import ToolResources, ToolSettings
from luxx.testing.contracts.tool import ToolCase, ToolContract

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW_SQL = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range = 7"

ANSWERS: Mapping[str, Any] = {
    "/search": {"results": [{"title": "Owls", "url": "https://a.example/", "content": "at night"}]},
    "/v1/search": {"results": [{"name": "Paris", "latitude": 48.85, "longitude": 2.35, "country": "France"}]},
    "/v1/forecast": {
        "timezone": "Europe/Paris",
        "current_units": {"temperature_2m": "°C"},
        "current": {"temperature_2m": 10.3, "weather_code": 0},
        "daily_units": {"temperature_2m_max": "°C"},
        "daily": {"time": ["2026-03-01"], "temperature_2m_max": [12.0]},
    },
}

# Of each tool: arguments that are good, bad ones with the path of the fault, ones it cannot work with, slow ones.
CASES: Mapping[str, Mapping[str, Any]] = {
    "calculate": {
        "good": {"expression": "0.1 + 0.2"},
        "bad": [({"expression": 5}, "expression"), ({"expression": ""}, "expression"), ({}, "expression")],
        "refused": [{"expression": "1/0"}, {"expression": "9**9**9"}, {"expression": "__import__('os')"}],
    },
    "current_time": {
        "good": {"timezone": "Asia/Shanghai"},
        "bad": [({"timezone": None}, "timezone"), ({"timezone": "x" * 65}, "timezone")],
        "refused": [{"timezone": "Mars/Olympus"}, {"timezone": "../../etc/passwd"}],
    },
    "query_table": {
        "good": {"data": "a,b\n1,2", "sql": "SELECT a + b AS c FROM data"},
        "bad": [({"data": 5, "sql": "SELECT 1"}, "data"), ({"data": "a", "sql": ""}, "sql"), ({"data": "a"}, "sql")],
        "refused": [{"data": "a\n1", "sql": "SELEC"}, {"data": "", "sql": "SELECT 1"}],
        "slow": {"data": "a\n1", "sql": SLOW_SQL},
    },
    "transform_json": {
        "good": {"data": {"a": [{"b": 1}]}, "expression": "a[*].b"},
        "bad": [({"data": 1, "expression": 1}, "expression"), ({"expression": "a"}, "data")],
        "refused": [{"data": 1, "expression": "a["}, {"data": {}, "expression": "nope(@)"}],
    },
    "web_search": {
        "good": {"query": "owls", "max_results": 2},
        "bad": [
            ({"query": ""}, "query"),
            ({"query": "x", "max_results": 0}, "max_results"),
            ({"query": "x", "max_results": "5"}, "max_results"),
        ],
    },
    "fetch_page": {
        "good": {"url": "http://SITE/page", "format": "text"},
        "bad": [({"url": 1}, "url"), ({"url": "http://x/", "format": "pdf"}, "format"), ({}, "url")],
        "refused": [{"url": "http://127.0.0.1:1/"}, {"url": "ftp://x"}, {"url": "http://SITE/absent"}],
        "slow": {"url": "http://SITE/slow"},
    },
    "crawl_pages": {
        "good": {"urls": ["http://SITE/page", "http://SITE/absent"]},
        "bad": [({"urls": []}, "urls"), ({"urls": ["x"] * 11}, "urls"), ({"urls": ["x", 1]}, "urls.1")],
        "slow": {"urls": ["http://SITE/slow", "http://SITE/page"]},
    },
    "execute_python": {
        "good": {"code": "print(1)\n[1, 2]"},
        "bad": [({"code": 1}, "code"), ({"code": "1", "timeout_s": 31}, "timeout_s"), ({}, "code")],
        "slow": {"code": "while True: pass"},
    },
    "current_weather": {
        "good": {"location": "Paris"},
        "bad": [({"location": ""}, "location"), ({"location": "x", "units": "kelvin"}, "units")],
        "refused": [{"location": "91, 0"}],
    },
    "weather_forecast": {
        "good": {"location": "Paris", "days": 1},
        "bad": [({"location": "x", "days": 17}, "days"), ({"location": "x", "days": 1.5}, "days")],
        "refused": [{"location": "91, 0"}],
    },
    "analyze_text": {
        "good": {"text": "One. Two!", "pattern": r"\w+"},
        "bad": [({"text": 5}, "text"), ({"text": "x", "pattern": ""}, "pattern"), ({}, "text")],
        "refused": [{"text": "x", "pattern": "("}, {"text": "x", "pattern": "(?=x)"}],
        "slow": {"text": "a" * 1_000_000, "pattern": "a"},
    },
}


@dataclass(frozen=True)
class Stage:
    """The tools, and the server that plays the rest of the world."""

    resources: ToolResources
    site: WebServer

    def at_work(self) -> Collection[object]:
        sandbox = self.resources.python
        assert isinstance(sandbox, MontySandbox)
        waiting = range(self.site.open)
        return [*self.resources.workers.at_work, *sandbox.workers.at_work, *waiting]

    def filled(self, value: Any) -> Any:
        """Put the server's address where `SITE` stands."""
        return json.loads(json.dumps(value).replace("SITE", self.site.host))


async def hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with web_server() as site:
        site.pages["/page"] = "<title>T</title><p>Something to read."
        site.pages["/slow"] = hangs
        for path, answer in ANSWERS.items():
            site.pages[path] = Answer(json.dumps(answer), headers={"Content-Type": "application/json"})
        settings = ToolSettings(
            allow_hosts=frozenset({site.host}),
            pause=0.0,
            search_engine="searxng",
            search_url=site.url(),
            geocoding_url=site.url(),
            forecast_url=site.url(),
        )
        async with ToolResources.open(lambda: datetime(2026, 3, 1, tzinfo=UTC), settings) as resources:
            yield Stage(resources, site)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, stage: Stage) -> ToolCase:
    tools = {tool.spec.name: tool for tool in load_tools(stage.resources)}
    return ToolCase(
        tool=tools[request.param],
        under_way=lambda: until(stage.at_work),
        at_work=stage.at_work,
        **stage.filled(CASES[request.param]),
    )


class TestBuiltIn(ToolContract):
    pass


async def test_all_eleven_tools_are_held_to_the_contract(stage: Stage) -> None:
    assert {tool.spec.name for tool in load_tools(stage.resources)} == set(CASES)
    assert len(CASES) == 11


async def test_only_what_strangers_write_is_marked_as_untrusted(stage: Stage) -> None:
    untrusted = {tool.spec.name for tool in load_tools(stage.resources) if tool.spec.untrusted}
    assert untrusted == {"web_search", "fetch_page", "crawl_pages"}
