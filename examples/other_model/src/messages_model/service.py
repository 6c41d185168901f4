"""The whole of Luxx with this model: `uvicorn --factory messages_model.service:app`."""

import os

from dependency_injector import providers
from litestar import Litestar
from luxx.container import Container
from luxx.entrypoints.http.app import create_app
from luxx.settings import Settings

from messages_model.model import MessagesChatModel, MessagesSettings


def settings_from_env() -> MessagesSettings:
    """Read MESSAGES_API_KEY and MESSAGES_BASE_URL; raises `KeyError` without the key."""
    return MessagesSettings(
        base_url=os.environ.get("MESSAGES_BASE_URL", "https://api.anthropic.com/v1"),
        api_key=os.environ["MESSAGES_API_KEY"],
    )


def register(container: Container, settings: MessagesSettings) -> MessagesChatModel:
    """Put the model in the place of the one that the container would make; whoever registers it closes it."""
    model = MessagesChatModel(settings)
    container.model.override(providers.Object(model))
    return model


def app() -> Litestar:
    """Make the application; everything else is set by Luxx's own variables."""
    container = Container(settings=Settings.from_env())
    model = register(container, settings_from_env())
    made = create_app(container)
    made.on_shutdown.append(model.aclose)  # behind the lifespan: no answer runs any more
    return made
