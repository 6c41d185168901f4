"""Methods besides those that a path is made for: HEAD wherever there is GET (RFC 9110, 9.1), and OPTIONS."""

from collections.abc import Sequence
from typing import Any

from litestar import HttpMethod, Request, Response, route
from litestar.handlers import HTTPRouteHandler


def get(path: str, *, opt: dict[str, Any] | None = None) -> route:
    """Make a handler of GET and HEAD. To HEAD the server sends what it would to GET, but for the body."""
    return route(path, http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200, opt=opt)


def options_of(handlers: Sequence[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """Make handlers of OPTIONS: Litestar's own name only the methods of the first handler of a path."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(handler.http_methods)
    return [_options(path, ", ".join(sorted(found))) for path, found in methods.items()]


def _options(path: str, allowed: str) -> HTTPRouteHandler:
    @route(path, http_method=[HttpMethod.OPTIONS], status_code=204)
    async def options(request: Request[Any, Any, Any]) -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": allowed})

    return options
