"""Every endpoint as a request to make and a way to read its answer; no byte is sent here."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec
from msgspec import UNSET, Struct, UnsetType

from luxx.adapters import wire
from luxx.adapters.wire import MessageJson
from luxx.client.errors import (
    AWAY,
    UNREADABLE,
    ConnectionLost,
    Headers,
    LuxxApiError,
    NotFound,
    UnreadableAnswer,
    refusal,
)
from luxx.client.patience import Patience, Tries
from luxx.client.results import (
    Account,
    ConversationPage,
    Health,
    Key,
    Login,
    MessagePage,
    NewKey,
    Registered,
    Sent,
    Session,
    Tool,
    ToolRun,
    Tools,
)
from luxx.domain.conversation import Conversation
from luxx.domain.message import Message, Status

T = TypeVar("T")
Item = TypeVar("Item")

# As a header holds it without a change (RFC 9110, 5.5).
_KEY: Final = re.compile(r"(?=.{1,255}\Z)[!-~]([ -~]*[!-~])?")

_PASSING: Final = AWAY | {429}

Maybe = UnsetType
"""The type of `UNSET`: a field that is left as it is, or left to the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What goes out. `path` is below the service's root; `whole_answer` says that the model writes meanwhile."""

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    whole_answer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """A request, and how its answer is read.

    `repeatable`: it may be made twice. `settled_by`: the error codes that, where an earlier try's answer
    was lost, say that it had done its work. `statuses` beside 2xx whose answers are read, too.
    """

    request: Request
    read: Callable[[bytes], T]
    repeatable: bool
    settled_by: frozenset[str] = frozenset()
    settled: T | None = None
    statuses: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Pause:
    """Try again, so many seconds later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The call is made."""

    value: T


class Exchange(Generic[T]):
    """One call, over however many tries: told what came of each, it says what to do next.

    `reached` says that the service has answered before: then its name is right, whatever becomes of it.
    """

    def __init__(self, call: Call[T], patience: Patience, *, reached: bool = False) -> None:
        self._call: Final = call
        self._tries: Final = Tries(patience)
        self._reached: Final = reached
        self._lost = False

    def answered(self, status: int, headers: Headers, body: bytes) -> Answer[T] | Pause:
        """Take a whole answer; raises `LuxxApiError`, `UnreadableAnswer`."""
        call = self._call
        if 200 <= status < 300 or status in call.statuses:
            try:
                return Answer(call.read(body))
            except UNREADABLE as fault:
                text = f"The answer to {call.request.method} {call.request.path} cannot be read: {fault}"
                raise UnreadableAnswer(text, status=status) from fault
        error = refusal(status, headers, body)
        if isinstance(error, LuxxApiError):
            if self._lost and error.code in call.settled_by:
                return Answer(call.settled)  # type: ignore[arg-type]  # only calls that give None have such codes
            # Who comes too often is turned away before anything is done.
            again = error.code == "rate_limited" or (error.code == "overloaded" and call.repeatable)
        else:
            again = may_pass(error) and call.repeatable
            self._lost = True
        if not again:
            raise error
        return Pause(self._tries.pause_after(error))

    def lost(self, error: httpx.RequestError) -> Pause:
        """Take note of a try without a whole answer; raises `ConnectionLost`."""
        failure = connection_lost(error, self._tries)
        # Without a connection nothing was asked for: that may always be repeated.
        sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        if hopeless(error, reached=self._reached) or (sent and not self._call.repeatable):
            raise failure from error
        self._lost = self._lost or sent
        return Pause(self._tries.pause_after(failure))


def may_pass(error: LuxxApiError | UnreadableAnswer) -> bool:
    """Tell whether a later try may do better: the service, or a proxy before it, is not there for now."""
    if isinstance(error, UnreadableAnswer):
        return error.status in _PASSING
    return error.code in {"rate_limited", "overloaded"}


