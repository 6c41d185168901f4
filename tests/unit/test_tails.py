"""How much the latest events of turns may take, and what they still tell."""

import tracemalloc
from collections.abc import Callable, Sequence

import pytest

from luxx.adapters.database.tails import Tails
from luxx.adapters.wire import encode_event
from luxx.application.ports import LoggedEvent
from luxx.domain.turn import Text, ToolReturned, TurnEvent

TOTAL = 1024 * 1024


class _Hand:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _logged(first: int, events: Sequence[TurnEvent]) -> list[LoggedEvent]:
    return [LoggedEvent(seq, event, encode_event(event)) for seq, event in enumerate(events, first)]


def _returned(number: int) -> ToolReturned:
    result = {"found": [{"title": f"title {number}", "score": number / 7, "tags": ["a", "b"]} for _ in range(5)]}
    return ToolReturned(id=f"call_{number}", name="search", success=True, result=result, duration_ms=number)


@pytest.mark.parametrize("of_each", [1, 300], ids=["many-turns", "long-turns"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda number: Text(delta=f"word{number} "), id="token"),
        pytest.param(lambda number: Text(delta=f"{number}" + "x" * 2000), id="long"),
        pytest.param(lambda number: Text(delta=chr(0x4E00 + number % 5000)), id="cjk-token"),
        pytest.param(lambda number: Text(delta=f"{number}" + "漢" * 2000), id="cjk-long"),
        pytest.param(lambda number: Text(delta=f"{number}" + "😀" * 2000), id="emoji"),
        pytest.param(_returned, id="tool"),
    ],
)
def test_what_is_held_is_at_most_twice_the_bound(make: Callable[[int], TurnEvent], of_each: int) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tails = Tails(lambda: 0.0, fresh=1.0, total=TOTAL)
        number = 0
        while number < 4000:
            message_id = f"msg_{number}"
            for first in range(1, of_each + 1, 10):
                events = [make(number + more) for more in range(min(10, of_each))]
                number += len(events)
                tails.add(message_id, _logged(first, events), ended=False)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert TOTAL / 8 < held <= 2 * TOTAL


def test_a_turn_is_let_go_of_some_seconds_after_its_end_and_a_running_one_is_not() -> None:
    clock = _Hand()
    tails = Tails(clock, fresh=1.0)
    for message_id in ("ended", "running"):
        tails.add(message_id, _logged(1, [Text(delta="a")]), ended=message_id == "ended")
    clock.now = 9.0
    tails.add("other", _logged(1, [Text(delta="a")]), ended=False)
    assert tails.read("ended", 0, 10) == _logged(1, [Text(delta="a")])
    clock.now = 11.0
    tails.add("other", _logged(2, [Text(delta="b")]), ended=False)
    assert tails.read("ended", 0, 10) is None
    assert tails.read("running", 0, 10) == _logged(1, [Text(delta="a")])


def test_a_reader_a_little_behind_finds_all_that_it_lacks_however_long_the_turn() -> None:
    tails = Tails(lambda: 0.0, fresh=1.0)
    for seq in range(1, 10_001):
        tails.add("msg_1", _logged(seq, [Text(delta="token ")]), ended=False)
    found = tails.read("msg_1", 9_000, 2_000)
    assert found is not None
    assert [logged.seq for logged in found] == list(range(9_001, 10_001))
    assert tails.read("msg_1", 1_000, 10) is None
