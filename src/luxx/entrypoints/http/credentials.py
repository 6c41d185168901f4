"""/api/auth/password, /api/auth/sessions, /api/auth/keys: only for who is logged in, never for a key."""

from typing import Any

from litestar import Request, delete, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from luxx.application.accounts import Caller
from luxx.entrypoints.http.account_forms import (
    KeyData,
    KeysData,
    NewKeyBody,
    NewKeyData,
    PasswordBody,
    SessionData,
    SessionsData,
    WholeListQuery,
)
from luxx.entrypoints.http.answers import ok
from luxx.entrypoints.http.methods import get
from luxx.entrypoints.http.openapi import described
from luxx.entrypoints.http.reading import known_id, read_body, read_query
from luxx.entrypoints.http.uses import peer, uses

ABSENT = "not_found"


@post(
    "/api/auth/password",
    status_code=200,
    opt=described("Change the password, and end all other sessions", body=PasswordBody, errors=(429,)),
)
async def password(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    session = caller.by_login()
    body = await read_body(request, PasswordBody)
    await uses(request).change_password(
        user=caller.user,
        session_id=session.id,
        current_password=body.current_password,
        new_password=body.new_password,
        peer=peer(request),
    )
    return ok(request, said="password_changed")


@get(
    "/api/auth/sessions",
    opt=described("List where you are logged in, newest first", query=WholeListQuery, data=SessionsData),
)
async def sessions(request: Request[Any, Any, Any], caller: NamedDependency[Caller]) -> ASGIApp:
    current = caller.by_login().id
    read_query(request, WholeListQuery)
    items = [SessionData.of(one, current=current) for one in await uses(request).list_sessions(user_id=caller.user.id)]
    return ok(request, SessionsData(items, len(items)))


@delete("/api/auth/sessions/{session_id:str}", status_code=200, opt=described("End a session", errors=(404,)))
async def end(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    caller.by_login()
    await uses(request).end_session(user_id=caller.user.id, session_id=known_id(session_id, ABSENT))
    return ok(request, said="session_ended")


@post(
    "/api/auth/keys",
    status_code=201,
    opt=described("Make a key for a program: it is shown once", status=201, body=NewKeyBody, data=NewKeyData),
)
async def create_key(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    caller.by_login()
    body = await read_body(request, NewKeyBody)
    new = await uses(request).create_api_key(user_id=caller.user.id, name=body.name, **body.life())
    key = new.key
    data = NewKeyData(key.id, key.name, new.secret, key.created_at, key.expires_at, key.last_used_at)
    return ok(request, data, said="key_created", status=201)


@get("/api/auth/keys", opt=described("List your keys, newest first", query=WholeListQuery, data=KeysData))
async def keys(request: Request[Any, Any, Any], caller: NamedDependency[Caller]) -> ASGIApp:
    caller.by_login()
    read_query(request, WholeListQuery)
    items = [KeyData.of(key) for key in await uses(request).list_api_keys(user_id=caller.user.id)]
    return ok(request, KeysData(items, len(items)))


@delete("/api/auth/keys/{key_id:str}", status_code=200, opt=described("Delete a key for good", errors=(404,)))
async def delete_key(
    request: Request[Any, Any, Any],
    key_id: FromPath[str],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    caller.by_login()
    await uses(request).delete_api_key(user_id=caller.user.id, key_id=known_id(key_id, ABSENT))
    return ok(request, said="key_deleted")


HANDLERS = (password, sessions, end, create_key, keys, delete_key)
