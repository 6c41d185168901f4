"""/api/tools"""

from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from luxx.application.accounts import Caller
from luxx.domain.errors import InvalidInput
from luxx.domain.fields import OBJECT, type_fault
from luxx.entrypoints.http.answers import ok
from luxx.entrypoints.http.forms import ExecutedData, ToolData, ToolsData, ToolsQuery
from luxx.entrypoints.http.methods import get
from luxx.entrypoints.http.openapi import described
from luxx.entrypoints.http.reading import read_json, read_query
from luxx.entrypoints.http.uses import uses


@get("/api/tools", opt=described("List the tools", query=ToolsQuery, data=ToolsData))
async def list_tools(request: Request[Any, Any, Any], caller: NamedDependency[Caller]) -> ASGIApp:
    category = read_query(request, ToolsQuery).category
    tools = [ToolData.of(spec) for spec in uses(request).list_tools(category=category)]
    categorized: dict[str, list[ToolData]] = {}
    for tool in tools:
        categorized.setdefault(tool.category, []).append(tool)
    return ok(request, ToolsData(tools, categorized, len(tools)))


@get("/api/tools/{name:str}", opt=described("Read a tool", data=ToolData, errors=(404,)))
async def detail(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    return ok(request, ToolData.of(uses(request).get_tool(name=name)))


@post(
    "/api/tools/{name:str}/execute",
    status_code=200,
    opt=described(
        "Run a tool; the body is its arguments", body=dict[str, Any], data=ExecutedData, errors=(404, 502, 504)
    ),
)
async def execute(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    caller: NamedDependency[Caller],
) -> ASGIApp:
    uses(request).get_tool(name=name)
    arguments = await read_json(request)
    if not isinstance(arguments, dict):
        raise InvalidInput(type_fault("", OBJECT))
    done = await uses(request).execute_tool(name=name, arguments=arguments, user_id=caller.user.id)
    return ok(request, ExecutedData(done.name, done.result, done.duration_ms))


HANDLERS = (list_tools, detail, execute)
