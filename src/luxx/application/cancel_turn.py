"""Stop a running turn, wherever it runs."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from luxx.application.follow_turn import FollowTurn, parts_so_far
from luxx.application.ports import NewUnit, TurnLog
from luxx.domain.errors import NotFound
from luxx.domain.message import Message, Status

PATIENCE: Final = 10.0
"""Seconds to wait for the end of a cancelled turn: one whose process died is ended later, by the reaper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTurn:
    """Ask for the end of a turn, wait for it, and give the stored answer.

    What had arrived is kept. A turn that has ended already stays as it is. A turn whose process does
    not react is given as `streaming` after `patience` seconds. Raises `NotFound`.
    """

    new_unit: NewUnit
    log: TurnLog
    follow_turn: FollowTurn
    patience: float = PATIENCE

    async def __call__(self, *, user_id: int, message_id: str) -> Message:
        async with self.new_unit(once=True) as unit:
            turn = await unit.turns.get(user_id, message_id)
        if turn is None:
            raise NotFound(f"There is no answer with the id {message_id!r}.", code="message_not_found")
        if turn.running:
            async with self.new_unit() as unit:
                await unit.turns.request_cancel(user_id, message_id)
            await self.log.announce_cancel(message_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.patience):
                    await self.follow_turn.to_end(user_id=user_id, message_id=message_id)
        # Read last: as it was before the turn ended it would be told as empty.
        async with self.new_unit(once=True) as unit:
            message = await unit.messages.get(user_id, message_id)
        if message.status is Status.STREAMING:
            message = replace(message, parts=await parts_so_far(self.log, message_id))
        return message
