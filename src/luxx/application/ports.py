"""What the use cases need from the world. Adapters implement these; contract suites hold them to it.

In a unit of work, what belongs to a user is read and written by `owner`, the user's id: what is somebody else's
is absent. Whoever reads the `TurnLog` has asked for the turn so. Text is stored as given. Times are aware and in UTC.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from luxx.domain.api_key import ApiKey
from luxx.domain.conversation import Conversation
from luxx.domain.errors import Damaged
from luxx.domain.message import Json, Message, Usage
from luxx.domain.tool import ToolCall, ToolSpec
from luxx.domain.turn import End, Step, TurnEvent
from luxx.domain.user import NewUser, Session, User

Clock: TypeAlias = Callable[[], datetime]
"""Now, aware and in UTC."""

NewId: TypeAlias = Callable[[str], str]
"""A new id with the given prefix (`conv`, `msg`, `sess`): unique, and later ones sort after earlier ones."""


# --- accounts ---------------------------------------------------------------------------------------


class PasswordHasher(Protocol):
    """Hash passwords, slowly on purpose; off the event loop, and no more at once than there are cores."""

    async def hash(self, password: str) -> str:
        """Give a salted hash with its parameters in it."""
        ...

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Tell whether `password` made `hashed`. With None, do the same work and give False."""
        ...

    def outdated(self, hashed: str) -> bool:
        """Tell whether `hashed` was made with other parameters than `hash` uses now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """What a token says: whose it is, and which session it belongs to."""

    user_id: int
    session_id: str
    issued_at: datetime
    expires_at: datetime


class TokenCodec(Protocol):
    """Make and read access tokens (RFC 9068)."""

    def encode(self, claims: TokenClaims) -> str: ...

    def decode(self, token: str, *, now: datetime) -> TokenClaims:
        """Read a token; raises `Unauthenticated` (`unauthenticated`, or `token_expired` by `now`)."""
        ...


@runtime_checkable
class RequestRate(Protocol):
    """How often a user may ask."""

    async def take(self, user_id: int) -> None:
        """Count a request; raises `RateLimited` at once where there were too many."""
        ...


class Users(Protocol):
    """The accounts. Names and addresses are compared by `comparison_key`; numbers begin at 1."""

    async def add(self, user: NewUser) -> User:
        """Store a new user under the next number.

        Raises `Conflict` `username_taken` or `email_taken`, compared by `comparison_key`.
        """
        ...

    async def get(self, user_id: int) -> User | None: ...

    async def by_email(self, email: str) -> User | None:
        """Find a user by the comparison key of an address."""
        ...

    async def by_username(self, username: str) -> User | None:
        """Find by name, compared by `comparison_key`."""
        ...

    async def hold(self, user_id: int) -> User | None:
        """Read as `get` does, and let nobody else change this user until the unit ends."""
        ...

    async def page(self, *, after: int = 0, limit: int = 1000) -> Sequence[User]:
        """List by number, upwards, from behind `after`: for the operator, not for users."""
        ...

    async def update(self, user: User) -> None:
        """Store the password hash, role and `is_active` of a user that exists."""
        ...


class Sessions(Protocol):
    """The logins: a token is good as long as its session is live."""

    async def add(self, session: Session) -> None: ...

    async def with_user(self, session_id: str) -> tuple[Session, User] | None:
        """Read a session and its user in one go: this runs on every request."""
        ...

    async def revoke(self, session_id: str, at: datetime) -> None:
        """Revoke for good; the first time counts."""
        ...

    async def live_of(self, owner: int, now: datetime) -> Sequence[Session]:
        """List those neither expired by `now` nor revoked, newest first, then by id, highest first; at most 1 000."""
        ...

    async def revoke_one_of(self, owner: int, session_id: str, at: datetime) -> None:
        """Revoke a live session; raises `NotFound` where the owner has no such one."""
        ...

    async def revoke_all_of(self, owner: int, at: datetime, *, but: str | None = None) -> None:
        """Revoke every session of the owner, except `but`."""
        ...


class ApiKeys(Protocol):
    """The keys of programs, by the digest of their secret (SHA-256); the secret itself is stored nowhere."""

    async def add(self, key: ApiKey, digest: str) -> None:
        """Store a key; `digest` is all that is kept of its secret."""
        ...

    async def of(self, owner: int) -> Sequence[ApiKey]:
        """List all, newest first, then by id, highest first; the expired ones among them."""
        ...

    async def with_user(self, digest: str) -> tuple[ApiKey, User] | None:
        """Read a key and its user in one go: this runs on every request of a program."""
        ...

    async def used(self, key_id: str, at: datetime) -> None:
        """Note a use."""
        ...

    async def delete(self, owner: int, key_id: str) -> None:
        """Delete for good; raises `NotFound` where the owner has no such key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordTry:
    """One guess at a password: at which account, and from where. Both are any words that stand for them."""

    id: str
    account: str
    peer: str
    at: datetime