def hopeless(error: httpx.RequestError, *, reached: bool) -> bool:
    """Tell whether no other try can do better: it cannot be said in HTTP, or nobody knows the name or its certificate.

    What was right before may be gone for the time of a restart.
    """
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol | httpx.DecodingError):
        return True
    return not reached and any(
        isinstance(cause, socket.gaierror | ssl.SSLCertVerificationError) for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def connection_lost(error: httpx.RequestError, tries: Tries) -> ConnectionLost:
    """Say it with the names of the client, and what was asked, where, how often."""
    what = str(error) or type(error).__name__
    try:
        asked = f" to {error.request.method} {error.request.url}"
    except RuntimeError:  # httpx has noted no request
        asked = ""
    lost = ConnectionLost(f"No whole answer came{asked}{tries.told()}: {what}")
    lost.__cause__ = error
    return lost


# --- walking through pages --------------------------------------------------------------------------


class Walk(Generic[T, Item]):
    """All items of a list that comes in pages: make `call`, tell what came, and go on until `call` is None.

    `around` gives the call to make where a page but the first is refused because nothing is there to go on from.
    """

    def __init__(
        self,
        first: Call[T],
        step: Callable[[T], tuple[Sequence[Item], Call[T] | None]],
        *,
        around: Callable[[], Call[T]] | None = None,
    ) -> None:
        self.call: Call[T] | None = first
        self._first: Final = first
        self._step: Final = step
        self._around: Final = around

    def came(self, page: T) -> Sequence[Item]:
        """Take a page, and give its items."""
        items, self.call = self._step(page)
        return items

    def refused(self, error: NotFound) -> None:
        """Take a refusal; raises it where there is no other way."""
        if self._around is None or self.call is self._first or error.code != "message_not_found":
            raise error
        self.call = self._around()


def all_conversations(*, project_id: str | None, page_size: int) -> Walk[ConversationPage, Conversation]:
    def page(cursor: str | None) -> Call[ConversationPage]:
        return conversations(project_id=project_id, page=1, page_size=page_size, cursor=cursor)

    def step(came: ConversationPage) -> tuple[Sequence[Conversation], Call[ConversationPage] | None]:
        return came.items, None if came.next_cursor is None else page(came.next_cursor)

    return Walk(page(None), step)


def all_messages(conversation_id: str, *, page_size: int) -> Walk[MessagePage, Message]:
    given: set[str] = set()
    newest: str | None = None

    def page(before: str | None) -> Call[MessagePage]:
        return messages(conversation_id, limit=page_size, before=before)

    def around() -> Call[MessagePage]:
        nonlocal newest
        newest = newest or max(given)
        return page(None)

    def step(came: MessagePage) -> tuple[Sequence[Message], Call[MessagePage] | None]:
        items = list(reversed(came.items))
        if newest is not None:
            # On the way around there is once more what was given, and what was sent since.
            items = [one for one in items if one.id not in given and one.id <= newest]
        given.update(one.id for one in items)
        return items, page(came.items[0].id) if came.has_more and came.items else None

    # The message to go on from may be deleted meanwhile: then it begins again, and leaves out what was given.
    return Walk(page(None), step, around=around)


# --- reading ----------------------------------------------------------------------------------------


class _Envelope(Struct, Generic[T]):
    data: T


class _MessagesJson(Struct):
    items: list[MessageJson]
    total: int
    has_more: bool


class _SentJson(Struct):
    user_message: MessageJson
    assistant_message: MessageJson


class _SessionsJson(Struct):
    items: list[Session]


class _KeysJson(Struct):
    items: list[Key]


def _data(kind: type[T]) -> Callable[[bytes], T]:
    decoder = msgspec.json.Decoder(_Envelope[kind])  # type: ignore[valid-type]  # mypy knows no types made while running

    def read(body: bytes) -> T:
        return decoder.decode(body).data

    return read


class _Success(Struct):
    success: Literal[True]


_success: Final = msgspec.json.Decoder(_Success)


def _nothing(body: bytes) -> None:
    _success.decode(body)  # a page of something else does not say that it is done


_registered: Final = _data(Registered)
_login: Final = _data(Login)
_account: Final = _data(Account)
_sessions: Final = _data(_SessionsJson)
_new_key: Final = _data(NewKey)
_keys: Final = _data(_KeysJson)
_conversation: Final = _data(Conversation)
_conversations: Final = _data(ConversationPage)
_message: Final = _data(MessageJson)
_messages: Final = _data(_MessagesJson)
_sent: Final = _data(_SentJson)
_tool: Final = _data(Tool)
_tools: Final = _data(Tools)
_tool_run: Final = _data(ToolRun)
_health: Final = msgspec.json.Decoder(Health)
_document: Final = msgspec.json.Decoder(dict[str, Any])


def _read_messages(body: bytes) -> MessagePage:
    told = _messages(body)
    items = tuple(wire.message_of(item) for item in told.items)
    return MessagePage(items=items, total=told.total, has_more=told.has_more)


def _read_sent(body: bytes) -> Sent:
    told = _sent(body)
    return Sent(
        user_message=wire.message_of(told.user_message), assistant_message=wire.message_of(told.assistant_message)
    )


# --- asking -----------------------------------------------------------------------------------------


def _path(*parts: str) -> str:
    """Give the path to what has such ids or names. Raises TypeError, ValueError for what is none."""
    return "/api/" + "/".join(_segment(part) for part in parts)


def _segment(part: object) -> str:
    if not isinstance(part, str):
        raise TypeError(f"an id or a name must be a string, not {part!r}")
    if part in {"", ".", ".."}:  # in a path they mean something else
        raise ValueError(f"{part!r} is no id and no name of anything")
    return quote(part, safe="")


def _get(path: str, read: Callable[[bytes], T], **params: str | int | None) -> Call[T]:
    given = {name: value for name, value in params.items() if value is not None}
    return Call(request=Request(method="GET", path=path, params=given), read=read, repeatable=True)


def _post(path: str, read: Callable[[bytes], T], body: object = UNSET, *, repeatable: bool = False) -> Call[T]:
    request = Request(method="POST", path=path, body=None if body is UNSET else wire.encode(body))
    return Call(request=request, read=read, repeatable=repeatable)


def _delete(path: str, *absent: str) -> Call[None]:
    request = Request(method="DELETE", path=path)
    return Call(request=request, read=_nothing, repeatable=True, settled_by=frozenset(absent))


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not UNSET}


