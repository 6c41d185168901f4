"""The whole service below /chat of an application that has pages of its own.

    uvicorn --timeout-graceful-shutdown 10 --factory examples.mount_under_prefix:in_starlette
    uvicorn --timeout-graceful-shutdown 10 --factory examples.mount_under_prefix:in_litestar

Then http://127.0.0.1:8000/chat/schema shows the API below its prefix, and clients take
http://127.0.0.1:8000/chat as the service's address. Needs luxx[server]; Starlette for the first.
"""

# ruff: noqa: INP001 - a program by itself

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, asgi, get
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from luxx.container import Container
from luxx.entrypoints.http.app import create_app
from luxx.settings import Settings

PREFIX = "/chat"


def starlette_around(chat: Litestar) -> Starlette:
    """Mount in Starlette, or FastAPI: neither opens what is mounted, so the outer lifespan does."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with chat.lifespan():
            yield

    async def home(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("Pages of your own.")

    return Starlette(routes=[Route("/", home), Mount(PREFIX, app=chat)], lifespan=lifespan)  # type: ignore[arg-type]  # frameworks type ASGI each in its own way


def litestar_around(chat: Litestar) -> Litestar:
    """Mount in Litestar, which does not open what is mounted either."""

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with chat.lifespan():
            yield

    @asgi(PREFIX, is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await chat(scope, receive, send)

    @get("/")
    async def home() -> str:
        return "Pages of your own."

    return Litestar([home, mounted], lifespan=[lifespan])


def in_starlette() -> Starlette:
    return starlette_around(create_app(Container(settings=Settings.from_env())))


def in_litestar() -> Litestar:
    return litestar_around(create_app(Container(settings=Settings.from_env())))
