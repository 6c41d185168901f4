"""/health: for whoever decides whether this process gets requests."""

from typing import Any

from litestar import Request
from litestar.types import ASGIApp

from luxx.entrypoints.http.answers import Answer
from luxx.entrypoints.http.forms import HealthData
from luxx.entrypoints.http.methods import get
from luxx.entrypoints.http.openapi import described
from luxx.entrypoints.http.uses import uses


@get("/health/live", opt=described("The process runs", plain=HealthData, secured=False))
async def live(request: Request[Any, Any, Any]) -> ASGIApp:
    return Answer(HealthData("ok", {}), 200)


@get("/health/ready", opt=described("The process takes requests", plain=HealthData, errors=(503,), secured=False))
async def ready(request: Request[Any, Any, Any]) -> ASGIApp:
    """Tell whether the database is reachable with its schema current, and new messages are taken."""
    missing = await uses(request).storage.missing()
    checks = {
        "database": missing or "ok",
        "turns": "the server is about to stop" if uses(request).supervisor.draining else "ok",
    }
    well = all(state == "ok" for state in checks.values())
    return Answer(HealthData("ok" if well else "unavailable", checks), 200 if well else 503)


HANDLERS = (live, ready)
