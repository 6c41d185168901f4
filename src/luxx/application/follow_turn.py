"""Follow a turn: read its log, wait, read on."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from luxx.application.ports import LoggedEvent, NewUnit, Turn, TurnLog
from luxx.domain.errors import NotFound, Overloaded, StorageUnavailable
from luxx.domain.message import Message, Part, Role, Status, TextPart, ThinkingPart, ToolCallPart
from luxx.domain.turn import Done, End, Failed, Started, Text, Thinking, ToolCalled, ToolReturned, TurnEvent, fold

BATCH: Final = 4 * 1024
"""Characters that are read at once, about: many readers may hold a batch each that nobody takes from them."""

BATCH_EVENTS: Final = 256
_TOOL_SIZE: Final = 8 * 1024


async def parts_so_far(log: TurnLog, message_id: str) -> tuple[Part, ...]:
    """Fold what is committed of a turn into parts."""
    seq = 0
    events = []
    while page := await log.read(message_id, after=seq):
        events += [logged.event for logged in page]
        seq = page[-1].seq
    return fold(events).parts


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowTurn:
    """Give the events of a turn from `after` on, live, until its end.

    Any number of readers may follow, in any process; leaving off does not touch the turn. Once the
    log is no longer kept, the stored answer is given as events instead, from 1 on. A question that was deleted
    since comes without what it said. Raises `NotFound`
    `message_not_found` before the first event; `StorageUnavailable` at any time, and `Overloaded` once this
    process is `leaving`: then the turn may go on, and can be followed at another one.
    """

    new_unit: NewUnit
    log: TurnLog
    poll: float = 1.0
    """Seconds until a reader looks for itself, in case a wake-up was lost."""
    leaving: Callable[[], bool] = lambda: False
    """Whether this process is about to end, and runs no turn any more: readers of others' turns must go elsewhere."""
    owner_here: Callable[[str], int | None] = lambda _: None
    """Whose turn this is, if this process runs it: its owner's reader need not ask the storage."""
    unstored: Callable[[str], bool] = lambda _: False
    """Whether this process has an answer's end and cannot store it: until it can, there is nothing to wait for."""
    ask: float = 5.0
    """Seconds of silence between questions whether the turn is still there: thousands wait, few are deleted."""

    async def __call__(self, *, user_id: int, message_id: str, after: int = 0) -> AsyncGenerator[LoggedEvent, None]:
        """Give the events one by one."""
        return _one_by_one(await self.batches(user_id=user_id, message_id=message_id, after=after))

    async def batches(
        self, *, user_id: int, message_id: str, after: int = 0
    ) -> AsyncGenerator[Sequence[LoggedEvent], None]:
        """Give the events as they are read: what is there at once comes together. No batch is empty."""
        if self.owner_here(message_id) == user_id:
            return self._follow(user_id, message_id, after)
        async with self.new_unit(once=True) as unit:
            # Not the answer: it may be large, and whoever reads the log has it there.
            turn = await unit.turns.get(user_id, message_id)
            if turn is None:
                raise NotFound(f"There is no answer with the id {message_id!r}.", code="message_not_found")
        if turn.running:
            # Its question is there: whoever deletes that one ends the turn first.
            return self._follow(user_id, message_id, after)
        question = await self._question(user_id, turn)
        if await self.log.read(message_id, limit=1):
            followed = self._follow(user_id, message_id, after)
            return followed if question is not None else _without_question(followed)
        async with self.new_unit(once=True) as unit:
            answer = await unit.messages.get(user_id, message_id)
        return _replay(question or _deleted(turn, answer), answer)

    async def _question(self, owner: int, turn: Turn) -> Message | None:
        """Read the user's message of a turn that has ended; None if it was deleted."""
        async with self.new_unit(once=True) as unit:
            try:
                return await unit.messages.get(owner, turn.user_message_id)
            except NotFound:
                return None

    async def to_end(self, *, user_id: int, message_id: str) -> tuple[Started, End]:
        """Wait for a turn's end and give its first and last event."""
        started: Started | None = None
        async for logged in await self(user_id=user_id, message_id=message_id):
            match logged.event:
                case Started():
                    started = logged.event
                case Done() | Failed() if started is not None:
                    return started, logged.event
                case _:
                    pass
        raise NotFound(f"The message {message_id!r} was deleted.", code="message_not_found")

    async def _follow(self, owner: int, message_id: str, after: int) -> AsyncGenerator[Sequence[LoggedEvent], None]:
        with self.log.watch(message_id) as wakeup:
            asked, woken, afresh = float("-inf"), False, False
            limit = 1
            while True:
                events = await self._read(message_id, after, limit, afresh)
                if events:
                    yield events
                    last = events[-1]
                    if isinstance(last.event, Done | Failed):
                        return
                    after, asked = last.seq, time.monotonic()
                    more = len(events) == limit
                    limit = _next_limit(events, limit)
                    if more:
                        woken = False
                        continue
                    # What is committed since has set the wake-up: it need not be looked for before the wait.
                else:
                    if woken or time.monotonic() - asked >= self.ask:
                        asked = time.monotonic()  # woken for nothing: the turn may be gone
                        ended, last_seq = await self._standing(owner, message_id)
                        # Committed since the read, or unknown to this process: the answer to a commit can be lost.
                        afresh = ended and after < last_seq
                        if afresh:
                            continue
                        if ended:
                            yield (await self._last(owner, message_id, after),)
                            return
                    if self.leaving():
                        # What this process wrote to the end is there by now.
                        if await self.log.read(message_id, after=after, limit=1):
                            continue
                        raise Overloaded("This process is stopping: follow the answer at another one.")
                woken = await wakeup.wait(self.poll)

    async def _read(self, message_id: str, after: int, limit: int, afresh: bool) -> Sequence[LoggedEvent]:
        events = await self.log.read(message_id, after=after, limit=limit, afresh=afresh)
        if not events and afresh:
            raise StorageUnavailable("The log of this answer is no longer kept: follow the answer again.")
        if not events and self.unstored(message_id):
            raise StorageUnavailable("The end of this answer cannot be stored now: ask for it again in a moment.")
        return events

    async def _standing(self, owner: int, message_id: str) -> tuple[bool, int]:
        """Tell whether a turn has ended or is gone, and what its last event is."""
        async with self.new_unit(once=True) as unit:
            turn = await unit.turns.get(owner, message_id)
        return (True, 0) if turn is None else (not turn.running, turn.last_seq)

    async def _last(self, owner: int, message_id: str, after: int) -> LoggedEvent:
        """Give the end to a reader that has seen it, or stands where no log is: every stream has its end."""
        async with self.new_unit(read_only=True) as unit:
            turn = await unit.turns.get(owner, message_id)
            answer = None if turn is None else await unit.messages.get(owner, message_id)
        if answer is not None:
            return LoggedEvent(after, end_of(answer))
        if after == 0:
            # Deleted before anything of it was told: no stream begins with its end.
            raise NotFound(f"The message {message_id!r} was deleted.", code="message_not_found")
        gone = Failed(code="message_not_found", message="The message was deleted.", message_id=message_id)
        return LoggedEvent(after + 1, gone)


