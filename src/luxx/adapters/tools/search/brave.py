"""Brave Search, with a key (https://api-dashboard.search.brave.com/app/documentation/web-search)."""

from collections.abc import Sequence
from typing import Final

from luxx.adapters.tools.search.engine import SearchHit, hits_of
from luxx.adapters.tools.web.api import JsonApi
from luxx.domain.errors import ToolBroken

BASE_URL: Final = "https://api.search.brave.com"
_MOST: Final = 20


class BraveSearch:
    """Searches with Brave's API; `key` is the subscription token."""

    name = "Brave Search"

    def __init__(self, api: JsonApi, *, key: str) -> None:
        self._api = api
        self._key = key

    async def search(self, query: str, *, limit: int) -> Sequence[SearchHit]:
        parameters = {"q": query, "count": str(min(limit, _MOST)), "text_decorations": "false"}
        headers = {"X-Subscription-Token": self._key, "Accept": "application/json"}
        answer = await self._api.get("/res/v1/web/search", parameters, headers=headers)
        if not isinstance(answer, dict):
            raise ToolBroken("Brave Search gave an answer that cannot be read")
        web = answer.get("web") or {}
        results = web.get("results", []) if isinstance(web, dict) else []
        return hits_of(results, title="title", url="url", snippet="description", limit=limit)
