"""The client for programs that wait."""

import inspect
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from msgspec import UNSET

from luxx.client import calls
from luxx.client.calls import Answer, Call, Exchange, Maybe, Walk
from luxx.client.errors import NotFound
from luxx.client.following import Following
from luxx.client.parts import DEFAULT_PATIENCE, ClientParts, StreamParts, from_environment
from luxx.client.patience import Patience
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
    StreamEvent,
    Tool,
    ToolRun,
    Tools,
)
from luxx.domain.conversation import Conversation
from luxx.domain.message import Message

T = TypeVar("T")
Item = TypeVar("Item")


class Client(ClientParts):
    """A client of one service. Threads may share it; `AsyncClient` has the same methods.

    Each method makes one call of the API, again and again where that is safe (see `Patience`). All raise
    `LuxxApiError` where the service refuses or fails, `ConnectionLost` where no whole answer came, and
    `UnreadableAnswer` where something else than Luxx answered. What a method may do only once (register,
    create, change a password, run a tool) is not tried again when an answer is lost on its way.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        language: str = "en",
        patience: Patience = DEFAULT_PATIENCE,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect to nothing yet.

        `url` is the service's root. `token` is a login's access token or an API key; `login` sets it.
        `language` is what errors are told in: `en` or `zh`. `transport` is httpx's, for tests, proxies
        and certificates; without one, httpx's own is used, which heeds `HTTPS_PROXY` and the like.
        Raises ValueError for a URL or a token that is none, and where the environment names a proxy or a file of
        certificates that cannot be used.
        """
        super().__init__(url, token=token, language=language, patience=patience)
        with from_environment():
            self._http: Final = httpx.Client(**self._options(), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _made(self, call: Call[T]) -> T:
        exchange = Exchange(call, self.patience, reached=self._reached)
        while True:
            try:
                response = self._http.request(**self._arguments(call.request))
                self._reached = True
                step = exchange.answered(response.status_code, response.headers, response.content)
            except httpx.RequestError as error:
                step = exchange.lost(error)
            if isinstance(step, Answer):
                return step.value
            time.sleep(step.seconds)

    def _walked(self, walk: Walk[T, Item]) -> Generator[Item]:
        while walk.call is not None:
            try:
                page = self._made(walk.call)
            except NotFound as error:
                walk.refused(error)
                continue
            yield from walk.came(page)

    # --- accounts -----------------------------------------------------------------------------------

    def register(self, username: str, email: str, password: str) -> Registered:
        """Make an account. It is not logged in: `login` is."""
        return self._made(calls.register(username, email, password))

    def login(self, username: str, password: str) -> Login:
        """Log in, and keep the token for all further calls."""
        return self._logged_in(self._made(calls.login(username, password)))

    def logout(self) -> None:
        """Revoke the token for good, and forget it."""
        self._made(calls.logout())
        self.token = None

    def me(self) -> Account:
        """Tell whose token this is."""
        return self._made(calls.me())

    def change_password(self, current_password: str, new_password: str) -> None:
        """Set a new password, and end all other sessions; this one and its token stay."""
        self._made(calls.change_password(current_password, new_password))

    def sessions(self) -> tuple[Session, ...]:
        """List where this account is logged in, newest first."""
        return self._made(calls.sessions())

    def end_session(self, session_id: str) -> None:
        """End a session: its token is refused from now on."""
        self._made(calls.end_session(session_id))

    def create_key(
        self, name: str, *, expires_at: datetime | None = None, expires_in_days: int | None = None
    ) -> NewKey:
        """Make an API key for a program: its secret is told this once. At most one of the two ends is given."""
        return self._made(calls.create_key(name, expires_at=expires_at, expires_in_days=expires_in_days))

    def keys(self) -> tuple[Key, ...]:
        """List the API keys, newest first."""
        return self._made(calls.keys())

    def delete_key(self, key_id: str) -> None:
        """Delete an API key: it is refused from now on."""
        self._made(calls.delete_key(key_id))

    # --- conversations ------------------------------------------------------------------------------

    def conversations(
        self, *, project_id: str | None = None, page: int = 1, page_size: int = 20, cursor: str | None = None
    ) -> ConversationPage:
        """List conversations, newest activity first. `cursor`, an earlier `next_cursor`, goes before `page`."""
        return self._made(calls.conversations(project_id=project_id, page=page, page_size=page_size, cursor=cursor))

    def all_conversations(self, *, project_id: str | None = None, page_size: int = 100) -> Iterator[Conversation]:
        """Give all conversations one after the other, newest activity first, asking for a page where one is read.

        What moves to the front before it was read is left out; nothing else is, and nothing comes twice.
        """
        return self._walked(calls.all_conversations(project_id=project_id, page_size=page_size))

    def create_conversation(
        self,
        *,
        project_id: str | None = None,
        title: str | Maybe = UNSET,
        model: str | Maybe = UNSET,
        system_prompt: str | None = None,
        temperature: float | Maybe = UNSET,
        max_tokens: int | Maybe = UNSET,
        thinking_enabled: bool | Maybe = UNSET,
        tools: list[str] | tuple[str, ...] | None = None,
    ) -> Conversation:
        """Make a conversation; the service has a default for what is not given. `tools` None allows all."""
        return self._made(
            calls.create_conversation(
                project_id=project_id,
                title=title,
                model=model,
                system_prompt=system_prompt,
                temperature=temperature,
                max_tokens=max_tokens,
                thinking_enabled=thinking_enabled,
                tools=tools,
            )
        )

    def conversation(self, conversation_id: str) -> Conversation:
        """Read a conversation."""
        return self._made(calls.conversation(conversation_id))

    def update_conversation(
        self,
        conversation_id: str,
        *,
        project_id: str | Maybe | None = UNSET,
        title: str | Maybe = UNSET,
        model: str | Maybe = UNSET,
        system_prompt: str | Maybe | None = UNSET,
        temperature: float | Maybe = UNSET,
        max_tokens: int | Maybe = UNSET,
        thinking_enabled: bool | Maybe = UNSET,
        tools: list[str] | tuple[str, ...] | Maybe | None = UNSET,
    ) -> Conversation:
        """Change the fields that are given. None clears `project_id` and `system_prompt`; in `tools` it allows all."""
        return self._made(
            calls.update_conversation(
                conversation_id,
                project_id=project_id,
                title=title,
                model=model,
                system_prompt=system_prompt,
                temperature=temperature,
                max_tokens=max_tokens,
                thinking_enabled=thinking_enabled,
                tools=tools,
            )
        )

    def delete_conversation(self, conversation_id: str) -> None:
        """Delete a conversation and its messages; an answer that is being written is cancelled."""
        self._made(calls.delete_conversation(conversation_id))

    # --- messages -----------------------------------------------------------------------------------

    def messages(self, conversation_id: str, *, limit: int = 100, before: str | None = None) -> MessagePage:
        """Read the newest `limit` messages, oldest first; `before` a message's id, only older ones."""
        return self._made(calls.messages(conversation_id, limit=limit, before=before))

    def all_messages(self, conversation_id: str, *, page_size: int = 100) -> Iterator[Message]:
        """Give all messages one after the other, newest first, asking for a page where one is read."""
        return self._walked(calls.all_messages(conversation_id, page_size=page_size))

    def running_answer(self, conversation_id: str) -> Message | None:
        """Give the answer that is being written in a conversation, as far as it has come; None where there is none.

        It is in the way where `send` raises `Conflict` `generation_in_progress`: `follow` or `cancel` it by its id.
        """
        return self._made(calls.running_answer(conversation_id))

    def send(
        self, conversation_id: str, content: str, *, tools_enabled: bool = True, idempotency_key: str | None = None
    ) -> Sent:
        """Send a message and wait for the whole answer.

        With `idempotency_key` (one of its own for each call, if None) the message is sent once, however
        often it is tried; a key is 1 to 255 characters of ASCII. Raises `ModelFailed` where the model gave
        no whole answer; the message stays.
        """
        return self._made(
            calls.send(conversation_id, content, tools_enabled=tools_enabled, idempotency_key=idempotency_key)
        )

    def stream(
        self, conversation_id: str, content: str, *, tools_enabled: bool = True, idempotency_key: str | None = None
    ) -> "Stream":
        """Send a message and give the events of its answer. Nothing is sent before the first event is asked for."""
        sending = calls.stream(conversation_id, content, tools_enabled=tools_enabled, idempotency_key=idempotency_key)
        return Stream(self, Following(self.patience, sending=sending, reached=self._reached))

    def follow(self, message_id: str, *, after: int = 0) -> "Stream":
        """Give the events of an answer behind the event `after`: those that there are, and the others as they come.

        Where the service keeps their log no more, it tells the answer from its beginning: with
        `Started`, throw away what you have of it.
        """
        return Stream(self, Following(self.patience, message_id=message_id, after=after, reached=self._reached))

    def cancel(self, message_id: str) -> Message:
        """Stop an answer, and give it as it is stored; one that has ended stays as it is."""
        return self._made(calls.cancel(message_id))

    def delete_message(self, message_id: str) -> None:
        """Delete one message; an answer that is being written is cancelled."""
        self._made(calls.delete_message(message_id))

    # --- tools --------------------------------------------------------------------------------------

    def tools(self, *, category: str | None = None) -> Tools:
        """List the tools, all or of one category."""
        return self._made(calls.tools(category=category))

    def tool(self, name: str) -> Tool:
        """Read a tool."""
        return self._made(calls.tool(name))

    def execute_tool(self, name: str, arguments: Mapping[str, Any]) -> ToolRun:
        """Run a tool. Raises `InvalidInput` for arguments against its schema, `ToolFailed` where it gave no result."""
        return self._made(calls.execute_tool(name, arguments))

    # --- the server ---------------------------------------------------------------------------------

    def live(self) -> Health:
        """Tell that the server runs."""
        return self._made(calls.live())

    def ready(self) -> Health:
        """Tell whether the server takes requests, and if not, why; that is no error here."""
        return self._made(calls.ready())

    def metrics(self) -> str:
        """Read the metrics, as Prometheus reads them."""
        return self._made(calls.metrics())

    def openapi(self) -> dict[str, Any]:
        """Read the OpenAPI document."""
        return self._made(calls.openapi())


class Stream(StreamParts):
    """The events of one answer, each once, over however many connections it takes.

        with client.stream(conversation_id, "What is a lease?") as stream:
            for event in stream:
                ...

    Closing it stops reading, not the answer: `cancel` does. Iterating raises as the methods of `Client` do;
    whoever asks for the next event after that goes on behind the last one.
    """

    def __init__(self, client: Client, following: Following) -> None:
        super().__init__(following)
        self._client: Final = client
        self._events = _read(self._client, self._following)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamEvent:
        try:
            return self._giving(next(self._events))
        except (StopIteration, RuntimeError):
            raise
        except BaseException:
            # A generator ends with what it raises, and an answer does not. One that runs reads for another thread.
            if inspect.getgeneratorstate(self._events) != inspect.GEN_RUNNING:
                self._events = _read(self._client, self._following)
            raise

    def close(self) -> None:
        """Close the connection."""
        self._events.close()

    def message(self) -> Message:
        """Read to the end and give the stored answer; raises the `LuxxApiError` that it ended with, if it failed."""
        for _ in self:
            pass
        return self._message()


def _read(client: Client, following: Following) -> Generator[StreamEvent]:
    # Of no stream: one that is dropped in the middle is closed then and there, and not by the collector, which
    # may come while the same client holds its locks.
    while following.end is None:
        try:
            with client._http.stream(**client._arguments(following.request(), streamed=True)) as response:  # noqa: SLF001  # a stream is a part of its client
                client._reached = True  # noqa: SLF001  # as above
                if response.status_code != 200:
                    pause = following.refused(response.status_code, response.headers, response.read())
                else:
                    following.opened(response.headers)
                    with closing(response.iter_bytes()) as chunks:  # type: ignore[type-var]  # a generator, told as an iterator
                        for chunk in chunks:
                            yield from following.feed(chunk)
                            if following.hung_up:
                                break
                    pause = following.closed()
        except httpx.RequestError as error:
            pause = following.lost(error)
        if following.end is None:
            time.sleep(pause)
