"""The built-in model: no key, no network, no surprises. It calls tools for plain requests, and is honest about it."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

from luxx.adapters.models.offline_requests import Wish, wishes
from luxx.application.ports import (
    AssistantEntry,
    ModelEnd,
    ModelEvent,
    ModelRequest,
    ModelText,
    ModelThinking,
    ModelToolCall,
    ToolEntry,
    UserEntry,
)
from luxx.application.transcript import STRANGERS_WORDS
from luxx.domain.message import Json, Usage
from luxx.domain.tool import ToolCall

_CHINESE: Final = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_CHINESE_RUN: Final = re.compile(f"{_CHINESE.pattern}+")
_PIECE: Final = re.compile(r"\s*(?:[\u3400-\u9fff\uf900-\ufaff]|[^\s\u3400-\u9fff\uf900-\ufaff]+)\s*|\s+")
_TEXT_LIMIT: Final = 2_000
_PROBLEM_LIMIT: Final = 300
_ROWS_LIMIT: Final = 20


class OfflineChatModel:
    """A `ChatModel` made of rules: the same request always gets the same answer.

    It answers in the language of the last user message, Chinese or English. Arithmetic, times, tables,
    texts, JSON, weather, pages, searches and Python become tool calls where the tools are offered; what
    it says of them is read from their results. It counts one token for a word and one for a Chinese
    character, and keeps to `max_tokens`.
    """

    def __init__(self, *, pause_s: float = 0.0) -> None:
        """`pause_s` is the pause after each word, in seconds."""
        self._pause_s = pause_s

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `ChatModel.stream`."""
        question = next((entry.text for entry in reversed(request.entries) if isinstance(entry, UserEntry)), "")
        words = _Words(chinese=_CHINESE.search(question) is not None)
        offered = {tool.name for tool in request.tools}
        results = _results(request)
        wanted = [] if results else wishes(question, request.tools)
        calls = [wish for wish in wanted if wish.tool in offered]

        left = request.max_tokens
        used = 0
        if request.thinking_enabled:
            for piece in _pieces(words.thought(calls, results)):
                yield ModelThinking(piece)
                await asyncio.sleep(self._pause_s)
        if calls:
            taken = sum(isinstance(entry, AssistantEntry) for entry in request.entries)
            for number, wish in enumerate(calls, start=1):
                call = ToolCall(id=f"call_{taken + 1}_{number}", name=wish.tool, arguments=wish.arguments)
                used += _tokens(json.dumps(dict(wish.arguments), ensure_ascii=False))
                yield ModelToolCall(call)
        else:
            text = words.report(results) if results else words.talk(question, wanted)
            for piece in _pieces(text):
                if left == 0:
                    break
                left -= 1
                used += 1
                yield ModelText(piece)
                await asyncio.sleep(self._pause_s)
        reason = "tool_calls" if calls else "length" if left == 0 else "stop"
        prompt = 0
        for entry in request.entries:
            prompt += _tokens(entry.text)
            await asyncio.sleep(0)  # to count a long conversation holds up nobody else
        yield ModelEnd(reason, Usage(prompt_tokens=prompt, completion_tokens=used, total_tokens=prompt + used))


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(text)


def _tokens(text: str) -> int:
    runs = [] if text.isascii() else _CHINESE_RUN.findall(text)
    return len((_CHINESE_RUN.sub(" ", text) if runs else text).split()) + sum(map(len, runs))


def _results(request: ModelRequest) -> list[tuple[ToolCall, str]]:
    """Pair the tool results that end the transcript with the calls that they answer."""
    if not request.entries or not isinstance(request.entries[-1], ToolEntry):
        return []
    calls: dict[str, ToolCall] = {}
    texts: list[tuple[ToolCall, str]] = []
    for entry in request.entries:
        match entry:
            case UserEntry():
                texts = []
            case AssistantEntry():
                calls.update((call.id, call) for call in entry.calls)
            case ToolEntry():
                known = calls.get(entry.call_id, ToolCall(id=entry.call_id, name=entry.name, arguments={}))
                texts.append((known, entry.text.removeprefix(STRANGERS_WORDS)))
            case _:
                pass
    return texts


# --- what it says -----------------------------------------------------------------------------------


