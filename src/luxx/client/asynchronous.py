"""The client for programs on asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from msgspec import UNSET

from luxx.client import calls
from luxx.client.blocking import Client, Stream
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


class AsyncClient(ClientParts):
    """`Client` for asyncio: the same methods, awaited.

    Tasks of one event loop may share it. In another one its methods raise RuntimeError.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        language: str = "en",
        patience: Patience = DEFAULT_PATIENCE,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, token=token, language=language, patience=patience)
        with from_environment():
            self._http: Final = httpx.AsyncClient(**self._options(), transport=transport)
        self._own: Final = transport is None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    def _at_home(self) -> None:
        """Raise RuntimeError in another event loop than the first: connections belong to theirs."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop and self._own:
            raise RuntimeError(
                "an AsyncClient belongs to the event loop that it was first used in: make one in each, as in each"
                " `asyncio.run`"
            )

    async def _made(self, call: Call[T]) -> T:
        self._at_home()
        exchange = Exchange(call, self.patience, reached=self._reached)
        while True:
            try:
                response = await self._http.request(**self._arguments(call.request))
                self._reached = True
                step = exchange.answered(response.status_code, response.headers, response.content)
            except httpx.RequestError as error:
                step = exchange.lost(error)
            if isinstance(step, Answer):
                return step.value
            await asyncio.sleep(step.seconds)

    async def _walked(self, walk: Walk[T, Item]) -> AsyncGenerator[Item]:
        while walk.call is not None:
            try:
                page = await self._made(walk.call)
            except NotFound as error:
                walk.refused(error)
                continue
            for item in walk.came(page):
                yield item

    # --- accounts -----------------------------------------------------------------------------------

    async def register(self, username: str, email: str, password: str) -> Registered:
        return await self._made(calls.register(username, email, password))

    async def login(self, username: str, password: str) -> Login:
        return self._logged_in(await self._made(calls.login(username, password)))

    async def logout(self) -> None:
        await self._made(calls.logout())
        self.token = None

    async def me(self) -> Account:
        return await self._made(calls.me())

    async def change_password(self, current_password: str, new_password: str) -> None:
        await self._made(calls.change_password(current_password, new_password))

    async def sessions(self) -> tuple[Session, ...]:
        return await self._made(calls.sessions())

    async def end_session(self, session_id: str) -> None:
        await self._made(calls.end_session(session_id))

    async def create_key(
        self, name: str, *, expires_at: datetime | None = None, expires_in_days: int | None = None
    ) -> NewKey:
        return await self._made(calls.create_key(name, expires_at=expires_at, expires_in_days=expires_in_days))

    async def keys(self) -> tuple[Key, ...]:
        return await self._made(calls.keys())

    async def delete_key(self, key_id: str) -> None:
        await self._made(calls.delete_key(key_id))

    # --- conversations ------------------------------------------------------------------------------

    async def conversations(
        self, *, project_id: str | None = None, page: int = 1, page_size: int = 20, cursor: str | None = None
    ) -> ConversationPage:
        return await self._made(
            calls.conversations(project_id=project_id, page=page, page_size=page_size, cursor=cursor)
        )

    def all_conversations(self, *, project_id: str | None = None, page_size: int = 100) -> AsyncIterator[Conversation]:
        return self._walked(calls.all_conversations(project_id=project_id, page_size=page_size))

    async def create_conversation(
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
        return await self._made(
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

    async def conversation(self, conversation_id: str) -> Conversation:
        return await self._made(calls.conversation(conversation_id))

    async def update_conversation(
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
        return await self._made(
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

    async def delete_conversation(self, conversation_id: str) -> None:
        await self._made(calls.delete_conversation(conversation_id))

    # --- messages -----------------------------------------------------------------------------------

    async def messages(self, conversation_id: str, *, limit: int = 100, before: str | None = None) -> MessagePage:
        return await self._made(calls.messages(conversation_id, limit=limit, before=before))

    def all_messages(self, conversation_id: str, *, page_size: int = 100) -> AsyncIterator[Message]:
        return self._walked(calls.all_messages(conversation_id, page_size=page_size))

    async def running_answer(self, conversation_id: str) -> Message | None:
        return await self._made(calls.running_answer(conversation_id))

    async def send(
        self, conversation_id: str, content: str, *, tools_enabled: bool = True, idempotency_key: str | None = None
    ) -> Sent:
        return await self._made(
            calls.send(conversation_id, content, tools_enabled=tools_enabled, idempotency_key=idempotency_key)
        )

    def stream(
        self, conversation_id: str, content: str, *, tools_enabled: bool = True, idempotency_key: str | None = None
    ) -> "AsyncStream":
        sending = calls.stream(conversation_id, content, tools_enabled=tools_enabled, idempotency_key=idempotency_key)
        return AsyncStream(self, Following(self.patience, sending=sending, reached=self._reached))

    def follow(self, message_id: str, *, after: int = 0) -> "AsyncStream":
        return AsyncStream(self, Following(self.patience, message_id=message_id, after=after, reached=self._reached))

    async def cancel(self, message_id: str) -> Message:
        return await self._made(calls.cancel(message_id))

    async def delete_message(self, message_id: str) -> None:
        await self._made(calls.delete_message(message_id))

    # --- tools --------------------------------------------------------------------------------------

    async def tools(self, *, category: str | None = None) -> Tools:
        return await self._made(calls.tools(category=category))

    async def tool(self, name: str) -> Tool:
        return await self._made(calls.tool(name))

    async def execute_tool(self, name: str, arguments: Mapping[str, Any]) -> ToolRun:
        return await self._made(calls.execute_tool(name, arguments))

    # --- the server ---------------------------------------------------------------------------------

    async def live(self) -> Health:
        return await self._made(calls.live())

    async def ready(self) -> Health:
        return await self._made(calls.ready())

    async def metrics(self) -> str:
        return await self._made(calls.metrics())

    async def openapi(self) -> dict[str, Any]:
        return await self._made(calls.openapi())


class AsyncStream(StreamParts):
    """The events of one answer, each once, over however many connections it takes.

        async with client.stream(conversation_id, "What is a lease?") as stream:
            async for event in stream:
                ...

    Close it, or let `async with` do it. That stops reading, not the answer: `cancel` does. Iterating raises as
    the methods of `AsyncClient` do. Whoever asks for the next event after that, or after a wait that was given
    up, goes on behind the last one.
    """

    def __init__(self, client: AsyncClient, following: Following) -> None:
        super().__init__(following)
        self._client: Final = client
        self._events = _read(self._client, self._following)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        try:
            return self._giving(await anext(self._events))
        except (StopAsyncIteration, RuntimeError):
            raise
        except BaseException:
            # A generator ends with what it raises, and an answer does not: not with a wait that was given up.
            self._events = _read(self._client, self._following)
            raise

    async def aclose(self) -> None:
        await self._events.aclose()

    async def message(self) -> Message:
        async for _ in self:
            pass
        return self._message()


async def _read(client: AsyncClient, following: Following) -> AsyncGenerator[StreamEvent]:
    client._at_home()  # noqa: SLF001  # a stream is a part of its client
    while following.end is None:
        try:
            async with client._http.stream(**client._arguments(following.request(), streamed=True)) as response:  # noqa: SLF001  # a stream is a part of its client
                client._reached = True  # noqa: SLF001  # as above
                if response.status_code != 200:
                    pause = following.refused(response.status_code, response.headers, await response.aread())
                else:
                    following.opened(response.headers)
                    async with aclosing(response.aiter_bytes()) as chunks:  # type: ignore[type-var]  # a generator, told as an iterator
                        async for chunk in chunks:
                            for event in following.feed(chunk):
                                yield event
                            if following.hung_up:
                                break
                    pause = following.closed()
        except httpx.RequestError as error:
            pause = following.lost(error)
        if following.end is None:
            await asyncio.sleep(pause)


def _tell_as(told: type, silent: type) -> None:
    for name, method in vars(silent).items():
        if callable(method) and method.__doc__ is None:
            twin = getattr(told, {"aclose": "close"}.get(name, name), None)
            method.__doc__ = getattr(twin, "__doc__", None)


# What a method does is told once, at the blocking one.
_tell_as(Client, AsyncClient)
_tell_as(Stream, AsyncStream)
