"""`web_search`: find pages."""

from typing import Annotated

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.message import Json


class WebSearchArguments(Struct, frozen=True, forbid_unknown_fields=True):
    query: Annotated[str, Meta(min_length=1, max_length=500, description="What to search for, in a few words")]
    max_results: Annotated[int, Meta(ge=1, le=20, description="How many results to give, at most")] = 5


@tool(category="crawler", seconds=25, concurrency=8, untrusted=True)
async def web_search(arguments: WebSearchArguments, resources: ToolResources) -> Json:
    """Search the web.

    Gives `results`, the best first: each with `title`, `url` and `snippet`. Read a page with fetch_page before relying
    on it.
    """
    hits = await resources.search.search(arguments.query, limit=arguments.max_results)
    results = [{"title": hit.title, "url": hit.url, "snippet": hit.snippet} for hit in hits]
    return {"query": arguments.query, "engine": resources.search.name, "results": results}
