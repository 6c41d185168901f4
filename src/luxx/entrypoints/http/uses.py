"""What handlers use: the use cases of one container, made when the first request comes."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from litestar import Request
from litestar.types import Scope

from luxx.adapters.telemetry.prometheus import PrometheusMetrics
from luxx.application.accounts import (
    Authenticate,
    ChangePassword,
    EndSession,
    ListSessions,
    LogIn,
    LogOut,
    RegisterUser,
)
from luxx.application.api_keys import CreateApiKey, DeleteApiKey, ListApiKeys
from luxx.application.cancel_turn import CancelTurn
from luxx.application.conversations import (
    CreateConversation,
    DeleteConversation,
    GetConversation,
    ListConversations,
    UpdateConversation,
)
from luxx.application.follow_turn import FollowTurn
from luxx.application.messages import DeleteMessage, ListMessages
from luxx.application.ports import RequestRate, Storage
from luxx.application.send_message import SendMessage
from luxx.application.supervisor import TurnSupervisor
from luxx.application.tools import ExecuteTool, GetTool, ListTools
from luxx.container import Container
from luxx.entrypoints.http.peer import PeerOf, peer_of

_KEY: Final = "luxx_uses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """The container has a provider of the same name for each field but the last."""

    authenticate: Authenticate
    cancel_turn: CancelTurn
    change_password: ChangePassword
    create_api_key: CreateApiKey
    create_conversation: CreateConversation
    delete_api_key: DeleteApiKey
    delete_conversation: DeleteConversation
    delete_message: DeleteMessage
    end_session: EndSession
    execute_tool: ExecuteTool
    follow_turn: FollowTurn
    get_conversation: GetConversation
    get_tool: GetTool
    list_api_keys: ListApiKeys
    list_conversations: ListConversations
    list_messages: ListMessages
    list_sessions: ListSessions
    list_tools: ListTools
    log_in: LogIn
    log_out: LogOut
    metrics: PrometheusMetrics
    register_user: RegisterUser
    request_rate: RequestRate
    send_message: SendMessage
    storage: Storage
    stream_heartbeat: float
    supervisor: TurnSupervisor
    update_conversation: UpdateConversation
    peer_of: PeerOf


def uses_of(container: Container) -> Callable[[], Uses]:
    """Give what makes the use cases of a container, once."""
    made: list[Uses] = []

    def uses() -> Uses:
        if not made:
            names = [field.name for field in fields(Uses) if field.name != "peer_of"]
            given: dict[str, Any] = {name: container.providers[name]() for name in names}
            made.append(Uses(**given, peer_of=peer_of(container.settings().trusted_proxies)))
        return made[0]

    return uses


def state_of(use: Callable[[], Uses]) -> dict[str, Any]:
    """Give the application's state, in which `uses` finds them."""
    return {_KEY: use}


def uses(request: Request[Any, Any, Any]) -> Uses:
    """Give what this request may use.

    Not as dependencies of the framework's: it resolves those of a handler as tasks of their own, which
    costs as much as all the rest of a small request.
    """
    given: Callable[[], Uses] = request.app.state[_KEY]
    return given()


def peer(request: Request[Any, Any, Any]) -> str:
    """Tell where a request comes from."""
    scope: Scope = request.scope
    return uses(request).peer_of(scope)
