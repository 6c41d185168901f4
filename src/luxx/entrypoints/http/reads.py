"""Handlers of what is only read: HEAD is answered wherever GET is (RFC 9110, 9.1)."""

from typing import Any

from litestar import HttpMethod, route


def get(path: str, *, opt: dict[str, Any] | None = None) -> route:
    """Make a handler of GET and HEAD. To HEAD the server sends what it would to GET, but for the body."""
    return route(path, http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200, opt=opt)
