"""Conversations: make, list, read, change, delete."""

import base64
import binascii
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypedDict, Unpack

from luxx.application.cancel_turn import CancelTurn
from luxx.application.ports import Clock, ConversationPlace, NewId, NewUnit
from luxx.application.tools import Toolbox
from luxx.domain.conversation import (
    DEFAULT_MAX_TOKENS,
    DEFAULT_TEMPERATURE,
    DEFAULT_TITLE,
    PROJECT_ID_LIMIT,
    Conversation,
)
from luxx.domain.errors import Fault, InvalidInput
from luxx.domain.fields import number_fault, text_fault

PAGE_SIZE_MAX: Final = 100
OFFSET_MAX: Final = 2**31 - 1
NO_TOOLS: Final = "there are no tools to name"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateConversation:
    """Make a conversation; raises `InvalidInput` with every fault, `NotFound` where there is no such user.

    A user is an account: `AdmitUser` makes one for whomever your program vouches for.
    """

    new_unit: NewUnit
    clock: Clock
    new_id: NewId
    default_model: str
    toolbox: Toolbox | None = None
    """What `tools` may name; None checks no names."""

    def tools_fault(self, names: object) -> Fault | None:
        """Check names of tools beforehand, for who has other faults to tell together with this one."""
        return _unknown_tool(names, self.toolbox)

    async def __call__(
        self,
        *,
        user_id: int,
        project_id: str | None = None,
        title: str = DEFAULT_TITLE,
        model: str | None = None,
        system_prompt: str | None = None,
        temperature: float = DEFAULT_TEMPERATURE,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        thinking_enabled: bool = False,
        tools: Sequence[str] | None = None,
    ) -> Conversation:
        now = self.clock()
        conversation = Conversation(
            id=self.new_id("conv"),
            user_id=user_id,
            project_id=project_id,
            title=title,
            model=self.default_model if model is None else model,
            system_prompt=system_prompt,
            temperature=temperature,
            max_tokens=max_tokens,
            thinking_enabled=thinking_enabled,
            tools=_once_each(tools),
            created_at=now,
            updated_at=now,
        )
        _check(conversation, self.tools_fault(conversation.tools))
        async with self.new_unit() as unit:
            await unit.conversations.add(conversation)
            await unit.commit()
        return conversation


def _check(conversation: Conversation, *others: Fault | None) -> None:
    faults = [*conversation.faults(), *(fault for fault in others if fault is not None)]
    if faults:
        raise InvalidInput(*faults)


def _once_each(names: object) -> tuple[str, ...] | None:
    """Give each name once; what is no list of names is given as it is, for `Conversation.faults` to tell."""
    if isinstance(names, str) or not isinstance(names, Collection):
        return names  # type: ignore[return-value]  # None, or a fault
    return tuple(dict.fromkeys(names)) if all(isinstance(name, str) for name in names) else tuple(names)


def _unknown_tool(names: object, toolbox: Toolbox | None) -> Fault | None:
    if not isinstance(names, tuple | list) or toolbox is None:
        return None
    known = [spec.name for spec in toolbox.specs]
    if all(name in known for name in names):
        return None
    if not known:
        return Fault(field="tools", rule="invalid", parameters={"reason": NO_TOOLS})
    return Fault(field="tools", rule="choice", parameters={"choices": ", ".join(known)})


