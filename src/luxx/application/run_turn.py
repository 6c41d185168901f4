"""The loop between model and tools, once: run a turn from its first round to its stored end."""

import asyncio
import inspect
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from luxx.application.letting_go import forget_frames, let_go, spawn
from luxx.application.observer import UNOBSERVED, Observer, RoundRecord, TurnRecord
from luxx.application.ports import (
    AssistantEntry,
    Begun,
    ChatModel,
    Entry,
    Lease,
    LeaseLost,
    ModelEnd,
    ModelEvent,
    ModelRequest,
    ModelText,
    ModelThinking,
    ModelToolCall,
    ToolEntry,
    TurnLog,
)
from luxx.application.tools import Toolbox
from luxx.application.transcript import tool_entry, transcript
from luxx.domain.errors import (
    Damaged,
    InternalError,
    Interrupted,
    InvalidInput,
    LuxxError,
    ModelRateLimited,
    ModelUnavailable,
    StorageUnavailable,
)
from luxx.domain.message import Problem, Status, ToolCallPart, Usage, clean
from luxx.domain.tool import ToolCall, ToolSpec
from luxx.domain.turn import Answer, Done, Failed, Step, Text, Thinking, ToolCalled, ToolReturned, deltas_of

MAX_CALLS: Final = 32
"""Tool calls run in one round, at most; further ones are refused to the model."""

PROBLEM_LIMIT: Final = 8192
"""Characters of what a failure says of itself, at most: the rest is stored and told nowhere."""

RETRY_S: Final = 0.05
"""Seconds between two tries to store an end, at least: a log of somebody's own may not wait by itself."""

LET_GO_S: Final = 2.0
"""Seconds that a stopped model has to clean up, before it is stopped once more; then nobody waits for it."""

_log = logging.getLogger(__name__)


class Stop(Enum):
    """Why a turn is to end before its answer does."""

    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    """The lease is void: whatever is stored of the turn is stored by somebody else."""


