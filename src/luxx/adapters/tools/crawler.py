"""`fetch_page` and `crawl_pages`: what pages of the web say."""

import asyncio
import base64
import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.jobs.page import read_page
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.errors import ToolError
from luxx.domain.message import Json

Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=8_192,
        description="The address of a page, with http:// or https://",
        examples=["https://example.com/article"],
    ),
]
Form = Annotated[
    Literal["markdown", "text", "links"],
    Meta(description="What to give: the main content as markdown (with links) or as plain text, or all links"),
]


class FetchPageArguments(Struct, frozen=True, forbid_unknown_fields=True):
    url: Url
    format: Form = "markdown"


class CrawlPagesArguments(Struct, frozen=True, forbid_unknown_fields=True):
    urls: Annotated[list[Url], Meta(min_length=1, max_length=10, description="The addresses of up to 10 pages")]
    format: Form = "markdown"


@tool(category="crawler", seconds=40, untrusted=True)
async def fetch_page(arguments: FetchPageArguments, resources: ToolResources) -> Json:
    """Read one page of the public web: its title and main content, without menus and advertisements.

    Gives `url` (where redirects ended), `title`, and `content` as markdown or plain text, or with format links the
    `links` of the page. Pages that a site closes to robots are not read.
    """
    return await _page(arguments.url, arguments.format, resources)


@tool(category="crawler", seconds=60, concurrency=8, untrusted=True)
async def crawl_pages(arguments: CrawlPagesArguments, resources: ToolResources) -> Json:
    """Read up to 10 pages of the public web at once, each with an outcome of its own.

    Gives `pages`, in the order asked for: each with `requested_url` and `success`, and what fetch_page gives or an
    `error`. One page that fails does not fail the others.
    """
    urls = list(dict.fromkeys(arguments.urls))
    pages = await asyncio.gather(*(_outcome(url, arguments.format, resources) for url in urls))
    # All of them together stay within the limit of a result.
    share = 900_000 // len(pages)
    return {"pages": [_within(page, share) for page in pages]}


async def _outcome(url: str, form: str, resources: ToolResources) -> dict[str, Any]:
    try:
        page = await _page(url, form, resources)
    except ToolError as error:
        problem = {"code": error.code, "message": str(error)}
        return {"requested_url": url, "success": False, "error": problem}
    return {"requested_url": url, "success": True, **page}


async def _page(url: str, form: str, resources: ToolResources) -> dict[str, Any]:
    response = await resources.crawler.page(url)
    charset = re.search(r"charset\s*=\s*[\"']?([\w:.-]+)", response.headers.get("content-type", ""), re.IGNORECASE)
    read = await resources.workers.run(
        10,
        read_page,
        base64.b64encode(response.body).decode("ascii"),
        response.media_type,
        charset[1] if charset else "",
        response.url,
        form,
    )
    return {"url": response.url, "format": form, **read}


def _within(page: dict[str, Any], most: int) -> dict[str, Any]:
    """Cut a page's content so that it takes `most` bytes."""
    content = page.get("content", "")
    if len(content.encode()) <= most:
        return page
    return page | {"content": content.encode()[:most].decode(errors="ignore"), "truncated": True}
