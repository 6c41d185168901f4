"""A `Chat` over parts of a test's choosing, and a tool for it."""

from typing import Any

from luxx.adapters.system import SortableIds, utc_now
from luxx.application import Chat, ChatModel, Storage
from luxx.domain.tool import ToolSpec


class Doubling:
    spec = ToolSpec(name="double", description="Twice a number.", category="mine", parameters={"type": "object"})

    async def run(self, arguments: Any) -> int:
        return 2 * int(arguments["number"])


def chat_on(storage: Storage, model: ChatModel, **options: Any) -> Chat:
    parts: dict[str, Any] = {"clock": utc_now, "new_id": SortableIds(), "default_model": "any"} | options
    return Chat(storage=storage, model=model, **parts)
