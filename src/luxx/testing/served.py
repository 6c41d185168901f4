"""An ASGI application on loopback, in the test's event loop or in a thread; needs the extra `server`."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

from luxx.extras import needs

with needs("luxx.testing.serving", "the extra `server`"):
    import uvicorn

App: TypeAlias = Callable[..., Awaitable[Any]]

LEAVING_SECONDS: Final = 5
"""How long requests that are still open at the end may take."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up: Final = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Ctrl-C is for the test run


@asynccontextmanager
async def serving(app: App, *, lifespan: bool = True) -> AsyncIterator[str]:
    """Serve `app` on a free port of 127.0.0.1; gives its URL, `http://127.0.0.1:…`.

    It runs in the loop of the test: what the application waits for, the test can set. Streams are real streams,
    byte for byte as they are written. The application's lifespan is entered and left, both in one task; `lifespan`
    False is for an application that has none. Raises `RuntimeError` where it does not start; its log says why.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app,
            lifespan="on" if lifespan else "off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=LEAVING_SECONDS,
        )
        server = _Server(config)
        task = asyncio.create_task(_serve(server, listening), name="luxx test server")
        up = asyncio.create_task(server.up.wait())
        try:
            await asyncio.wait({task, up}, return_when=asyncio.FIRST_COMPLETED)
            if not server.started:
                raise RuntimeError("The application did not start: its log says why.")
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            up.cancel()
            server.should_exit = True
            await task


@contextmanager
def serving_in_thread(app: App) -> Iterator[str]:
    """Serve `app` as `serving` does, in a thread with an event loop of its own: for what blocks the test's thread."""
    ready: Future[tuple[str, Callable[[], object]]] = Future()
    with ThreadPoolExecutor(1, thread_name_prefix="luxx test server") as thread:
        ended = thread.submit(lambda: asyncio.run(_serve_until_left(app, ready)))
        either: tuple[Future[Any], ...] = (ready, ended)
        wait(either, return_when=FIRST_COMPLETED)
        if not ready.done():
            ended.result()  # raises what hindered it
        url, leave = ready.result()
        try:
            yield url
        finally:
            leave()
            ended.result()


async def _serve_until_left(app: App, ready: "Future[tuple[str, Callable[[], object]]]") -> None:
    left = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with serving(app) as url:
        ready.set_result((url, lambda: loop.call_soon_threadsafe(left.set)))
        await left.wait()


async def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    try:
        await server.serve(sockets=[listening])
    except SystemExit:
        return  # so uvicorn tells that the application did not start; a test run goes on
