"""Listing and deleting messages."""

import pytest
from tests.unit.application.house import OWNER, FunctionTool, Gate, House, echo, opened

from luxx.adapters.models.scripted import calling, spoken
from luxx.application.ports import ModelText
from luxx.domain.errors import InvalidInput, NotFound
from luxx.domain.message import Status, TextPart, ToolCallPart


async def test_pages_back_give_every_message_once_oldest_first(house: House) -> None:
    house.model.then(*(spoken(f"answer {number}") for number in range(3)))
    conversation = await house.conversation()
    for number in range(3):
        await house.answer(conversation, f"question {number}")
    pages: list[list[str]] = []
    before = None
    while True:
        page = await house.list_messages(user_id=OWNER, conversation_id=conversation.id, limit=4, before=before)
        pages.append([message.content for message in page.items])
        assert page.total == 6
        if not page.has_more:
            break
        before = page.items[0].id
    assert pages == [["question 1", "answer 1", "question 2", "answer 2"], ["question 0", "answer 0"]]


async def test_a_page_that_is_just_full_says_that_there_is_no_more(house: House) -> None:
    house.model.then(spoken("a"))
    conversation = await house.conversation()
    await house.answer(conversation)
    page = await house.list_messages(user_id=OWNER, conversation_id=conversation.id, limit=2)
    assert (len(page.items), page.has_more) == (2, False)
    assert (await house.list_messages(user_id=OWNER, conversation_id=conversation.id, limit=1)).has_more


@pytest.mark.parametrize(("limit", "rule"), [(0, "too_small"), (-1, "too_small"), (1001, "too_large")])
async def test_the_limit_is_1_to_1000(house: House, limit: int, rule: str) -> None:
    conversation = await house.conversation()
    with pytest.raises(InvalidInput) as refused:
        await house.list_messages(user_id=OWNER, conversation_id=conversation.id, limit=limit)
    assert [(fault.field, fault.rule) for fault in refused.value.faults] == [("limit", rule)]
    for good in (1, 1000):
        assert (await house.list_messages(user_id=OWNER, conversation_id=conversation.id, limit=good)).items == []


async def test_an_answer_that_is_still_written_shows_what_is_committed_so_far() -> None:
    async with opened(tools=[FunctionTool("echo", echo)]) as house:
        gate = Gate()
        house.model.then(calling(("echo", {}), text="Well: "), [*map(ModelText, "x" * 600), gate])
        conversation = await house.conversation()
        await house.send(conversation)
        await gate.wait_reached()
        (_, answer) = (await house.list_messages(user_id=OWNER, conversation_id=conversation.id)).items
        assert answer.status is Status.STREAMING
        assert [type(part) for part in answer.parts] == [TextPart, ToolCallPart, TextPart]
        assert answer.content == "Well: " + "x" * 600


async def test_somebody_elses_messages_are_absent(house: House) -> None:
    house.model.then(spoken("a"))
    conversation = await house.conversation()
    answer = await house.answer(conversation)
    with pytest.raises(NotFound):
        await house.list_messages(user_id=OWNER + 1, conversation_id=conversation.id)
    with pytest.raises(NotFound):
        await house.list_messages(user_id=OWNER, conversation_id=conversation.id, before="msg_none")
    with pytest.raises(NotFound):
        await house.delete_message(user_id=OWNER + 1, message_id=answer.id)


async def test_a_message_is_deleted_alone(house: House) -> None:
    house.model.then(spoken("a"))
    conversation = await house.conversation()
    answer = await house.answer(conversation, "q")
    await house.delete_message(user_id=OWNER, message_id=answer.id)
    page = await house.list_messages(user_id=OWNER, conversation_id=conversation.id)
    assert [message.content for message in page.items] == ["q"]
    with pytest.raises(NotFound):
        await house.delete_message(user_id=OWNER, message_id=answer.id)


@pytest.mark.parametrize("which", [0, 1], ids=["question", "answer"])
async def test_deleting_a_message_of_a_running_turn_stops_it_first(house: House, which: int) -> None:
    gate = Gate()
    house.model.then([ModelText("half"), gate], spoken("again"))
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    await gate.wait_reached()
    messages = (await house.list_messages(user_id=OWNER, conversation_id=conversation.id)).items
    await house.delete_message(user_id=OWNER, message_id=messages[which].id)
    assert house.model.open_streams == 0
    left = (await house.list_messages(user_id=OWNER, conversation_id=conversation.id)).items
    assert [message.id for message in left] == [messages[1 - which].id]
    if which == 0:
        assert (await house.stored(message_id)).status is Status.CANCELLED
    assert (await house.answer(conversation)).content == "again"


async def test_deleting_an_older_message_leaves_the_running_turn_alone(house: House) -> None:
    gate = Gate()
    house.model.then(spoken("old"), [gate, *spoken("new")])
    conversation = await house.conversation()
    old = await house.answer(conversation)
    message_id = await house.send(conversation)
    await house.delete_message(user_id=OWNER, message_id=old.id)
    gate.opened.set()
    assert (await house.ended(message_id)).content == "new"
