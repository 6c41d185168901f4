"""What the use cases tell of their work, for logs, metrics and traces. Nothing of what people or models say is told."""

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from luxx.domain.message import Usage

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class TurnRecord:
    """A turn: whose it is from its start, what became of it at its end.

    `outcome` is the answer's status, or `lost` where the turn was taken over or deleted; `error` the code
    of what failed. Durations are in seconds; `first_token_s` is the time until the model first said something.
    """

    message_id: str
    conversation_id: str
    user_id: int
    model: str | None = None
    outcome: str = "interrupted"
    error: str | None = None
    rounds: int = 0
    usage: Usage | None = None
    first_token_s: float | None = None
    duration_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class RoundRecord:
    """One request to the model. `outcome` is `complete`, `failed` or `cancelled`, `reason` the model's last word.

    The model's name and the reason are free text: the first comes from a user, the second from upstream.
    """

    number: int
    conversation_id: str
    model: str
    temperature: float
    max_tokens: int
    outcome: str = "cancelled"
    error: str | None = None
    reason: str | None = None
    usage: Usage | None = None
    duration_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class ToolRecord:
    """One run of a tool that there is. `outcome` is `ok`, an error code, or `cancelled`."""

    name: str
    call_id: str | None = None
    outcome: str = "cancelled"
    duration_s: float = 0.0


class Observer(Protocol):
    """Watches the work. It must be quick, must not wait, and must not raise.

    The first three are entered when something begins, in the task that does it, and left when it ends;
    by then the record is filled in.
    """

    def turn(self, record: TurnRecord) -> AbstractContextManager[None]: ...

    def round(self, record: RoundRecord) -> AbstractContextManager[None]: ...

    def tool(self, record: ToolRecord) -> AbstractContextManager[None]: ...

    def committed(self, *, turns: int, events: int, seconds: float) -> None:
        """Take note of a commit of a turn log: events of so many turns, in so many seconds."""
        ...

    def login(self, outcome: str) -> None:
        """Take note of a try to log in: `ok`, or the code of the error."""
        ...


class Unobserved:
    """An `Observer` that takes note of nothing; who cares for some of it inherits the rest."""

    def turn(self, record: TurnRecord) -> AbstractContextManager[None]:  # noqa: ARG002  # the port's word
        return nullcontext()

    def round(self, record: RoundRecord) -> AbstractContextManager[None]:  # noqa: ARG002  # the port's word
        return nullcontext()

    def tool(self, record: ToolRecord) -> AbstractContextManager[None]:  # noqa: ARG002  # the port's word
        return nullcontext()

    def committed(self, *, turns: int, events: int, seconds: float) -> None:
        pass

    def login(self, outcome: str) -> None:
        pass


UNOBSERVED: Final = Unobserved()


class Observers:
    """Several observers as one. What one of them raises is logged, and touches neither the work nor the others."""

    def __init__(self, *observers: Observer) -> None:
        self._observers: Final = observers

    def turn(self, record: TurnRecord) -> AbstractContextManager[None]:
        return Together([partial(one.turn, record) for one in self._observers])

    def round(self, record: RoundRecord) -> AbstractContextManager[None]:
        return Together([partial(one.round, record) for one in self._observers])

    def tool(self, record: ToolRecord) -> AbstractContextManager[None]:
        return Together([partial(one.tool, record) for one in self._observers])

    def committed(self, *, turns: int, events: int, seconds: float) -> None:
        self._tell(lambda observer: observer.committed(turns=turns, events=events, seconds=seconds))

    def login(self, outcome: str) -> None:
        self._tell(lambda observer: observer.login(outcome))

    def _tell(self, told: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                told(observer)
            except Exception:  # noqa: BLE001  # whatever an observer does, the work goes on
                _log.exception("an observer failed")


class Together:
    """Enter all of these around the work; what they raise is logged and goes no further.

    They see the work end, not how: an error of the work is nobody's to swallow.
    """

    __slots__ = ("_entered", "_watches")

    def __init__(self, watches: Iterable[Callable[[], AbstractContextManager[None]]]) -> None:
        self._watches = watches
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        for watch in self._watches:
            try:
                entered = watch()
                entered.__enter__()
            except Exception:  # noqa: BLE001  # whatever an observer does, the work goes on
                _log.exception("an observer failed")
            else:
                self._entered.append(entered)

    def __exit__(self, *_: object) -> None:
        for entered in reversed(self._entered):
            try:
                entered.__exit__(None, None, None)
            except Exception:  # noqa: BLE001  # as above
                _log.exception("an observer failed")
