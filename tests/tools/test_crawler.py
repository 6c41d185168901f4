"""`fetch_page` and `crawl_pages` against a real web server on loopback, allowed as an operator allows a host."""

import asyncio
import gzip
import json
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from tests.support.until import until
from tests.support.web import Answer, Asked, WebServer, web_server

from luxx.adapters.tools.web.addresses import AddressRules
from luxx.adapters.tools.web.client import WebClient
from luxx.adapters.tools.web.crawler import Crawler
from luxx.application.tools import acting_for
from luxx.domain.errors import InvalidInput, ToolBroken, ToolRefused, ToolTimeout

from .conftest import Run, at_a_stretch

ARTICLE = """<!DOCTYPE html><html><head><title>Owls &amp; mice</title></head><body>
<nav><a href="/menu">Menu entry</a></nav>
<article><h1>Owls at night</h1>
<p>The owl hunts at night and hears a mouse from far away. Read <a href="more?x=1&amp;y=2">more about owls</a> here.
It turns its head by three quarters of a circle, because its eyes cannot move in their sockets at all.</p>
<table><tr><th>Owl</th><th>Weight</th></tr><tr><td>Barn owl</td><td>330 g</td></tr></table>
<p>A second paragraph says that owls swallow their food whole and give back what they cannot digest.</p></article>
<footer>Imprint</footer></body></html>"""


@pytest.fixture
def run(tools: Callable[..., Run], site: WebServer) -> Run:
    return tools(allow_hosts=frozenset({site.host}))


async def test_a_page_is_read_as_markdown_with_absolute_links(run: Run, site: WebServer) -> None:
    site.pages["/a/b"] = ARTICLE
    page = await run("fetch_page", url=site.url("/a/b"))
    assert page["title"] == "Owls & mice"
    assert page["url"] == site.url("/a/b")
    assert "The owl hunts at night" in page["content"]
    assert f"[more about owls]({site.url('/a/more?x=1&y=2')})" in page["content"]
    assert "| Barn owl | 330 g |" in page["content"]
    assert "Menu entry" not in page["content"]
    assert "Imprint" not in page["content"]
    assert page["truncated"] is False


async def test_a_page_is_read_as_plain_text(run: Run, site: WebServer) -> None:
    site.pages["/"] = ARTICLE
    page = await run("fetch_page", url=site.url(), format="text")
    assert "more about owls" in page["content"]
    assert "](" not in page["content"]


async def test_all_links_of_a_page_are_given_once_and_absolute(run: Run, site: WebServer) -> None:
    site.pages["/"] = (
        '<title>L</title><base href="/base/"><a href="x#1">one</a><a href="x#2">again</a>'
        '<a href="//other.example/y">two</a><a href="mailto:a@b.c">m</a><a href="javascript:alert(1)">j</a>'
    )
    page = await run("fetch_page", url=site.url(), format="links")
    assert page["links"] == [
        {"url": site.url("/base/x"), "text": "one"},
        {"url": "http://other.example/y", "text": "two"},
    ]


@pytest.mark.parametrize(
    ("header", "meta", "codec"),
    [
        ("text/html; charset=gb2312", "", "gb18030"),
        ("text/html", '<meta charset="shift_jis">', "cp932"),
        ("text/html", '<meta http-equiv="Content-Type" content="text/html; charset=big5">', "big5"),
        ("text/html", "", "utf-8"),
        ("text/html; charset=utf-8", '<meta charset="latin-1">', "utf-8"),
        ("text/html; charset=nonsense", '<meta charset="gbk">', "gbk"),
        ("text/html", "", "utf-16"),
        ("text/html", "", "gb18030"),
    ],
)
async def test_a_page_is_decoded_as_it_was_meant(run: Run, site: WebServer, header: str, meta: str, codec: str) -> None:
    sentence = "天地玄黄宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏"
    html = f"<html><head>{meta}<title>{sentence}</title></head><body><p>{sentence * 5}</p></body></html>"
    site.pages["/"] = Answer(html.encode(codec, errors="ignore"), headers={"Content-Type": header})
    expected = sentence.encode(codec, errors="ignore").decode(codec)
    page = await run("fetch_page", url=site.url(), format="text")
    assert page["title"] == expected
    assert expected in page["content"]


