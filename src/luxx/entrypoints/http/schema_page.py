"""/schema: the OpenAPI document, and a page to try it."""

from importlib.resources import files
from typing import Any, Final

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from luxx.entrypoints.http.answers import Answer
from luxx.entrypoints.http.asgi import prefix_of
from luxx.entrypoints.http.methods import get
from luxx.entrypoints.http.openapi import openapi_document


def schema_handlers(handlers: tuple[HTTPRouteHandler, ...]) -> tuple[HTTPRouteHandler, ...]:
    """Make the handlers that serve the description of `handlers`."""
    document: Final = openapi_document(handlers)
    page: Final = files("luxx.entrypoints.http").joinpath("schema_page.html").read_bytes()

    @get("/schema/openapi.json")
    async def openapi(request: Request[Any, Any, Any]) -> ASGIApp:
        # Where the service is mounted below a prefix, its paths are below it, too.
        return Answer(document | {"servers": [{"url": prefix_of(request.scope) or "/"}]}, 200)

    @get("/schema")
    async def try_it(request: Request[Any, Any, Any]) -> Response[bytes]:
        policy = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    return (openapi, try_it)
