"""The body of a request for a chat completion."""

import json
from dataclasses import replace
from typing import Any

import pytest

from luxx.adapters.models.openai_request import ThinkingStyle, request_body
from luxx.adapters.models.openai_wording import USUAL, Wording
from luxx.application.ports import AssistantEntry, Entry, ModelRequest, SystemEntry, ToolEntry, UserEntry
from luxx.domain.tool import ToolCall, ToolSpec

REQUEST = ModelRequest(model="glm-5", entries=(UserEntry(text="Hi"),), temperature=0.5, max_tokens=99)


def body(request: ModelRequest, style: ThinkingStyle = ThinkingStyle.NONE, wording: Wording = USUAL) -> dict[str, Any]:
    decoded = json.loads(request_body(request, style, wording))
    assert isinstance(decoded, dict)
    return decoded


def test_a_plain_request_asks_for_a_stream_with_its_usage_and_has_no_tools() -> None:
    assert body(REQUEST) == {
        "model": "glm-5",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 99,
    }


def test_tools_are_offered_as_functions_with_their_schema() -> None:
    tool = ToolSpec(name="t", description="does", category="data", parameters={"type": "object"})
    assert body(replace(REQUEST, tools=(tool,)))["tools"] == [
        {"type": "function", "function": {"name": "t", "description": "does", "parameters": {"type": "object"}}}
    ]


