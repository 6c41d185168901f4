"""What the service gives: results of calls, and the events of a stream. Times are aware and in UTC."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from luxx.domain.conversation import Conversation
from luxx.domain.message import Message, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A new account."""

    id: int
    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedInUser:
    """Who logged in. `role` is `user` or `admin`."""

    id: int
    username: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A login. The client has kept the token; it is not shown in the `repr`."""

    access_token: str
    token_type: str
    user: LoggedInUser

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account whose token the client holds. `role` is `user` or `admin`."""

    id: int
    username: str
    email: str
    role: str
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One login of an account; `current` is the one that asks."""

    id: str
    created_at: datetime
    expires_at: datetime
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key, without its secret. `last_used_at` may be some minutes old."""

    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A new API key: `key` is the secret, told this once, and not shown in the `repr`."""

    id: str
    name: str
    key: str
    created_at: datetime
    expires_at: datetime | None

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, name={self.name!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPage:
    """Conversations, newest activity first. `total` counts all; `next_cursor` is None at the end."""

    items: tuple[Conversation, ...]
    total: int
    page: int
    page_size: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePage:
    """Messages, oldest first. `total` counts all; `has_more` says that there are older ones."""

    items: tuple[Message, ...]
    total: int
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message and the whole answer to it."""

    user_message: Message
    assistant_message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool. `parameters` is JSON Schema 2020-12 of its arguments."""

    name: str
    description: str
    category: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Tools, and the same ones by category. `total` counts them."""

    tools: tuple[Tool, ...]
    categorized: dict[str, tuple[Tool, ...]]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """What a tool gave: `result` is any JSON value."""

    name: str
    result: Any
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a server is: `status` is `ok` or `unavailable`; `checks` has a word on each part."""

    status: str
    checks: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The message is stored, and so is the empty answer `message_id`: with it you resume and cancel."""

    id: int
    user_message: Message
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """The model thinks; append `delta`."""

    id: int
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The answer goes on; append `delta`."""

    id: int
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    """The model asked for a tool; `call_id` is the call's own, its result has the same."""

    id: int
    call_id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    """The outcome of the call `call_id`: a `result` (any JSON value) on success, else an `error`."""

    id: int
    call_id: str
    name: str
    success: bool
    result: Any
    error: Problem | None
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The last event: `message` is the stored answer, complete or cancelled."""

    id: int
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The last event in place of `Done`; what had arrived is stored under `message_id`."""

    id: int
    code: str
    message: str
    message_id: str


StreamEvent: TypeAlias = Started | Thinking | Text | ToolCalled | ToolReturned | Done | Failed
"""One event of a stream. `id` is what `after` of `follow` takes."""
