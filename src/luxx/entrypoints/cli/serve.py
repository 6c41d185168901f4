"""`luxx serve`"""

import asyncio
import functools
import importlib.util
import logging
import signal
from types import FrameType
from typing import Final

import uvicorn

from luxx.adapters.telemetry.logs import configure
from luxx.application.supervisor import TurnSupervisor
from luxx.container import Container
from luxx.entrypoints.http.app import create_app
from luxx.entrypoints.http.unreadable import EnvelopedHttp
from luxx.settings import Settings

CLOSING_SECONDS: Final = 5
"""How long streams may take to send their end after the last answer has ended."""

_log = logging.getLogger("luxx")


class DrainingServer(uvicorn.Server):
    """Goes on answering while the turns of this process end: SIGTERM must not cut a stream.

    On the first signal new sends are refused and running turns get `grace` seconds; then it stops.
    A second signal stops it at once.
    """

    def __init__(self, config: uvicorn.Config, supervisor: TurnSupervisor, *, grace: float) -> None:
        super().__init__(config)
        self._supervisor: Final = supervisor
        self._grace: Final = grace
        self._signalled = False
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]  # one type for all
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]  # sockets are passed on as they are
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                _log.info("Luxx listens on http://%s:%d", shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        # uvicorn would note the signal and raise it again at its end: the exit status would not be 0.
        if self._loop is None or self._signalled:
            self.should_exit = True
            self.force_exit = self._signalled
            return
        self._signalled = True
        # A signal comes between any two steps of the loop: what it starts is started by the loop.
        self._loop.call_soon_threadsafe(self._start_draining, signal.Signals(sig).name)

    def _start_draining(self, name: str) -> None:
        _log.info("%s: no new messages; answers under way get %g s", name, self._grace)
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._supervisor.drain(grace=self._grace)
        self.should_exit = True


def run(settings: Settings, *, host: str, port: int) -> int:
    """Serve until a signal; gives the exit status."""
    configure(style=settings.log_format, level=settings.log_level, secrets=settings.secrets)
    container = Container(settings=settings)
    fast = importlib.util.find_spec("uvloop") is not None
    with asyncio.Runner(loop_factory=_uvloop if fast else None) as runner:
        return runner.run(_serve(container, settings, host, port))


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415  # not on every platform

    return uvloop.new_event_loop()


async def _serve(container: Container, settings: Settings, host: str, port: int) -> int:
    if settings.llm_base_url is None:
        _log.info("LUXX_LLM_BASE_URL is not set: the built-in offline model answers")
    server = server_of(container, host=host, port=port)
    try:
        await server.serve()
    except SystemExit:
        return 1  # uvicorn has a status of its own for a start that failed, and the log has the reason
    return 0 if server.started else 1


def server_of(container: Container, *, host: str, port: int) -> DrainingServer:
    """Make the server of a container, not started yet. Only inside an event loop."""
    config = uvicorn.Config(
        create_app(container),
        host=host,
        port=port,
        http=functools.partial(EnvelopedHttp, seconds=container.settings().request_seconds),  # type: ignore[arg-type]  # called as a class is
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # who may say where a request comes from is a setting of ours
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    return DrainingServer(config, container.supervisor(), grace=container.settings().grace_seconds)
