"""/api/conversations"""

from typing import Any

from litestar import Request, delete, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from luxx.application.accounts import Caller
from luxx.entrypoints.http.answers import ok
from luxx.entrypoints.http.forms import (
    ConversationChangesBody,
    ConversationData,
    ConversationsData,
    ConversationsQuery,
    NewConversationBody,
    given,
)
from luxx.entrypoints.http.methods import get
from luxx.entrypoints.http.openapi import described
from luxx.entrypoints.http.reading import known_id, read_body, read_query
from luxx.entrypoints.http.uses import uses

ABSENT = "conversation_not_found"


@get(
    "/api/conversations",
    opt=described("List conversations, latest activity first", query=ConversationsQuery, data=ConversationsData),
)
async def list_conversations(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    query = read_query(request, ConversationsQuery)
    page = await uses(request).list_conversations(
        user_id=caller.user.id,
        project_id=query.project_id,
        page=query.page,
        page_size=query.page_size,
        cursor=query.cursor,
    )
    data = ConversationsData(
        items=[ConversationData.of(item) for item in page.items],
        total=page.total,
        page=query.page,
        page_size=query.page_size,
        next_cursor=page.next_cursor,
    )
    return ok(request, data)


@post(
    "/api/conversations",
    status_code=201,
    opt=described("Create a conversation", status=201, body=NewConversationBody, data=ConversationData),
)
async def create(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    make = uses(request).create_conversation
    body = await read_body(request, NewConversationBody, checks={"tools": make.tools_fault})
    conversation = await make(user_id=caller.user.id, **given(body))
    return ok(request, ConversationData.of(conversation), said="conversation_created", status=201)


@get("/api/conversations/{id:str}", opt=described("Read a conversation", data=ConversationData, errors=(404,)))
async def detail(
    request: Request[Any, Any, Any],
    id: FromPath[str],  # noqa: A002  # the path's own word
    caller: NamedDependency[Caller],
) -> ASGIApp:
    conversation = await uses(request).get_conversation(user_id=caller.user.id, conversation_id=known_id(id, ABSENT))
    return ok(request, ConversationData.of(conversation))


@put(
    "/api/conversations/{id:str}",
    opt=described("Change a conversation", body=ConversationChangesBody, data=ConversationData, errors=(404,)),
)
async def update(
    request: Request[Any, Any, Any],
    id: FromPath[str],  # noqa: A002  # the path's own word
    caller: NamedDependency[Caller],
) -> ASGIApp:
    change = uses(request).update_conversation
    body = await read_body(request, ConversationChangesBody, checks={"tools": change.tools_fault})
    conversation = await change(user_id=caller.user.id, conversation_id=known_id(id, ABSENT), **given(body))
    return ok(request, ConversationData.of(conversation), said="conversation_updated")


@delete("/api/conversations/{id:str}", status_code=200, opt=described("Delete a conversation", errors=(404,)))
async def remove(
    request: Request[Any, Any, Any],
    id: FromPath[str],  # noqa: A002  # the path's own word
    caller: NamedDependency[Caller],
) -> ASGIApp:
    await uses(request).delete_conversation(user_id=caller.user.id, conversation_id=known_id(id, ABSENT))
    return ok(request, said="conversation_deleted")


HANDLERS = (list_conversations, create, detail, update, remove)
