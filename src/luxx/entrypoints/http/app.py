"""The Litestar application: handlers, what they are given, and what becomes of errors."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from litestar import HttpMethod, Litestar, Request, Response, route
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from luxx.application.accounts import Authenticate, Caller
from luxx.application.ports import RequestRate
from luxx.container import Container, running
from luxx.domain.errors import LuxxError
from luxx.entrypoints.http import auth, conversations, credentials, health, messages, metrics, tools
from luxx.entrypoints.http.answers import add_request_id, broken, failed, refused
from luxx.entrypoints.http.observed import ObservedLitestar, note_user
from luxx.entrypoints.http.peer import PeerOf, peer_of
from luxx.entrypoints.http.reading import BODY_LIMIT, bearer_token
from luxx.entrypoints.http.schema_page import schema_handlers

HANDLERS = (
    *auth.HANDLERS,
    *credentials.HANDLERS,
    *conversations.HANDLERS,
    *messages.HANDLERS,
    *tools.HANDLERS,
    *health.HANDLERS,
    *metrics.HANDLERS,
)

GIVEN = (
    "authenticate",
    "cancel_turn",
    "change_password",
    "create_api_key",
    "create_conversation",
    "delete_api_key",
    "delete_conversation",
    "delete_message",
    "end_session",
    "execute_tool",
    "follow_turn",
    "get_conversation",
    "get_tool",
    "list_api_keys",
    "list_conversations",
    "list_messages",
    "list_sessions",
    "list_tools",
    "log_in",
    "log_out",
    "metrics",
    "register_user",
    "request_rate",
    "send_message",
    "storage",
    "stream_heartbeat",
    "supervisor",
    "update_conversation",
)
"""What handlers may ask for by name; the container has a provider of the same name for each."""


async def authenticated(
    request: Request[Any, Any, Any],
    authenticate: NamedDependency[Authenticate],
    request_rate: NamedDependency[RequestRate],
) -> Caller:
    """Tell who is calling, and not too often: runs before a handler reads anything else of the request."""
    caller = await authenticate(token=bearer_token(request))
    note_user(request.scope, caller.user.id)
    await request_rate.take(caller.user.id)
    return caller


def _from(provider: Callable[[], Any]) -> Provide:
    # Providers have no signature for Litestar to read.
    def provide() -> Any:
        return provider()

    return Provide(provide, sync_to_thread=False)


def _peer(told: PeerOf) -> Provide:
    def peer(request: Request[Any, Any, Any]) -> str:
        return told(request.scope)

    return Provide(peer, sync_to_thread=False)


def _options_of(handlers: Sequence[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
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


def create_app(container: Container) -> Litestar:
    """Make the application of a container; the application's lifespan opens and closes what the container holds."""

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with running(container):
            yield

    handlers = [*HANDLERS, *schema_handlers(HANDLERS)]
    app = ObservedLitestar(
        route_handlers=[*_options_of(handlers), *handlers],
        dependencies={
            "caller": Provide(authenticated),
            "peer": _peer(peer_of(container.settings().trusted_proxies)),
            **{name: _from(container.providers[name]) for name in GIVEN},
        },
        exception_handlers={LuxxError: failed, HTTPException: refused, Exception: broken},
        before_send=[add_request_id],
        lifespan=[lifespan],
        request_max_body_size=BODY_LIMIT,
        openapi_config=None,
        logging_config=None,
    )
    app.request_observers = container.watchers()
    return app
