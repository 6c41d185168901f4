"""The OpenAPI 3.1 description of the API, made from what the handlers declare about themselves."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import HttpMethod
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from luxx import __version__
from luxx.adapters.wire import EVENTS
from luxx.entrypoints.http.answers import Failure

_KEY: Final = "luxx_operation"
_REF: Final = "#/components/schemas/{name}"

_NO_NUL: Final = "^[^\\u0000]*$"
"""What every string that a client sends must match (ECMA-262)."""

_ERRORS: Final[Mapping[int, str]] = {
    400: "The body is no valid JSON",
    401: "No token, or one that is invalid, expired or revoked",
    403: "The account is disabled, or not allowed to do this",
    404: "Absent, or somebody else's",
    409: "Against the present state",
    413: "The body is larger than 4 MiB",
    415: "The body is not application/json",
    422: "Well-formed, but invalid; `details` names every bad field",
    429: "Too often; `Retry-After` says when to try again",
    500: "A fault of the service",
    502: "The model or the tool's back end failed",
    503: "Not ready, overloaded or interrupted",
    504: "The model or the tool was too slow",
}

_HEADERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "Idempotency-Key": (
        "The client's own name for this message: a repeat within 24 h gives the first outcome and calls no model.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    ),
    "Last-Event-ID": ("The id of the last event seen.", {"type": "string", "pattern": "^[0-9]{0,15}$"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a handler says of itself. `plain` is data without the envelope; `stream` answers with events."""

    summary: str
    status: int
    body: Any
    query: type[Struct] | None
    data: Any
    plain: Any
    stream: bool
    errors: Sequence[int]
    headers: Sequence[str]
    secured: bool

    @property
    def statuses(self) -> Sequence[int]:
        """Every status of failure that the operation can answer with."""
        found = {500, *self.errors}
        if self.secured:
            found |= {401, 403, 429, 503}
        if self.body is not None:
            found |= {400, 413, 415, 422, 503}
        if self.query is not None:
            found.add(422)
        return sorted(found)


def described(
    summary: str,
    *,
    status: int = 200,
    body: Any = None,
    query: type[Struct] | None = None,
    data: Any = None,
    plain: Any = None,
    stream: bool = False,
    errors: Sequence[int] = (),
    headers: Sequence[str] = (),
    secured: bool = True,
) -> dict[str, Any]:
    """Describe a handler, as its `opt`."""
    operation = Operation(
        summary=summary,
        status=status,
        body=body,
        query=query,
        data=data,
        plain=plain,
        stream=stream,
        errors=errors,
        headers=headers,
        secured=secured,
    )
    return {_KEY: operation}


def openapi_document(handlers: Iterable[HTTPRouteHandler]) -> dict[str, Any]:
    """Give the document for these handlers, as JSON values."""
    described_handlers = [(handler, handler.opt[_KEY]) for handler in handlers if _KEY in handler.opt]
    kinds = _kinds(operation for _, operation in described_handlers)
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    for _, operation in described_handlers:
        if isinstance(operation.body, type) and operation.body.__name__ in components:
            _refuse_nul(components[operation.body.__name__])
    paths: dict[str, dict[str, Any]] = {}
    for handler, operation in described_handlers:
        for path in handler.paths:
            entry = paths.setdefault(re.sub(r":\w+}", "}", path), {})
            for method in handler.http_methods - {"HEAD"}:  # not described: it is GET without a body
                entry[_word(method)] = _operation(handler, path, operation)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Luxx",
            "version": __version__,
            "description": "An LLM chat backend: accounts, conversations, durable streamed answers, tools. "
            "Unknown fields of a body and unknown parameters of a list are refused; "
            "of a field given twice the last counts.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _refuse_nul(schema: Any) -> None:
    """Say in every string of an input's schema that U+0000 is refused."""
    if isinstance(schema, list):
        for item in schema:
            _refuse_nul(item)
    elif isinstance(schema, dict):
        if schema.get("type") == "string":
            schema.setdefault("pattern", _NO_NUL)
        for item in schema.values():
            _refuse_nul(item)


def _word(method: HttpMethod | str) -> str:
    return str(getattr(method, "value", method)).lower()


def _kinds(operations: Iterable[Operation]) -> list[Any]:
    kinds: list[Any] = [Failure, *dict.fromkeys(EVENTS.values())]
    for operation in operations:
        kinds += [kind for kind in (operation.body, operation.data, operation.plain) if kind is not None]
    return list(dict.fromkeys(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Struct)))


def _schema(kind: Any) -> Any:
    schemas, _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schemas[0]


def _operation(handler: HTTPRouteHandler, path: str, operation: Operation) -> dict[str, Any]:
    section = path.split("/")[2] if path.startswith("/api/") else path.split("/")[1]
    found: dict[str, Any] = {
        "operationId": f"{section}_{handler.handler_name}",
        "summary": operation.summary,
        "tags": [section],
        "parameters": [*_path_parameters(path), *_query_parameters(operation.query), *_headers(operation.headers)],
        "responses": {str(operation.status): _success(operation)}
        | {str(status): _failure(status, operation) for status in operation.statuses},
    }
    if operation.body is not None:
        schema = _schema(operation.body)
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if operation.secured:
        found["security"] = [{"token": []}]
    return found


def _success(operation: Operation) -> dict[str, Any]:
    if operation.stream:
        events = ", ".join(f"`{name}`" for name in EVENTS)
        return {
            "description": f"Server-Sent Events: {events}. Each has an id, counted up from 1, and one line of JSON.",
            "content": {"text/event-stream": {"schema": {"oneOf": [_event(*named) for named in EVENTS.items()]}}},
        }
    if operation.plain is not None:
        schema = _schema(operation.plain)
    else:
        properties: dict[str, Any] = {"success": {"const": True}, "message": {"type": "string"}}
        if operation.data is not None:
            properties["data"] = _schema(operation.data)
        schema = {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name != "message"],
            "additionalProperties": False,
        }
    return {"description": "Done", "content": {"application/json": {"schema": schema}}}


def _event(name: str, data: type[Struct]) -> dict[str, Any]:
    """Describe one event of a stream by its fields; `data` is JSON as text."""
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": _schema(data)}
    return {
        "type": "object",
        "properties": {"id": {"type": "string", "pattern": "^[1-9][0-9]*$"}, "event": {"const": name}, "data": text},
        "required": ["id", "event", "data"],
    }


def _failure(status: int, operation: Operation) -> dict[str, Any]:
    plain = operation.plain is not None and status == 503
    schema = _schema(operation.plain if plain else Failure)
    answer: dict[str, Any] = {"description": _ERRORS[status], "content": {"application/json": {"schema": schema}}}
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    if status in {429, 503} and not plain:
        answer["headers"] = {"Retry-After": {"description": "In seconds", "schema": {"type": "string"}}}
    return answer


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+):\w+}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(query: type[Struct] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    _, components = msgspec.json.schema_components([query], ref_template=_REF)
    properties = components[query.__name__]["properties"]
    _refuse_nul(properties)
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()]


def _headers(names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": _HEADERS[name][0], "schema": _HEADERS[name][1]}
        for name in names
    ]