@dataclass(frozen=True, slots=True, kw_only=True)
class GetConversation:
    """Read one; raises `NotFound`."""

    new_unit: NewUnit

    async def __call__(self, *, user_id: int, conversation_id: str) -> Conversation:
        async with self.new_unit(once=True) as unit:
            return await unit.conversations.get(user_id, conversation_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPage:
    """A page of the list. `next_cursor` is None at the end; `total` counts all under the filter."""

    items: Sequence[Conversation]
    total: int
    next_cursor: str | None


def _cursor_to(place: ConversationPlace) -> str:
    moments = (moment.astimezone(UTC).isoformat() for moment in (place.updated_at, place.began))
    text = " ".join((*moments, place.id))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place_of(cursor: object) -> ConversationPlace:
    if not isinstance(cursor, str):
        raise InvalidInput(_bad_cursor())
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        *moments, identity = text.split(" ")
        updated_at, began = (datetime.fromisoformat(moment) for moment in moments)
        if updated_at.tzinfo is None or began.tzinfo is None or updated_at > began or "\0" in identity:
            raise InvalidInput(_bad_cursor())
        # Some moments have an offset that puts them outside all years in UTC.
        return ConversationPlace(updated_at=updated_at.astimezone(UTC), id=identity, began=began.astimezone(UTC))
    except (binascii.Error, ValueError, OverflowError):
        raise InvalidInput(_bad_cursor()) from None


def _bad_cursor() -> Fault:
    return Fault(field="cursor", rule="invalid", parameters={"reason": "take it from next_cursor of a page"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListConversations:
    """List by latest activity, newest first, a page by number, or the items behind a cursor.

    `page` counts from 1, `page_size` is 1 to 100. Raises `InvalidInput`.

    Behind a cursor it is the list as it stood when the page that gave the first cursor was read: what moves meanwhile
    is neither skipped nor repeated, what is made meanwhile does not come.
    """

    new_unit: NewUnit

    async def __call__(
        self,
        *,
        user_id: int,
        project_id: str | None = None,
        page: int = 1,
        page_size: int = 20,
        cursor: str | None = None,
    ) -> ConversationPage:
        behind = None if cursor is None else _place_of(cursor)
        checks = (
            None if project_id is None else text_fault("project_id", project_id, 1, PROJECT_ID_LIMIT),
            number_fault("page", page, 1, math.inf, whole=True),
            number_fault("page_size", page_size, 1, PAGE_SIZE_MAX, whole=True),
        )
        if faults := [fault for fault in checks if fault is not None]:
            raise InvalidInput(*faults)
        # A page number beyond what any database counts is an empty page like any other beyond the end.
        offset = 0 if behind else min((page - 1) * page_size, OFFSET_MAX)
        async with self.new_unit(once=True) as unit:
            found = await unit.conversations.page(
                user_id, project_id=project_id, limit=page_size, offset=offset, behind=behind
            )
        next_cursor = None if found.rest is None else _cursor_to(found.rest)
        return ConversationPage(items=found.items, total=found.total, next_cursor=next_cursor)


class ConversationChanges(TypedDict, total=False):
    """The fields that `UpdateConversation` takes; those left out stay as they are."""

    project_id: str | None
    title: str
    model: str
    system_prompt: str | None
    temperature: float
    max_tokens: int
    thinking_enabled: bool
    tools: Sequence[str] | None


_CHANGEABLE: Final = ConversationChanges.__annotations__.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConversation:
    """Change the given fields and no others; None clears `project_id` and `system_prompt`, in `tools` it allows all.

    A change is no activity: the place in the list stays. Raises `InvalidInput`, for what is none of
    `ConversationChanges` too, and `NotFound`.
    """

    new_unit: NewUnit
    toolbox: Toolbox | None = None

    def tools_fault(self, names: object) -> Fault | None:
        """Check names of tools beforehand, for who has other faults to tell together with this one."""
        return _unknown_tool(names, self.toolbox)

    async def __call__(
        self, *, user_id: int, conversation_id: str, **changes: Unpack[ConversationChanges]
    ) -> Conversation:
        # Whoever hands on what a client sent must not let it change whose a conversation is, or which.
        unknown = [Fault(field=name, rule="unknown") for name in changes if name not in _CHANGEABLE]
        settings = {name: value for name, value in changes.items() if name in _CHANGEABLE}
        if "tools" in changes:
            settings["tools"] = _once_each(changes["tools"])
        async with self.new_unit() as unit:
            conversation = replace(await unit.conversations.hold(user_id, conversation_id), **settings)  # type: ignore[arg-type]  # checked next
            # A tool that was named when there was one, and is gone since, is no reason to refuse a new title.
            gone = self.tools_fault(conversation.tools) if "tools" in changes else None
            _check(conversation, gone, *unknown)
            await unit.conversations.update(conversation)
            await unit.commit()
        return conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteConversation:
    """Delete one with its messages; a running turn is cancelled first. Raises `NotFound`."""

    new_unit: NewUnit
    cancel_turn: CancelTurn

    async def __call__(self, *, user_id: int, conversation_id: str) -> None:
        async with self.new_unit(once=True) as unit:
            turn = await unit.turns.running_in(user_id, conversation_id)
        if turn is not None:
            await self.cancel_turn(user_id=user_id, message_id=turn.message_id)
        async with self.new_unit() as unit:
            await unit.conversations.delete(user_id, conversation_id)
            await unit.commit()
