"""The built-in offline model, beyond the contract of its port."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luxx.adapters.models.offline import OfflineChatModel
from luxx.adapters.models.offline_requests import wishes
from luxx.application.ports import (
    AssistantEntry,
    Entry,
    ModelEnd,
    ModelEvent,
    ModelRequest,
    ModelText,
    ModelThinking,
    ModelToolCall,
    SystemEntry,
    ToolEntry,
    UserEntry,
)
from luxx.domain.tool import ToolCall, ToolSpec
from luxx.testing.contracts.chat_model import heard, text_in

NAMES = (
    "calculate",
    "current_time",
    "query_table",
    "analyze_text",
    "transform_json",
    "current_weather",
    "weather_forecast",
    "fetch_page",
    "web_search",
    "execute_python",
)
TOOLS = tuple(ToolSpec(name=name, description="", category="data", parameters={}) for name in NAMES)


def request(text: str, *after: Entry, **changes: Any) -> ModelRequest:
    plain = ModelRequest(
        model="glm-5", entries=(UserEntry(text=text), *after), tools=TOOLS, temperature=1.0, max_tokens=1_000
    )
    return replace(plain, **changes)


def calls_in(events: list[ModelEvent]) -> list[ToolCall]:
    return [event.call for event in events if isinstance(event, ModelToolCall)]


async def answer_after(name: str, arguments: Mapping[str, Any], result: str, text: str = "What is it?") -> str:
    """Give what is said once the tool has answered."""
    asked = AssistantEntry(calls=(ToolCall(id="c", name=name, arguments=arguments),))
    events = await heard(OfflineChatModel(), request(text, asked, ToolEntry(call_id="c", name=name, text=result)))
    assert not calls_in(events)
    return text_in(events)


# --- what it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"), [("Who are you?", "built-in offline model"), ("你是谁？", "内置的离线模型")]
)
async def test_it_says_what_it_is_and_how_to_connect_a_real_model_in_the_language_of_the_question(
    text: str, words: str
) -> None:
    said = text_in(await heard(OfflineChatModel(), request(text)))
    assert words in said
    assert all(name in said for name in ("LUXX_LLM_BASE_URL", "LUXX_LLM_API_KEY", "LUXX_DEFAULT_MODEL"))


async def test_the_same_request_gets_the_same_events() -> None:
    assert await heard(OfflineChatModel(), request("Hi")) == await heard(OfflineChatModel(), request("Hi"))


async def test_thinking_comes_first_and_only_where_it_is_on() -> None:
    thinking = await heard(OfflineChatModel(), request("Hi", thinking_enabled=True))
    kinds = [type(event) for event in thinking]
    assert kinds == sorted(kinds, key=[ModelThinking, ModelText, ModelEnd].index)
    assert kinds[0] is ModelThinking
    plain = await heard(OfflineChatModel(), request("Hi"))
    assert plain == [event for event in thinking if not isinstance(event, ModelThinking)]


async def test_an_answer_keeps_to_max_tokens_and_says_so() -> None:
    events = await heard(OfflineChatModel(), request("Hi", max_tokens=3))
    assert len(text_in(events).split()) == 3
    assert isinstance(events[-1], ModelEnd)
    assert events[-1].reason == "length"


async def test_a_token_is_a_word_or_a_chinese_character() -> None:
    events = await heard(OfflineChatModel(), request("你好 dear world", max_tokens=5))
    assert isinstance(events[-1], ModelEnd)
    assert events[-1].usage is not None
    assert (events[-1].usage.prompt_tokens, events[-1].usage.completion_tokens) == (4, 5)


async def test_to_count_a_long_conversation_lets_others_run() -> None:
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    before = request("Hi", max_tokens=1)
    earlier = tuple(UserEntry(text="你好") for _ in range(50))
    running = asyncio.ensure_future(other())
    await heard(OfflineChatModel(), before)
    short, ran = ran, 0
    await heard(OfflineChatModel(), replace(before, entries=earlier + before.entries))
    running.cancel()
    assert ran - short >= len(earlier)


async def test_a_request_whose_tool_is_not_offered_is_answered_with_its_name_and_no_value() -> None:
    events = await heard(OfflineChatModel(), request("What is 6*7?", tools=()))
    assert not calls_in(events)
    assert "`calculate`" in text_in(events)
    assert "42" not in text_in(events)


async def test_a_transcript_without_a_user_is_answered_too() -> None:
    assert text_in(await heard(OfflineChatModel(), request("", entries=(SystemEntry(text="Be."),))))


# --- what it calls ----------------------------------------------------------------------------------

CSV = "name,age\nAnn,3\nBob,5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is 6*7?", [("calculate", {"expression": "6*7"})]),
        ("6 * (7 + 1)", [("calculate", {"expression": "6 * (7 + 1)"})]),
        ("计算 12.5 乘以 4", [("calculate", {"expression": "12.5 * 4"})]),
        ("what is 1,000 + 2,500?", [("calculate", {"expression": "1000 + 2500"})]),
        ("15% of 240 = ?", [("calculate", {"expression": "15 / 100 * 240"})]),
        ("what is sqrt(16) + gcd(12, 18)", [("calculate", {"expression": "sqrt(16) + gcd(12, 18)"})]),
        ("2^10 等于多少？", [("calculate", {"expression": "2 ** 10"})]),
        ("2的10次方等于多少？", [("calculate", {"expression": "2 ** 10"})]),
        ("What time is it?", [("current_time", {"timezone": "UTC"})]),
        ("What time is it in New York?", [("current_time", {"timezone": "America/New_York"})]),
        ("current time in Asia/Kathmandu", [("current_time", {"timezone": "Asia/Kathmandu"})]),
        ("东京现在几点？", [("current_time", {"timezone": "Asia/Tokyo"})]),
        (f"{CSV}\nselect max(age) from data", [("query_table", {"data": CSV, "sql": "select max(age) from data"})]),
        (
            f"What is the average age?\n{CSV}",
            [("query_table", {"data": CSV, "sql": 'SELECT avg("age") AS "avg age" FROM data'})],
        ),
        (
            '[{"a": 1}, {"a": 2}] 有多少行？',
            [("query_table", {"data": [{"a": 1}, {"a": 2}], "sql": 'SELECT count(*) AS "rows" FROM data'})],
        ),
        (
            'Transform {"a": {"b": 1}} with the JMESPath expression `a.b`',
            [("transform_json", {"data": {"a": {"b": 1}}, "expression": "a.b"})],
        ),
        ('Count the words in "one two"', [("analyze_text", {"text": "one two"})]),
        ("分析文本：今天很好，明天也好。", [("analyze_text", {"text": "今天很好，明天也好。"})]),
        (
            'Count matches of /o\\w/ in "foo boo"',
            [("analyze_text", {"text": "foo boo", "pattern": "o\\w"})],
        ),
        ("What is the weather in Paris today?", [("current_weather", {"location": "Paris"})]),
        ("北京今天天气怎么样？", [("current_weather", {"location": "北京"})]),
        (
            "Weather forecast for San Francisco for 5 days",
            [("weather_forecast", {"location": "San Francisco", "days": 5})],
        ),
        ("Read https://example.com/a?b=1.", [("fetch_page", {"url": "https://example.com/a?b=1"})]),
        ("Search for hexagonal architecture", [("web_search", {"query": "hexagonal architecture"})]),
        ("Run this:\n```python\nprint(6*7)\n```", [("execute_python", {"code": "print(6*7)\n"})]),
        ("run python: print(1)", [("execute_python", {"code": "print(1)"})]),
    ],
)
async def test_plain_requests_become_tool_calls(text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    events = await heard(OfflineChatModel(), request(text))
    assert [(call.name, call.arguments) for call in calls_in(events)] == expected
    assert isinstance(events[-1], ModelEnd)
    assert events[-1].reason == "tool_calls"


@pytest.mark.parametrize(
    "text",
    [
        "Hello, how are you?",
        "I was born on 2024-05-01.",
        "Call 555-12-34, what is your number?",
        "3-5 people came",
        "What is version 1.2.3?",
        "Time flies.",
        "This is {not json}.",
        "Count the words in ```text\n```",
        'How many words are in "  "?',
    ],
)
async def test_what_asks_for_nothing_calls_nothing(text: str) -> None:
    assert calls_in(await heard(OfflineChatModel(), request(text))) == []


async def test_several_requests_in_one_message_are_called_in_one_round() -> None:
    text = "What is the weather in Tokyo and Paris, what time is it in Berlin, and what is 6 times 7?"
    calls = calls_in(await heard(OfflineChatModel(), request(text)))
    assert [(call.name, call.arguments) for call in calls] == [
        ("current_weather", {"location": "Tokyo"}),
        ("current_weather", {"location": "Paris"}),
        ("current_time", {"timezone": "Europe/Berlin"}),
        ("calculate", {"expression": "6 * 7"}),
    ]
    assert len({call.id for call in calls}) == 4


async def test_ids_of_a_later_question_differ_from_those_of_an_earlier_one() -> None:
    first = calls_in(await heard(OfflineChatModel(), request("6*7")))
    after = (AssistantEntry(calls=tuple(first)), ToolEntry(call_id=first[0].id, name="calculate", text="42"))
    later = request("6*7", *after, AssistantEntry(text="42"), UserEntry(text="What is 8*9?"))
    second = calls_in(await heard(OfflineChatModel(), later))
    assert [call.arguments for call in second] == [{"expression": "8*9"}]
    assert first[0].id != second[0].id


def test_json_is_given_as_text_to_a_tool_whose_schema_wants_text() -> None:
    schema = {"type": "object", "properties": {"data": {"type": "string"}}}
    tool = ToolSpec(name="transform_json", description="", category="data", parameters=schema)
    (wish,) = wishes('{"a": 1} jmespath: a', [tool])
    assert json.loads(wish.arguments["data"]) == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "select " * 28_000,
        "1 " * 100_000,
        "(" * 200_000,
        "what is " + "1+" * 90_000,
        "a,b\n" * 50_000,
        "天气" * 100_000,
        '"' * 200_000,
        "in a " * 39_000 + "weather",
        " " * 200_000,
        "```py\n" * 30_000,
        "9" * 200_000,
        "weather in " + "\t" * 190_000,
        "count " + "“" * 190_000,
        "统计" + "「" * 190_000,
    ],
    ids=lambda text: text[:8],
)
def test_no_message_takes_long_to_read(text: str) -> None:
    started = time.thread_time()  # what it takes by itself: others are at work here too
    wishes(text)
    assert time.thread_time() - started < 1


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='weather in time 0123456789+-*/().,%\n{}[]":`天气几点?select from', max_size=80))
def test_no_message_breaks_it_and_no_more_than_eight_calls_come_of_one(text: str) -> None:
    assert len(wishes(text)) <= 8


# --- what it says of results ------------------------------------------------------------------------


@pytest.mark.parametrize("result", ["42", '{"result": 42}', '{"success": true, "result": 42}', '{"value": 42}', '"42"'])
async def test_a_sum_is_told_from_its_result(result: str) -> None:
    said = await answer_after("calculate", {"expression": "6*7"}, result)
    assert said.startswith("6*7 = 42")
    assert "offline model" in said


async def test_a_rounded_sum_is_told_as_such_with_all_its_digits() -> None:
    said = await answer_after("calculate", {"expression": "1/3"}, '{"value": 0.33, "text": "0.3333", "exact": false}')
    assert said.startswith("1/3 ≈ 0.3333")


async def test_a_value_is_taken_from_the_tool_even_where_it_is_wrong() -> None:
    assert "6*7 = 41" in await answer_after("calculate", {"expression": "6*7"}, '{"result": 41}')


@pytest.mark.parametrize(
    "result",
    [
        '{"success": false, "result": null, "error": {"code": "tool_failed", "message": "division by zero"}}',
        '{"error": {"code": "tool_failed", "message": "division by zero"}}',
        '{"error": "tool_failed", "message": "division by zero"}',
        '{"error": "division by zero"}',
    ],
)
@pytest.mark.parametrize(("text", "word"), [("What is it?", "failed"), ("是多少？", "失败")])
async def test_a_failed_tool_is_told_plainly_and_in_the_language_of_the_question(
    result: str, text: str, word: str
) -> None:
    said = await answer_after("calculate", {"expression": "1/0"}, result, text)
    assert word in said
    assert "division by zero" in said
    assert "1/0 =" not in said


async def test_code_that_raised_is_a_result_and_no_failed_tool() -> None:
    result = '{"stdout": "", "value": null, "error": "ZeroDivisionError"}'
    said = await answer_after("execute_python", {"code": "1/0"}, result)
    assert "failed" not in said
    assert "ZeroDivisionError" in said


@pytest.mark.parametrize(
    "result", ['[{"name": "Ann", "age": 3}]', '{"columns": ["name", "age"], "rows": [["Ann", 3]]}']
)
async def test_rows_are_shown_as_a_table(result: str) -> None:
    assert "| name | age |\n| --- | --- |\n| Ann | 3 |" in await answer_after("query_table", {"sql": "s"}, result)


async def test_all_results_of_a_round_are_told() -> None:
    calls = (
        ToolCall(id="a", name="calculate", arguments={"expression": "6*7"}),
        ToolCall(id="b", name="current_time", arguments={"timezone": "Asia/Tokyo"}),
    )
    results = (
        ToolEntry(call_id="b", name="current_time", text='{"time": "2030-01-01T09:00:00+09:00"}'),
        ToolEntry(call_id="a", name="calculate", text="42"),
    )
    said = text_in(await heard(OfflineChatModel(), request("Both?", AssistantEntry(calls=calls), *results)))
    assert "6*7 = 42" in said
    assert "2030-01-01T09:00:00+09:00" in said


@pytest.mark.parametrize("result", ["", "not json", "null", "[]", "{}", "[" * 100_000, '"' + "x" * 100_000 + '"'])
async def test_any_text_of_a_tool_is_answered_and_at_bounded_length(result: str) -> None:
    said = await answer_after("fetch_page", {"url": "http://x"}, result)
    assert 0 < len(said) < 3_000