def test_a_tool_round_goes_back_with_its_calls_and_results() -> None:
    entries = (
        SystemEntry(text="Be brief."),
        UserEntry(text="Hi"),
        AssistantEntry(text="", calls=(ToolCall(id="c1", name="t", arguments={"城": "京"}),)),
        ToolEntry(call_id="c1", name="t", text="42"),
        AssistantEntry(text="Done."),
    )
    messages = body(replace(REQUEST, entries=entries))["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    (call,) = messages[2]["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("c1", "function", "t")
    assert json.loads(call["function"]["arguments"]) == {"城": "京"}
    assert messages[3] == {"role": "tool", "tool_call_id": "c1", "content": "42"}
    assert "tool_calls" not in messages[4]


def test_neighbours_of_one_role_go_as_one_message_where_a_provider_wants_turns() -> None:
    """A question whose answer stayed empty is followed by the next one; templates that want turns refuse that."""
    call = ToolCall(id="c1", name="t", arguments={})
    entries = (
        SystemEntry(text="Be brief."),
        UserEntry(text="Hi"),
        UserEntry(text="Hello?"),
        AssistantEntry(text="Yes", thinking="hm"),
        AssistantEntry(text="Still", calls=(call,)),
        ToolEntry(call_id="c1", name="t", text="42"),
        AssistantEntry(text="here"),
        AssistantEntry(text="now", thinking="so"),
        UserEntry(text="Well"),
    )
    assert len(body(replace(REQUEST, entries=entries))["messages"]) == len(entries)
    messages = body(replace(REQUEST, entries=entries), ThinkingStyle.GLM, Wording(in_turns=True))["messages"]
    told = [(message["role"], message["content"], message.get("reasoning_content")) for message in messages]
    assert told == [
        ("system", "Be brief.", None),
        ("user", "Hi\n\nHello?", None),
        ("assistant", "Yes", "hm"),
        ("assistant", "Still", None),
        ("tool", "42", None),
        ("assistant", "here\n\nnow", "so"),
        ("user", "Well", None),
    ]


def test_what_comes_before_the_first_question_is_left_out_where_a_provider_wants_turns() -> None:
    """The newest messages begin with an answer where their number is even, or a question was deleted."""
    call = ToolCall(id="c1", name="t", arguments={})
    rest = (AssistantEntry(calls=(call,)), ToolEntry(call_id="c1", name="t", text="42"), AssistantEntry(text="Done"))
    for before in ((), (SystemEntry(text="Be brief."),)):
        entries: tuple[Entry, ...] = (*before, *rest, UserEntry(text="Hi"))
        messages = body(replace(REQUEST, entries=entries), wording=Wording(in_turns=True))["messages"]
        assert [one["content"] for one in messages] == [*(one.text for one in before), "Hi"]


def test_calls_go_one_by_one_with_their_results_where_a_provider_takes_no_more_at_once() -> None:
    calls = tuple(ToolCall(id=one, name="t", arguments={}) for one in ("c1", "c2", "c3"))
    entries: tuple[Entry, ...] = (
        UserEntry(text="Hi"),
        AssistantEntry(text="Let me see", thinking="hm", calls=calls),
        *[ToolEntry(call_id=one.id, name="t", text=f"of {one.id}") for one in calls],
        AssistantEntry(text="Done", calls=calls[:1]),
        ToolEntry(call_id="c1", name="t", text="once more"),
    )
    messages = body(replace(REQUEST, entries=entries), wording=Wording(one_call=True))["messages"]
    told = [(one["content"], [call["id"] for call in one.get("tool_calls", ())]) for one in messages]
    assert told == [
        ("Hi", []),
        ("Let me see", ["c1"]),
        ("of c1", []),
        ("", ["c2"]),
        ("of c2", []),
        ("", ["c3"]),
        ("of c3", []),
        ("Done", ["c1"]),
        ("once more", []),
    ]


def test_what_has_no_words_has_no_text_where_a_provider_wants_that() -> None:
    call = ToolCall(id="c1", name="t", arguments={})
    entries = (
        UserEntry(text="Hi"),
        AssistantEntry(text="\n"),
        UserEntry(text="Hello?"),
        AssistantEntry(text="\n\n", calls=(call,)),
        ToolEntry(call_id="c1", name="t", text="42"),
        AssistantEntry(text=" There."),
    )
    messages = body(replace(REQUEST, entries=entries), wording=Wording(blanks=False))["messages"]
    assert [one["content"] for one in messages] == ["Hi", "Hello?", None, "42", " There."]


def test_calls_are_numbered_where_a_provider_takes_no_ids_but_its_own() -> None:
    """Also those of two turns that were given the same id."""
    calls = tuple(ToolCall(id=one, name="t", arguments={}) for one in ("functions.t:0", "functions.t:1"))
    entries: tuple[Entry, ...] = (
        UserEntry(text="Hi"),
        AssistantEntry(calls=calls),
        *[ToolEntry(call_id=one.id, name="t", text="42") for one in calls],
        AssistantEntry(calls=calls[:1]),
        ToolEntry(call_id="functions.t:0", name="t", text="once more"),
    )
    messages = body(replace(REQUEST, entries=entries), wording=Wording(plain_ids=True))["messages"]
    assert [[call["id"] for call in one["tool_calls"]] for one in messages if "tool_calls" in one] == [
        ["000000001", "000000002"],
        ["000000003"],
    ]
    assert [one["tool_call_id"] for one in messages if one["role"] == "tool"] == ["000000001", "000000002", "000000003"]


def test_tools_of_the_past_are_declared_and_not_to_be_called_where_a_provider_wants_that() -> None:
    """Before Anthropic and Bedrock, gateways refuse calls in a request that declares no tools."""
    calls = tuple(ToolCall(id=f"c{number}", name=name, arguments={}) for number, name in enumerate(["t", "a b", "t"]))
    results = tuple(ToolEntry(call_id=one.id, name=one.name, text="42") for one in calls)
    past = replace(REQUEST, entries=(UserEntry(text="Hi"), AssistantEntry(calls=calls), *results))
    declared = body(past, wording=Wording(declared=True))
    assert [tool["function"]["name"] for tool in declared["tools"]] == ["t", "a_b"]
    assert {json.dumps(tool["function"]["parameters"]) for tool in declared["tools"]} == {
        '{"type": "object", "properties": {}}'
    }
    assert declared["tool_choice"] == "none"
    assert declared["messages"] == body(past)["messages"]
    assert declared == body(past, wording=Wording(declared=True, choice=False)) | {"tool_choice": "none"}


def test_no_other_tools_are_declared_where_there_are_some_or_none_was_called() -> None:
    call = ToolCall(id="c1", name="gone", arguments={})
    entries = (UserEntry(text="Hi"), AssistantEntry(calls=(call,)), ToolEntry(call_id="c1", name="gone", text="42"))
    tool = ToolSpec(name="t", description="does", category="data", parameters={"type": "object"})
    for request in (REQUEST, replace(REQUEST, entries=entries, tools=(tool,))):
        assert body(request, wording=Wording(declared=True)) == body(request)


def test_the_usage_is_not_asked_for_and_the_limit_has_its_other_name_where_a_provider_wants_that() -> None:
    sent = body(REQUEST, wording=Wording(usage=False, completion_tokens=True))
    usual = body(REQUEST)
    del usual["stream_options"]
    assert sent == usual | {"max_completion_tokens": usual.pop("max_tokens")}


@pytest.mark.parametrize(("malformed", "sent"), [("[1]", "[1]"), ('{"a": ', "{}"), ("", "{}"), ("NaN", "{}")])
def test_malformed_arguments_go_back_only_if_they_are_json(malformed: str, sent: str) -> None:
    call = ToolCall(id="c1", name="t", arguments=None, malformed=malformed)
    entries = (UserEntry(text="Hi"), AssistantEntry(calls=(call,)), ToolEntry(call_id="c1", name="t", text="no"))
    (sent_call,) = body(replace(REQUEST, entries=entries))["messages"][1]["tool_calls"]
    assert sent_call["function"]["arguments"] == sent


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("multi_tool_use.parallel", "multi_tool_use_parallel"),
        ("查 天气", "____"),
        ("", "_"),
        ("x" * 99, "x" * 64),
        ("my.tool", "my.tool"),
        ("get_weather-2", "get_weather-2"),
    ],
)
def test_a_name_that_a_model_made_up_goes_back_in_letters_that_strict_providers_take(name: str, sent: str) -> None:
    """OpenAI refuses any other with 400: now, and in each later turn that is told of the call."""
    call = ToolCall(id="c1", name=name, arguments={})
    entries = (UserEntry(text="Hi"), AssistantEntry(calls=(call,)), ToolEntry(call_id="c1", name=name, text="no"))
    ours = ToolSpec(name="my.tool", description="", category="data", parameters={"type": "object"})
    (sent_call,) = body(replace(REQUEST, entries=entries, tools=(ours,)))["messages"][1]["tool_calls"]
    assert sent_call["function"]["name"] == sent


