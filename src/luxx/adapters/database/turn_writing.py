"""What the log holds in memory of a turn that is being written, until it is committed."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from luxx.application.ports import Lease
from luxx.domain.message import Message
from luxx.domain.turn import End, Step, TurnEvent

_ROUNDS: Final = 32


@dataclass(slots=True, eq=False)
class Writing:
    """A turn that is being written under one lease: what has gathered since the last commit."""

    lease: Lease
    seq: int
    """The last committed `seq`."""
    pending: list[Step] = field(default_factory=list)
    weight: int = 0
    end: tuple[End, Message] | None = None
    void: bool = False
    failure: Exception | None = None
    room: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the end is committed, or never will be."""
    rounds: int = 1
    """For how many times more it is let read on until it has nothing more at hand."""
    drains: bool = False
    steps_at_once: int = 0
    """How many steps it added when it was let on last."""

    def let_on(self) -> None:
        """Let it read on: once, where all that has come is one step; until it has nothing more, where it is several.

        A model that gives its words one by one would fall behind otherwise. To find that there is no more costs as
        much again as to read what there was: who had no more is let look only now and then.
        """
        self.rounds = _ROUNDS if self.steps_at_once > 1 else self.rounds - 1
        self.drains = self.rounds >= 0 or self.rounds % _ROUNDS == 0
        self.steps_at_once = 0


@dataclass(slots=True, eq=False)
class Share:
    """What one turn contributes to a commit."""

    turn: Writing
    events: list[TurnEvent]
    rows: list[tuple[str, str]]
    end: tuple[End, Message] | None
