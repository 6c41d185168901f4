"""The Litestar application: handlers, what they are given, and what becomes of errors."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException

from luxx.application.accounts import Authenticate, Caller
from luxx.container import Container, running
from luxx.domain.errors import LuxxError
from luxx.entrypoints.http import auth, conversations, health, messages, tools
from luxx.entrypoints.http.answers import add_request_id, broken, failed, refused
from luxx.entrypoints.http.reading import BODY_LIMIT, bearer_token
from luxx.entrypoints.http.schema_page import schema_handlers

HANDLERS = (*auth.HANDLERS, *conversations.HANDLERS, *messages.HANDLERS, *tools.HANDLERS, *health.HANDLERS)

GIVEN = (
    "authenticate",
    "cancel_turn",
    "create_conversation",
    "delete_conversation",
    "delete_message",
    "execute_tool",
    "follow_turn",
    "get_conversation",
    "get_tool",
    "list_conversations",
    "list_messages",
    "list_tools",
    "log_in",
    "log_out",
    "register_user",
    "send_message",
    "storage",
    "stream_heartbeat",
    "supervisor",
    "update_conversation",
)
"""What handlers may ask for by name; the container has a provider of the same name for each."""


async def authenticated(request: Request[Any, Any, Any], authenticate: NamedDependency[Authenticate]) -> Caller:
    """Tell who is calling: runs before a handler reads anything else of the request."""
    return await authenticate(token=bearer_token(request))


def _from(provider: Callable[[], Any]) -> Provide:
    # Providers have no signature for Litestar to read.
    def provide() -> Any:
        return provider()

    return Provide(provide, sync_to_thread=False)


def create_app(container: Container) -> Litestar:
    """Make the application of a container; the application's lifespan opens and closes what the container holds."""

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with running(container):
            yield

    return Litestar(
        route_handlers=[*HANDLERS, *schema_handlers(HANDLERS)],
        dependencies={name: _from(container.providers[name]) for name in GIVEN} | {"caller": Provide(authenticated)},
        exception_handlers={LuxxError: failed, HTTPException: refused, Exception: broken},
        before_send=[add_request_id],
        lifespan=[lifespan],
        request_max_body_size=BODY_LIMIT,
        openapi_config=None,
        logging_config=None,
    )