def _next_limit(events: Sequence[LoggedEvent], limit: int) -> int:
    if _size(events) > BATCH:
        return max(limit // 2, 1)
    return min(limit * 2, BATCH_EVENTS) if len(events) == limit else limit


def _size(events: Sequence[LoggedEvent]) -> int:
    """Tell about how many characters these are; what a tool gave is not looked at closely."""
    size = 0
    for logged in events:
        match logged.event:
            case Text(delta=delta) | Thinking(delta=delta):
                size += len(delta)
            case ToolReturned():
                size += _TOOL_SIZE
            case _:
                pass
    return size


async def _one_by_one(
    batches: AsyncGenerator[Sequence[LoggedEvent], None],
) -> AsyncGenerator[LoggedEvent, None]:
    async with aclosing(batches):
        async for batch in batches:
            for logged in batch:
                yield logged


def _deleted(turn: Turn, answer: Message) -> Message:
    """Stand in for a question that its owner deleted: nothing of what it said is told again."""
    return Message(
        id=turn.user_message_id,
        conversation_id=turn.conversation_id,
        role=Role.USER,
        parts=(),
        status=Status.COMPLETE,
        created_at=answer.created_at,
    )


async def _without_question(
    batches: AsyncGenerator[Sequence[LoggedEvent], None],
) -> AsyncGenerator[Sequence[LoggedEvent], None]:
    """Take what a deleted question said out of the log's first event."""
    async with aclosing(batches):
        async for batch in batches:
            first = batch[0]
            if isinstance(first.event, Started):
                emptied = replace(first.event, user_message=replace(first.event.user_message, parts=()))
                yield [LoggedEvent(first.seq, emptied), *batch[1:]]
            else:
                yield batch


async def _replay(question: Message, answer: Message) -> AsyncGenerator[Sequence[LoggedEvent], None]:
    yield [LoggedEvent(seq, event) for seq, event in enumerate(events_of(question, answer), start=1)]


def events_of(question: Message, answer: Message) -> Iterator[TurnEvent]:
    """Tell a stored answer as the events that fold into it."""
    yield Started(user_message=question, message_id=answer.id)
    for part in answer.parts:
        yield from _steps_of(part)
    if answer.status is not Status.STREAMING:
        yield end_of(answer)


def end_of(answer: Message) -> End:
    """Tell how a stored answer ended."""
    if answer.error is None:
        return Done(message=answer)
    return Failed(code=answer.error.code, message=answer.error.message, message_id=answer.id)


def _steps_of(part: Part) -> Iterator[TurnEvent]:
    match part:
        case TextPart(text=text):
            yield Text(delta=text)
        case ThinkingPart(text=text):
            yield Thinking(delta=text)
        case ToolCallPart():
            yield ToolCalled(id=part.id, name=part.name, arguments=part.arguments)
            if part.success is not None:
                yield ToolReturned(
                    id=part.id,
                    name=part.name,
                    success=part.success,
                    result=part.result,
                    error=part.error,
                    duration_ms=part.duration_ms or 0,
                )
