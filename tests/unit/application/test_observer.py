"""Observers see every turn, round and tool call with its outcome, and cannot touch them."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from tests.unit.application.house import FunctionTool, echo, opened

from luxx.adapters.models.scripted import calling
from luxx.application.observer import UNOBSERVED, Observers, RoundRecord, ToolRecord, TurnRecord
from luxx.domain.errors import ModelTimeout
from luxx.domain.message import Usage


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


class Outcomes(Observers):
    """Keeps how turns and their rounds ended."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[TurnRecord] = []
        self.rounds: list[RoundRecord] = []

    @contextmanager
    def turn(self, record: TurnRecord) -> Iterator[None]:
        yield
        self.turns.append(record)

    @contextmanager
    def round(self, record: RoundRecord) -> Iterator[None]:
        yield
        self.rounds.append(record)


@pytest.mark.parametrize(
    ("failure", "code"), [(ModelTimeout("too slow"), "model_timeout"), (ZeroDivisionError(), "internal_error")]
)
async def test_of_a_turn_and_each_of_its_rounds_it_is_told_how_they_ended(failure: Exception, code: str) -> None:
    seen = Outcomes()
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    async with opened(tools=[FunctionTool("echo", echo)], run={"observer": Observers(seen)}) as house:
        house.model.then(calling(("echo", {}), text="So:", usage=usage), [failure])
        await house.answer()
        await house.idle()
    one, two = seen.rounds
    assert (one.number, one.outcome, one.error, one.reason, one.usage) == (1, "complete", None, "tool_calls", usage)
    assert (two.number, two.outcome, two.error, two.reason, two.usage) == (2, "failed", code, None, None)
    (turn,) = seen.turns
    assert (turn.outcome, turn.error, turn.rounds, turn.usage) == ("failed", code, 2, usage)
    assert turn.first_token_s is not None
    assert 0 < turn.first_token_s < one.duration_s < turn.duration_s
    assert 0 < two.duration_s < turn.duration_s
