"""Observers see every turn, round and tool call with its outcome, and cannot touch them."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from luxx.application.observer import UNOBSERVED, Observers, RoundRecord, ToolRecord, TurnRecord


class Noting(Observers):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        self.told.append(f"{what} begins")
        try:
            yield
        finally:
            self.told.append(f"{what} ends")

    def turn(self, record: TurnRecord) -> AbstractContextManager[None]:  # noqa: ARG002 - the port's
        return self._noted("turn")

    def login(self, outcome: str) -> None:
        self.told.append(outcome)


class Broken(Observers):
    """Fails at everything."""

    def __init__(self, *, late: bool) -> None:
        super().__init__()
        self._late = late

    @contextmanager
    def turn(self, record: TurnRecord) -> Iterator[None]:  # noqa: ARG002 - the port's
        if not self._late:
            raise OSError("no space left")
        yield
        raise OSError("no space left")

    def login(self, outcome: str) -> None:
        raise OSError(outcome)

    def committed(self, **_: Any) -> None:
        raise OSError("no space left")


def record() -> TurnRecord:
    return TurnRecord(message_id="msg_1", conversation_id="conv_1", user_id=1)


@pytest.mark.parametrize("late", [False, True])
def test_an_observer_that_fails_touches_neither_the_work_nor_the_others(
    late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    noting = Noting()
    done = False
    observers = Observers(Broken(late=late), noting)
    with caplog.at_level(logging.ERROR, logger="luxx"):
        with observers.turn(record()):
            done = True
        observers.login("ok")
        observers.committed(turns=1, events=1, seconds=0.1)
    assert done
    assert noting.told == ["turn begins", "turn ends", "ok"]
    assert [one.getMessage() for one in caplog.records] == ["an observer failed"] * 3


def test_what_the_work_raises_comes_through_all_observers() -> None:
    noting = Noting()
    with pytest.raises(KeyError), Observers(noting, Broken(late=True)).turn(record()):
        raise KeyError
    assert noting.told == ["turn begins", "turn ends"]


def test_nothing_is_needed_to_observe_nothing() -> None:
    with (
        UNOBSERVED.turn(record()),
        UNOBSERVED.round(RoundRecord(number=1, conversation_id="c", model="m", temperature=0, max_tokens=1)),
        UNOBSERVED.tool(ToolRecord(name="t")),
    ):
        UNOBSERVED.login("ok")
        UNOBSERVED.committed(turns=1, events=1, seconds=0.0)
