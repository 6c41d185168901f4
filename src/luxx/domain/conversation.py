"""Conversations and their model settings."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from luxx.domain.errors import Conflict, Fault, NotFound
from luxx.domain.fields import ARRAY, NULL, boolean_fault, number_fault, text_fault, type_fault

TITLE_LIMIT: Final = 255
PROJECT_ID_LIMIT: Final = 64
MODEL_LIMIT: Final = 255
SYSTEM_PROMPT_LIMIT: Final = 65_536
TEMPERATURE_MAX: Final = 2.0
TOOLS_LIMIT: Final = 256
"""Names of allowed tools in one conversation, at most."""
TOOL_NAME_LIMIT: Final = 64
MAX_TOKENS_LIMIT: Final = 2**31 - 1

DEFAULT_TITLE: Final = "新会话"
DEFAULT_TEMPERATURE: Final = 1.0
DEFAULT_MAX_TOKENS: Final = 65_536


def no_conversation(conversation_id: str) -> NotFound:
    return NotFound(f"There is no conversation {conversation_id!r}.", code="conversation_not_found")


def generation_in_progress(conversation_id: str) -> Conflict:
    return Conflict(
        f"An answer is already being written in the conversation {conversation_id!r}.", code="generation_in_progress"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation of one user. Times are aware and in UTC.

    `tools` names the tools that the model may call here; None allows all.
    """

    id: str
    user_id: int
    project_id: str | None
    title: str
    model: str
    system_prompt: str | None
    temperature: float
    max_tokens: int
    thinking_enabled: bool
    tools: tuple[str, ...] | None = None
    created_at: datetime
    updated_at: datetime

    def faults(self) -> tuple[Fault, ...]:
        """Check the rules of every field, its type first; the empty tuple means that all are kept."""
        found = [
            text_fault("title", self.title, 1, TITLE_LIMIT),
            text_fault("model", self.model, 1, MODEL_LIMIT),
        ]
        if self.project_id is not None:
            found.append(text_fault("project_id", self.project_id, 1, PROJECT_ID_LIMIT))
        if self.system_prompt is not None:
            found.append(text_fault("system_prompt", self.system_prompt, 0, SYSTEM_PROMPT_LIMIT))
        found.append(number_fault("temperature", self.temperature, 0, TEMPERATURE_MAX))
        found.append(number_fault("max_tokens", self.max_tokens, 1, MAX_TOKENS_LIMIT, whole=True))
        found.append(boolean_fault("thinking_enabled", self.thinking_enabled))
        found.extend(_tools_faults(self.tools))
        return tuple(fault for fault in found if fault is not None)


def _tools_faults(names: object) -> Iterator[Fault | None]:
    if names is None:
        return
    if not isinstance(names, tuple):
        yield type_fault("tools", ARRAY, NULL)
    elif len(names) > TOOLS_LIMIT:
        yield Fault(field="tools", rule="too_many", parameters={"limit": TOOLS_LIMIT})
    else:
        for place, name in enumerate(names):
            yield text_fault(f"tools.{place}", name, 1, TOOL_NAME_LIMIT)
