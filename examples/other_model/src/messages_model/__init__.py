"""A `ChatModel` for Luxx that speaks the Messages API."""

from messages_model.model import MessagesChatModel, MessagesSettings

__all__ = ["MessagesChatModel", "MessagesSettings"]
