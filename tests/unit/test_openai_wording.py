"""How the OpenAI-compatible adapter asks again what a provider refused for its wording."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from tests.support.openai import REQUEST, error_from, open_model

from luxx.application.ports import AssistantEntry, SystemEntry, ToolEntry, UserEntry
from luxx.domain.errors import ModelRejected
from luxx.domain.tool import ToolCall, ToolSpec
from luxx.testing.contracts.chat_model import heard, heard_until_error, text_in
from luxx.testing.upstream import ScriptedUpstream, failing, saying

TOOL: Final = ToolSpec(name="t", description="", category="data", parameters={"type": "object"})
NO_TOOLS_DEFINED: Final = (
    b'{"message":"The toolConfig field must be defined when using toolUse and toolResult content blocks."}'
)
UNDECLARED: Final = {
    "LiteLLM": (
        400,
        b"litellm.UnsupportedParamsError: Anthropic doesn't support tool calling without `tools=` param specified.",
    ),
    "Bedrock": (400, NO_TOOLS_DEFINED),
    "Bedrock behind a gateway that fails of it": (500, NO_TOOLS_DEFINED),
    "Anthropic": (
        400,
        b'{"error":{"message":"Requests which include `tool_use` or `tool_result` blocks must define tools."}}',
    ),
    "Databricks": (
        400,
        b'{"message":"Requests with tool_use and tool_result blocks must include tool definition."}',
    ),
}

EMPTY: Final = {
    "gateways to Claude": b"messages: text content blocks must be non-empty",
    "Claude, of blanks": b"messages: text content blocks must contain non-whitespace text",
    "Bedrock": b"The text field in the ContentBlock object at messages.1.content.0 is blank. Add text",
}
IDS: Final = {
    "Mistral": (
        400,
        b'{"object":"error","message":"Tool call id was a but must be a-z, A-Z, 0-9, with a length of 9."}',
    ),
    "its template": (
        500,
        b'{"error":{"message":"Tool call IDs should be alphanumeric strings with length 9! at row 91"}}',
    ),
    "its template in MLX": (404, b'{"error": "Tool call IDs should be alphanumeric strings with length 9!"}'),
    "Anthropic": (400, b"messages.4.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"),
    "Anthropic, of a result": (
        400,
        b"messages.4.content.0.tool_result.tool_use_id: String should match pattern '^[a-z",
    ),
    "Anthropic, of two alike": (400, b"messages.1.content.2: `tool_use` ids must be unique"),
    "OpenAI": (
        400,
        b"Invalid 'messages[2].tool_calls[0].id': string too long. Expected a string with maximum length 40",
    ),
    "OpenAI, of a result": (
        400,
        b"Invalid 'messages[3].tool_call_id': string too long. Expected a string with maximum",
    ),
    "Bedrock": (
        400,
        b"Value 'functions.t:0' at 'messages.2.member.content.1.member.toolUse.toolUseId' failed to satisfy constraint",
    ),
}

REFUSED_WORDINGS: Final = [
    pytest.param(
        400,
        b'{"error": {"message": "Unrecognized request argument supplied: thinking"}}',
        lambda sent: "thinking" not in sent,
        id="that there is no thinking, as at OpenAI",
    ),
    pytest.param(
        422,
        b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"]}]}}',
        lambda sent: "stream_options" not in sent,
        id="usage, as at Mistral",
    ),
    pytest.param(
        400,
        b'{"error": {"message": "Unsupported parameter: \'max_tokens\' is not supported with this model. '
        b"Use 'max_completion_tokens' instead.\"}}",
        lambda sent: (sent.get("max_completion_tokens"), "max_tokens" in sent) == (100, False),
        id="the limit, as at OpenAI",
    ),
    pytest.param(
        400,
        b'{"error": {"message": "Unsupported value: \'temperature\' does not support 0.7 with this model. '
        b'Only the default (1) value is supported."}}',
        lambda sent: "temperature" not in sent,
        id="the temperature, as models of OpenAI that reason",
    ),
    pytest.param(
        400,
        b'{"error":{"message":"invalid temperature: only 1 is allowed for this model","type":"invalid_request_error"}}',
        lambda sent: "temperature" not in sent,
        id="the temperature, as Kimi",
    ),
    pytest.param(
        400,
        b'{"error":{"type":"invalid_request_error","message":"`temperature` is deprecated for this model."}}',
        lambda sent: "temperature" not in sent,
        id="the temperature, as Claude since Opus 4.7",
    ),
    pytest.param(
        400,
        b'{"object":"error","message":"System role not supported","type":"BadRequestError","param":null,"code":400}',
        lambda sent: sent["messages"][0] == {"role": "user", "content": "Be brief.\n\nHi\n\nHello?"},
        id="that there is nobody but user and assistant, as Gemma 2",
    ),
    pytest.param(
        500,
        b'{"error":{"code":500,"message":"Conversation roles must alternate user/assistant/user/assistant/..."}}',
        lambda sent: [one["content"] for one in sent["messages"][1:3]] == ["Hi\n\nHello?", ""],
        id="turns, as llama.cpp",
    ),
    pytest.param(
        400,
        b'{"object":"error","message":"This model only supports single tool-calls at once!","code":400}',
        lambda sent: [len(one.get("tool_calls", ())) for one in sent["messages"]] == [0, 0, 0, 1, 0, 1, 0],
        id="one call at a time, as Llama 3",
    ),
    *[
        pytest.param(
            status,
            said,
            lambda sent: (len(sent.get("tools", ())), sent.get("tool_choice")) == (1, "none"),
            id=f"calls without tools, as {whose}",
        )
        for whose, (status, said) in UNDECLARED.items()
    ],
    *[
        pytest.param(400, said, lambda sent: sent["messages"][3]["content"] is None, id=f"no words, as {whose}")
        for whose, said in EMPTY.items()
    ],
    *[
        pytest.param(
            status,
            said,
            lambda sent: (
                (
                    [[call["id"] for call in one.get("tool_calls", ())] for one in sent["messages"]][3:],
                    [one.get("tool_call_id") for one in sent["messages"]][4:],
                )
                == ([["000000001", "000000002"], [], []], ["000000001", "000000002"])
            ),
            id=f"ids, as {whose}",
        )
        for whose, (status, said) in IDS.items()
    ],
]


@pytest.mark.parametrize(("status", "said", "kept"), REFUSED_WORDINGS)
async def test_a_wording_that_a_provider_refuses_is_changed_at_once_and_for_good(
    upstream: ScriptedUpstream, status: int, said: bytes, kept: Callable[[dict[str, Any]], bool]
) -> None:
    calls = tuple(ToolCall(id=one, name="t", arguments={}) for one in "ab")
    results = [ToolEntry(call_id=one.id, name="t", text="42") for one in calls]
    questions = UserEntry(text="Hi"), UserEntry(text="Hello?")
    said_before = SystemEntry(text="Be brief."), *questions
    request = replace(REQUEST, entries=(*said_before, AssistantEntry(calls=calls), *results))
    upstream.play(failing(status, body=said), saying("there"), saying("again"), saying("another"))
    async with open_model(upstream.url, retries=0) as model:
        assert text_in(await heard(model, request)) == "there"
        assert text_in(await heard(model, request)) == "again"
        assert text_in(await heard(model, replace(request, model="another"))) == "another"
    assert [kept(asked.json) for asked in upstream.requests] == [False, True, True, False]


@pytest.mark.parametrize(
    "said",
    [
        b"litellm.UnsupportedParamsError: Bedrock doesn't support tool_choice=none. To drop it from the call, ...",
        b"litellm.UnsupportedParamsError: bedrock does not support parameters: ['tool_choice'], for model=...",
        pytest.param(NO_TOOLS_DEFINED, id="once more: some leave the tools out where none is to be called"),
    ],
)
async def test_that_no_tool_is_to_be_called_is_not_said_where_that_is_refused(
    upstream: ScriptedUpstream, said: bytes
) -> None:
    call = ToolCall(id="a", name="t", arguments={})
    entries = (UserEntry(text="Hi"), AssistantEntry(calls=(call,)), ToolEntry(call_id="a", name="t", text="42"))
    request = replace(REQUEST, entries=entries)
    upstream.play(failing(400, body=NO_TOOLS_DEFINED), failing(400, body=said), saying("there"), saying("again"))
    async with open_model(upstream.url, retries=0) as model:
        assert text_in(await heard(model, request)) == "there"
        assert text_in(await heard(model, request)) == "again"
    assert [("tools" in asked.json, "tool_choice" in asked.json) for asked in upstream.requests] == [
        (False, False),
        (True, True),
        (True, False),
        (True, False),
    ]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        pytest.param(
            400,
            b'{"error":{"code":400,"message":"Failed to initialize samplers: failed to parse grammar"}}',
            id="llama.cpp",
        ),
        pytest.param(500, b"number of repetitions exceeds sane defaults", id="llama.cpp of old"),
        pytest.param(400, b"Pattern must start with '^' and end with '$'", id="llama.cpp, of a pattern"),
        pytest.param(
            400,
            b'Invalid JSON payload received. Unknown name "exclusiveMinimum" at \'tools[0].function_declarations[6].'
            b"parameters.properties[3].value': Cannot find field.",
            id="Gemini",
        ),
    ],
)
async def test_tools_are_offered_without_the_bounds_of_their_arguments_where_a_provider_takes_none(
    upstream: ScriptedUpstream, status: int, said: bytes
) -> None:
    properties = {
        "pattern": {"description": "To look for", "anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]},
        "urls": {"type": "array", "maxItems": 3, "items": {"type": "string", "minLength": 1, "pattern": "h"}},
        "any": True,
    }
    schema = {"type": "object", "properties": properties, "required": ["urls"], "additionalProperties": False}
    request = replace(REQUEST, tools=(replace(TOOL, parameters=schema),))
    upstream.play(failing(status, body=said), saying("there"), saying("again"))
    async with open_model(upstream.url) as model:
        assert text_in(await heard(model, request)) == "there"
        assert text_in(await heard(model, request)) == "again"
    told = [asked.json["tools"][0]["function"]["parameters"] for asked in upstream.requests]
    plain = {
        "type": "object",
        "properties": {
            "pattern": {"description": "To look for", "anyOf": [{"type": "string"}, {"type": "null"}]},
            "urls": {"type": "array", "items": {"type": "string"}},
            "any": True,
        },
        "required": ["urls"],
    }
    assert told == [schema, plain, plain]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        pytest.param(400, b"registry.ollama.ai/library/gemma3:4b does not support tools", id="Ollama"),
        pytest.param(400, b"Function calling is not enabled for models/gemma-3-12b-it", id="Gemini"),
        pytest.param(400, b"`tools` is not supported with this model", id="Groq"),
        pytest.param(400, b"deepseek-reasoner does not support Function Calling", id="DeepSeek"),
        pytest.param(404, b"No endpoints found that support tool use. Try disabling ...", id="OpenRouter"),
        pytest.param(500, b"tools param requires --jinja flag", id="llama.cpp without templates"),
        pytest.param(500, b"Unsupported param: tools", id="llama.cpp of old"),
        pytest.param(
            400,
            b'"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            id="vLLM without a parser",
        ),
    ],
)
async def test_a_model_that_takes_no_tools_is_asked_without_them_and_the_log_tells_so(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture, status: int, said: bytes
) -> None:
    request = replace(REQUEST, tools=(TOOL,))
    upstream.play(failing(status, body=said), saying("there"), saying("again"))
    async with open_model(upstream.url) as model:
        assert text_in(await heard(model, request)) == "there"
        assert text_in(await heard(model, request)) == "again"
    assert ["tools" in asked.json for asked in upstream.requests] == [True, False, False]
    assert caplog.messages == ["the provider takes no tools for the model 'glm-5': it is asked without them"]


async def test_a_provider_that_refuses_each_wording_is_told_as_refusing(upstream: ScriptedUpstream) -> None:
    body = b"stream_options, max_completion_tokens, assistant, alternate"
    error = await error_from(upstream, *[failing(400, body=body)] * 5, retries=2)
    assert isinstance(error, ModelRejected)
    assert len(upstream.requests) == 2


async def test_a_wording_that_is_refused_as_well_is_not_kept(upstream: ScriptedUpstream) -> None:
    """The refusal was about something else: it quotes what the user wrote."""
    said = b'{"error": {"message": "too long", "input": "I was thinking about stream_options"}}'
    upstream.play(failing(400, body=said), failing(400, body=said), saying("there"))
    async with open_model(upstream.url) as model:
        _, error = await heard_until_error(model, REQUEST)
        assert isinstance(error, ModelRejected)
        assert text_in(await heard(model, REQUEST)) == "there"
    assert ["stream_options" in asked.json for asked in upstream.requests] == [True, False, True]


async def test_a_failure_of_the_providers_own_says_nothing_about_the_wording(upstream: ScriptedUpstream) -> None:
    upstream.play(failing(500, body=b'{"error": "the thinking worker died"}'), saying("there"))
    async with open_model(upstream.url, retries=1) as model:
        assert text_in(await heard(model, REQUEST)) == "there"
    assert [asked.json["thinking"] for asked in upstream.requests] == [{"type": "disabled"}] * 2


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"The `reasoning_content` in the thinking mode must be passed back to the API.", [" ", "Hm."]),
        (
            b"thinking is enabled but reasoning_content is missing in assistant tool call message at index 1",
            [" ", "Hm."],
        ),
        (b"'messages.3' : property 'reasoning_content' is unsupported", [None, None]),
        (b'{"type":"extra_forbidden","loc":["body","messages",3,"assistant","reasoning_content"]}', [None, None]),
    ],
    ids=["DeepSeek", "Kimi", "Groq", "Mistral"],
)
@pytest.mark.parametrize("thinking", [True, False])
async def test_earlier_thinking_goes_with_all_that_the_model_said_or_with_nothing_as_a_provider_wants(
    upstream: ScriptedUpstream, said: bytes, told: list[str | None], thinking: bool
) -> None:
    """Of earlier turns it is told no more: DeepSeek and Kimi miss it beside each call, and refuse all that follows."""
    call = ToolCall(id="a", name="t", arguments={})
    entries = (
        UserEntry(text="Hi"),
        *(AssistantEntry(calls=(call,)), ToolEntry(call_id="a", name="t", text="42")),
        *(AssistantEntry(calls=(call,), thinking="Hm."), ToolEntry(call_id="a", name="t", text="42")),
    )
    request = replace(REQUEST, entries=entries, thinking_enabled=thinking)
    upstream.play(failing(400, body=said), saying("there"), saying("again"))
    async with open_model(upstream.url, retries=0) as model:
        assert text_in(await heard(model, request)) == "there"
        assert text_in(await heard(model, request)) == "again"
    first, *later = (
        [one.get("reasoning_content") for one in asked.messages if one["role"] == "assistant"]
        for asked in upstream.requests
    )
    assert (first, later) == ([None, "Hm."], [told, told])
    assert {asked.json["thinking"]["type"] for asked in upstream.requests} == {"enabled" if thinking else "disabled"}


async def test_a_temperature_that_does_not_go_with_thinking_is_sent_where_there_is_none(
    upstream: ScriptedUpstream,
) -> None:
    said = b'{"error": {"message": "`temperature` may only be set to 1 when thinking is enabled."}}'
    upstream.play(failing(400, body=said), saying("there"), saying("again"), saying("plain"))
    thinking = replace(REQUEST, thinking_enabled=True)
    async with open_model(upstream.url) as model:
        for request in (thinking, thinking, REQUEST):
            await heard(model, request)
    assert ["temperature" in asked.json for asked in upstream.requests] == [True, False, False, True]


@pytest.mark.parametrize(
    "said",
    [
        b"temperature: Input should be less than or equal to 1",
        b"temperature can only be between 0 and 1",
        b"temperature must be a number: only values from 0 to 1 are allowed",
        b"Invalid temperature, only the range [0, 1] is supported",
    ],
)
async def test_a_temperature_out_of_bounds_is_not_left_out(upstream: ScriptedUpstream, said: bytes) -> None:
    """Else it would be left out of all that this model is asked later, by whomever."""
    assert isinstance(await error_from(upstream, failing(400, body=said)), ModelRejected)
    assert len(upstream.requests) == 1


async def test_thinking_that_is_wanted_is_not_left_out_for_a_provider_that_refuses_it(
    upstream: ScriptedUpstream,
) -> None:
    upstream.play(failing(400, body=b"Unrecognized request argument supplied: thinking"))
    async with open_model(upstream.url) as model:
        _, error = await heard_until_error(model, replace(REQUEST, thinking_enabled=True))
    assert isinstance(error, ModelRejected)
    assert "thinking style" in str(error)
    assert len(upstream.requests) == 1