@pytest.mark.parametrize(
    ("style", "enabled", "disabled"),
    [
        (ThinkingStyle.GLM, {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}),
        (ThinkingStyle.ENABLE_THINKING, {"enable_thinking": True}, {"enable_thinking": False}),
        (ThinkingStyle.REASONING_EFFORT, {"reasoning_effort": "medium"}, {}),
        (ThinkingStyle.NONE, {}, {}),
    ],
)
def test_each_style_asks_for_thinking_in_its_own_words(
    style: ThinkingStyle, enabled: dict[str, Any], disabled: dict[str, Any]
) -> None:
    plain = body(REQUEST)
    assert body(replace(REQUEST, thinking_enabled=True), style) == plain | enabled
    assert body(REQUEST, style) == plain | disabled


@pytest.mark.parametrize("style", list(ThinkingStyle))
def test_a_provider_that_knows_no_thinking_is_told_of_it_only_where_it_is_wanted(style: ThinkingStyle) -> None:
    wanted = replace(REQUEST, thinking_enabled=True)
    assert body(REQUEST, style, Wording(unthinking=False)) == body(REQUEST)
    assert body(wanted, style, Wording(unthinking=False)) == body(wanted, style)


@pytest.mark.parametrize("style", list(ThinkingStyle))
def test_earlier_thinking_goes_back_in_the_glm_style_alone(style: ThinkingStyle) -> None:
    entries = (UserEntry(text="Hi"), AssistantEntry(text="a", thinking="hm"), UserEntry(text="And?"))
    message = body(replace(REQUEST, entries=entries), style)["messages"][1]
    assert message.get("reasoning_content") == ("hm" if style is ThinkingStyle.GLM else None)


def test_half_a_surrogate_pair_is_sent_as_a_replacement_character() -> None:
    assert body(replace(REQUEST, entries=(UserEntry(text="a\ud83d"),)))["messages"][0]["content"] == "a\ufffd"
