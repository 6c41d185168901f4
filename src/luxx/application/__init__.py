"""The use cases, for those who embed Luxx: nothing but the standard library is imported.

Each use case is a callable that holds the ports it needs; see `luxx.application.ports` for those.
"""

from luxx.application.accounts import (
    Authenticate,
    Caller,
    ChangePassword,
    EndSession,
    ListSessions,
    LogIn,
    LogOut,
    RegisterUser,
    SignedIn,
)
from luxx.application.api_keys import CreateApiKey, DeleteApiKey, ListApiKeys, NewApiKey
from luxx.application.cancel_turn import CancelTurn
from luxx.application.conversations import (
    ConversationPage,
    CreateConversation,
    DeleteConversation,
    GetConversation,
    ListConversations,
    UpdateConversation,
)
from luxx.application.follow_turn import FollowTurn
from luxx.application.messages import DeleteMessage, ListMessages, MessagePage
from luxx.application.observer import UNOBSERVED, Observer, Observers
from luxx.application.operating import ChangeUser, ListUsers, ResetPassword
from luxx.application.passwords import TryLimits
from luxx.application.run_turn import RunTurn
from luxx.application.send_message import SendMessage
from luxx.application.supervisor import TurnSupervisor
from luxx.application.tools import ExecuteTool, GetTool, ListTools, Toolbox, ToolResult

__all__ = [
    "UNOBSERVED",
    "Authenticate",
    "Caller",
    "CancelTurn",
    "ChangePassword",
    "ChangeUser",
    "ConversationPage",
    "CreateApiKey",
    "CreateConversation",
    "DeleteApiKey",
    "DeleteConversation",
    "DeleteMessage",
    "EndSession",
    "ExecuteTool",
    "FollowTurn",
    "GetConversation",
    "GetTool",
    "ListApiKeys",
    "ListConversations",
    "ListMessages",
    "ListSessions",
    "ListTools",
    "ListUsers",
    "LogIn",
    "LogOut",
    "MessagePage",
    "NewApiKey",
    "Observer",
    "Observers",
    "RegisterUser",
    "ResetPassword",
    "RunTurn",
    "SendMessage",
    "SignedIn",
    "ToolResult",
    "Toolbox",
    "TryLimits",
    "TurnSupervisor",
    "UpdateConversation",
]
