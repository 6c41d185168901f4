"""Conversations and answers, assembled: what an embedding program holds on to."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from luxx.application.accounts import AdmitUser
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
from luxx.application.observer import UNOBSERVED, Observer, Observers
from luxx.application.ports import ChatModel, Clock, NewId, Storage, Tool
from luxx.application.run_turn import RunTurn
from luxx.application.send_message import SendMessage
from luxx.application.supervisor import LEASE, TurnSupervisor
from luxx.application.tools import ExecuteTool, Toolbox
from luxx.domain.errors import StorageUnavailable


@dataclass(slots=True)
class _Shared:
    """A storage that is open for some chats."""

    storage: Storage
    chats: int = 0
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


_open: Final[dict[int, _Shared]] = {}
"""What is open, by its identity: a storage need not be hashable."""


@asynccontextmanager
async def _opened(storage: Storage) -> AsyncIterator[None]:
    """Open a storage, and close it unless another chat has it open as well."""
    shared = _open.setdefault(id(storage), _Shared(storage))
    shared.chats += 1
    try:
        async with shared.changing:
            if (missing := await storage.missing()) is not None:
                raise StorageUnavailable(missing)
            await storage.open()
        yield
    finally:
        shared.chats -= 1
        async with shared.changing:
            if not shared.chats and _open.get(id(storage)) is shared:
                try:
                    await storage.close()
                finally:
                    if not shared.chats:  # else somebody came meanwhile, and is about to open it again
                        del _open[id(storage)]


class Chat:
    """The use cases over the parts that you have, without a container and without HTTP.

    Use it as an async context manager around all sending, once; to send before that is a RuntimeError. Entering
    opens `storage` and raises `StorageUnavailable` where it is away or lacks its schema. Leaving ends the
    turns that still run as interrupted and closes `storage`; `await chat.supervisor.drain(grace=30)` before
    that gives them 30 seconds. Several chats may have one storage: the last to leave closes it.

    `default_model` is the model's name in conversations that name none. `holder` names this process among
    all that share the storage, and is made up where it is left out. `lease_for` is the time after which a
    process that was killed is taken for dead: its turns end as interrupted at most 4/3 of that later, by
    whichever process lives or starts. `tools` are offered to the model, each call within `tool_seconds`;
    at most `max_rounds` rounds call tools. Logs of answers that ended are kept for `keep_log`.

    What is not asked for here can be assembled by hand: each attribute is a use case with a constructor of its own.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        model: ChatModel,
        clock: Clock,
        new_id: NewId,
        default_model: str,
        tools: Iterable[Tool] = (),
        tool_seconds: float = 60.0,
        max_rounds: int = 10,
        holder: str | None = None,
        lease_for: timedelta = LEASE,
        keep_log: timedelta = timedelta(hours=24),
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._storage: Final = storage
        self._open: Final = AsyncExitStack()
        new_unit, log = storage.new_unit, storage.log
        observer = Observers(observer)  # of somebody's own, it may raise: that must cost no turn
        toolbox = Toolbox(tools, timeout=tool_seconds, observer=observer)
        run_turn = RunTurn(log=log, model=model, toolbox=toolbox, max_rounds=max_rounds, observer=observer)
        self.supervisor: Final = TurnSupervisor(
            run_turn=run_turn,
            new_unit=new_unit,
            log=log,
            clock=clock,
            holder=holder or f"chat:{secrets.token_hex(16)}",
            lease_for=lease_for,
            keep_log=keep_log,
        )
        self.admit_user: Final = AdmitUser(new_unit=new_unit, clock=clock)
        self.create_conversation: Final = CreateConversation(
            new_unit=new_unit, clock=clock, new_id=new_id, default_model=default_model, toolbox=toolbox
        )
        self.get_conversation: Final = GetConversation(new_unit=new_unit)
        self.list_conversations: Final = ListConversations(new_unit=new_unit)
        self.update_conversation: Final = UpdateConversation(new_unit=new_unit, toolbox=toolbox)
        self.send_message: Final = SendMessage(
            new_unit=new_unit, clock=clock, new_id=new_id, supervisor=self.supervisor
        )
        self.follow_turn: Final = FollowTurn(
            new_unit=new_unit,
            log=log,
            leaving=self.supervisor.drained,
            owner_here=self.supervisor.owner_of,
            unstored=run_turn.unstored.__contains__,
        )
        self.cancel_turn: Final = CancelTurn(new_unit=new_unit, log=log, follow_turn=self.follow_turn)
        self.list_messages: Final = ListMessages(new_unit=new_unit, log=log)
        self.delete_message: Final = DeleteMessage(new_unit=new_unit, cancel_turn=self.cancel_turn)
        self.delete_conversation: Final = DeleteConversation(new_unit=new_unit, cancel_turn=self.cancel_turn)
        self.execute_tool: Final = ExecuteTool(toolbox=toolbox)

    async def __aenter__(self) -> Self:
        with self.supervisor.entering():
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(_opened(self._storage))
                await stack.enter_async_context(self.supervisor)
                self._open.push_async_exit(stack.pop_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)
