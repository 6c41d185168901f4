"""DuckDuckGo and other public engines, without a key, by the package `ddgs`."""

from collections.abc import Mapping, Sequence
from typing import Final

from luxx.adapters.tools.jobs import duckduckgo
from luxx.adapters.tools.search.engine import SearchHit, hits_of
from luxx.adapters.tools.workers.pool import WorkerPool

BACKENDS: Final = "duckduckgo,brave,mojeek,startpage,yahoo"
SECONDS: Final = 10


class DuckDuckGoSearch:
    """Searches in a worker process. `addresses` replaces where an engine is asked, by its name in `ddgs`."""

    name = "DuckDuckGo"

    def __init__(
        self, workers: WorkerPool, *, backends: str = BACKENDS, addresses: Mapping[str, str] | None = None
    ) -> None:
        self._workers = workers
        self._backends = backends
        self._addresses = dict(addresses or {})

    async def search(self, query: str, *, limit: int) -> Sequence[SearchHit]:
        found = await self._workers.run(
            SECONDS + 2, duckduckgo.search, query, limit, SECONDS, self._backends, self._addresses
        )
        return hits_of(found, title="title", url="href", snippet="body", limit=limit)
