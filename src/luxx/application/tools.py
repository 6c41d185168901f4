"""Tools: what there is, and running one within its limits."""

import asyncio
import json
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from luxx.application.letting_go import let_go, spawn
from luxx.application.observer import UNOBSERVED, Observer, ToolRecord
from luxx.application.ports import Tool
from luxx.domain.errors import LuxxError, NotFound, ToolBroken, ToolRefused, ToolTimeout
from luxx.domain.message import Json, NestedTooDeeply, clean
from luxx.domain.tool import ToolSpec, category_order

RESULT_LIMIT: Final = 1024 * 1024
"""Bytes of one result as JSON, at most."""

LET_GO_S: Final = 0.5
"""Seconds that a stopped tool has to clean up, before nobody waits for it any more."""

acting_for: Final[ContextVar[int | None]] = ContextVar("luxx_acting_for", default=None)
"""The user for whom the running tool runs; None where nobody has said so. What is scarce is shared out by it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool gave: `result` for programs, and the same as compact JSON text."""

    name: str
    result: Json
    text: str
    duration_ms: int


class Toolbox:
    """All tools of a deployment, by name.

    Holds every run to `timeout` seconds and every result to `RESULT_LIMIT`, whatever the tool does
    by itself. Names in `disabled` are absent: not listed, not shown to a model, not run. Two tools of one
    name are a ValueError.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        *,
        timeout: float = 60.0,
        disabled: frozenset[str] = frozenset(),
        observer: Observer = UNOBSERVED,
    ) -> None:
        given = list(tools)
        kept = [tool for tool in given if tool.spec.name not in disabled]
        kept.sort(key=lambda tool: category_order(tool.spec.category))
        self._tools: Final[dict[str, Tool]] = {}
        for tool in kept:
            if self._tools.setdefault(tool.spec.name, tool) is not tool:
                raise ValueError(f"Two tools are named {tool.spec.name!r}: give each a name of its own.")
        self.untrusted: Final = frozenset(tool.spec.name for tool in given if tool.spec.untrusted)
        """The names of the tools whose results strangers write; of disabled ones too, for what they brought before."""
        self._timeout: Final = timeout
        self._observer: Final = observer

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    def offered(self, allowed: Collection[str] | None) -> tuple[ToolSpec, ...]:
        """Give the tools of which the name is among `allowed`; None allows all."""
        return tuple(spec for spec in self.specs if allowed is None or spec.name in allowed)

    def tool(self, name: str) -> Tool:
        """Find by name; raises `NotFound` `tool_not_found`."""
        try:
            return self._tools[name]
        except KeyError:
            raise NotFound(f"There is no tool named {name!r}.", code="tool_not_found") from None

    async def run(
        self, name: str, arguments: Mapping[str, Json], *, user_id: int | None = None, call_id: str | None = None
    ) -> ToolResult:
        """Run one for a user; raises `NotFound`, `InvalidInput` and the `ToolError`s."""
        tool = self.tool(name)
        record = ToolRecord(name=name, call_id=call_id)
        started = time.monotonic()
        before = acting_for.set(acting_for.get() if user_id is None else user_id)  # a tool may call another
        with self._observer.tool(record):
            try:
                result, text = await self._bounded(tool, name, arguments)
                record.outcome = "ok"
            except LuxxError as error:
                record.outcome = error.code
                raise
            finally:
                record.duration_s = time.monotonic() - started
                acting_for.reset(before)
        return ToolResult(name=name, result=result, text=text, duration_ms=round(record.duration_s * 1000))

    async def _bounded(self, tool: Tool, name: str, arguments: Mapping[str, Json]) -> tuple[Json, str]:
        try:
            result = clean(await self._held(tool, arguments))
            text = json.dumps(result, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except TimeoutError:
            raise ToolTimeout(f"The tool {name} took longer than {self._timeout:g} s.") from None
        except LuxxError:
            raise
        except NestedTooDeeply as error:
            raise ToolRefused(f"The result of {name} is {error}: ask for something flatter.") from None
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            # Nobody stopped this run: what the tool waited for was cancelled within the tool.
            raise _broken(name) from error
        except Exception as error:  # a tool may come from anybody: its faults must not become ours
            raise _broken(name) from error
        if len(text.encode()) > RESULT_LIMIT:
            raise ToolBroken(f"The result of {name} is larger than {RESULT_LIMIT} bytes: ask for less.")
        return result, text

    async def _held(self, tool: Tool, arguments: Mapping[str, Json]) -> Json:
        """Run within the time, in a task of its own: one that swallows its cancel is left to itself."""
        run = spawn(_run(tool, arguments), name=f"tool {tool.spec.name}")
        try:
            done, _ = await asyncio.wait({run}, timeout=self._timeout)
        finally:
            if not run.done():
                await let_go(run, patience=LET_GO_S)
        if not done:
            raise TimeoutError
        return run.result()


async def _run(tool: Tool, arguments: Mapping[str, Json]) -> Json:
    try:
        return await tool.run(arguments)
    except SystemExit as error:
        raise RuntimeError("the tool would end the process") from error


def _broken(name: str) -> ToolBroken:
    _log.exception("the tool %s failed unexpectedly", name)
    return ToolBroken(f"The tool {name} failed unexpectedly.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTools:
    """Give all tools, or those of a category; an unknown category has none."""

    toolbox: Toolbox

    def __call__(self, *, category: str | None = None) -> Sequence[ToolSpec]:
        return [spec for spec in self.toolbox.specs if category is None or spec.category == category]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetTool:
    """Give one tool; raises `NotFound` `tool_not_found`."""

    toolbox: Toolbox

    def __call__(self, *, name: str) -> ToolSpec:
        return self.toolbox.tool(name).spec


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteTool:
    """Run a tool by hand; raises `NotFound`, `InvalidInput` and the `ToolError`s.

    `user_id` is whose call it is: the slow calls of one user hold up nobody else's.
    """

    toolbox: Toolbox

    async def __call__(self, *, name: str, arguments: Mapping[str, Json], user_id: int | None = None) -> ToolResult:
        return await self.toolbox.run(name, arguments, user_id=user_id)
