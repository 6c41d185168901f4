"""A whole Luxx in memory, with a scripted model, and what tests need to watch it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from tests.support.until import until

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel
from luxx.adapters.system import SortableIds
from luxx.application import (
    CancelTurn,
    CreateConversation,
    DeleteConversation,
    DeleteMessage,
    FollowTurn,
    ListConversations,
    ListMessages,
    RunTurn,
    SendMessage,
    Toolbox,
    TurnSupervisor,
)
from luxx.application.ports import ChatModel, LoggedEvent, TurnLog
from luxx.domain.conversation import Conversation
from luxx.domain.message import Json, Message
from luxx.domain.tool import ToolSpec
from luxx.domain.turn import Text, TurnEvent
from luxx.testing import FixedClock
from luxx.testing.contracts.storage_samples import leased, new_turn, stored_user

OWNER: Final = 1
PATIENCE: Final = 10.0
"""Seconds until a test that waits for something gives up."""


@dataclass(slots=True)
class Gate:
    """A cue that tells when it is reached, and holds until it is opened."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()

    async def wait_reached(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.reached.wait()


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A tool made of an async function of its arguments."""

    name: str
    function: Callable[[Mapping[str, Json]], Awaitable[Json]]
    category: str = "data"

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            name=self.name, description=f"Does {self.name}.", category=self.category, parameters={"type": "object"}
        )

    async def run(self, arguments: Mapping[str, Json]) -> Json:
        return await self.function(arguments)


async def echo(arguments: Mapping[str, Json]) -> Json:
    return dict(arguments)


def failing(error: BaseException) -> Callable[[Mapping[str, Json]], Awaitable[Json]]:
    async def fail(_: Mapping[str, Json]) -> Json:
        raise error

    return fail


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """The parts under test, wired as a container would wire them."""

    storage: MemoryStorage
    log: TurnLog
    clock: FixedClock
    model: ScriptedChatModel
    run_turn: RunTurn
    supervisor: TurnSupervisor
    send_message: SendMessage
    follow_turn: FollowTurn
    cancel_turn: CancelTurn
    list_messages: ListMessages
    delete_message: DeleteMessage
    create_conversation: CreateConversation
    list_conversations: ListConversations
    delete_conversation: DeleteConversation

    async def conversation(self, **options: Any) -> Conversation:
        self.clock.advance(1)
        return await self.create_conversation(user_id=OWNER, **options)

    async def send(self, conversation: Conversation, content: str = "Hello?", **options: Any) -> str:
        """Send, and give the id of the answer."""
        self.clock.advance(1)
        async with asyncio.timeout(PATIENCE):
            return await self.send_message(user_id=OWNER, conversation_id=conversation.id, content=content, **options)

    async def answer(
        self, conversation: Conversation | None = None, content: str = "Hello?", **options: Any
    ) -> Message:
        """Send, wait for the end, and give the stored answer."""
        message_id = await self.send(conversation or await self.conversation(), content, **options)
        return await self.ended(message_id)

    async def ended(self, message_id: str) -> Message:
        async with asyncio.timeout(PATIENCE):
            await self.follow_turn.to_end(user_id=OWNER, message_id=message_id)
        return await self.stored(message_id)

    async def stored(self, message_id: str) -> Message:
        async with self.storage.new_unit(read_only=True) as unit:
            return await unit.messages.get(OWNER, message_id)

    async def read(self, message_id: str, after: int = 0) -> list[LoggedEvent]:
        """Follow from `after` to the end."""
        async with asyncio.timeout(PATIENCE):
            events = await self.follow_turn(user_id=OWNER, message_id=message_id, after=after)
            return [logged async for logged in events]

    async def events(self, message_id: str) -> list[TurnEvent]:
        return [logged.event for logged in await self.read(message_id)]

    async def idle(self) -> None:
        """Wait until no turn runs here."""
        await until(lambda: not self.supervisor.running)

    async def dead_turn(self, *deltas: str) -> str:
        """Leave a turn as a process leaves it that died right after these deltas; give the answer's id."""
        turn = new_turn(await self.conversation(), holder="dead", lease_for=timedelta(), at=self.clock())
        lease = await leased(self.storage, turn)
        for delta in deltas:
            await self.log.append(lease, Text(delta=delta))
        return lease.message_id

    def another_supervisor(self, holder: str = "another", **options: Any) -> TurnSupervisor:
        """Make the supervisor of another process over the same storage; it is not entered."""
        return TurnSupervisor(
            run_turn=self.run_turn,
            new_unit=self.storage.new_unit,
            log=self.log,
            clock=self.clock,
            holder=holder,
            **options,
        )


@asynccontextmanager
async def opened(
    *,
    tools: Iterable[FunctionTool] = (),
    tool_seconds: float = 60.0,
    log: Callable[[Any], Any] = lambda log: log,
    chat_model: ChatModel | None = None,
    patience: float = PATIENCE,
    run: Mapping[str, Any] | None = None,
    send: Mapping[str, Any] | None = None,
    **supervising: Any,
) -> AsyncIterator[House]:
    """Open a house; its heart beats once at the start, and not again while a test runs unless `lease_for` is short."""
    clock = FixedClock()
    storage = MemoryStorage(clock=clock)
    assert [(await stored_user(storage, name)).id for name in ("ada", "eve")] == [OWNER, OWNER + 1]
    wrapped = log(storage.log)
    model, new_id = ScriptedChatModel(), SortableIds()
    run_turn = RunTurn(
        log=wrapped,
        model=chat_model or model,
        toolbox=Toolbox(tools, timeout=tool_seconds),
        **(run or {}),
    )
    supervisor = TurnSupervisor(
        run_turn=run_turn,
        new_unit=storage.new_unit,
        log=wrapped,
        clock=clock,
        holder="here",
        **({"lease_for": timedelta(hours=1)} | supervising),
    )
    # Readers look for themselves after `poll` seconds only where nothing wakes them.
    follow_turn = FollowTurn(
        new_unit=storage.new_unit, log=wrapped, poll=0.01, ask=0.01, unstored=run_turn.unstored.__contains__
    )
    cancel_turn = CancelTurn(new_unit=storage.new_unit, log=wrapped, follow_turn=follow_turn, patience=patience)
    house = House(
        storage=storage,
        log=wrapped,
        clock=clock,
        model=model,
        run_turn=run_turn,
        supervisor=supervisor,
        send_message=SendMessage(
            new_unit=storage.new_unit, clock=clock, new_id=new_id, supervisor=supervisor, **(send or {})
        ),
        follow_turn=follow_turn,
        cancel_turn=cancel_turn,
        list_messages=ListMessages(new_unit=storage.new_unit, log=wrapped),
        delete_message=DeleteMessage(new_unit=storage.new_unit, cancel_turn=cancel_turn),
        create_conversation=CreateConversation(
            new_unit=storage.new_unit, clock=clock, new_id=new_id, default_model="glm-5"
        ),
        list_conversations=ListConversations(new_unit=storage.new_unit),
        delete_conversation=DeleteConversation(new_unit=storage.new_unit, cancel_turn=cancel_turn),
    )
    async with supervisor:
        yield house


def steps_in(events: Sequence[TurnEvent], kind: type[TurnEvent]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]
