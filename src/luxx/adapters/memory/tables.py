"""The data itself: plain dicts, replaced as a whole by each commit."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from luxx.application.ports import LoggedEvent, PasswordTry, Remembered, Turn
from luxx.domain.api_key import ApiKey
from luxx.domain.conversation import Conversation
from luxx.domain.message import Message
from luxx.domain.user import Session, User


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """A turn and its lease."""

    message_id: str
    user_message_id: str
    conversation_id: str
    owner: int
    holder: str
    fence: int
    lease_until: datetime
    running: bool = True
    cancel_requested: bool = False
    ended_at: datetime | None = None
    last_seq: int = 1
    """Set when it ends; until then the log tells."""

    def turn(self, last_seq: int) -> Turn:
        return Turn(
            message_id=self.message_id,
            user_message_id=self.user_message_id,
            conversation_id=self.conversation_id,
            running=self.running,
            cancel_requested=self.cancel_requested,
            last_seq=last_seq,
        )


@dataclass(slots=True, kw_only=True)
class Tables:
    """Committed tables are never written to: a unit works on a `draft` whose dicts are its own.

    The lists in `events` are the exception: the log appends to them in place, and no unit reads them.
    """

    users: dict[int, User] = field(default_factory=dict)
    usernames: dict[str, int] = field(default_factory=dict)
    emails: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """The id of a key, by the digest of its secret."""
    tries: dict[str, PasswordTry] = field(default_factory=dict)
    conversations: dict[str, Conversation] = field(default_factory=dict)
    messages: dict[str, Message] = field(default_factory=dict)
    history: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The message ids of each conversation, in the order in which they were accepted."""
    turns: dict[str, TurnRow] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    """The message id of the running turn, by conversation."""
    keys: dict[tuple[int, str], Remembered] = field(default_factory=dict)
    events: dict[str, list[LoggedEvent]] = field(default_factory=dict)

    def draft(self) -> "Tables":
        return Tables(**{name: dict(getattr(self, name)) for name in Tables.__slots__})

    def view(self) -> "Tables":
        """Give the same tables to a unit that reads: it cannot write to them."""
        views: dict[str, Any] = {name: MappingProxyType(getattr(self, name)) for name in Tables.__slots__}
        return Tables(**views)

    def drop_message(self, message_id: str) -> None:
        """Delete a message, and the turn and log that wrote it."""
        message = self.messages.pop(message_id)
        rest = tuple(other for other in self.history[message.conversation_id] if other != message_id)
        self.history[message.conversation_id] = rest
        self.events.pop(message_id, None)
        row = self.turns.pop(message_id, None)
        if row is not None and row.running:
            del self.running[row.conversation_id]

    def end_turn(self, message_id: str, at: datetime) -> None:
        row = self.turns[message_id]
        self.turns[message_id] = replace(row, running=False, ended_at=at, last_seq=len(self.events[message_id]))
        del self.running[row.conversation_id]