@dataclass(slots=True, kw_only=True)
class _Running:
    """What a turn has come to so far."""

    begun: Begun
    lease: Lease
    log: TurnLog
    answer: Answer = field(default_factory=Answer)
    usage: Usage | None = None
    model: str | None = None
    call_ids: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    rounds: int = 0

    async def add(self, step: Step) -> None:
        # In this order: a turn that is stopped while the log has no room must not answer with a step
        # that no reader can ever see.
        await self.log.append(self.lease, step)
        self.answer.add(step)

    def heard(self, event: ModelEvent) -> None:
        if self.first_token_s is None and not isinstance(event, ModelEnd):
            self.first_token_s = time.monotonic() - self.began

    def unique(self, call: ToolCall) -> ToolCall:
        """Providers make ids unique within a round only."""
        identity, number = call.id, 1
        while identity in self.call_ids:
            number += 1
            identity = f"{call.id}_{number}"
        self.call_ids.add(identity)
        return replace(call, id=identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTurn:
    """Run a turn that `SendMessage` has begun, and store its end, whatever happens.

    At most `max_rounds` rounds may call tools; then one last round has none. `result_budget` is how many
    characters of each tool result the model is shown.
    """

    log: TurnLog
    model: ChatModel
    toolbox: Toolbox
    max_rounds: int = 10
    result_budget: int = 20_000
    observer: Observer = UNOBSERVED
    unstored: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Answers that have come to their end, which waits for a storage that has been away for a while."""

    async def __call__(self, begun: Begun, *, tools_enabled: bool, stop: "asyncio.Future[Stop]") -> None:
        """Run until the answer is whole, the model fails, or `stop` is set; then commit the end.

        While the end cannot be stored, it is tried again: the turn is kept alive by its supervisor. Raises nothing
        that a caller could mend: where it is stopped before that, the lease runs out, and whoever takes the turn
        over stores it as interrupted.
        """
        lease = begun.lease
        record = TurnRecord(message_id=lease.message_id, conversation_id=lease.conversation_id, user_id=lease.owner)
        running = _Running(begun=begun, lease=lease, log=self.log)
        with self.observer.turn(record):
            try:
                await self._to_end(running, record, tools_enabled=tools_enabled, stop=stop)
            finally:
                record.model, record.usage, record.rounds = running.model, running.usage, running.rounds
                record.first_token_s = running.first_token_s
                record.duration_s = time.monotonic() - running.began

    async def _to_end(
        self, running: _Running, record: TurnRecord, *, tools_enabled: bool, stop: "asyncio.Future[Stop]"
    ) -> None:
        lease = running.lease
        work = spawn(self._work(running, tools_enabled=tools_enabled), name=f"work of {lease.message_id}")
        stopped = False
        try:
            either: set[asyncio.Future[Any]] = {work, stop}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                stopped = True
                # Twice: some take the first one for a failure of the network, and try again.
                if not (await let_go(work, patience=LET_GO_S) or await let_go(work, patience=LET_GO_S)):
                    _log.error("%s.stream takes no notice of being stopped, and is left", type(self.model).__name__)
        failure: BaseException | None = None
        if work.cancelled():
            if not work.cancelling():
                # Nobody stopped this turn: what the model waited for was cancelled within the model.
                failure = RuntimeError(f"{type(self.model).__name__}.stream raised a CancelledError of its own")
        elif work.done():
            failure = work.exception()
        reason = None
        if stopped or (work.cancelled() and failure is None):
            # Whatever the model or a tool raises while it is stopped is no failure of the answer.
            reason = stop.result() if stop.done() else Stop.INTERRUPTED
        if reason is Stop.LOST or isinstance(failure, LeaseLost):
            record.outcome = "lost"
            forget_frames(failure)
            _log.warning("the turn %s was taken over or deleted", lease.message_id)
            return
        status, problem = _outcome(reason, failure)
        forget_frames(failure)
        record.outcome, record.error = status.value, None if problem is None else problem.code
        pause = failure.retry_after if isinstance(failure, ModelRateLimited) else None
        try:
            await self._end(running, status, problem, pause, stop)
        except LeaseLost:
            record.outcome = "lost"
            _log.warning("the turn %s was taken over or deleted before its end", lease.message_id)
        except StorageUnavailable as error:
            record.outcome, record.error = Status.INTERRUPTED.value, error.code
            _log.warning("the end of the turn %s could not be stored: its lease will run out", lease.message_id)

    async def _end(
        self,
        running: _Running,
        status: Status,
        problem: Problem | None,
        retry_after: float | None,
        stop: "asyncio.Future[Stop]",
    ) -> None:
        answer = replace(
            running.begun.answer,
            parts=running.answer.parts,
            status=status,
            model=running.model,
            usage=running.usage,
            error=problem,
        )
        end = (
            Done(message=answer)
            if problem is None
            else Failed(code=problem.code, message=problem.message, message_id=answer.id, retry_after=retry_after)
        )
        message_id = answer.id
        try:
            while True:
                tried = time.monotonic()
                try:
                    await self.log.end(running.lease, end, answer)
                except StorageUnavailable as error:
                    if stop.done():
                        raise
                    if message_id not in self.unstored:
                        _log.warning("the end of the turn %s waits for the storage: %s", message_id, error)
                    self.unstored.add(message_id)
                    await asyncio.sleep(max(0.0, tried + RETRY_S - time.monotonic()))
                else:
                    return
        finally:
            self.unstored.discard(message_id)

    async def _work(self, running: _Running, *, tools_enabled: bool) -> None:
        conversation = running.begun.conversation
        running.model = conversation.model
        if running.begun.damaged is not None:
            raise running.begun.damaged
        entries = list(
            transcript(
                conversation.system_prompt,
                running.begun.history,
                budget=self.result_budget,
                untrusted=self.toolbox.untrusted,
            )
        )
        tools = self.toolbox.offered(conversation.tools) if tools_enabled else ()
        for _ in range(self.max_rounds if tools else 0):
            said = await self._round(running, entries, tools)
            if not said.calls:
                return
            entries.append(said)
            entries.extend(await self._run_tools(running, said.calls, frozenset(tool.name for tool in tools)))
        await self._round(running, entries, ())

    async def _round(self, running: _Running, entries: Sequence[Entry], tools: tuple[ToolSpec, ...]) -> AssistantEntry:
        """Let the model speak once; gives what it said, with the calls that are to be run."""
        conversation = running.begun.conversation
        request = ModelRequest(
            model=conversation.model,
            entries=tuple(entries),
            tools=tools,
            temperature=conversation.temperature,
            max_tokens=conversation.max_tokens,
            thinking_enabled=conversation.thinking_enabled,
        )
        running.rounds += 1
        record = RoundRecord(
            number=running.rounds,
            conversation_id=conversation.id,
            model=request.model,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
        )
        began = time.monotonic()
        with self.observer.round(record):
            try:
                said = await self._speak(running, request, record)
                record.outcome = "complete"
            except LuxxError as error:
                record.outcome, record.error = "failed", error.code
                raise
            except SystemExit as error:
                record.outcome, record.error = "failed", InternalError.code
                raise RuntimeError(f"{type(self.model).__name__}.stream would end the process") from error
            except Exception:
                record.outcome, record.error = "failed", InternalError.code
                raise
            finally:
                record.duration_s = time.monotonic() - began
        return said

    async def _speak(self, running: _Running, request: ModelRequest, record: RoundRecord) -> AssistantEntry:
        text: list[str] = []
        thinking: list[str] = []
        calls: list[ToolCall] = []
        ended = False
        async with aclosing(_answer_of(self.model, request)) as events:
            async for event in events:
                running.heard(event)
                match event:
                    case ModelText(delta=str(delta)):
                        text.append(clean(delta))
                        await self._say(running, Text, text[-1])
                    case ModelThinking(delta=str(delta)):
                        thinking.append(clean(delta))
                        if request.thinking_enabled:
                            await self._say(running, Thinking, thinking[-1])
                    case ModelToolCall(call=ToolCall(id=str(), name=str()) as call) if request.tools:
                        calls.append(running.unique(_cleaned(call)))
                        await running.add(
                            ToolCalled(id=calls[-1].id, name=calls[-1].name, arguments=calls[-1].arguments or {})
                        )
                    case ModelToolCall(call=ToolCall(id=str(), name=str())):
                        _log.info("the model asked for a tool where it was offered none")
                    case ModelEnd(reason=str(reason), usage=usage) if _counts(usage):
                        ended = True
                        record.reason, record.usage = reason, usage
                        if usage is not None:
                            running.usage = usage if running.usage is None else running.usage + usage
                    case _:
                        # Stored, some could never be read again; passed over, an answer would end as if it were whole.
                        raise TypeError(
                            f"{type(self.model).__name__}.stream gave a {type(event).__name__} that is no ModelEvent, "
                            "or holds what none may: see luxx.application.ModelEvent"
                        )
        if not ended:
            raise ModelUnavailable("The model's answer broke off before its end.")
        return AssistantEntry(text="".join(text), thinking="".join(thinking), calls=tuple(calls))

    async def _say(self, running: _Running, kind: type[Text | Thinking], said: str) -> None:
        for delta in deltas_of(said):
            await running.add(kind(delta=delta))
        await self.log.ready(running.lease)

    async def _run_tools(
        self, running: _Running, calls: Sequence[ToolCall], offered: frozenset[str]
    ) -> list[ToolEntry]:
        """Run calls together; the outcomes are logged as they come, and told to the model in the order asked."""
        async with aclosing(self._as_they_come(running.lease.owner, calls, offered)) as returned:
            async for outcome in returned:
                await running.add(outcome)
        parts = {part.id: part for part in running.answer.parts if isinstance(part, ToolCallPart)}
        untrusted = self.toolbox.untrusted
        return [
            tool_entry(parts[call.id], budget=self.result_budget, untrusted=call.name in untrusted) for call in calls
        ]

    async def _as_they_come(
        self, owner: int, calls: Sequence[ToolCall], offered: frozenset[str]
    ) -> AsyncGenerator[ToolReturned, None]:
        tasks = [asyncio.ensure_future(self._run_tool(owner, call, offered)) for call in calls[:MAX_CALLS]]
        try:
            for call in calls[MAX_CALLS:]:
                problem = Problem(code="tool_failed", message=f"Not run: more than {MAX_CALLS} calls at once.")
                yield ToolReturned(id=call.id, name=call.name, success=False, error=problem, duration_ms=0)
            for finished in asyncio.as_completed(tasks):
                yield await finished
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_tool(self, owner: int, call: ToolCall, offered: frozenset[str]) -> ToolReturned:
        """Run one call of a model; its failure is an outcome, not an exception. Only what was offered is run."""
        started = time.monotonic()
        try:
            if call.name not in offered:
                problem = Problem(code="tool_not_found", message=f"There is no tool named {call.name!r}.")
            elif call.arguments is None:
                problem = Problem(code="validation_failed", message=_no_object(call.malformed))
            else:
                # A copy: what was asked is told and stored as it was, whatever the tool takes out of it.
                done = await self.toolbox.run(call.name, deepcopy(call.arguments), user_id=owner, call_id=call.id)
                return ToolReturned(
                    id=call.id, name=call.name, success=True, result=done.result, duration_ms=done.duration_ms
                )
        except InvalidInput as error:
            problem = Problem(code=error.code, message=f"Bad arguments: {error}")
            forget_frames(error)
        except LuxxError as error:
            problem = Problem(code=error.code, message=str(error))
            forget_frames(error)
        duration_ms = round((time.monotonic() - started) * 1000)
        problem = replace(problem, message=_told(problem.message))
        return ToolReturned(id=call.id, name=call.name, success=False, error=problem, duration_ms=duration_ms)


def _answer_of(model: ChatModel, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
    """Ask a model; raises TypeError where what it gives cannot be read, and says so before anything else does."""
    answer: Any = model.stream(request)
    if not hasattr(answer, "__anext__") or not hasattr(answer, "aclose"):
        if inspect.iscoroutine(answer):
            answer.close()  # else it warns that nobody awaited it
        raise TypeError(f"{type(model).__name__}.stream must be an async generator, and gave a {type(answer).__name__}")
    events: AsyncGenerator[ModelEvent, None] = answer
    return events


def _counts(usage: object) -> bool:
    if not isinstance(usage, Usage):
        return usage is None
    counts = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    # Stored, a bool is true or false, and no number when it is read again.
    return all(type(count) is int and 0 <= count < 2**63 for count in counts)


def _cleaned(call: ToolCall) -> ToolCall:
    arguments = None
    if isinstance(call.arguments, Mapping):
        # What is no JSON, or nested beyond all use: the model is told as of any arguments that are none.
        with suppress(TypeError, ValueError):
            arguments = clean(call.arguments)
    return replace(call, id=clean(call.id), name=clean(call.name), arguments=arguments, malformed=clean(call.malformed))


def _no_object(text: str) -> str:
    """Tell a model where its arguments are no JSON: it is not shown again what it wrote, nor that it was cut off."""
    try:
        json.loads(text or "null")
    except json.JSONDecodeError as error:
        return f"The arguments were no JSON object ({error.msg}: character {error.pos} of {len(text)})."
    except (ValueError, RecursionError):
        pass
    return "The arguments were no JSON object."


def _told(text: str) -> str:
    """Make what a failure says of itself fit to store."""
    told: str = clean(text)
    return told if len(told) <= PROBLEM_LIMIT else f"{told[:PROBLEM_LIMIT]}…"


def _outcome(reason: Stop | None, failure: BaseException | None) -> tuple[Status, Problem | None]:
    if reason is Stop.CANCELLED:
        return Status.CANCELLED, None
    if reason is not None:
        return Status.INTERRUPTED, interrupted()
    if failure is None:
        return Status.COMPLETE, None
    if isinstance(failure, Damaged):
        _log.error("a turn failed: %s", failure.to_operator())
    if isinstance(failure, LuxxError):
        return Status.FAILED, Problem(code=failure.code, message=_told(str(failure)))
    _log.error("a turn failed unexpectedly", exc_info=failure)
    return Status.FAILED, Problem(code=InternalError.code, message="The answer failed by a fault of the service.")


def interrupted() -> Problem:
    return Problem(code=Interrupted.code, message="The answer was interrupted: the process that wrote it ended.")
