"""Messages: list and delete. Sending is a subject of its own, in `send_message`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from luxx.application.cancel_turn import CancelTurn
from luxx.application.follow_turn import parts_so_far
from luxx.application.ports import NewUnit, TurnLog
from luxx.domain.errors import Damaged, InvalidInput
from luxx.domain.fields import number_fault
from luxx.domain.message import Message, Status

LIMIT_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePage:
    """Messages, oldest first. `total` counts all of the conversation; `has_more` tells of older ones."""

    items: Sequence[Message]
    total: int
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListMessages:
    """Give the newest `limit` (1 to 1000) messages, or those before `before`, oldest first.

    An answer that is still written holds the parts committed so far. Raises `InvalidInput`, `NotFound`.
    """

    new_unit: NewUnit
    log: TurnLog

    async def __call__(
        self, *, user_id: int, conversation_id: str, limit: int = 100, before: str | None = None
    ) -> MessagePage:
        if (fault := number_fault("limit", limit, 1, LIMIT_MAX, whole=True)) is not None:
            raise InvalidInput(fault)
        async with self.new_unit(once=True) as unit:
            found = await unit.messages.page(user_id, conversation_id, limit=limit + 1, before=before)
        items = [
            replace(message, parts=await parts_so_far(self.log, message.id))
            if message.status is Status.STREAMING
            else message
            for message in found.items[-limit:]
        ]
        return MessagePage(items=items, total=found.total, has_more=len(found.items) > limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteMessage:
    """Delete that message alone; if a turn still writes or answers it, the turn is cancelled first.

    Raises `NotFound`.
    """

    new_unit: NewUnit
    cancel_turn: CancelTurn

    async def __call__(self, *, user_id: int, message_id: str) -> None:
        async with self.new_unit(read_only=True) as unit:
            try:
                conversation_id = (await unit.messages.get(user_id, message_id)).conversation_id
            except Damaged as error:  # to be rid of it, nobody needs to read it
                conversation_id = error.conversation_id
            turn = await unit.turns.running_in(user_id, conversation_id)
        if turn is not None and message_id in {turn.message_id, turn.user_message_id}:
            await self.cancel_turn(user_id=user_id, message_id=turn.message_id)
        async with self.new_unit() as unit:
            await unit.messages.delete(user_id, message_id)
            await unit.commit()
