"""`web_search` with each engine, played by a web server on loopback."""

import json
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.web import Answer, WebServer

from luxx.adapters.tools.search.duckduckgo import DuckDuckGoSearch
from luxx.adapters.tools.workers.pool import WorkerPool
from luxx.domain.errors import InvalidInput, ToolBroken

from .conftest import Run

JSON = {"Content-Type": "application/json"}


def searxng(tools: Callable[..., Run], site: WebServer) -> Run:
    return tools(search_engine="searxng", search_url=site.url("/searx/"))


async def test_searxng_is_asked_for_json_and_its_results_are_given_as_plain_text(
    tools: Callable[..., Run], site: WebServer
) -> None:
    results = [
        {"title": "Owls &amp; <b>mice</b>", "url": "https://a.example/x", "content": "They  hunt\nat night"},
        {"title": "Again", "url": "https://a.example/x", "content": ""},
        {"title": "Script", "url": "javascript:alert(1)", "content": ""},
        {"url": "https://b.example/", "content": None},
        "nonsense",
    ]
    site.pages["/searx/search"] = Answer(json.dumps({"results": results}), headers=JSON)
    found = await searxng(tools, site)("web_search", query="owls & 北")
    assert site.asked[-1].query == {"q": "owls & 北", "format": "json"}
    assert found == {
        "query": "owls & 北",
        "engine": "SearXNG",
        "results": [
            {"title": "Owls & mice", "url": "https://a.example/x", "snippet": "They hunt at night"},
            {"title": "https://b.example/", "url": "https://b.example/", "snippet": ""},
        ],
    }


async def test_no_more_results_are_given_than_asked_for(tools: Callable[..., Run], site: WebServer) -> None:
    results = [{"title": f"{n}", "url": f"https://a.example/{n}", "content": "x" * 5000} for n in range(30)]
    site.pages["/searx/search"] = Answer(json.dumps({"results": results}), headers=JSON)
    found = await searxng(tools, site)("web_search", query="x", max_results=3)
    assert [hit["title"] for hit in found["results"]] == ["0", "1", "2"]
    assert len(found["results"][0]["snippet"]) == 1_001
    with pytest.raises(InvalidInput, match="at most 20"):
        await searxng(tools, site)("web_search", query="x", max_results=21)


async def test_brave_is_asked_with_the_key_in_a_header_and_nowhere_else(
    tools: Callable[..., Run], site: WebServer
) -> None:
    results = [{"title": "T", "url": "https://a.example/", "description": "<strong>D</strong>"}]
    site.pages["/res/v1/web/search"] = Answer(json.dumps({"web": {"results": results}}), headers=JSON)
    run = tools(search_engine="brave", search_url=site.url(), search_key="s3cret")
    found = await run("web_search", query="owls", max_results=7)
    assert found["results"] == [{"title": "T", "url": "https://a.example/", "snippet": "D"}]
    asked = site.asked[-1]
    assert asked.headers["x-subscription-token"] == "s3cret"
    assert asked.query["count"] == "7"
    assert "s3cret" not in asked.target


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("no", 403), "answered 403: this server is not allowed"),
        (Answer("no", 429), "asked too often"),
        (Answer("no", 500), "answered 500; try again later"),
        (Answer("<html>", 200), "no JSON"),
        (Answer("{}", 200, JSON), "no list of results"),
        (Answer("[]", 200, JSON), "no list of results"),
        (Answer("[" * 100_000, 200, JSON), "no JSON"),
        (Answer("", 302, {"Location": "http://127.0.0.1:1/"}), "answered 302|redirects"),
    ],
)
async def test_an_engine_that_fails_is_a_failure_in_words(
    tools: Callable[..., Run], site: WebServer, answer: Answer, reason: str
) -> None:
    site.pages["/searx/search"] = answer
    with pytest.raises(ToolBroken, match=reason):
        await searxng(tools, site)("web_search", query="x")


async def test_what_the_engine_s_address_asks_for_is_asked_for_each_time(
    tools: Callable[..., Run], site: WebServer
) -> None:
    site.pages["/searx/search"] = Answer('{"results": []}', headers=JSON)
    await tools(search_engine="searxng", search_url=site.url("/searx/?language=de"))("web_search", query="x")
    assert site.asked[-1].query == {"language": "de", "q": "x", "format": "json"}


@pytest.mark.parametrize("host", ["bücher.example", "[::1]", "127.0.0.1:81"])
async def test_an_engine_may_have_a_name_of_any_script(tools: Callable[..., Run], host: str) -> None:
    tools(search_engine="searxng", search_url=f"http://{host}")  # is not refused


async def test_an_engine_that_is_not_there_is_a_failure_in_words(tools: Callable[..., Run]) -> None:
    run = tools(search_engine="searxng", search_url="http://127.0.0.1:1")
    with pytest.raises(ToolBroken, match=r"SearXNG failed: .*no connection"):
        await run("web_search", query="x")


@pytest.mark.parametrize(
    "settings",
    [
        {"search_engine": "searxng"},
        {"search_engine": "brave"},
        {"search_engine": "searxng", "search_url": "ftp://x"},
        {"allow_hosts": frozenset({"not a host"})},
    ],
)
async def test_settings_that_cannot_work_are_refused_at_once(
    tools: Callable[..., Run], settings: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"needs|address|host"):
        tools(**settings)


@pytest.fixture
async def workers() -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(size=1)
    yield pool
    await pool.aclose()


async def test_duckduckgo_s_page_is_read(workers: WorkerPool, site: WebServer) -> None:
    body = "".join(
        f'<div class="result__body"><h2>Owl {n}</h2><a href="https://a.example/{n}">about <b>owls</b> {n}</a></div>'
        for n in range(4)
    )
    site.pages["/html/"] = f"<html><body>{body}</body></html>"
    engine = DuckDuckGoSearch(workers, backends="duckduckgo", addresses={"duckduckgo": site.url("/html/")})
    hits = await engine.search("owls", limit=3)
    assert len(hits) == 3
    assert all(hit.url.startswith("https://a.example/") and hit.title.startswith("Owl ") for hit in hits)


async def test_duckduckgo_s_empty_page_is_no_result_and_no_failure(workers: WorkerPool, site: WebServer) -> None:
    site.pages["/html/"] = "<html><body></body></html>"
    engine = DuckDuckGoSearch(workers, backends="duckduckgo", addresses={"duckduckgo": site.url("/html/")})
    assert list(await engine.search("owls", limit=3)) == []


async def test_a_duckduckgo_that_cannot_be_reached_is_a_failure(workers: WorkerPool) -> None:
    engine = DuckDuckGoSearch(workers, backends="duckduckgo", addresses={"duckduckgo": "http://127.0.0.1:1/"})
    with pytest.raises(ToolBroken, match="refused or failed"):
        await engine.search("owls", limit=3)