def register(username: str, email: str, password: str) -> Call[Registered]:
    body = {"username": username, "email": email, "password": password}
    return _post("/api/auth/register", _registered, body)


def login(username: str, password: str) -> Call[Login]:
    # Twice costs no more than a login that nobody uses.
    return _post("/api/auth/login", _login, {"username": username, "password": password}, repeatable=True)


def logout() -> Call[None]:
    request = Request(method="POST", path="/api/auth/logout")
    return Call(request=request, read=_nothing, repeatable=True, settled_by=frozenset({"token_revoked"}))


def me() -> Call[Account]:
    return _get("/api/auth/me", _account)


def change_password(current_password: str, new_password: str) -> Call[None]:
    body = {"current_password": current_password, "new_password": new_password}
    return _post("/api/auth/password", _nothing, body)


def sessions() -> Call[tuple[Session, ...]]:
    return _get("/api/auth/sessions", lambda body: tuple(_sessions(body).items))


def end_session(session_id: str) -> Call[None]:
    return _delete(_path("auth", "sessions", session_id), "not_found")


def create_key(name: str, *, expires_at: datetime | None, expires_in_days: int | None) -> Call[NewKey]:
    body: dict[str, object] = {"name": name}
    if expires_at is not None:
        body["expires_at"] = expires_at
    if expires_in_days is not None:
        body["expires_in_days"] = expires_in_days
    return _post("/api/auth/keys", _new_key, body)


def keys() -> Call[tuple[Key, ...]]:
    return _get("/api/auth/keys", lambda body: tuple(_keys(body).items))


def delete_key(key_id: str) -> Call[None]:
    return _delete(_path("auth", "keys", key_id), "not_found")


def conversations(*, project_id: str | None, page: int, page_size: int, cursor: str | None) -> Call[ConversationPage]:
    return _get(
        "/api/conversations", _conversations, project_id=project_id, page=page, page_size=page_size, cursor=cursor
    )


