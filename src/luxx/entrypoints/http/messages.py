"""/api/messages"""

from dataclasses import replace
from typing import Any

from litestar import Request, delete, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from luxx.adapters.wire import MessageJson, message_json
from luxx.application.accounts import Caller
from luxx.domain.errors import NotFound, turn_error
from luxx.domain.message import Message, Problem
from luxx.domain.turn import Done
from luxx.entrypoints.http.answers import language, ok
from luxx.entrypoints.http.event_stream import EventStream
from luxx.entrypoints.http.forms import MessagesData, MessagesQuery, SendBody, SentData, StreamQuery
from luxx.entrypoints.http.methods import get
from luxx.entrypoints.http.openapi import described
from luxx.entrypoints.http.reading import idempotency_key, known_id, last_seen, read_body, read_query
from luxx.entrypoints.http.text import ANSWER_DELETED, Language, problem_text
from luxx.entrypoints.http.uses import uses

ABSENT = "message_not_found"
SEND_ERRORS = (404, 409, 429, 503)


def shown(message: Message, speech: Language) -> MessageJson:
    """Give a message's JSON form, its error told in the reader's language."""
    if message.error is None:
        return message_json(message)
    code = message.error.code
    told = Problem(code=code, message=problem_text(code, message.error.message, speech))
    return message_json(replace(message, error=told))


@get(
    "/api/messages/{id:str}",
    opt=described("List a conversation's messages", query=MessagesQuery, data=MessagesData, errors=(404,)),
)
async def list_messages(
    request: Request[Any, Any, Any],
    id: FromPath[str],  # noqa: A002  # the path's own word
    caller: NamedDependency[Caller],
) -> ASGIApp:
    query = read_query(request, MessagesQuery)
    page = await uses(request).list_messages(
        user_id=caller.user.id,
        conversation_id=known_id(id, "conversation_not_found"),
        limit=query.limit,
        before=query.before,
    )
    items = [shown(message, language(request)) for message in page.items]
    return ok(request, MessagesData(items, page.total, page.has_more))


async def _send(request: Request[Any, Any, Any], caller: Caller) -> tuple[str, str]:
    """Send; gives the ids of the answer and of the conversation."""
    body = await read_body(request, SendBody)
    message_id = await uses(request).send_message(
        user_id=caller.user.id,
        conversation_id=known_id(body.conversation_id, "conversation_not_found"),
        content=body.content,
        tools_enabled=body.tools_enabled,
        idempotency_key=idempotency_key(request),
    )
    return message_id, body.conversation_id


async def _gone(request: Request[Any, Any, Any], caller: Caller, conversation_id: str) -> NotFound:
    """Tell in words of the send what became of its answer: whoever repeats a key may never have seen the answer's id.

    Raises `NotFound` `conversation_not_found` where that is gone too.
    """
    await uses(request).get_conversation(user_id=caller.user.id, conversation_id=conversation_id)
    return NotFound(ANSWER_DELETED, code=ABSENT)


@post(
    "/api/messages",
    status_code=201,
    opt=described(
        "Send a message and wait for the whole answer",
        status=201,
        body=SendBody,
        data=SentData,
        errors=(*SEND_ERRORS, 502, 504),
        headers=("Idempotency-Key",),
    ),
)
async def send(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    message_id, conversation_id = await _send(request, caller)
    try:
        started, end = await uses(request).follow_turn.to_end(user_id=caller.user.id, message_id=message_id)
    except NotFound:
        raise await _gone(request, caller, conversation_id) from None
    if not isinstance(end, Done):
        raise turn_error(end.code, end.message, retry_after=end.retry_after)
    return ok(request, SentData(message_json(started.user_message), message_json(end.message)), status=201)


@post(
    "/api/messages/stream",
    status_code=200,
    opt=described(
        "Send a message and stream the answer",
        body=SendBody,
        stream=True,
        errors=SEND_ERRORS,
        headers=("Idempotency-Key",),
    ),
)
async def send_and_stream(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    message_id, conversation_id = await _send(request, caller)
    try:
        return await _following(request, caller, message_id)
    except NotFound:
        raise await _gone(request, caller, conversation_id) from None


async def _following(
    request: Request[Any, Any, Any], caller: Caller, message_id: str, *, after: int = 0
) -> EventStream:
    use = uses(request)
    batches = await use.follow_turn.batches(user_id=caller.user.id, message_id=message_id, after=after)
    return EventStream(batches, message_id=message_id, language=language(request), heartbeat=use.stream_heartbeat)


@get(
    "/api/messages/{id:str}/stream",
    opt=described(
        "Follow an answer from where a reader left off",
        query=StreamQuery,
        stream=True,
        errors=(404,),
        headers=("Last-Event-ID",),
    ),
)
async def resume(
    request: Request[Any, Any, Any],
    id: FromPath[str],  # noqa: A002  # the path's own word
    caller: NamedDependency[Caller],
) -> ASGIApp:
    after = last_seen(request, read_query(request, StreamQuery).after)
    message_id = known_id(id, ABSENT)
    return await _following(request, caller, message_id, after=after)


@post(
    "/api/messages/{id:str}/cancel",
    status_code=200,
    opt=described("Stop an answer; what has arrived is kept", data=MessageJson, errors=(404,)),
)
async def cancel(
    request: Request[Any, Any, Any],
    id: FromPath[str],  # noqa: A002  # the path's own word
    caller: NamedDependency[Caller],
) -> ASGIApp:
    message = await uses(request).cancel_turn(user_id=caller.user.id, message_id=known_id(id, ABSENT))
    return ok(request, shown(message, language(request)))


@delete("/api/messages/{id:str}", status_code=200, opt=described("Delete a message", errors=(404,)))
async def remove(
    request: Request[Any, Any, Any],
    id: FromPath[str],  # noqa: A002  # the path's own word
    caller: NamedDependency[Caller],
) -> ASGIApp:
    await uses(request).delete_message(user_id=caller.user.id, message_id=known_id(id, ABSENT))
    return ok(request, said="message_deleted")


HANDLERS = (list_messages, send, send_and_stream, resume, cancel, remove)
