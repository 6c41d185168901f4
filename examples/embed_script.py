"""A whole chat in a script: no server, no database, no dependency.

    python examples/embed_script.py "What time is it?"

Needs nothing but luxx. The built-in offline model answers by rules; put any other ChatModel in its place.
"""

# ruff: noqa: INP001, T201 - a program by itself, that prints

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models import OfflineChatModel
from luxx.adapters.system import SortableIds, utc_now
from luxx.application import Chat
from luxx.domain.message import Json
from luxx.domain.tool import ToolSpec
from luxx.domain.turn import Done, Failed, Text, ToolCalled, ToolReturned


class CurrentTime:
    """A tool of our own: the model is shown `spec`, and `run` is called with what the model gives."""

    spec = ToolSpec(
        name="current_time",
        description="Tell the current date and time in UTC.",
        category="data",
        parameters={"type": "object", "properties": {"timezone": {"type": "string"}}},
    )

    async def run(self, arguments: Mapping[str, Json]) -> Json:
        now = datetime.now(UTC).replace(microsecond=0)
        return {"timezone": str(arguments.get("timezone", "UTC")), "iso": now.isoformat()}


async def main(question: str) -> None:
    async with Chat(
        storage=MemoryStorage(),
        model=OfflineChatModel(),
        default_model="offline",
        tools=[CurrentTime()],
        clock=utc_now,
        new_id=SortableIds(),
    ) as chat:
        user = await chat.admit_user(username="script")
        conversation = await chat.create_conversation(user_id=user.id)
        answer = await chat.send_message(user_id=user.id, conversation_id=conversation.id, content=question)
        async for logged in await chat.follow_turn(user_id=user.id, message_id=answer):
            match logged.event:
                case ToolCalled(name=name, arguments=arguments):
                    print(f"⚙ {name} {dict(arguments)}")
                case ToolReturned(result=result):
                    print(f"  → {result}")
                case Text(delta=delta):
                    print(delta, end="", flush=True)
                case Done(message=message):
                    print(f"\nstored as {message.id}, {message.status.value}")
                case Failed(code=code, message=told):
                    print(f"\n{code}: {told}", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "What time is it?"))