async def test_redirects_are_followed_and_the_last_address_is_told(run: Run, site: WebServer) -> None:
    site.pages["/old"] = Answer(status=301, headers={"Location": "/newer"})
    site.pages["/newer"] = Answer(status=302, headers={"Location": site.url("/new")})
    site.pages["/new"] = ARTICLE
    page = await run("fetch_page", url=site.url("/old"))
    assert page["url"] == site.url("/new")


@pytest.mark.parametrize("codec", ["utf-8", "latin-1"])
async def test_an_address_that_is_not_escaped_is_followed(run: Run, site: WebServer, codec: str) -> None:
    async def moves(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("HTTP/1.1 302 X\r\nLocation: /größe\r\nContent-Length: 0\r\n\r\n".encode(codec))

    site.pages |= {"/": moves, "/gr%C3%B6%C3%9Fe": ARTICLE}
    assert (await run("fetch_page", url=site.url()))["url"] == site.url("/gr%C3%B6%C3%9Fe")


async def test_texts_that_are_no_html_are_given_as_they_are(run: Run, site: WebServer) -> None:
    site.pages["/t"] = Answer("just\ntext", headers={"Content-Type": "text/plain"})
    site.pages["/j"] = Answer('{"a":"北"}', headers={"Content-Type": "application/json"})
    assert (await run("fetch_page", url=site.url("/t")))["content"] == "just\ntext"
    assert json.loads((await run("fetch_page", url=site.url("/j")))["content"]) == {"a": "北"}


async def test_a_page_without_main_content_gives_all_its_text(run: Run, site: WebServer) -> None:
    site.pages["/"] = "<html><body><p>short</p></body></html>"
    assert (await run("fetch_page", url=site.url()))["content"] == "short"
    site.pages["/"] = ""
    assert (await run("fetch_page", url=site.url()))["content"] == ""


async def test_only_gzip_is_asked_for_and_it_is_unpacked(run: Run, site: WebServer) -> None:
    packed = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    site.pages["/"] = Answer(gzip.compress(b"hello " * 1000), headers=packed)
    assert (await run("fetch_page", url=site.url()))["content"].startswith("hello hello")
    assert site.asked[-1].headers["accept-encoding"] == "gzip"
    assert site.asked[-1].headers["user-agent"].startswith("Luxx/")


async def test_a_packed_page_that_stops_early_is_not_told_as_whole(run: Run, site: WebServer) -> None:
    packed = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    site.pages["/"] = Answer(gzip.compress(b"hello " * 1000)[:-20], headers=packed)
    with pytest.raises(ToolBroken, match="its packed content ends too early"):
        await run("fetch_page", url=site.url())
    site.pages["/"] = Answer(b"", headers=packed)
    assert (await run("fetch_page", url=site.url()))["content"] == ""


async def test_a_bomb_is_not_unpacked(run: Run, site: WebServer) -> None:
    bomb = zlib.compressobj(9, wbits=31)
    data = b"".join(bomb.compress(b"\0" * 2**20) for _ in range(200)) + bomb.flush()
    packed = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    site.pages["/"] = Answer(data, headers=packed)
    with pytest.raises(ToolRefused, match="larger than 5 MiB"):
        await run("fetch_page", url=site.url())
    site.pages["/"] = Answer(b"x", headers={**packed, "Content-Encoding": "br"})
    with pytest.raises(ToolBroken, match="packed as 'br'"):
        await run("fetch_page", url=site.url())


async def test_a_page_that_never_ends_is_left(run: Run, site: WebServer) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    site.pages["/"] = endless
    with pytest.raises(ToolRefused, match="larger than"):
        await run("fetch_page", url=site.url())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 X\r\n\r\n" * 20_000 + b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n",
    ],
    ids=["provisional answers", "chunks"],
)
async def test_an_answer_of_many_small_pieces_lets_others_run(
    site: WebServer, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    site.pages["/"] = flood
    client = WebClient(AddressRules.allowing([site.host]))
    try:
        async with at_a_stretch(monkeypatch) as steps:
            assert (await client.get(site.url())).status == 200
    finally:
        await client.aclose()
    assert max(steps) < 1_000


async def test_of_the_connections_to_the_web_one_user_leaves_one_to_the_others(
    site: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luxx.adapters.tools.web.client.CONNECTIONS", 3)
    ended = asyncio.Event()

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    site.pages |= {"/slow": slow, "/": "quick"}
    client = WebClient(AddressRules.allowing([site.host]))

    async def get(user: int, path: str) -> bytes:
        acting_for.set(user)
        return (await client.get(site.url(path))).body

    several = [asyncio.create_task(get(1, "/slow")) for _ in range(4)]
    try:
        await until(lambda: len(site.asked) == 2)
        async with asyncio.timeout(5):
            assert await asyncio.create_task(get(2, "/")) == b"quick"
        assert site.paths == ["/slow", "/slow", "/"]
        ended.set()
        await asyncio.gather(*several)
    finally:
        await client.aclose()


async def test_a_declared_length_is_believed_before_anything_is_read(run: Run, site: WebServer) -> None:
    async def huge(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    site.pages["/"] = huge
    with pytest.raises(ToolRefused, match="larger than"):
        await run("fetch_page", url=site.url())


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (Answer("no", 404), ToolRefused, "answered 404 Not Found"),
        (Answer("no", 403), ToolRefused, "answered 403"),
        (Answer("no", 500), ToolBroken, "answered 500"),
        (Answer("no", 429), ToolBroken, "answered 429"),
        (Answer(b"%PDF-1.7", headers={"Content-Type": "application/pdf"}), ToolRefused, "application/pdf, not a page"),
        (Answer(b"\0\1\2", headers={}), ToolRefused, "octet-stream"),
    ],
)
async def test_what_cannot_be_read_is_explained(
    run: Run, site: WebServer, answer: Answer, error: type[Exception], reason: str
) -> None:
    site.pages["/"] = answer
    with pytest.raises(error, match=reason):
        await run("fetch_page", url=site.url())


async def test_a_page_that_is_nested_without_end_costs_little(run: Run, site: WebServer) -> None:
    site.pages["/"] = "<div>" * 100_000 + "x"
    started = time.monotonic()
    with suppress(ToolRefused):
        assert len((await run("fetch_page", url=site.url()))["content"]) < 1_000
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("depth", [100, 300])
async def test_what_is_nested_deeply_is_read_to_the_end(run: Run, site: WebServer, depth: int) -> None:
    site.pages["/"] = f"{'<div>' * depth}<p>Owls hunt at night.</p>{'</div>' * depth}<p>Mice hide.</p>"
    content = (await run("fetch_page", url=site.url()))["content"]
    assert "Owls hunt" in content
    assert "Mice hide" in content


async def test_a_page_that_is_nested_beyond_all_use_is_refused_in_words(run: Run, site: WebServer) -> None:
    site.pages["/"] = "<div>" * 500 + "x"
    with pytest.raises(ToolRefused, match="nested more than 400 deep"):
        await run("fetch_page", url=site.url())


async def test_servers_that_speak_no_http_are_a_failure_in_words(run: Run, site: WebServer) -> None:
    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.0\r\n\r\n")
        await writer.drain()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for page in (garbage, silent):
        site.pages["/"] = page
        with pytest.raises(ToolBroken, match="cannot be read: the server does not speak HTTP"):
            await run("fetch_page", url=site.url())


async def test_a_circle_of_redirects_ends(run: Run, site: WebServer) -> None:
    site.pages["/"] = Answer(status=302, headers={"Location": "/"})
    with pytest.raises(ToolRefused, match="redirects more than 5 times"):
        await run("fetch_page", url=site.url())
    assert site.paths.count("/") == 6


async def test_a_redirect_to_a_private_address_is_refused(run: Run, site: WebServer) -> None:
    site.pages["/"] = Answer(status=302, headers={"Location": f"http://127.0.0.1:{site.port + 1}/"})
    with pytest.raises(ToolRefused, match="may not be reached"):
        await run("fetch_page", url=site.url())


async def test_robots_txt_is_kept_on_every_hop(run: Run, site: WebServer) -> None:
    site.pages["/robots.txt"] = Answer("User-agent: *\nDisallow: /private\n", headers={"Content-Type": "text/plain"})
    site.pages["/open"] = Answer(status=302, headers={"Location": "/private/page"})
    site.pages["/private/page"] = ARTICLE
    for path in ("/private/page", "/open"):
        with pytest.raises(ToolRefused, match="does not let robots read"):
            await run("fetch_page", url=site.url(path))
    assert "/private/page" not in site.paths
    assert site.paths.count("/robots.txt") == 1


async def test_a_site_whose_robots_txt_fails_is_not_read(run: Run, site: WebServer) -> None:
    site.pages["/robots.txt"] = Answer("broken", 503)
    site.pages["/"] = ARTICLE
    with pytest.raises(ToolBroken, match=r"503 when asked for its robots\.txt"):
        await run("fetch_page", url=site.url())
    assert "/" not in site.paths


async def test_several_pages_are_read_at_once_each_with_its_own_outcome(run: Run, site: WebServer) -> None:
    site.pages["/a"] = ARTICLE
    site.pages["/c"] = "<title>C</title><p>c"
    urls = [site.url("/a"), site.url("/missing"), site.url("/c"), "http://127.0.0.1:1/", "nonsense"]
    pages = (await run("crawl_pages", urls=urls, format="text"))["pages"]
    assert [page["requested_url"] for page in pages] == urls
    assert [page["success"] for page in pages] == [True, False, True, False, False]
    assert pages[2]["title"] == "C"
    assert pages[1]["error"]["code"] == "tool_failed"
    assert "404" in pages[1]["error"]["message"]


async def test_a_host_is_not_asked_for_many_pages_at_once(run: Run, site: WebServer) -> None:
    released = asyncio.Event()

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.write(Answer("<p>x").encoded())
        await writer.drain()

    site.pages["*"] = slow
    site.pages["/robots.txt"] = Answer("", 404)
    asking = asyncio.create_task(run("crawl_pages", urls=[site.url(f"/{n}") for n in range(8)]))
    await until(lambda: len(set(site.paths) - {"/robots.txt"}) >= 2)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(set(site.paths) - {"/robots.txt"}) == 2
    released.set()
    assert all(page["success"] for page in (await asking)["pages"])


async def test_requests_to_one_host_keep_a_distance(tools: Callable[..., Run], site: WebServer) -> None:
    times: list[float] = []

    def timed(_: Asked) -> Answer:
        times.append(time.monotonic())
        return Answer("<p>x")

    site.pages["*"] = timed
    site.pages["/robots.txt"] = Answer("", 404)
    run = tools(allow_hosts=frozenset({site.host}), pause=0.1)
    await run("crawl_pages", urls=[site.url(f"/{n}") for n in range(3)])
    assert times[2] - times[0] > 0.15


@asynccontextmanager
async def crawler(*, seconds: float, pause: float = 0.0) -> AsyncIterator[Crawler]:
    """Give a crawler for which every name leads to loopback."""
    client = WebClient(AddressRules.allowing(["127.0.0.0/8"]), seconds=seconds, look_up=lambda _: ["127.0.0.1"])
    yield Crawler(client, pause=pause)
    await client.aclose()


@pytest.fixture
async def signpost(site: WebServer) -> AsyncIterator[WebServer]:
    """Another server, all of whose pages lead to those of `site`."""
    async with web_server() as server:
        server.pages["*"] = lambda asked: Answer(status=302, headers={"Location": site.url(asked.path)})
        server.pages["/robots.txt"] = Answer("", 404)
        yield server


async def test_who_would_wait_too_long_is_refused_at_once_and_holds_up_nobody(
    site: WebServer, signpost: WebServer
) -> None:
    site.pages["/robots.txt"] = Answer("User-agent: *\nCrawl-delay: 10")
    site.pages["/"] = ARTICLE
    async with crawler(seconds=5) as crawling:
        await crawling.page(site.url())
        led = (crawling.page(f"http://host{n}.example:{signpost.port}/") for n in range(20))
        refusals = await asyncio.gather(*led, return_exceptions=True)
        with pytest.raises(ToolTimeout) as last:
            await crawling.page(site.url())
    for error in (*refusals, last.value):
        assert isinstance(error, ToolTimeout)
        told = re.fullmatch(r"127\.0\.0\.1 wants 10 seconds between .*; try again in (\d+) seconds", str(error))
        assert told is not None, error
        assert int(told[1]) <= 10
    assert site.paths.count("/") == 1


async def test_a_turn_is_given_back_by_who_is_cancelled(site: WebServer) -> None:
    site.pages["/"] = ARTICLE
    async with crawler(seconds=1500, pause=1000) as crawling, asyncio.timeout(10):
        await crawling.page(site.url())
        for _ in range(3):
            waiting = asyncio.create_task(crawling.page(site.url()))
            for _ in range(50):
                await asyncio.sleep(0)
            assert not waiting.done()
            with pytest.raises(ToolTimeout, match=r"others come first; try again in (19|20)\d\d seconds"):
                await crawling.page(site.url())
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    assert site.paths.count("/") == 1


async def test_a_host_is_not_asked_for_many_pages_at_once_by_redirects_either(
    site: WebServer, signpost: WebServer
) -> None:
    released = asyncio.Event()

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.write(Answer("<p>x").encoded())
        await writer.drain()

    site.pages["*"] = slow
    site.pages["/robots.txt"] = Answer("", 404)
    urls = [f"http://host{n}.example:{signpost.port}/{n}" for n in range(8)]
    async with crawler(seconds=30) as crawling:
        asking = asyncio.gather(*map(crawling.page, urls))
        await until(lambda: len(set(signpost.paths)) == 9 and len(set(site.paths)) >= 3)
        await until(lambda: not signpost.open)
        for _ in range(50):
            await asyncio.sleep(0)
        assert site.open == 2
        released.set()
        assert len(await asking) == 8
    assert site.most_open == 2


async def test_a_page_that_leads_elsewhere_keeps_no_place_where_it_came_from(
    site: WebServer, signpost: WebServer
) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    site.pages["/robots.txt"] = Answer("", 404)
    site.pages["/silent"] = silent
    site.pages["/page"] = ARTICLE
    async with crawler(seconds=30) as crawling, web_server() as other:
        other.pages["/robots.txt"] = Answer("", 404)
        other.pages["/page"] = ARTICLE
        signpost.pages["/page"] = Answer(status=302, headers={"Location": other.url("/page")})
        stuck = [asyncio.create_task(crawling.page(signpost.url("/silent"))) for _ in range(2)]
        await until(lambda: site.paths.count("/silent") == 2)
        assert (await asyncio.wait_for(crawling.page(signpost.url("/page")), 10)).url == other.url("/page")
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        # The places at the site are free again.
        assert (await asyncio.wait_for(crawling.page(site.url("/page")), 10)).status == 200


async def test_a_cancelled_fetch_closes_its_connection(run: Run, site: WebServer) -> None:
    started, gone = asyncio.Event(), asyncio.Event()

    async def hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        started.set()
        await reader.read()
        gone.set()

    site.pages["/"] = hangs
    asking = asyncio.create_task(run("fetch_page", url=site.url()))
    await asyncio.wait_for(started.wait(), 5)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(gone.wait(), 5)


async def test_a_fetch_cancelled_at_any_point_leaves_no_connection_open(run: Run, site: WebServer) -> None:
    async def hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    site.pages["/slow"] = hangs
    for steps in range(60):
        asking = asyncio.create_task(run("crawl_pages", urls=[site.url("/slow"), site.url("/robots.txt")]))
        if steps >= 30:
            await until(lambda: site.open)
        for _ in range(steps % 30):
            await asyncio.sleep(0)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await until(lambda: not site.open)


async def test_no_proxy_is_taken_from_the_environment(
    tools: Callable[..., Run], site: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with web_server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        site.pages["/"] = ARTICLE
        assert (await tools(allow_hosts=frozenset({site.host}))("fetch_page", url=site.url()))["title"]
        assert not proxy.asked


async def test_arguments_are_checked(run: Run) -> None:
    with pytest.raises(InvalidInput, match="at most 10 items"):
        await run("crawl_pages", urls=["http://x/"] * 11)
    with pytest.raises(InvalidInput, match="must be one of: links, markdown, text"):
        await run("fetch_page", url="http://x/", format="pdf")


async def test_a_slow_site_times_out(site: WebServer) -> None:
    async def hangs(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def drips(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    client = WebClient(AddressRules.allowing([site.host]), seconds=0.2)
    for page in (hangs, drips):
        site.pages["/"] = page
        with pytest.raises(ToolTimeout, match="did not answer"):
            await client.get(site.url())
    await client.aclose()
