"""A typed client of a Luxx service: `Client`, and `AsyncClient` with the same methods.

    with Client("https://chat.example.com") as client:
        client.login("ada", password)
        conversation = client.create_conversation()
        for event in client.stream(conversation.id, "What is a lease?"):
            match event:
                case Text(delta=delta):
                    print(delta, end="")

Streams lose no word and double none when connections break. It needs httpx and msgspec: the extra `client`.
"""

from luxx.domain.conversation import Conversation
from luxx.domain.message import Message, Problem, Role, Status, TextPart, ThinkingPart, ToolCallPart, Usage
from luxx.extras import needs

with needs("luxx.client", "the extra `client`"):
    from luxx.client.asynchronous import AsyncClient, AsyncStream
    from luxx.client.blocking import Client, Stream
    from luxx.client.errors import (
        BadRequest,
        Conflict,
        ConnectionLost,
        Detail,
        Forbidden,
        Interrupted,
        InvalidInput,
        LuxxApiError,
        LuxxClientError,
        ModelFailed,
        NotFound,
        Overloaded,
        RateLimited,
        ServerFault,
        ToolFailed,
        Unauthenticated,
        UnreadableAnswer,
    )
    from luxx.client.patience import Patience
    from luxx.client.results import (
        Account,
        ConversationPage,
        Done,
        Failed,
        Health,
        Key,
        LoggedInUser,
        Login,
        MessagePage,
        NewKey,
        Registered,
        Sent,
        Session,
        Started,
        StreamEvent,
        Text,
        Thinking,
        Tool,
        ToolCalled,
        ToolReturned,
        ToolRun,
        Tools,
    )

__all__ = [
    "Account",
    "AsyncClient",
    "AsyncStream",
    "BadRequest",
    "Client",
    "Conflict",
    "ConnectionLost",
    "Conversation",
    "ConversationPage",
    "Detail",
    "Done",
    "Failed",
    "Forbidden",
    "Health",
    "Interrupted",
    "InvalidInput",
    "Key",
    "LoggedInUser",
    "Login",
    "LuxxApiError",
    "LuxxClientError",
    "Message",
    "MessagePage",
    "ModelFailed",
    "NewKey",
    "NotFound",
    "Overloaded",
    "Patience",
    "Problem",
    "RateLimited",
    "Registered",
    "Role",
    "Sent",
    "ServerFault",
    "Session",
    "Started",
    "Status",
    "Stream",
    "StreamEvent",
    "Text",
    "TextPart",
    "Thinking",
    "ThinkingPart",
    "Tool",
    "ToolCallPart",
    "ToolCalled",
    "ToolFailed",
    "ToolReturned",
    "ToolRun",
    "Tools",
    "Unauthenticated",
    "UnreadableAnswer",
    "Usage",
]
