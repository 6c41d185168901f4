"""Answers inside a service of your own: its authentication, its addresses, and Luxx for the stream alone.

    uvicorn --timeout-graceful-shutdown 10 examples.embed_fastapi:app
    curl -N http://127.0.0.1:8000/ask -H "X-Key: ada-key" --json '{"question": "What is a lease?"}'
    curl -N http://127.0.0.1:8000/answers/msg_… -H "X-Key: ada-key" -H "Last-Event-ID: 3"

The stream is the one of docs/streaming.md: it resumes, any number of readers may follow, and who leaves
stops nothing. Needs fastapi, uvicorn and luxx[sqlite]; nothing of Litestar is imported.
"""

# ruff: noqa: INP001 - a program by itself

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from luxx.adapters.database import Database
from luxx.adapters.models import OfflineChatModel
from luxx.adapters.system import SortableIds, utc_now
from luxx.application import Chat
from luxx.domain.errors import Conflict, InvalidInput, LuxxError, NotFound, Overloaded, RateLimited
from luxx.entrypoints.http.event_stream import EventStream
from luxx.entrypoints.http.text import Language

KEYS = {"ada-key": "ada", "grace-key": "grace"}  # your own way to know who is calling
HEARTBEAT_SECONDS = 15.0
STATUS = {InvalidInput: 422, NotFound: 404, Conflict: 409, RateLimited: 429, Overloaded: 503}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    storage = Database(os.environ.get("DATABASE_URL", "sqlite:///answers.db"))
    await storage.upgrade()
    async with Chat(
        storage=storage,
        model=OfflineChatModel(pause_s=0.02),
        default_model="offline",
        clock=utc_now,
        new_id=SortableIds(),
    ) as chat:
        app.state.chat = chat
        yield
        await chat.supervisor.drain(grace=10)


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    question: str
    conversation_id: str | None = None


class Streamed(Response):
    """Lets an ASGI application answer in the place of a response."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__()
        self.stream = stream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.stream(scope, receive, send)


def chat_of(request: Request) -> Chat:
    chat: Chat = request.app.state.chat
    return chat


async def caller(chat: Annotated[Chat, Depends(chat_of)], x_key: Annotated[str, Header()] = "") -> int:
    """Tell who is calling, by our own means; Luxx keeps an account without a password for each."""
    if x_key not in KEYS:
        raise HTTPException(401, "Send the header X-Key.")
    return (await chat.admit_user(username=KEYS[x_key])).id


@app.post("/ask")
async def ask(
    question: Question,
    chat: Annotated[Chat, Depends(chat_of)],
    user_id: Annotated[int, Depends(caller)],
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    conversation_id = question.conversation_id or (await chat.create_conversation(user_id=user_id)).id
    message_id = await chat.send_message(
        user_id=user_id,
        conversation_id=conversation_id,
        content=question.question,
        idempotency_key=idempotency_key,
    )
    return await streamed(chat, user_id, message_id)


@app.get("/answers/{message_id}")
async def follow(
    message_id: str,
    chat: Annotated[Chat, Depends(chat_of)],
    user_id: Annotated[int, Depends(caller)],
    last_event_id: Annotated[int, Header(ge=0)] = 0,
) -> Response:
    return await streamed(chat, user_id, message_id, after=last_event_id)


async def streamed(chat: Chat, user_id: int, message_id: str, *, after: int = 0) -> Response:
    # Raises NotFound for an answer of somebody else's, before any head is sent.
    batches = await chat.follow_turn.batches(user_id=user_id, message_id=message_id, after=after)
    return Streamed(EventStream(batches, message_id=message_id, language=Language.EN, heartbeat=HEARTBEAT_SECONDS))


@app.exception_handler(LuxxError)
async def refused(_request: Request, error: LuxxError) -> Response:
    return JSONResponse({"code": error.code, "message": str(error)}, STATUS.get(type(error), 500))
