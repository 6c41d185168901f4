"""Conversations: make, list, change, delete."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.application.house import OWNER, Gate, House

from luxx.adapters.models.scripted import spoken
from luxx.application import GetConversation, UpdateConversation
from luxx.application.conversations import ConversationChanges, _place_of
from luxx.domain.conversation import Conversation
from luxx.domain.errors import InvalidInput, NotFound


async def test_what_is_not_given_is_as_the_contract_says(house: House) -> None:
    made = await house.conversation()
    now = house.clock()
    assert made == Conversation(
        id=made.id,
        user_id=OWNER,
        project_id=None,
        title="新会话",
        model="glm-5",
        system_prompt=None,
        temperature=1.0,
        max_tokens=65_536,
        thinking_enabled=False,
        created_at=now,
        updated_at=now,
    )
    get = GetConversation(new_unit=house.storage.new_unit)
    assert await get(user_id=OWNER, conversation_id=made.id) == made
    with pytest.raises(NotFound):
        await get(user_id=OWNER + 1, conversation_id=made.id)


async def test_what_breaks_rules_is_told_at_once_and_not_stored(house: House) -> None:
    with pytest.raises(InvalidInput) as refused:
        await house.conversation(title="", temperature=3.0, max_tokens=0, model="m" * 256)
    assert {fault.field for fault in refused.value.faults} == {"title", "temperature", "max_tokens", "model"}
    assert (await house.list_conversations(user_id=OWNER)).total == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"title": "t"},
        {"project_id": "p"},
        {"project_id": None},
        {"model": "m"},
        {"system_prompt": None},
        {"system_prompt": ""},
        {"temperature": 0.0},
        {"max_tokens": 1},
        {"thinking_enabled": True},
        {"title": "t", "temperature": 2.0},
    ],
)
async def test_an_update_changes_what_is_given_and_nothing_else(house: House, changes: ConversationChanges) -> None:
    made = await house.conversation(project_id="before", system_prompt="before", title="before")
    house.clock.advance(60)
    update = UpdateConversation(new_unit=house.storage.new_unit)
    changed = await update(user_id=OWNER, conversation_id=made.id, **changes)
    assert changed == replace(made, **changes)  # type: ignore[arg-type]  # none names tools
    get = GetConversation(new_unit=house.storage.new_unit)
    assert await get(user_id=OWNER, conversation_id=made.id) == changed


async def test_an_update_that_breaks_rules_or_is_somebody_elses_changes_nothing(house: House) -> None:
    made = await house.conversation()
    update = UpdateConversation(new_unit=house.storage.new_unit)
    with pytest.raises(InvalidInput):
        await update(user_id=OWNER, conversation_id=made.id, title="good", temperature=float("nan"))
    with pytest.raises(NotFound):
        await update(user_id=OWNER + 1, conversation_id=made.id, title="mine")
    assert (await house.list_conversations(user_id=OWNER)).items == [made]


async def test_pages_by_number_hold_everything_once_newest_first(house: House) -> None:
    made = [await house.conversation(project_id="p" if number % 2 else None) for number in range(7)]
    pages = [await house.list_conversations(user_id=OWNER, page=page, page_size=3) for page in (1, 2, 3)]
    assert [one for page in pages for one in page.items] == made[::-1]
    assert {page.total for page in pages} == {7}
    assert [page.next_cursor is None for page in pages] == [False, False, True]
    filtered = await house.list_conversations(user_id=OWNER, project_id="p")
    assert (list(filtered.items), filtered.total) == (made[5::-2], 3)
    assert (await house.list_conversations(user_id=OWNER + 1)).total == 0


@pytest.mark.parametrize("page", [4, 10**12])
async def test_a_page_beyond_the_end_is_empty_with_the_true_total(house: House, page: int) -> None:
    for _ in range(3):
        await house.conversation()
    beyond = await house.list_conversations(user_id=OWNER, page=page, page_size=1)
    assert (list(beyond.items), beyond.total, beyond.next_cursor) == ([], 3, None)


async def test_the_page_that_ends_the_list_has_no_cursor(house: House) -> None:
    for _ in range(4):
        await house.conversation()
    first = await house.list_conversations(user_id=OWNER, page_size=2)
    second = await house.list_conversations(user_id=OWNER, page_size=2, cursor=first.next_cursor)
    assert (len(second.items), second.next_cursor) == (2, None)


async def test_cursor_pages_neither_skip_nor_repeat_while_rows_move(house: House) -> None:
    """Between pages an unread row moves to the front, a read one too, and a new one comes: the old come once each."""
    house.model.then(spoken("a"), spoken("b"))
    made = [await house.conversation() for _ in range(9)]
    unread_moves, read_moves = made[1], made[8]
    seen: list[str] = []
    cursor = None
    for page in range(9):
        found = await house.list_conversations(user_id=OWNER, page_size=2, cursor=cursor)
        seen += [one.id for one in found.items]
        if page == 0:
            await house.answer(unread_moves)
            await house.answer(read_moves)
            await house.conversation()
        cursor = found.next_cursor
        if cursor is None:
            break
    assert seen == [one.id for one in made[::-1]]


async def test_a_walk_that_begins_at_any_page_neither_skips_nor_repeats(house: House) -> None:
    house.model.then(*(spoken("a") for _ in range(3)))
    made = [await house.conversation() for _ in range(9)]
    found = await house.list_conversations(user_id=OWNER, page=2, page_size=3)
    seen = [one.id for one in found.items]
    for mover in (made[1], made[8], made[4]):
        await house.answer(mover)
    while found.next_cursor is not None:
        found = await house.list_conversations(user_id=OWNER, page_size=1, cursor=found.next_cursor)
        seen += [one.id for one in found.items]
    assert seen == [one.id for one in made[5::-1]]


async def test_rows_of_the_same_moment_are_neither_skipped_nor_repeated(house: House) -> None:
    made = [await house.create_conversation(user_id=OWNER) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        found = await house.list_conversations(user_id=OWNER, page_size=2, cursor=cursor)
        seen += [one.id for one in found.items]
        cursor = found.next_cursor
        if cursor is None:
            break
    assert seen == sorted((one.id for one in made), reverse=True)


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"page": 0}, {"page"}),
        ({"page_size": 0}, {"page_size"}),
        ({"page_size": 101}, {"page_size"}),
        ({"page": -1, "page_size": -1}, {"page", "page_size"}),
    ],
)
async def test_bad_numbers_are_told_at_once(house: House, options: dict[str, int], faults: set[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        await house.list_conversations(user_id=OWNER, **options)  # type: ignore[arg-type]  # page and page_size only
    assert {fault.field for fault in refused.value.faults} == faults


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def tell_place(cursor: str) -> None:
    """Hold any cursor to the rule: a place in UTC that every database can compare, or `InvalidInput`."""
    try:
        place = _place_of(cursor)
    except InvalidInput:
        return
    assert place.updated_at.utcoffset() == place.began.utcoffset() == timedelta()
    assert place.updated_at <= place.began
    assert "\0" not in place.id
    place.id.encode()


@given(st.text())
@example("")
@example("=")
@example("é")
@example("\ud800")
def test_any_text_as_a_cursor_is_a_place_or_invalid(cursor: str) -> None:
    tell_place(cursor)


@given(st.binary())
def test_any_bytes_in_a_cursor_are_a_place_or_invalid(data: bytes) -> None:
    tell_place(base64.urlsafe_b64encode(data).decode().rstrip("="))


MOMENTS = st.datetimes(timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone))


@given(MOMENTS, MOMENTS, st.text(max_size=40))
@example(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), "conv_1")
def test_any_moments_and_id_in_a_cursor_are_a_place_or_invalid(
    moment: datetime, began: datetime, identity: str
) -> None:
    text = f"{moment.isoformat()} {began.isoformat()} {identity}"
    tell_place(base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("="))


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00+23:59 2026-01-01T00:00:00+00:00 conv_1",
        "2026-01-01T00:00:00+00:00 9999-12-31T23:59:59-23:59 conv_1",
        "2026-01-01T00:00:00 2026-01-01T00:00:00+00:00 conv_1",
        "2026-01-01T00:00:00+00:00 2026-01-01T00:00:00 conv_1",
        "2026-01-02T00:00:00+00:00 2026-01-01T00:00:00+00:00 conv_1",
        "2026-01-01T00:00:00+00:00 2026-01-01T00:00:00+00:00 conv\0",
        "2026-01-01T00:00:00+00:00 2026-01-01T00:00:00+00:00",
        "2026-01-01T00:00:00+00:00 conv_1",
        "2026-01-01T00:00:00+00:00 soon conv_1",
        " ",
        "  ",
    ],
)
async def test_a_cursor_that_no_page_gave_is_invalid_input(house: House, text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await house.list_conversations(user_id=OWNER, cursor=encoded(text))
    assert [fault.field for fault in refused.value.faults] == ["cursor"]


async def test_deleting_a_conversation_stops_its_turn_and_takes_its_messages(house: House) -> None:
    gate = Gate()
    house.model.then([gate])
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    await gate.wait_reached()
    with pytest.raises(NotFound):
        await house.delete_conversation(user_id=OWNER + 1, conversation_id=conversation.id)
    assert house.supervisor.running == 1
    await house.delete_conversation(user_id=OWNER, conversation_id=conversation.id)
    assert house.model.open_streams == 0
    with pytest.raises(NotFound):
        await house.stored(message_id)
    with pytest.raises(NotFound):
        await house.delete_conversation(user_id=OWNER, conversation_id=conversation.id)


async def test_deleting_a_quiet_conversation_leaves_the_others(house: House) -> None:
    kept, gone = await house.conversation(), await house.conversation()
    await house.delete_conversation(user_id=OWNER, conversation_id=gone.id)
    assert (await house.list_conversations(user_id=OWNER)).items == [kept]
