"""How a model is asked, learnt from what its provider refuses: what one needs another does not take."""

import re
from dataclasses import dataclass, replace
from typing import Final

_NO_SYSTEM: Final = re.compile(rb"system role (is )?not supported|not support .?system")

_UNDECLARED: Final = re.compile(rb"`tools=`|toolconfig|must (define tools|include tool definition)")
"""How providers say that they take earlier calls only beside tools: LiteLLM, Bedrock, Anthropic, Databricks."""

_NO_TOOLS: Final = re.compile(
    rb"not support (tools|tool (use|calling)|function calling)(?! without)|no endpoints found that support tool use"
    rb"|(tools|tool (use|calling)|function calling)[`'\"]? (is|are) not (supported|enabled)"
    rb"|tools param requires|unsupported param: tools|tool choice requires --enable-auto"
)
"""How they say that there are no tools: Ollama, OpenRouter, Groq, Gemini, DeepSeek, llama.cpp, vLLM."""

_NO_BOUNDS: Final = re.compile(
    rb"failed to parse grammar|repetitions exceeds sane|pattern must start with"
    rb"|function_declarations\[[0-9]+\]\.parameters"
)
"""How llama.cpp, which makes a grammar of the arguments of tools, and Gemini say that these are bounded too finely."""

_NO_BLANKS: Final = re.compile(
    rb"text content blocks must (be non-empty|contain non-whitespace)|contentblock object at .{0,40} is blank"
)
"""How they say that what has no words is to have no text, as Claude does and Bedrock behind gateways."""

_BAD_IDS: Final = re.compile(
    rb"tool.?call ids? .*length (of )?9|tool_use(\.id|_id|` ids).{0,40}(pattern|unique)"
    rb"|tool_call(s\[[0-9]+\]\.|_)id'?: string too long|tooluseid. failed to satisfy constraint"
)
"""How they say that an id is none for them: Mistral and its templates, Anthropic, OpenAI, Bedrock."""

_UNKNOWN: Final = re.compile(rb"unsupported|unrecognized|unknown|forbidden|not (support|permitted|allowed)")
"""How they say that they do not take a field at all; else they miss it."""

_NO_TEMPERATURE: Final = re.compile(rb"temperature.{0,60}\b(deprecated|only)\b")
_NO_TEMPERATURE_THINKING: Final = re.compile(rb"temperature.{0,60}\bthinking is enabled")
_BOUNDS: Final = re.compile(rb"temperature.{0,80}\b(between|range|from|less than|greater than|at (least|most))\b")
"""It can be chosen, but not so: whoever chose it has to know, and others choose otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The wording of a request."""

    unthinking: bool = True
    """Where no thinking is wanted, that is said."""
    usage: bool = True
    """The answer's tokens are asked for (`stream_options`)."""
    completion_tokens: bool = False
    """The limit is called `max_completion_tokens`."""
    temperature: bool = True
    """It can be chosen: models that reason often have one of their own."""
    temperature_thinking: bool = True
    """It can be chosen while they think."""
    system: bool = True
    """There are messages of that role; else the user says it first."""
    in_turns: bool = False
    """Neighbours of one role are one message."""
    tools: bool = True
    """Tools are offered: by default they are, and most small models can be asked without only."""
    bounds: bool = True
    """What tools take is told with its bounds; else without: whoever breaks them is told so by the tool."""
    one_call: bool = False
    """Calls of one round are told one after the other."""
    blanks: bool = True
    """Calls without a word have an empty text, which some need; else they have none (null), which others need."""
    plain_ids: bool = False
    """Calls have ids that all take, and not those that some other provider, or this one, gave them."""
    declared: bool = False
    """Earlier calls are told only beside tools: where none is offered, those that were called are declared."""
    choice: bool = True
    """Beside these it is said that none is to be called (`tool_choice`)."""
    reasoning: bool | None = None
    """All that the model said goes back with its thinking, or with a blank where that is told no more; or nothing
    does. None leaves it to the style."""

    def after(self, refusal: bytes, *, only_roles: bool = False) -> "Wording":
        """Give the wording that a provider asks for in its refusal; the same, where that is about something else.

        `only_roles`: it calls it a failure of its own, as templates do of messages in an order that they do not take,
        and gateways of what the provider behind them refuses.
        """
        said = refusal.lower()
        told = _messages_after(self, said)
        return told if only_roles else _fields_after(told, said)


def _messages_after(asked: Wording, said: bytes) -> Wording:
    no_system, undeclared = _NO_SYSTEM.search(said) is not None, _UNDECLARED.search(said) is not None
    return replace(
        asked,
        system=asked.system and not no_system,
        in_turns=asked.in_turns or no_system or (b"alternat" in said and b"assistant" in said),
        tools=asked.tools and _NO_TOOLS.search(said) is None,
        bounds=asked.bounds and _NO_BOUNDS.search(said) is None,
        one_call=asked.one_call or b"single tool-call" in said,
        blanks=asked.blanks and _NO_BLANKS.search(said) is None,
        plain_ids=asked.plain_ids or _BAD_IDS.search(said) is not None,
        declared=asked.declared or undeclared,
        # Some gateways leave the tools out where none is to be called, and are refused themselves.
        choice=asked.choice and not (asked.declared and (undeclared or b"tool_choice" in said)),
    )


def _fields_after(asked: Wording, said: bytes) -> Wording:
    about_reasoning = b"reasoning_content" in said
    reasoning = asked.reasoning
    if about_reasoning and reasoning is None:
        reasoning = _UNKNOWN.search(said) is None
    while_thinking = _NO_TEMPERATURE_THINKING.search(said) is not None
    return replace(
        asked,
        reasoning=reasoning,
        unthinking=asked.unthinking and (b"thinking" not in said or while_thinking or about_reasoning),
        usage=asked.usage and b"stream_options" not in said,
        completion_tokens=asked.completion_tokens or b"max_completion_tokens" in said,
        temperature=asked.temperature and (while_thinking or not _fixed_temperature(said)),
        temperature_thinking=asked.temperature_thinking and not while_thinking,
    )


def _fixed_temperature(said: bytes) -> bool:
    if b"temperature" in said and (b"unsupported" in said or b"not support" in said):
        return True
    return _NO_TEMPERATURE.search(said) is not None and _BOUNDS.search(said) is None


USUAL: Final = Wording()
