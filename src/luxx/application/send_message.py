"""Send a message: accept it, commit it, start the turn that answers it."""

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, replace
from typing import Final

from luxx.application.ports import (
    Begun,
    Clock,
    IdempotencyKey,
    KeyTaken,
    LeaseLost,
    NewId,
    NewTurn,
    NewUnit,
    TooManyTurns,
)
from luxx.application.supervisor import TurnSupervisor
from luxx.domain.errors import Conflict, Damaged, Fault, InternalError, InvalidInput, RateLimited, StorageUnavailable
from luxx.domain.fields import text_fault
from luxx.domain.message import Message, Role, Status, TextPart, content_faults, empty_answer

KEY_LIMIT: Final = 255
TURNS_RETRY_SECONDS: Final = 5.0
"""When to send again where too many answers are being written: nobody knows when one ends."""
RETRY_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMessage:
    """Store a user's message and start its answer; gives the id of the answer, to be followed with `FollowTurn`.

    When this returns, the message is committed and the answer is being written, whether or not
    anybody follows. A repeated `idempotency_key` gives the first answer's id and starts nothing.

    Raises `InvalidInput`; `NotFound` `conversation_not_found`; `Conflict` `generation_in_progress` or
    `idempotency_conflict`; `RateLimited`; `Overloaded`; `StorageUnavailable`.
    """

    new_unit: NewUnit
    clock: Clock
    new_id: NewId
    supervisor: TurnSupervisor
    history: int = 1000
    """Messages told to the model, at most: the new one, and the newest before it."""
    turns_of_user: int = 0
    """Answers of one user written at once, by all processes; 0 is no limit."""

    async def __call__(
        self,
        *,
        user_id: int,
        conversation_id: str,
        content: str,
        tools_enabled: bool = True,
        idempotency_key: str | None = None,
    ) -> str:
        faults = content_faults(content)
        if idempotency_key is not None and text_fault("Idempotency-Key", idempotency_key, 1, KEY_LIMIT) is not None:
            rule = Fault(field="Idempotency-Key", rule="invalid", parameters={"reason": f"1 to {KEY_LIMIT} characters"})
            faults += (rule,)
        if faults:
            raise InvalidInput(*faults)
        key = None
        if idempotency_key is not None:
            fingerprint = _fingerprint(conversation_id, content, tools_enabled=tools_enabled)
            key = IdempotencyKey(key=idempotency_key, fingerprint=fingerprint)
            if (known := await self._recall(user_id, key)) is not None:
                return known
        accepted = asyncio.ensure_future(
            self._accept(user_id, conversation_id, content, tools_enabled=tools_enabled, key=key)
        )
        # Whoever is cancelled here must not leave a committed turn that nobody runs.
        return await asyncio.shield(accepted)

    async def _accept(
        self, owner: int, conversation_id: str, content: str, *, tools_enabled: bool, key: IdempotencyKey | None
    ) -> str:
        with self.supervisor.accepting():
            turn = self._new_turn(owner, conversation_id, content, key)
            reached, begun = False, None
            try:
                async with self.new_unit() as unit:
                    reached = True
                    begun = await unit.turns.begin(turn)
            except TooManyTurns:
                raise RateLimited(
                    "Too many of your answers are being written now: wait for one to end.",
                    retry_after=TURNS_RETRY_SECONDS,
                ) from None
            except StorageUnavailable:
                # The commit may have been made, and only its answer lost: then there is a turn to run.
                if reached and begun is None:
                    try:
                        begun = await self._begun_all_the_same(turn)
                    except LeaseLost:
                        return turn.answer.id
                if begun is None:
                    raise
            except KeyTaken:
                if key is None or (known := await self._recall(owner, key)) is None:
                    raise InternalError("An idempotency key was taken and is gone.") from None
                return known
            self.supervisor.start(begun, tools_enabled=tools_enabled)
            return turn.answer.id

    async def _begun_all_the_same(self, turn: NewTurn) -> Begun | None:
        """Look what is stored of a turn; while the database is away, for as long as its lease leaves time to run it.

        Raises `LeaseLost` where that took so long that somebody else has ended it.
        """
        deadline = time.monotonic() + self.supervisor.lease_for.total_seconds() / 2
        while True:
            try:
                async with self.new_unit(read_only=True) as unit:
                    stored = await unit.turns.get(turn.owner, turn.answer.id)
                    if stored is None:
                        return None
                    if not stored.running:
                        raise LeaseLost(turn.answer.id)
                    conversation = await unit.conversations.get(turn.owner, turn.conversation_id)
                    begun = Begun(lease=turn.lease(), answer=turn.answer, conversation=conversation, history=())
                    try:
                        history = await unit.messages.newest(
                            turn.owner, turn.conversation_id, limit=turn.history, before=turn.answer.id
                        )
                    except Damaged as error:
                        return replace(begun, damaged=error)
                    return replace(begun, history=history)
            except StorageUnavailable:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    def _new_turn(self, owner: int, conversation_id: str, content: str, key: IdempotencyKey | None) -> NewTurn:
        now = self.clock()
        user_message = Message(
            id=self.new_id("msg"),
            conversation_id=conversation_id,
            role=Role.USER,
            parts=(TextPart(text=content),),
            status=Status.COMPLETE,
            created_at=now,
        )
        return NewTurn(
            owner=owner,
            conversation_id=conversation_id,
            user_message=user_message,
            answer=empty_answer(self.new_id("msg"), conversation_id, now),
            holder=self.supervisor.holder,
            lease_for=self.supervisor.lease_for,
            history=self.history,
            key=key,
            at_most=self.turns_of_user,
        )

    async def _recall(self, owner: int, key: IdempotencyKey) -> str | None:
        async with self.new_unit(once=True) as unit:
            known = await unit.turns.recall(owner, key.key)
        if known is None:
            return None
        if known.fingerprint != key.fingerprint:
            raise Conflict(
                "This Idempotency-Key was used for another message: use a new key for each message.",
                code="idempotency_conflict",
            )
        return known.message_id


def _fingerprint(conversation_id: str, content: str, *, tools_enabled: bool) -> str:
    sent = json.dumps([conversation_id, content, tools_enabled])
    return hashlib.sha256(sent.encode()).hexdigest()
