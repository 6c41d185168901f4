"""The Litestar application: handlers, what they are given, and what becomes of errors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from luxx.extras import needs

with needs("luxx.entrypoints.http.app", "the extra `server`"):
    from litestar import Litestar, Request
    from litestar.datastructures import State
    from litestar.di import Provide
    from litestar.exceptions import HTTPException

    from luxx.application.accounts import Caller
    from luxx.container import Container, running
    from luxx.domain.errors import LuxxError
    from luxx.entrypoints.http import auth, conversations, credentials, health, messages, metrics, tools
    from luxx.entrypoints.http.answers import broken, failed, refused
    from luxx.entrypoints.http.methods import options_of
    from luxx.entrypoints.http.observed import ObservedLitestar, note_user
    from luxx.entrypoints.http.reading import BODY_LIMIT, bearer_token
    from luxx.entrypoints.http.schema_page import schema_handlers
    from luxx.entrypoints.http.uses import state_of, uses, uses_of

HANDLERS = (
    *auth.HANDLERS,
    *credentials.HANDLERS,
    *conversations.HANDLERS,
    *messages.HANDLERS,
    *tools.HANDLERS,
    *health.HANDLERS,
    *metrics.HANDLERS,
)


async def authenticated(request: Request[Any, Any, Any]) -> Caller:
    """Tell who is calling, and not too often: runs before a handler reads anything else of the request."""
    use = uses(request)
    caller = await use.authenticate(token=bearer_token(request))
    note_user(request.scope, caller.user.id)
    await use.request_rate.take(caller.user.id)
    return caller


def create_app(container: Container) -> Litestar:
    """Make the application of a container; the application's lifespan opens and closes what the container holds."""

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with running(container):
            use()  # what cannot be made is found out here, and not by every request
            yield

    use = uses_of(container)
    handlers = [*HANDLERS, *schema_handlers(HANDLERS)]
    app = ObservedLitestar(
        route_handlers=[*options_of(handlers), *handlers],
        dependencies={"caller": Provide(authenticated)},
        state=State(state_of(use)),
        exception_handlers={LuxxError: failed, HTTPException: refused, Exception: broken},
        lifespan=[lifespan],
        request_max_body_size=BODY_LIMIT,
        openapi_config=None,
        logging_config=None,
    )
    app.request_observers = container.watchers()
    app.stopping = lambda: container.supervisor().draining
    return app
