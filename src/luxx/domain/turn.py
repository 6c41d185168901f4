"""A turn: one user message and the answer to it, as a sequence of events.

The events are the truth. The stored answer, the last event of a stream and what a client joins by
itself are all the fold of the same events:

    start (thinking | text | tool_call | tool_result)* (done | error)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from luxx.domain.message import Json, Message, Part, Problem, TextPart, ThinkingPart, ToolCallPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The user message is stored, and so is the empty answer `message_id`."""

    user_message: Message
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    """The model asked for a tool; its arguments are complete."""

    id: str
    name: str
    arguments: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    """The outcome of the call `id`: a `result` on success, else an `error`."""

    id: str
    name: str
    success: bool
    result: Json = None
    error: Problem | None = None
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The turn ended as asked for (complete, or cancelled); `message` is the stored answer."""

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The turn ended otherwise; what had arrived is stored under `message_id`.

    `retry_after` is what the model's provider asked for, in seconds. It is no part of the event and stored nowhere:
    only who follows in the process that ran the turn, while it is still at hand there, is told.
    """

    code: str
    message: str
    message_id: str
    retry_after: float | None = field(default=None, compare=False)


Delta: TypeAlias = Thinking | Text
Step: TypeAlias = Delta | ToolCalled | ToolReturned
End: TypeAlias = Done | Failed
TurnEvent: TypeAlias = Started | Step | End


class ImpossibleStep(Exception):
    """An event that may not follow what came before it."""


MERGED_LIMIT: Final = 4 * 1024
"""Characters of a delta from which on it takes in no more: whoever reads events holds few of them at once."""


def deltas_of(text: str) -> Iterable[str]:
    """Cut what was said at once into deltas of at most `MERGED_LIMIT` characters."""
    if len(text) <= MERGED_LIMIT:
        return (text,)
    return (text[start : start + MERGED_LIMIT] for start in range(0, len(text), MERGED_LIMIT))


def merged(events: Iterable[TurnEvent]) -> list[TurnEvent]:
    """Join neighbouring deltas, up to `MERGED_LIMIT`: the fold stays the same."""
    runs: list[list[TurnEvent]] = []
    size = 0
    for event in events:
        if isinstance(event, Text | Thinking) and runs and type(runs[-1][0]) is type(event) and size < MERGED_LIMIT:
            runs[-1].append(event)
        else:
            runs.append([event])
            size = 0
        size += len(event.delta) if isinstance(event, Text | Thinking) else 0
    return [_joined(run) for run in runs]


def _joined(run: list[TurnEvent]) -> TurnEvent:
    first = run[0]
    if len(run) == 1 or not isinstance(first, Text | Thinking):
        return first
    return type(first)(delta="".join(event.delta for event in run if isinstance(event, Text | Thinking)))


class Answer:
    """The fold of a turn's events into the parts of its answer.

    `add` raises `ImpossibleStep` for an event out of place, and then nothing has changed.
    """

    __slots__ = ("_calls", "_end", "_parts", "_returned", "_run", "_run_kind")

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._calls: dict[str, int] = {}
        self._returned = False
        self._run: list[str] = []
        self._run_kind: type[TextPart | ThinkingPart] = TextPart
        self._end: End | None = None

    def add(self, event: TurnEvent) -> None:
        """Take the next event; deltas without text change nothing."""
        if self._end is not None:
            raise ImpossibleStep(f"{type(event).__name__} after the end of the turn")
        match event:
            case Text(delta=delta):
                self._extend(TextPart, delta)
            case Thinking(delta=delta):
                self._extend(ThinkingPart, delta)
            case ToolCalled():
                if event.id in self._calls:
                    raise ImpossibleStep(f"a second tool call with the id {event.id!r}")
                self._close_run()
                self._calls[event.id] = len(self._parts)
                self._parts.append(
                    ToolCallPart(id=event.id, name=event.name, arguments=event.arguments, later=self._returned)
                )
                self._returned = False
            case ToolReturned():
                self._settle(event)
            case Done() | Failed():
                self._end = event
            case Started():
                if self._parts or self._run:
                    raise ImpossibleStep("start after the first step of the turn")

    def _extend(self, kind: type[TextPart | ThinkingPart], delta: str) -> None:
        if not delta:
            return
        if self._run_kind is not kind:
            self._close_run()
            self._run_kind = kind
        self._run.append(delta)

    def _close_run(self) -> None:
        if self._run:
            self._parts.append(self._run_kind(text="".join(self._run)))
            self._run.clear()

    def _settle(self, event: ToolReturned) -> None:
        place = self._calls.get(event.id)
        call = None if place is None else self._parts[place]
        if place is None or not isinstance(call, ToolCallPart) or call.success is not None:
            raise ImpossibleStep(f"a tool result for no open call: {event.id!r}")
        self._parts[place] = replace(
            call,
            result=event.result,
            success=event.success,
            error=event.error,
            duration_ms=event.duration_ms,
        )
        self._returned = True

    @property
    def parts(self) -> tuple[Part, ...]:
        if not self._run:
            return tuple(self._parts)
        return (*self._parts, self._run_kind(text="".join(self._run)))

    @property
    def end(self) -> End | None:
        return self._end


def fold(events: Iterable[TurnEvent]) -> Answer:
    """Fold all `events`; raises `ImpossibleStep` where one is out of place."""
    answer = Answer()
    for event in events:
        answer.add(event)
    return answer
