"""Tests of adapters of somebody else's, with the suites."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from luxx.application import ChatModel, Storage, Tool
from luxx.domain.errors import Fault, InvalidInput
from luxx.domain.tool import ToolSpec
from luxx.testing import MemoryStorage, ScriptedChatModel, calling, spoken
from luxx.testing.contracts import ChatModelContract, ToolCase, ToolContract, TurnLogContract, UnitOfWorkContract

pytestmark = pytest.mark.asyncio


class TestMyUnitOfWork(UnitOfWorkContract):
    @pytest_asyncio.fixture
    async def storage(self) -> AsyncIterator[Storage]:  # type: ignore[override]  # one fixture for another
        storage = MemoryStorage()
        yield storage
        await storage.close()


class TestMyTurnLog(TurnLogContract):
    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage()


class TestMyModel(ChatModelContract):
    @pytest.fixture
    def talking(self) -> ChatModel:
        return ScriptedChatModel(*[spoken("Word by word.")] * 3)

    @pytest.fixture
    def calling(self) -> ChatModel:
        both = calling(("calculate", {"expression": "6*7"}), ("current_time", {"timezone": "Asia/Tokyo"}))
        return ScriptedChatModel(both, spoken("It is 42."))

    @pytest.fixture
    def lingering(self) -> ChatModel:
        cues = (*spoken("half")[:1], asyncio.Event())
        return ScriptedChatModel(cues, cues)


class Greet:
    spec = ToolSpec(
        name="greet",
        description="Greet somebody by name.",
        category="mine",
        parameters={
            "type": "object",
            "properties": {"name": {"type": "string", "description": "Who.", "pattern": "^[^\\u0000]*$"}},
            "required": ["name"],
            "additionalProperties": False,
        },
    )

    async def run(self, arguments: object) -> str:
        assert isinstance(arguments, dict)
        faults = [Fault(field=name, rule="unknown") for name in arguments if name != "name"]
        name = arguments.get("name")
        if "name" not in arguments:
            faults.append(Fault(field="name", rule="required"))
        elif not isinstance(name, str):
            faults.append(Fault(field="name", rule="type", parameters={"expected": "string"}))
        elif "\0" in name:
            faults.append(Fault(field="name", rule="nul"))
        if faults:
            raise InvalidInput(*faults)
        return f"Hello, {name}."


class TestMyTool(ToolContract):
    @pytest.fixture
    def case(self) -> ToolCase:
        tool: Tool = Greet()
        return ToolCase(tool=tool, good={"name": "Ada"}, bad=[({"name": 5}, "name"), ({}, "name")])