class _Words:
    """The model's sentences, in the language of the question."""

    def __init__(self, *, chinese: bool) -> None:
        self._chinese = chinese

    def _say(self, chinese: str, english: str) -> str:
        return chinese if self._chinese else english

    def thought(self, calls: Sequence[Wish], results: Sequence[object]) -> str:
        if calls:
            names = ", ".join(dict.fromkeys(wish.tool for wish in calls))
            return self._say(f"这需要工具：{names}。", f"This needs tools: {names}.")
        if results:
            return self._say("工具已返回结果，我来转述。", "The tools have answered; I report what they gave.")
        return self._say("没有匹配到需要工具的请求。", "No plain request for a tool in this message.")

    def talk(self, question: str, missing: Sequence[Wish]) -> str:
        """Answer without tools: say what this is, and how to get more."""
        said = _cut(" ".join(question.split()), 80)
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(wish.tool for wish in missing))
        if self._chinese:
            lines = [f"我是 Luxx 内置的离线模型，收到了：「{said}」。"]
            if names:
                lines.append(f"回答它需要工具 {names}，但这里没有提供。")
            else:
                lines.append("我只按规则工作，不会真正理解语言，但可以调用工具，例如：“计算 6*7”、“东京现在几点？”。")
            lines.append(
                "要连接真正的模型，请设置 LUXX_LLM_BASE_URL、LUXX_LLM_API_KEY 和 LUXX_DEFAULT_MODEL，然后重启服务。"
            )
            return "".join(lines)
        lines = [f"I am Luxx's built-in offline model, and I read: “{said}”."]
        if names:
            lines.append(f"To answer it I would need {names}, which is not offered here.")
        else:
            lines.append(
                "I follow rules and understand no language, but I do call tools: "
                "try “What is 6*7?” or “What time is it in Tokyo?”."
            )
        lines.append(
            "To connect a real model, set LUXX_LLM_BASE_URL, LUXX_LLM_API_KEY and LUXX_DEFAULT_MODEL, "
            "and start the service again."
        )
        return " ".join(lines)

    def report(self, results: Sequence[tuple[ToolCall, str]]) -> str:
        """Answer from the results of tools."""
        told = "\n\n".join(self._one(call, text) for call, text in results)
        return told + self._say(
            "\n\n（由 Luxx 内置的离线模型根据工具结果转述；设置 LUXX_LLM_BASE_URL 可连接真正的模型。）",
            "\n\n(Reported from the tools by Luxx's built-in offline model; "
            "set LUXX_LLM_BASE_URL to connect a real one.)",
        )

    def _one(self, call: ToolCall, text: str) -> str:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        problem = _problem(value)
        asked = _brief(call.arguments or {})
        if problem is not None:
            return self._say(
                f"工具 `{call.name}`（{asked}）失败了：{problem}", f"The tool `{call.name}` ({asked}) failed: {problem}"
            )
        if isinstance(value, dict) and value.get("success") is True and "result" in value:
            value = value["result"]
        if call.name == "calculate" and call.arguments:
            sign = "≈" if isinstance(value, dict) and value.get("exact") is False else "="
            return f"{call.arguments.get('expression')} {sign} {_figure(value)}"
        shown = _shown(value)
        separator = "\n" if "\n" in shown or shown.startswith("- ") else " "
        return (
            f"`{call.name}`（{asked}）：{separator}{shown}"
            if self._chinese
            else f"`{call.name}` ({asked}):{separator}{shown}"
        )


def _problem(value: Json) -> str | None:
    """Give what a failed tool said; None where it did not fail.

    A result may well have a field `error` of its own (a program that raised): that alone is no failure.
    """
    if not isinstance(value, dict) or not value.get("error"):
        return None
    if value.get("success") is not False and not set(value) <= {"error", "code", "message"}:
        return None
    error = value["error"]
    told = error.get("message", error) if isinstance(error, dict) else value.get("message", error)
    return _cut(" ".join(str(told).split()), _PROBLEM_LIMIT)


def _figure(value: Json) -> str:
    if isinstance(value, dict):
        value = next((value[key] for key in ("text", "result", "value") if key in value), value)
    return _inline(value)


def _brief(arguments: Mapping[str, Json]) -> str:
    shown = (f"{name}: {_inline(value)}" for name, value in arguments.items())
    return ", ".join(_cut(text, 60) for text in shown)


def _inline(value: Json) -> str:
    return " ".join(value.split()) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, limit: int = _TEXT_LIMIT) -> str:
    return text[:limit] + "…" if len(text) > limit else text


def _shown(value: Json) -> str:
    """Put a JSON value into readable text."""
    match value:
        case {"timezone": str(zone), "date": str(date), "time": str(time), "weekday": str(weekday)}:
            return f"{zone}: {date} {time} ({weekday})"
        case {"columns": [*columns], "rows": [*rows]} if all(isinstance(row, list) for row in rows):
            return _grid([str(column) for column in columns], rows)
        case [{}, *_] if all(isinstance(row, dict) for row in value):
            names = list(dict.fromkeys(str(name) for row in value[:_ROWS_LIMIT] for name in row))
            return _grid(names, [[row.get(name) for name in names] for row in value])
        case dict():
            return "\n".join(f"- {name}: {_cut(_nested(inner))}" for name, inner in value.items())
        case str():
            return _cut(value)
        case _:
            return _cut(_inline(value))


def _nested(value: Json) -> str:
    return "\n" + _shown(value) if isinstance(value, list) and value and isinstance(value[0], dict) else _inline(value)


def _grid(names: list[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_inline(cell) for cell in row) + " |" for row in rows[:_ROWS_LIMIT]]
    if len(rows) > _ROWS_LIMIT:
        lines.append(f"… +{len(rows) - _ROWS_LIMIT}")
    return "\n".join(lines)
