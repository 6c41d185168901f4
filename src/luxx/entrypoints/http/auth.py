"""/api/auth"""

from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from luxx.application.accounts import Caller
from luxx.entrypoints.http.answers import ok
from luxx.entrypoints.http.forms import LoginBody, LoginData, LoginUserData, MeData, RegisterBody, RegisteredData
from luxx.entrypoints.http.methods import get
from luxx.entrypoints.http.openapi import described
from luxx.entrypoints.http.reading import read_body
from luxx.entrypoints.http.uses import peer, uses


@post(
    "/api/auth/register",
    status_code=201,
    opt=described("Register", status=201, body=RegisterBody, data=RegisteredData, errors=(409,), secured=False),
)
async def register(request: Request[Any, Any, Any]) -> ASGIApp:
    body = await read_body(request, RegisterBody)
    user = await uses(request).register_user(username=body.username, email=body.email, password=body.password)
    return ok(request, RegisteredData(user.id, user.username), said="registered", status=201)


@post(
    "/api/auth/login",
    status_code=200,
    opt=described("Log in", body=LoginBody, data=LoginData, errors=(401, 403, 429), secured=False),
)
async def login(request: Request[Any, Any, Any]) -> ASGIApp:
    body = await read_body(request, LoginBody)
    signed_in = await uses(request).log_in(username=body.username, password=body.password, peer=peer(request))
    user = signed_in.user
    data = LoginData(signed_in.token, "bearer", LoginUserData(user.id, user.username, user.role.value))
    return ok(request, data, said="logged_in")


@post("/api/auth/logout", status_code=200, opt=described("Log out: revoke the presented token"))
async def logout(request: Request[Any, Any, Any], caller: NamedDependency[Caller]) -> ASGIApp:
    await uses(request).log_out(session_id=caller.by_login().id)
    return ok(request, said="logged_out")


@get("/api/auth/me", opt=described("Who is logged in", data=MeData))
async def me(request: Request[Any, Any, Any], caller: NamedDependency[Caller]) -> ASGIApp:
    return ok(request, MeData.of(caller.user))


HANDLERS = (register, login, logout, me)
