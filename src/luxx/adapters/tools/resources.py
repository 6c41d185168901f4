"""What tools may use, and how long it lives."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

from luxx.extras import needs

with needs("luxx.adapters.tools.resources", "the extra `tools`"):
    from luxx.adapters.tools.open_meteo import FORECAST_URL, GEOCODING_URL, OpenMeteo
    from luxx.adapters.tools.python.bubblewrap import BubblewrapSandbox
    from luxx.adapters.tools.python.monty import MontySandbox
    from luxx.adapters.tools.python.sandbox import PythonSandbox
    from luxx.adapters.tools.search.brave import BASE_URL as BRAVE_URL
    from luxx.adapters.tools.search.brave import BraveSearch
    from luxx.adapters.tools.search.duckduckgo import DuckDuckGoSearch
    from luxx.adapters.tools.search.engine import SearchEngine
    from luxx.adapters.tools.search.searxng import SearxngSearch
    from luxx.adapters.tools.web.addresses import AddressRules
    from luxx.adapters.tools.web.api import JsonApi
    from luxx.adapters.tools.web.client import WebClient
    from luxx.adapters.tools.web.crawler import PAUSE_SECONDS, Crawler
    from luxx.adapters.tools.workers.pool import MEMORY_BYTES, WorkerPool
from luxx.application.ports import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSettings:
    """What an operator can set about tools.

    `workers`: how many worker processes work at once; None means by the number of cores.
    `worker_bytes`: the address space of each.
    `allow_hosts`: hosts, addresses and CIDRs, each with or without a port, that pages may be read from although
    they are not public.
    `pause`: seconds between the beginnings of two requests to one host.
    `search_engine`: who answers `web_search`; `search_url` is the SearXNG instance, or replaces where Brave is
    asked; `search_key` is Brave's.
    `python_sandbox`: what runs `execute_python`.
    `geocoding_url`, `forecast_url`: where Open-Meteo is asked.
    """

    workers: int | None = None
    worker_bytes: int = MEMORY_BYTES
    allow_hosts: frozenset[str] = frozenset()
    pause: float = PAUSE_SECONDS
    search_engine: Literal["duckduckgo", "searxng", "brave"] = "duckduckgo"
    search_url: str | None = None
    search_key: str | None = field(default=None, repr=False)
    python_sandbox: Literal["monty", "bubblewrap"] = "monty"
    geocoding_url: str = GEOCODING_URL
    forecast_url: str = FORECAST_URL


_DEFAULTS: Final = ToolSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResources:
    """All that a tool may use of the world: one for the whole process, of one event loop."""

    clock: Clock
    workers: WorkerPool
    crawler: Crawler
    search: SearchEngine
    python: PythonSandbox
    weather: OpenMeteo
    closing: tuple[Callable[[], Awaitable[None]], ...] = ()

    @classmethod
    def open(cls, clock: Clock, settings: ToolSettings = _DEFAULTS) -> Self:
        """Make the resources. Processes and connections start when a tool first needs them; `aclose` ends them.

        Raises `ValueError` for settings that cannot work (an address that is none, a key that is missing), and
        `SandboxUnusable` where the chosen sandbox cannot run here.
        """
        workers = WorkerPool(size=settings.workers, memory_bytes=settings.worker_bytes)
        pages = WebClient(AddressRules.allowing(settings.allow_hosts))
        search, api = _search(settings, workers)
        python = BubblewrapSandbox() if settings.python_sandbox == "bubblewrap" else MontySandbox()
        weather = OpenMeteo(
            JsonApi("the weather service", settings.geocoding_url),
            JsonApi("the weather service", settings.forecast_url),
        )
        closing = [workers.aclose, pages.aclose, python.aclose, weather.aclose]
        return cls(
            clock=clock,
            workers=workers,
            crawler=Crawler(pages, pause=settings.pause),
            search=search,
            python=python,
            weather=weather,
            closing=(*closing, api.aclose) if api is not None else tuple(closing),
        )

    async def aclose(self) -> None:
        """End all worker processes and connections."""
        for close in self.closing:
            await close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _search(settings: ToolSettings, workers: WorkerPool) -> tuple[SearchEngine, JsonApi | None]:
    if settings.search_engine == "searxng":
        if not settings.search_url:
            raise ValueError("SearXNG needs the address of an instance")
        api = JsonApi("SearXNG", settings.search_url)
        return SearxngSearch(api), api
    if settings.search_engine == "brave":
        if not settings.search_key:
            raise ValueError("Brave Search needs a key")
        api = JsonApi("Brave Search", settings.search_url or BRAVE_URL)
        return BraveSearch(api, key=settings.search_key), api
    return DuckDuckGoSearch(workers), None