class PasswordTries(Protocol):
    """The tries at passwords that were wrong or are not yet settled."""

    async def begin(self, one: PasswordTry, *, since: datetime, account_limit: int, peer_limit: int) -> datetime | None:
        """Store a try, unless there are as many after `since` as one of the limits allows.

        Gives None if it was stored; else the time of the try that must grow old before another is
        taken. Units that begin tries at once are put in an order: together they exceed no limit.
        Tries not after `since` may be forgotten, whosever they are.
        """
        ...

    async def forget(self, account: str) -> None:
        """Delete the tries at an account."""
        ...


# --- conversations and messages ---------------------------------------------------------------------


_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Counted(Generic[_Item]):
    """Some of a list, and how many there are in all, in one state of the storage."""

    items: Sequence[_Item]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPlace:
    """A place in a walk through the list of conversations: just behind `id`, which stood at `updated_at`.

    The walk goes through the list as it stood at `began`, the latest activity that its first page saw.
    """

    updated_at: datetime
    id: str
    began: datetime


@dataclass(frozen=True, slots=True)
class FoundConversations(Counted[Conversation]):
    """A page of the list; `rest` is where to read on, None at the end."""

    rest: ConversationPlace | None


class Conversations(Protocol):
    """The conversations of users."""

    async def add(self, conversation: Conversation) -> None:
        """Store a new one; raises `NotFound` where there is no user of that number."""
        ...

    async def get(self, owner: int, conversation_id: str) -> Conversation:
        """Read one; raises `NotFound` `conversation_not_found`."""
        ...

    async def hold(self, owner: int, conversation_id: str) -> Conversation:
        """Read as `get` does, and let nobody else change this conversation until the unit ends."""
        ...

    async def page(
        self,
        owner: int,
        *,
        project_id: str | None,
        limit: int,
        offset: int = 0,
        behind: ConversationPlace | None = None,
    ) -> FoundConversations:
        """List by latest activity, newest first, then by id, highest first, from `offset` or from `behind` on.

        `limit` is at most 1 000. `project_id` None means all. The total counts all under the filter,
        wherever the page begins.

        From `behind` on it is the list as it stood when the walk began: what moved since comes where it stood,
        as it is now; what was made since does not come. Where it stood is told by its messages: one that lost the
        newest of them and moved may come a second time, further behind, but none is skipped for that. Only a message
        that is dated before `began` and committed after the first page was read can hide its conversation.
        """
        ...

    async def update(self, conversation: Conversation) -> None:
        """Store all fields but `id`, `user_id` and `created_at`.

        Raises `NotFound` `conversation_not_found` where `user_id` has no such conversation.
        """
        ...

    async def delete(self, owner: int, conversation_id: str) -> None:
        """Delete with all messages and turns; raises `NotFound` `conversation_not_found`."""
        ...


