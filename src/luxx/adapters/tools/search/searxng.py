"""SearXNG, the search engine to run oneself (https://docs.searxng.org/dev/search_api.html)."""

from collections.abc import Sequence

from luxx.adapters.tools.search.engine import SearchHit, hits_of
from luxx.adapters.tools.web.api import JsonApi
from luxx.domain.errors import ToolBroken


class SearxngSearch:
    """Searches with the instance at `base_url`; its settings must list `json` among the search formats."""

    name = "SearXNG"

    def __init__(self, api: JsonApi) -> None:
        self._api = api

    async def search(self, query: str, *, limit: int) -> Sequence[SearchHit]:
        answer = await self._api.get("/search", {"q": query, "format": "json"})
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list):
            raise ToolBroken("the SearXNG instance gave no list of results")
        return hits_of(results, title="title", url="url", snippet="content", limit=limit)
