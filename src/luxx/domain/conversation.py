"""Conversations and their model settings."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from luxx.domain.errors import Fault

TITLE_LIMIT: Final = 255
PROJECT_ID_LIMIT: Final = 64
MODEL_LIMIT: Final = 255
SYSTEM_PROMPT_LIMIT: Final = 65_536
TEMPERATURE_MAX: Final = 2.0
TOOLS_LIMIT: Final = 256
"""Names of allowed tools in one conversation, at most."""
MAX_TOKENS_LIMIT: Final = 2**31 - 1

DEFAULT_TITLE: Final = "新会话"
DEFAULT_TEMPERATURE: Final = 1.0
DEFAULT_MAX_TOKENS: Final = 65_536


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
        """Check the rules of every field; the empty tuple means that all are kept."""
        found: list[Fault] = []
        texts = (
            ("title", self.title, 1, TITLE_LIMIT),
            ("model", self.model, 1, MODEL_LIMIT),
            ("project_id", self.project_id, 1, PROJECT_ID_LIMIT),
            ("system_prompt", self.system_prompt, 0, SYSTEM_PROMPT_LIMIT),
        )
        for name, text, shortest, longest in texts:
            if text is None:
                continue
            if len(text) < shortest:
                found.append(Fault(field=name, rule="too_short", parameters={"limit": shortest}))
            elif len(text) > longest:
                found.append(Fault(field=name, rule="too_long", parameters={"limit": longest}))
            elif "\0" in text:
                found.append(Fault(field=name, rule="nul"))
        numbers = (
            ("temperature", self.temperature, 0, TEMPERATURE_MAX),
            ("max_tokens", self.max_tokens, 1, MAX_TOKENS_LIMIT),
        )
        for name, number, least, most in numbers:
            # Not `number < least`: that would let a NaN pass.
            if not number >= least:
                found.append(Fault(field=name, rule="too_small", parameters={"limit": least}))
            elif not number <= most:
                found.append(Fault(field=name, rule="too_large", parameters={"limit": most}))
        if self.tools is not None and len(self.tools) > TOOLS_LIMIT:
            found.append(Fault(field="tools", rule="too_many", parameters={"limit": TOOLS_LIMIT}))
        return tuple(found)
