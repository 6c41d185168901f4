"""DuckDuckGo and others by `ddgs`, which blocks, and has an HTTP client of its own: it asks search engines only."""

from collections.abc import Mapping
from typing import Any

from luxx.domain.errors import ToolBroken, ToolTimeout


def search(query: str, limit: int, seconds: int, backends: str, addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """Ask the engines named in `backends` (by commas); `addresses` replaces where some of them are asked.

    Gives objects with `title`, `href` and `body`.
    """
    from ddgs import DDGS  # noqa: PLC0415 - only the worker that needs it carries it
    from ddgs.engines import ENGINES  # noqa: PLC0415 - as above
    from ddgs.exceptions import DDGSException, TimeoutException  # noqa: PLC0415 - as above

    for name, address in addresses.items():
        engine = ENGINES["text"][name]
        ENGINES["text"][name] = type(engine.__name__, (engine,), {"search_url": address})
    try:
        return DDGS(timeout=seconds).text(query, max_results=limit, backend=backends)
    except TimeoutException as error:
        raise ToolTimeout("the search engines did not answer in time; try again later") from error
    except DDGSException as error:
        if "No results" in str(error):
            return []
        raise ToolBroken("the search engines refused or failed; try again later, or with other words") from error
