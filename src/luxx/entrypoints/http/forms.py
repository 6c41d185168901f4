"""The bodies, query strings and data of the API. What a field may be is said here once, for checks and schema alike."""

from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from luxx.adapters.validation import FaultCheck
from luxx.adapters.wire import MessageJson
from luxx.domain import conversation as conv
from luxx.domain.conversation import Conversation
from luxx.domain.message import CONTENT_LIMIT
from luxx.domain.tool import ToolSpec
from luxx.domain.user import (
    EMAIL_MAX,
    PASSWORD_MAX,
    PASSWORD_MIN,
    USERNAME_MAX,
    USERNAME_MIN,
    User,
    email_fault,
    password_fault,
    username_fault,
)

WHOLE_MAX: Final = 2**53 - 1
"""What every JSON reader takes for a whole number, at most (RFC 8259, 6)."""

Username = Annotated[
    str,
    Meta(
        min_length=USERNAME_MIN,
        max_length=USERNAME_MAX,
        description="Letters and digits of any script, and `_ - .`; compared without case.",
        extra={"fault": username_fault},
    ),
]
Email = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=EMAIL_MAX,
        description="An e-mail address; compared without case.",
        extra={"fault": email_fault},
        extra_json_schema={"format": "email"},
    ),
]


def password_rules(fault: FaultCheck) -> Meta:
    """Say what a password may be that is set; `fault` checks it, by the name of its field."""
    return Meta(
        description=f"{PASSWORD_MIN} to {PASSWORD_MAX} characters after NFC; none of the most common passwords.",
        extra={"fault": fault},
        extra_json_schema={"format": "password", "minLength": PASSWORD_MIN},
    )


ProjectId = Annotated[str, Meta(min_length=1, max_length=conv.PROJECT_ID_LIMIT)]
Title = Annotated[str, Meta(min_length=1, max_length=conv.TITLE_LIMIT)]
Model = Annotated[str, Meta(min_length=1, max_length=conv.MODEL_LIMIT)]
SystemPrompt = Annotated[str, Meta(max_length=conv.SYSTEM_PROMPT_LIMIT)]
Temperature = Annotated[float, Meta(ge=0, le=conv.TEMPERATURE_MAX)]
MaxTokens = Annotated[int, Meta(ge=1, le=conv.MAX_TOKENS_LIMIT)]


ToolNames = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=conv.TOOL_NAME_LIMIT)]],
    Meta(max_length=conv.TOOLS_LIMIT, description="The tools that the model may call here; null allows all."),
]


class RegisterBody(Struct, forbid_unknown_fields=True):
    username: Username
    email: Email
    password: Annotated[str, password_rules(password_fault)]


class LoginBody(Struct, forbid_unknown_fields=True):
    username: Annotated[str, Meta(max_length=1024)]
    password: Annotated[str, Meta(max_length=1024, extra_json_schema={"format": "password"})]


class RegisteredData(Struct):
    id: int
    username: str


class LoginUserData(Struct):
    id: int
    username: str
    role: Literal["user", "admin"]


class LoginData(Struct):
    access_token: str
    token_type: Literal["bearer"]
    user: LoginUserData


class MeData(Struct):
    id: int
    username: str
    email: str
    role: Literal["user", "admin"]
    is_active: bool

    @classmethod
    def of(cls, user: User) -> "MeData":
        return cls(id=user.id, username=user.username, email=user.email, role=user.role.value, is_active=user.is_active)


class NewConversationBody(Struct, forbid_unknown_fields=True):
    project_id: ProjectId | None = None
    title: Title | UnsetType = UNSET
    model: Model | UnsetType = UNSET
    system_prompt: SystemPrompt | None = None
    temperature: Temperature | UnsetType = UNSET
    max_tokens: MaxTokens | UnsetType = UNSET
    thinking_enabled: bool | UnsetType = UNSET
    tools: ToolNames | None = None


class ConversationChangesBody(Struct, forbid_unknown_fields=True):
    """The fields to change; null clears `project_id` and `system_prompt`, and in `tools` it allows all."""

    project_id: ProjectId | UnsetType | None = UNSET
    title: Title | UnsetType = UNSET
    model: Model | UnsetType = UNSET
    system_prompt: SystemPrompt | UnsetType | None = UNSET
    temperature: Temperature | UnsetType = UNSET
    max_tokens: MaxTokens | UnsetType = UNSET
    thinking_enabled: bool | UnsetType = UNSET
    tools: ToolNames | UnsetType | None = UNSET


def given(body: Struct) -> dict[str, Any]:
    """Give the fields that the client sent."""
    values = {name: getattr(body, name) for name in body.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}


class ConversationData(Struct):
    id: str
    user_id: int
    project_id: str | None
    title: str
    model: str
    system_prompt: str | None
    temperature: float
    max_tokens: int
    thinking_enabled: bool
    tools: list[str] | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, conversation: Conversation) -> "ConversationData":
        return cls(*_conversation_fields(conversation))


_conversation_fields: Final = attrgetter(*ConversationData.__struct_fields__)
"""All at once: this is done for every item of a list."""


class ConversationsQuery(Struct, forbid_unknown_fields=True):
    project_id: ProjectId | None = None
    page: Annotated[int, Meta(ge=1, le=WHOLE_MAX, description="Counts from 1; `cursor` goes before it.")] = 1
    page_size: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[str, Meta(max_length=512, description="`next_cursor` of an earlier page.")] | None = None


class ConversationsData(Struct):
    items: list[ConversationData]
    total: int
    page: int
    page_size: int
    next_cursor: str | None


class MessagesQuery(Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1000, description="The newest so many, oldest first.")] = 100
    before: Annotated[str, Meta(max_length=128, description="A message's id: only older ones.")] | None = None


class MessagesData(Struct):
    items: list[MessageJson]
    total: int
    has_more: bool


class SendBody(Struct, forbid_unknown_fields=True):
    conversation_id: Annotated[str, Meta(min_length=1, max_length=128)]
    content: Annotated[str, Meta(min_length=1, max_length=CONTENT_LIMIT)]
    tools_enabled: bool = True


class SentData(Struct):
    user_message: MessageJson
    assistant_message: MessageJson


class StreamQuery(Struct):
    """Others are passed over: event sources in browsers add their own, and what is asked anew begins with `start`."""

    after: Annotated[int, Meta(ge=0, le=WHOLE_MAX, description="The id of the last event seen.")] | None = None


class ToolsQuery(Struct, forbid_unknown_fields=True):
    category: Annotated[str, Meta(max_length=64)] | None = None


class ToolData(Struct):
    name: str
    description: str
    category: str
    parameters: dict[str, Any]

    @classmethod
    def of(cls, spec: ToolSpec) -> "ToolData":
        return cls(
            name=spec.name, description=spec.description, category=spec.category, parameters=dict(spec.parameters)
        )


class ToolsData(Struct):
    tools: list[ToolData]
    categorized: dict[str, list[ToolData]]
    total: int


class ExecutedData(Struct):
    name: str
    result: Any
    duration_ms: int


class HealthData(Struct):
    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
