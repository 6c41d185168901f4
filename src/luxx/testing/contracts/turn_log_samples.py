"""What the contract suites of the turn log have in common: steps, and looking at what became of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from luxx.application.ports import Lease, LoggedEvent, NewTurn, Storage
from luxx.domain.message import Message, Problem, Status
from luxx.domain.turn import Done, Started, Step, Text, Thinking, ToolCalled, ToolReturned, fold
from luxx.domain.user import User
from luxx.testing.contracts.storage_samples import PATIENCE, following

STEPS: Sequence[Step] = (
    Thinking(delta="Let me "),
    Thinking(delta="see. "),
    Text(delta="He"),
    Text(delta="llo 🦉"),
    ToolCalled(id="1", name="calculate", arguments={"expression": "2**200", "deep": [{"a": None}]}),
    ToolCalled(id="2", name="absent", arguments={}),
    ToolReturned(id="2", name="absent", success=False, error=Problem(code="tool_failed", message="否"), duration_ms=0),
    ToolReturned(id="1", name="calculate", success=True, result={"n": 2**200, "f": 0.1, "s": "\u2028"}, duration_ms=7),
    Thinking(delta="now "),
    Text(delta="it is "),
    Text(delta="done."),
)


def a_call(number: int) -> Step:
    return ToolCalled(id=str(number), name="t", arguments={"number": number})


async def end_turn(storage: Storage, turn: NewTurn, lease: Lease, steps: Sequence[Step] = ()) -> Message:
    """End a turn with the answer that `steps` fold into."""
    answer = replace(turn.answer, parts=fold(steps).parts, status=Status.COMPLETE)
    await storage.log.end(lease, Done(message=answer), answer)
    return answer


async def all_events(storage: Storage, message_id: str) -> list[LoggedEvent]:
    """Give all that is stored; what the log remembers of it beside that must be the same."""
    remembered = list(await storage.log.read(message_id, limit=100_000))
    stored = list(await storage.log.read(message_id, limit=100_000, afresh=True))
    assert stored[: len(remembered)] == remembered
    return stored


async def until_lost(storage: Storage, lease: Lease) -> None:
    """Append until the loss is noticed."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await storage.log.append(lease, Text(delta="late "))
            await asyncio.sleep(0)


async def stored_message(storage: Storage, owner: User, message_id: str) -> Message:
    async with storage.new_unit(read_only=True) as unit:
        return await unit.messages.get(owner.id, message_id)


def check_events(events: Sequence[LoggedEvent]) -> None:
    """Whatever a reader sees: counted from 1 without gaps, a start first, one end at most and last."""
    assert [logged.seq for logged in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0].event, Started)
    fold(logged.event for logged in events)


async def followed(storage: Storage, message_id: str, *, after: int = 0) -> list[LoggedEvent]:
    return [logged async for logged in following(storage.log, message_id, after=after)]


async def until_committed(storage: Storage, message_id: str, count: int) -> None:
    """Wait until so many events are committed."""
    reader = following(storage.log, message_id)
    for _ in range(count):
        await anext(reader)
    await reader.aclose()
