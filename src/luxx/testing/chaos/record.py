"""What was done, what was seen, and which promise was broken how often."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Kind = Literal["lost", "doubled", "hung", "gaps", "wrong"]
KINDS: Final[tuple[Kind, ...]] = ("lost", "doubled", "hung", "gaps", "wrong")

PROMISES: Final = {
    "P1": "an accepted message is never lost or doubled",
    "P2": "what any reader saw is stored",
    "P3": "one end, ids without gaps, nothing behind the end",
    "P4": "one key, one turn",
    "P5": "resume gives exactly the missing suffix",
    "P6": "one turn at a time, messages in a total order",
    "P8": "no fault of the model hangs a client",
    "P9": "cancel stops an answer, and what arrived is kept",
    "P10": "SIGTERM ends a process in time, with status 0",
    "P12": "a stream comes as it is written, and is never silent for long",
    "P13": "a dead process's turns end, and the conversation is free",
    "API": "statuses, envelopes, headers, objects and lists are as in the HTTP reference",
}
"""The promises that a run checks; `docs/streaming.md` tells them all, and how the others are checked."""


@dataclass(slots=True)
class Tally:
    """Per promise: how often it was put to the test by a fault, how often it was looked at, and what broke it."""

    faults: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    broken: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def fault(self, *promises: str) -> None:
        self.faults.update(promises)

    def check(self, promise: str, kept: bool, kind: Kind, note: str) -> bool:
        """Note that a promise was looked at; gives `kept`."""
        self.checks[promise] += 1
        if not kept:
            self.broken[promise, kind] += 1
            self.notes.append(f"{promise} {kind}: {note}")
        return kept

    @property
    def violations(self) -> int:
        return sum(self.broken.values())

    def report(self, promises: tuple[str, ...] = tuple(PROMISES)) -> str:
        """Tell a line for each promise."""
        lines = []
        for promise in promises:
            counts = ", ".join(f"{kind} {self.broken[promise, kind]}" for kind in KINDS)
            figures = f"{promise} faults {self.faults[promise]}, {counts}"
            lines.append(f"{figures:<67} {self.checks[promise]:>6} checks  {PROMISES[promise]}")
        return "\n".join(lines)


@dataclass(slots=True, kw_only=True)
class Sent:
    """One message that a client sent, and all that it learned of it."""

    key: str
    content: str
    conversation_id: str
    accepted: bool = False
    turn: int = 0
    """Counts what its client did one after another: who sent it, what came before it, and what at the same time."""
    message_id: str | None = None
    user_message: Any = None
    seen: str = ""
    end: tuple[str, Any] | None = None
    events: list[tuple[int | None, str, Any]] = field(default_factory=list)
    cancelled: bool = False
    deleted: bool = False


@dataclass(slots=True)
class Talk:
    """One conversation, as its client knows it."""

    id: str
    sent: list[Sent] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    """Its messages at the end, as they are listed."""
    deleted: bool = False
