"""One turn of a chat, for the programs beside this one."""

from luxx.adapters.models import ScriptedChatModel, spoken
from luxx.adapters.system import SortableIds, utc_now
from luxx.application import Chat, ChatModel, Observer, Storage, Tool
from luxx.application.observer import UNOBSERVED
from luxx.domain.turn import Done


async def answer(
    storage: Storage, model: ChatModel | None = None, *, tools: tuple[Tool, ...] = (), observer: Observer = UNOBSERVED
) -> str:
    """Ask one question and give the text of the answer."""
    async with Chat(
        storage=storage,
        model=model or ScriptedChatModel(spoken("Hello there.")),
        clock=utc_now,
        new_id=SortableIds(),
        default_model="any",
        tools=tools,
        observer=observer,
    ) as chat:
        user = await chat.admit_user(username="ada")
        conversation = await chat.create_conversation(user_id=user.id)
        message_id = await chat.send_message(user_id=user.id, conversation_id=conversation.id, content="What is 6*7?")
        _, end = await chat.follow_turn.to_end(user_id=user.id, message_id=message_id)
        assert isinstance(end, Done), end
        return end.message.content
