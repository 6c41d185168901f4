"""Language models.

OfflineChatModel        made of rules: no key, no network; the service's default
ScriptedChatModel       plays what it is told to: for tests; `spoken` and `calling` write its rounds
openai.OpenAIChatModel  any OpenAI-compatible endpoint; a module of its own, because it needs `luxx[openai]`
"""

from luxx.adapters.models.offline import OfflineChatModel
from luxx.adapters.models.scripted import ScriptedChatModel, ScriptExhausted, calling, spoken

__all__ = ["OfflineChatModel", "ScriptExhausted", "ScriptedChatModel", "calling", "spoken"]
