"""What tools may use, and how long it lives."""

from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from luxx.adapters.tools.web.addresses import AddressRules
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
    """

    workers: int | None = None
    worker_bytes: int = MEMORY_BYTES
    allow_hosts: frozenset[str] = frozenset()
    pause: float = PAUSE_SECONDS


_DEFAULTS: Final = ToolSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResources:
    """All that a tool may use of the world: one for the whole process, of one event loop."""

    settings: ToolSettings
    clock: Clock
    workers: WorkerPool
    crawler: Crawler
    clients: tuple[WebClient, ...]

    @classmethod
    def open(cls, clock: Clock, settings: ToolSettings = _DEFAULTS) -> Self:
        """Make the resources. Processes and connections start when a tool first needs them; `aclose` ends them."""
        pages = WebClient(AddressRules.allowing(settings.allow_hosts))
        return cls(
            settings=settings,
            clock=clock,
            workers=WorkerPool(size=settings.workers, memory_bytes=settings.worker_bytes),
            crawler=Crawler(pages, pause=settings.pause),
            clients=(pages,),
        )

    async def aclose(self) -> None:
        """End all worker processes and connections."""
        await self.workers.aclose()
        for client in self.clients:
            await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