def create_conversation(**fields: object) -> Call[Conversation]:
    return _post("/api/conversations", _conversation, _given(**fields))


def conversation(conversation_id: str) -> Call[Conversation]:
    return _get(_path("conversations", conversation_id), _conversation)


def update_conversation(conversation_id: str, **fields: object) -> Call[Conversation]:
    body = wire.encode(_given(**fields))
    request = Request(method="PUT", path=_path("conversations", conversation_id), body=body)
    return Call(request=request, read=_conversation, repeatable=True)


def delete_conversation(conversation_id: str) -> Call[None]:
    return _delete(_path("conversations", conversation_id), "conversation_not_found")


def messages(conversation_id: str, *, limit: int, before: str | None) -> Call[MessagePage]:
    return _get(_path("messages", conversation_id), _read_messages, limit=limit, before=before)


def running_answer(conversation_id: str) -> Call[Message | None]:
    def read(body: bytes) -> Message | None:
        # No other message is taken while it is written: it is the newest.
        return next((one for one in _read_messages(body).items if one.status is Status.STREAMING), None)

    return _get(_path("messages", conversation_id), read, limit=1)


def key_of(given: str | None) -> str:
    """Give the idempotency key to send with: the one given, or one that nobody else has. Raises ValueError."""
    if given is None:
        return uuid4().hex
    if _KEY.fullmatch(given) is None:
        raise ValueError("an idempotency key is 1 to 255 characters of ASCII, with no blank at an end, no line break")
    return given


def _message_body(conversation_id: str, content: str, *, tools_enabled: bool) -> bytes:
    return wire.encode({"conversation_id": conversation_id, "content": content, "tools_enabled": tools_enabled})


def send(conversation_id: str, content: str, *, tools_enabled: bool, idempotency_key: str | None) -> Call[Sent]:
    request = Request(
        method="POST",
        path="/api/messages",
        body=_message_body(conversation_id, content, tools_enabled=tools_enabled),
        headers={"Idempotency-Key": key_of(idempotency_key)},
        whole_answer=True,
    )
    return Call(request=request, read=_read_sent, repeatable=True)


_STREAMED: Final[Mapping[str, str]] = {
    "Accept": "text/event-stream",
    # What a proxy compresses it often keeps back, too, until there is enough of it.
    "Accept-Encoding": "identity",
}


def stream(conversation_id: str, content: str, *, tools_enabled: bool, idempotency_key: str | None) -> Request:
    return Request(
        method="POST",
        path="/api/messages/stream",
        body=_message_body(conversation_id, content, tools_enabled=tools_enabled),
        headers={"Idempotency-Key": key_of(idempotency_key), **_STREAMED},
    )


def resume(message_id: str, *, after: int) -> Request:
    headers = {"Last-Event-ID": str(after)} if after else {}
    return Request(method="GET", path=_path("messages", message_id, "stream"), headers={**headers, **_STREAMED})


def cancel(message_id: str) -> Call[Message]:
    path = _path("messages", message_id, "cancel")
    return _post(path, lambda body: wire.message_of(_message(body)), repeatable=True)


def delete_message(message_id: str) -> Call[None]:
    return _delete(_path("messages", message_id), "message_not_found")


def tools(*, category: str | None) -> Call[Tools]:
    return _get("/api/tools", _tools, category=category)


def tool(name: str) -> Call[Tool]:
    return _get(_path("tools", name), _tool)


def execute_tool(name: str, arguments: Mapping[str, Any]) -> Call[ToolRun]:
    return _post(_path("tools", name, "execute"), _tool_run, dict(arguments))


def live() -> Call[Health]:
    return _get("/health/live", _health.decode)


def ready() -> Call[Health]:
    request = Request(method="GET", path="/health/ready")
    return Call(request=request, read=_health.decode, repeatable=True, statuses=frozenset({503}))


def metrics() -> Call[str]:
    return _get("/metrics", bytes.decode)


def openapi() -> Call[dict[str, Any]]:
    return _get("/schema/openapi.json", _document.decode)