class Messages(Protocol):
    """The messages of conversations. Who stores them is `Turns.begin` and `TurnLog.end`."""

    async def get(self, owner: int, message_id: str) -> Message:
        """Read one; raises `NotFound` `message_not_found`."""
        ...

    async def page(
        self, owner: int, conversation_id: str, *, limit: int, before: str | None = None
    ) -> Counted[Message]:
        """Read the newest `limit` messages (older than `before`, if given), oldest first; the total counts all.

        The order is that in which they were accepted. Raises `NotFound` (`conversation_not_found`;
        `message_not_found` if `before` is no message of this conversation).
        """
        ...

    async def newest(
        self, owner: int, conversation_id: str, *, limit: int, before: str | None = None
    ) -> Sequence[Message]:
        """Read the items of `page`."""
        ...

    async def delete(self, owner: int, message_id: str) -> None:
        """Delete one, and if it is an answer its turn and log; raises `NotFound` `message_not_found`."""
        ...


# --- turns ------------------------------------------------------------------------------------------

ABSURD_LEASE: Final = timedelta(hours=2)
"""A lease that lasts longer, and twice as long as any, was given by a clock that has been set back since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write a turn's log. Whoever takes a turn over gets a higher `fence`; the old lease is then void.

    `seq` is the last event that the log holds as the lease is given.
    """

    message_id: str
    conversation_id: str
    owner: int
    holder: str
    fence: int
    seq: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """All that accepting a user's message stores, besides the activity of the conversation.

    `history` is how many messages before the answer are wanted, the user's own counted. `at_most` is
    how many of the owner's turns may run at once, this one counted; 0 is no limit.
    """

    owner: int
    conversation_id: str
    user_message: Message
    answer: Message
    holder: str
    lease_for: timedelta
    history: int
    key: "IdempotencyKey | None" = None
    at_most: int = 0

    def lease(self) -> Lease:
        """Give the lease under which the turn begins."""
        return Lease(
            message_id=self.answer.id,
            conversation_id=self.conversation_id,
            owner=self.owner,
            holder=self.holder,
            fence=1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A turn that has begun: the right to write it, the empty answer, and what is told to the model.

    `conversation` is as the turn left it when it began; `history` is the newest messages before the
    answer, oldest first, at most `NewTurn.history`: the last is the user's own. Where one of these cannot be
    read it is empty, and `damaged` says so: the turn was begun all the same, and has to end.
    """

    lease: Lease
    answer: Message
    conversation: Conversation
    history: Sequence[Message]
    damaged: Damaged | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A client's name for one send. `fingerprint` stands for what was sent."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What an idempotency key stands for."""

    fingerprint: str
    message_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How a turn stands."""

    message_id: str
    user_message_id: str
    conversation_id: str
    running: bool
    cancel_requested: bool
    last_seq: int
    """The `seq` of the last event that is committed, whether or not the log is still kept."""


class Turns(Protocol):
    """The turns: which answer is being written, by whom, and what its client calls it."""

    async def begin(self, turn: NewTurn) -> Begun:
        """Store both messages (in this order), the turn, its first event and the key, and touch the conversation.

        The unit ends with this: what it did is committed with the turn, or undone where this raises.
        Gives the conversation and its history with all that was committed before the turn; the
        conversation's `updated_at` becomes the user message's `created_at`. Raises `NotFound`
        `conversation_not_found`; `KeyTaken` where the owner used the key before; `Conflict`
        `generation_in_progress` while another turn of the conversation runs; `TooManyTurns`.
        Concurrent calls are put in an order; of those in one conversation or with one key, one
        succeeds, and of those of one owner no more than `at_most` allows.
        """
        ...

    async def get(self, owner: int, message_id: str) -> Turn | None:
        """Read the turn that writes (or wrote) the answer `message_id`."""
        ...

    async def running_in(self, owner: int, conversation_id: str) -> Turn | None:
        """Read the running turn of a conversation."""
        ...

    async def recall(self, owner: int, key: str) -> Remembered | None:
        """Look an idempotency key up."""
        ...

    async def request_cancel(self, owner: int, message_id: str) -> None:
        """Mark a running turn as to be cancelled; does nothing to one that has ended.

        The unit ends with this, as with `begin`: whoever writes the turn must not wait for a transaction
        whose process was stopped in the middle of it.
        """
        ...


class KeyTaken(Exception):
    """The idempotency key is in use: `Turns.recall`, in another unit, tells what it stands for."""


class TooManyTurns(Exception):
    """As many turns of the owner run as `NewTurn.at_most` allows, in all conversations and processes."""


class UnitOfWork(Protocol):
    """One transaction, as an async context manager. Leaving without `commit()` undoes everything.

    It is over with its commit, and once it is left: what is asked of it then, or before it is entered, raises
    `RuntimeError`.

    A read-only unit sees one consistent state, refuses `commit()` with `RuntimeError`, and changes
    nothing: what would, raises. Keep units short: never wait for a model, a tool or a client inside one.
    Raises `StorageUnavailable` where the database cannot be reached.
    """

    @property
    def users(self) -> Users: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def api_keys(self) -> ApiKeys: ...
    @property
    def tries(self) -> PasswordTries: ...
    @property
    def conversations(self) -> Conversations: ...
    @property
    def messages(self) -> Messages: ...
    @property
    def turns(self) -> Turns: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def commit(self) -> None: ...


class NewUnit(Protocol):
    """Open a unit of work; `async with new_unit() as unit: …; await unit.commit()`.

    With `once` it is for a single read, a second raises `RuntimeError`: what needs no transaction
    costs none.
    """

    def __call__(self, *, read_only: bool = False, once: bool = False) -> UnitOfWork: ...


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event with its place in the turn's log; the first is 1, and there are no gaps.

    `encoded` is its name and data as the log stored them, where that is at hand: whoever sends them on
    to many readers need not encode them again. Two are the same without it.
    """

    seq: int
    event: TurnEvent
    encoded: tuple[str, str] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What a heartbeat found: the turns still held, and those of them that somebody asked to cancel."""

    held: frozenset[str]
    to_cancel: frozenset[str]


class LeaseLost(Exception):
    """The lease is void: another process took the turn over, or the turn is gone."""


class TurnLog(Protocol):
    """The events of turns: committed first, then seen.

    `append` gathers; a writer commits what has gathered, of all turns of this process, in one
    transaction, and then wakes whoever watches. `read` gives committed events only.
    """

    async def append(self, lease: Lease, step: Step) -> None:
        """Take a step of a turn, to be committed soon. Neighbouring deltas may be merged.

        Returns at once as long as there is room, else waits for the writer. Raises `LeaseLost`, at
        this or a later call, once the lease is found void.
        """
        ...

    async def ready(self, lease: Lease) -> None:
        """Wait until just before the next commit, if something of this turn waits for it; else return at once.

        Whoever waits here before reading on reads all that has come by then in one go, and it is
        committed no later for that. Returns, too, where the storage is away: `append` tells of that.
        """
        ...

    async def end(self, lease: Lease, end: End, answer: Message) -> None:
        """Commit what has gathered, the last event and the stored answer, and set the conversation free.

        All of it in one transaction; returns when it is committed. Raises `LeaseLost`, and then
        nothing was stored; `StorageUnavailable` where it was waited for long enough, and then it may be asked
        for again.
        """
        ...

    async def read(
        self, message_id: str, *, after: int = 0, limit: int = 256, afresh: bool = False
    ) -> Sequence[LoggedEvent]:
        """Read committed events with a `seq` above `after`, in order, at most `limit`. Empty where there is none.

        With `afresh` it is what is stored now, past what this process remembers: that may be behind for
        a while where the answer to a commit was lost.
        """
        ...

    def watch(self, message_id: str) -> AbstractContextManager["Wakeup"]:
        """Be woken after commits to this turn, by whichever process.

        A wake-up may come without cause, and may rarely be lost: wait with a timeout, then read.
        """
        ...

    async def renew(self, holder: str, message_ids: Collection[str], lease_for: timedelta) -> Renewal:
        """Heartbeat: extend those leases of `holder` on these turns that are not void.

        Only the turns named: one that `holder` began and no longer runs must be able to run out.
        """
        ...

    async def take_expired(self, holder: str, lease_for: timedelta, *, limit: int = 32) -> Sequence[Lease]:
        """Take over turns whose lease ran out, as `holder`; the old leases are void from here on.

        So are those of which the lease lasts absurdly long (see `ABSURD_LEASE`): they would keep their conversation
        for as long as the clock was set back. Of processes that try at once, one gets a turn.
        """
        ...

    async def announce_cancel(self, message_id: str) -> None:
        """Wake the process that runs this turn, wherever it is, to look at its `cancel_requested`."""
        ...

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with a message id whenever a cancel is announced, here or elsewhere."""
        ...

    async def forget(self, *, ended_before: datetime, keys_made_before: datetime) -> int:
        """Delete the events of turns that ended before; the messages stay. Gives the number of turns.

        Idempotency keys made before `keys_made_before` are deleted too, and sessions that expired before.
        """
        ...


class Wakeup(Protocol):
    """A watch on a turn. Cancelling `wait` loses no wake-up."""

    async def wait(self, seconds: float) -> bool:
        """Wait for a commit since the last `wait` returned, at most so many seconds; tells whether there was one."""
        ...


# --- the model --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemEntry:
    """What the operator of the conversation says to the model."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEntry:
    """What a user said."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantEntry:
    """What the model said in one round; `thinking` is there only for rounds of the present turn."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEntry:
    """What a tool answered to the call `call_id`, as text."""

    call_id: str
    name: str
    text: str


Entry: TypeAlias = SystemEntry | UserEntry | AssistantEntry | ToolEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One round: the transcript so far, and how to go on. Every `ToolEntry` follows the entry that called it."""

    model: str
    entries: tuple[Entry, ...]
    tools: tuple[ToolSpec, ...] = ()
    temperature: float
    max_tokens: int
    thinking_enabled: bool = False


@dataclass(frozen=True, slots=True)
class ModelText:
    """A piece of the answer; never empty, and never a part of a character."""

    delta: str


@dataclass(frozen=True, slots=True)
class ModelThinking:
    """A piece of what the model thinks aloud; never empty."""

    delta: str


@dataclass(frozen=True, slots=True)
class ModelToolCall:
    """One complete call. The provider's id, or one made up where it gave none; unique within the round."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ModelEnd:
    """The round is whole. `reason` is the provider's word (`stop`, `length`, `tool_calls` …)."""

    reason: str
    usage: Usage | None = None


ModelEvent: TypeAlias = ModelText | ModelThinking | ModelToolCall | ModelEnd


class ChatModel(Protocol):
    """A language model."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer one round, event by event as it arrives.

        A whole answer ends with exactly one `ModelEnd`; anything else raises a `ModelError`, within
        the adapter's deadlines. Deltas are never empty. Closing the iterator (`aclose`) or
        cancelling the task that reads it closes the request upstream.
        """
        ...


# --- tools ------------------------------------------------------------------------------------------


class Tool(Protocol):
    """Something a model or a user can call."""

    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, arguments: Mapping[str, Json]) -> Json:
        """Run with these arguments and give a JSON value.

        Raises `InvalidInput` where they break the schema (dotted paths), `ToolRefused`, `ToolBroken`,
        `ToolTimeout`. Never blocks the event loop. Cancelling stops the work.
        """
        ...


# --- where everything is kept -----------------------------------------------------------------------


@runtime_checkable
class Storage(Protocol):
    """Units of work and the turn log over the same data."""

    @property
    def new_unit(self) -> NewUnit: ...
    @property
    def log(self) -> TurnLog: ...

    async def open(self) -> None:
        """Connect and start what the log needs; does nothing to one that is open. Raises `StorageUnavailable`."""
        ...

    async def close(self) -> None:
        """Commit what the log has gathered, and end all connections and tasks."""
        ...

    async def missing(self) -> str | None:
        """Tell what is missing before the service can work, in words for an operator; None if nothing is."""
        ...
