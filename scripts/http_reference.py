"""Write docs/http-reference.md: the OpenAPI document for people, with examples that the service itself answered.

The examples are recorded, each time anew, from the whole application over memory, with a clock that stands still,
counted ids and a scripted model; so the same code gives the same page.
"""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

import httpx

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.adapters.system import utc_now
from luxx.adapters.tools.loading import load_tools
from luxx.adapters.tools.resources import ToolResources
from luxx.container import Container, running
from luxx.domain.conversation import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, DEFAULT_TITLE
from luxx.domain.message import Usage
from luxx.entrypoints.http.app import HANDLERS, create_app
from luxx.entrypoints.http.forms import WHOLE_MAX, ConversationChangesBody
from luxx.entrypoints.http.openapi import openapi_document
from luxx.entrypoints.http.text import ERRORS
from luxx.settings import Settings

NOON: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PASSWORD: Final = "lovelace-1815"  # noqa: S105  # of an account that lives for one page

INTRODUCTION: Final = """# HTTP reference

Made by `make docs` from the OpenAPI document that every server gives at `/schema/openapi.json`; `/schema` is a page
to try it in the browser. The examples are what the service answered when this page was made. For a way through it
see the [guide](http-guide.md), for the events of a stream [the stream](streaming.md).

## What holds everywhere

- Bodies are JSON in UTF-8 (`Content-Type: application/json`), at most 4 MiB. Fields that an operation does not know
  are refused, and so are parameters that a list does not know (but for `_`), and U+0000 in any string;
  what is missing has the default told here.
- A token from a login, or a key, goes into `Authorization: Bearer …`.
- An answer is `{{"success": true, "message": …, "data": …}}`; `message` and `data` only where there is something to
  say. `message` is Chinese, or English where `Accept-Language` prefers it. Below, *data* is what `data` holds.
- A failure is `{{"success": false, "message": …, "error": {{"code", "request_id", "details"}}}}`; `details` names
  every bad field, where there are any.
- Every answer carries `X-Request-ID`, the client's own if it sent a sane one. 401 carries `WWW-Authenticate`, 429 and
  503 carry `Retry-After` in seconds, but for that of `/health/ready`, which is asked at times of its own.
- Collections answer with and without a trailing slash. Times are RFC 3339 in UTC.
- `HEAD` is answered wherever `GET` is, without the body; `OPTIONS` names the methods in `Allow`.

{failures}

## Error codes

Programs go by `error.code`; the words for people may change.

| code | status | meaning |
| --- | --- | --- |
{codes}
"""

CODES: Final[Mapping[str, tuple[str, str]]] = {
    "invalid_json": (
        "400, 408",
        "400: no UTF-8, JSON or HTTP, nested beyond all use, with NaN or a lone surrogate; 408: not sent in time",
    ),
    "validation_failed": (
        "422",
        "well-formed, but against the rules; `details` names every fault, of more than a hundred the first",
    ),
    "unauthenticated": ("401", "no token, or one that this service did not make"),
    "token_expired": ("401", "log in again"),
    "token_revoked": ("401", "logged out, or the session or key was ended"),
    "invalid_credentials": ("401", "no such user, or another password"),
    "account_disabled": ("403", "an operator disabled the account"),
    "forbidden": ("403", "not allowed; what belongs to logins is not for keys"),
    "username_taken": ("409", "choose another name"),
    "email_taken": ("409", "the address has an account"),
    "conversation_not_found": ("404", "absent, or somebody else's"),
    "message_not_found": (
        "404",
        "absent, or somebody else's; to a send: its answer was deleted; as a stream's end: deleted while it was read",
    ),
    "tool_not_found": ("404", "absent, or not offered here"),
    "not_found": ("404", "there is nothing at this address"),
    "method_not_allowed": ("405", "`Allow` names the methods"),
    "payload_too_large": (
        "413, 431",
        "413: the body is larger than 4 MiB; 431: the headers are larger than 64 KiB, or more than 256",
    ),
    "uri_too_long": ("414", "the address is too long"),
    "unsupported_media_type": ("415", "the body is not `application/json`, or is compressed"),
    "generation_in_progress": (
        "409",
        "the conversation's last answer is still being written: its newest message; wait, or cancel it",
    ),
    "idempotency_conflict": ("409", "this `Idempotency-Key` was used for another message"),
    "rate_limited": ("429", "too often; `Retry-After` says when to try again"),
    "tool_failed": ("422, 502", "422: the tool cannot work with these arguments; 502: what it relies on failed"),
    "tool_timeout": ("504", "the tool took longer than it may"),
    "model_unavailable": ("502", "the model cannot be reached, or broke off"),
    "model_timeout": ("504", "the model was too slow"),
    "model_rate_limited": ("429", "the model's provider asks for a pause"),
    "model_rejected": ("502", "the model's provider refuses the request as it is"),
    "interrupted": ("503", "the process that wrote the answer ended; what had arrived is stored"),
    "overloaded": ("503", "this server takes no more now, is about to stop, or has lost its database"),
    "internal_error": ("500", "a fault of the service; give `request_id` to its operator"),
}

TOKEN_CODES: Final = ("unauthenticated", "token_expired", "token_revoked")

OWN_CODES: Final[Mapping[tuple[str, int], Sequence[str]]] = {
    ("auth", 401): (),
    ("auth_login", 401): ("invalid_credentials",),
    ("auth_password", 401): ("invalid_credentials",),
    ("conversations", 401): (),
    ("messages", 401): (),
    ("tools", 401): (),
    ("auth_login", 403): ("account_disabled",),
    ("auth_me", 403): ("account_disabled",),
    ("conversations", 403): ("account_disabled",),
    ("messages", 403): ("account_disabled",),
    ("tools", 403): ("account_disabled",),
    ("auth", 404): ("not_found",),
    ("conversations", 404): ("conversation_not_found",),
    ("messages", 404): ("message_not_found",),
    ("messages_send", 404): ("conversation_not_found", "message_not_found"),
    ("messages_send_and_stream", 404): ("conversation_not_found", "message_not_found"),
    ("messages_list_messages", 404): ("conversation_not_found", "message_not_found"),
    ("tools", 404): ("tool_not_found",),
    ("auth", 409): ("username_taken", "email_taken"),
    ("messages", 409): ("generation_in_progress", "idempotency_conflict"),
    ("auth", 422): ("validation_failed",),
    ("conversations", 422): ("validation_failed",),
    ("messages", 422): ("validation_failed",),
    ("tools_list_tools", 422): ("validation_failed",),
    ("auth", 429): ("rate_limited",),
    ("conversations", 429): ("rate_limited",),
    ("messages_list_messages", 429): ("rate_limited",),
    ("messages_remove", 429): ("rate_limited",),
    ("messages_send_and_stream", 429): ("rate_limited",),
    ("messages_resume", 429): ("rate_limited",),
    ("messages_cancel", 429): ("rate_limited",),
    ("tools", 429): ("rate_limited",),
    ("messages", 502): ("model_unavailable", "model_rejected"),
    ("messages", 504): ("model_timeout",),
    ("tools", 502): ("tool_failed",),
    ("tools", 504): ("tool_timeout",),
    ("health", 503): (),
    ("auth", 503): ("overloaded",),
    ("conversations", 503): ("overloaded",),
    ("messages", 503): ("overloaded",),
    ("messages_send", 503): ("overloaded", "interrupted"),
    ("tools", 503): ("overloaded",),
}
"""What operations, or all of a section, fail with under a status, where that is not every code of the status."""

SECTIONS: Final[Mapping[str, str]] = {
    "auth": "Accounts",
    "conversations": "Conversations",
    "messages": "Messages",
    "tools": "Tools",
    "health": "Health",
}

OBJECTS: Final[Mapping[str, str]] = {
    "ConversationData": "Conversation",
    "MessageJson": "Message",
    "TextPartJson": "Text part",
    "ThinkingPartJson": "Thinking part",
    "ToolCallPartJson": "Tool call part",
    "UsageJson": "Usage",
    "ProblemJson": "Problem",
    "ToolData": "Tool",
    "SessionData": "Session",
    "KeyData": "Key",
    "LoginUserData": "Logged-in user",
}
"""Schemas with a section of their own, and its title; the others are told where they are used."""

UNSET: Final[Mapping[str, Mapping[str, str]]] = {
    "NewConversationBody": {
        "title": f"`{json.dumps(DEFAULT_TITLE, ensure_ascii=False)}`",
        "model": "`LUXX_DEFAULT_MODEL`",
        "temperature": f"`{DEFAULT_TEMPERATURE}`",
        "max_tokens": f"`{DEFAULT_MAX_TOKENS}`",
        "thinking_enabled": "`false`",
    },
    "ConversationChangesBody": dict.fromkeys(ConversationChangesBody.__struct_fields__, "as it is"),
}
"""What is taken for a field that is left out, where the schema has no word for it."""

BOUNDS: Final = (
    ("minLength", "maxLength", " characters"),
    ("minimum", "maximum", ""),
    ("minItems", "maxItems", " items"),
)
"""What bounds a kind of value from below and from above, and of what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and what the service answered."""

    request: httpx.Request
    response: httpx.Response

    def told(self) -> str:
        sent = [f"{self.request.method} {self.request.url.raw_path.decode()} HTTP/1.1"]
        sent += [
            f"{name}: {value}"
            for name, value in (
                ("Authorization", self.request.headers.get("authorization")),
                ("Idempotency-Key", self.request.headers.get("idempotency-key")),
                ("Last-Event-ID", self.request.headers.get("last-event-id")),
                ("Content-Type", self.request.headers.get("content-type")),
            )
            if value is not None
        ]
        if self.request.content:
            sent += ["", _pretty(self.request.content)]
        status = self.response.status_code
        kind = self.response.headers["content-type"]
        got = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", ""]
        got.append(self.response.text.strip() if "event-stream" in kind else _pretty(self.response.content))
        return "\n".join(("```http", *sent, "```", "", "```http", *got, "```"))


def _pretty(content: bytes) -> str:
    return json.dumps(json.loads(content), ensure_ascii=False, indent=2)


def _counted() -> Callable[[str], str]:
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}_01kjme6r00000000000000{next(numbers):04d}"


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the application, in which all that chance or time would change is fixed."""
    others = {tool.spec.name for tool in load_tools(ToolResources.open(utc_now))} - {"current_time"}
    settings = Settings(jwt_secret="of one page, never of a service " * 2, disabled_tools=frozenset(others))
    container = Container(settings=settings)
    container.clock.override(lambda: NOON)
    container.new_id.override(_counted())
    container.storage.override(MemoryStorage(clock=lambda: NOON))
    usage = Usage(prompt_tokens=52, completion_tokens=9, total_tokens=61)
    container.model.override(
        ScriptedChatModel(
            spoken("A log that is kept.", usage=usage),
            calling(("current_time", {"timezone": "Asia/Tokyo"}), usage=usage),
            spoken("It is nine in the evening.", usage=usage),
        )
    )
    async with running(container):
        headers = {"Accept-Language": "en", "X-Request-ID": "req_5f1c"}
        transport = httpx.ASGITransport(cast("Any", create_app(container)))  # the same protocol, typed otherwise
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            yield client


class _Recorder:
    """Plays the examples, each belonging to an operation of the document; ends where one is answered otherwise."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.exchanges: dict[str, Exchange] = {}

    async def __call__(
        self, name: str, call: str, body: object = None, *, status: int = 200, **headers: str
    ) -> dict[str, Any]:
        """Make a call (`POST /api/…`), keep it under a name, and give the data of the answer."""
        method, _, path = call.partition(" ")
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        response = await self._client.request(method, path, json=body, headers=sent)
        if response.status_code != status:
            raise RuntimeError(f"{call} was answered with {response.status_code}: {response.text}")
        self.exchanges[name] = Exchange(request=response.request, response=response)
        if "event-stream" in response.headers["content-type"]:
            found = re.search(r'"message_id":"(\w+)"', response.text)
            return {} if found is None else {"message_id": found[1]}
        told = response.json()
        return dict(told.get("data", told))

    def present(self, token: str) -> None:
        self._client.headers["Authorization"] = f"Bearer {token}"


async def recorded() -> dict[str, Exchange]:
    """Play an example of every operation, and of the failures of the introduction."""
    async with _client() as client:
        call = _Recorder(client)
        await call("health_live", "GET /health/live")
        await call("health_ready", "GET /health/ready")
        account = {"username": "ada", "password": PASSWORD}
        await call("auth_register", "POST /api/auth/register", account | {"email": "ada@example.com"}, status=201)
        bad = {"username": "a!", "email": "ada@example.com", "password": "12345678"}
        await call("invalid", "POST /api/auth/register", bad, status=422)
        other = (await call("auth_login", "POST /api/auth/login", account))["access_token"]
        call.present((await call("auth_login", "POST /api/auth/login", account))["access_token"])
        await call("auth_me", "GET /api/auth/me")
        sessions = await call("auth_sessions", "GET /api/auth/sessions")
        (second,) = [one["id"] for one in sessions["items"] if not one["current"]]
        await call("auth_end", f"DELETE /api/auth/sessions/{second}")
        changed = {"current_password": PASSWORD, "new_password": "analytical-1843"}
        await call("auth_password", "POST /api/auth/password", changed)
        key = await call("auth_create_key", "POST /api/auth/keys", {"name": "ci", "expires_in_days": 90}, status=201)
        await call("auth_keys", "GET /api/auth/keys")
        await call("auth_delete_key", f"DELETE /api/auth/keys/{key['id']}")

        created = await call(
            "conversations_create", "POST /api/conversations", {"title": "Logs", "temperature": 0.2}, status=201
        )
        place = f"/api/conversations/{created['id']}"
        await call("conversations_list_conversations", "GET /api/conversations?page_size=20")
        await call("conversations_detail", f"GET {place}")
        await call("conversations_update", f"PUT {place}", {"title": "Logs and clocks", "system_prompt": "Be brief."})

        question = {"conversation_id": created["id"], "content": "What is a turn, in five words?"}
        await call("messages_send", "POST /api/messages", question, status=201, Idempotency_Key="0b7e6c1f")
        asked = {"conversation_id": created["id"], "content": "What time is it in Tokyo?"}
        answer = (
            await call("messages_send_and_stream", "POST /api/messages/stream", asked, Idempotency_Key="7c21aa90")
        )["message_id"]
        await call("messages_resume", f"GET /api/messages/{answer}/stream", Last_Event_ID="5")
        await call("messages_cancel", f"POST /api/messages/{answer}/cancel")
        await call("messages_list_messages", f"GET /api/messages/{created['id']}?limit=1")
        await call("messages_remove", f"DELETE /api/messages/{answer}")
        await call("absent", f"DELETE /api/messages/{answer}", status=404)

        await call("tools_list_tools", "GET /api/tools?category=data")
        await call("tools_detail", "GET /api/tools/current_time")
        await call("tools_execute", "POST /api/tools/current_time/execute", {"timezone": "Europe/Berlin"})

        await call("conversations_remove", f"DELETE {place}")
        await call("auth_logout", "POST /api/auth/logout")
        call.present(other)
        await call("revoked", "GET /api/auth/me", status=401)
    return call.exchanges


VARYING: Final[Sequence[tuple[str, str]]] = (
    (r"eyJ[\w.-]{20,}", "eyJhbGciOi…"),
    (r"luxx_[\w-]{20,}", "luxx_…"),
    (r'("duration_ms": ?)\d+', r"\g<1>1"),
)
"""What is new each time, and what the page shows in its place."""


def _settled(text: str) -> str:
    for pattern, shown in VARYING:
        text = re.sub(pattern, shown, text)
    return text


# --- the page ---------------------------------------------------------------------------------------


class Page:
    """Writes the document as Markdown. Raises KeyError for an operation of which no example is recorded."""

    def __init__(self, document: Mapping[str, Any], exchanges: Mapping[str, Exchange]) -> None:
        self._schemas: Final[Mapping[str, Any]] = document["components"]["schemas"]
        self._paths: Final[Mapping[str, Any]] = document["paths"]
        self._exchanges: Final = exchanges

    def written(self) -> str:
        failures = "\n\n".join(self._exchanges[name].told() for name in ("invalid", "absent"))
        codes = "\n".join(f"| `{code}` | {status} | {meaning} |" for code, (status, meaning) in CODES.items())
        blocks = [INTRODUCTION.format(failures=failures, codes=codes).rstrip()]
        for tag, title in SECTIONS.items():
            blocks.append(f"## {title}")
            for path, methods in self._paths.items():
                for method, operation in methods.items():
                    if tag in operation["tags"]:
                        blocks += self._operation(method.upper(), path, operation)
        blocks.append("## Objects\n\nThe fields of what operations give and take; all of them are always there.")
        for name, title in OBJECTS.items():
            schema = self._schemas[name]
            blocks.append(f"### {title}")
            if "description" in schema:
                blocks.append(schema["description"])
            blocks.append(self._fields(schema, given=False))
        return _settled("\n\n".join(blocks)) + "\n"

    def _operation(self, method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
        yield f"### {operation['summary']}"
        secured = "with a token" if "security" in operation else "without a token"
        yield f"`{method} {path}`, {secured}."
        if operation["parameters"]:
            rows = [
                f"| `{one['name']}` | {one['in']} | {self._kind(one['schema'])} | {_default(one)} | {_note(one)} |"
                for one in operation["parameters"]
            ]
            yield "\n".join(("| parameter | in | type | default | |", "| --- | --- | --- | --- | --- |", *rows))
        if "requestBody" in operation:
            schema = self._resolved(operation["requestBody"]["content"]["application/json"]["schema"])
            if "properties" in schema:
                yield "\n\n".join(filter(None, ("Body:", self._fields(schema), schema.get("description"))))
            else:
                yield "The body is a JSON object: the arguments that the tool's `parameters` describe."
        yield from self._answers(operation)
        yield self._exchanges[operation["operationId"]].told()

    def _answers(self, operation: Mapping[str, Any]) -> Iterator[str]:
        name = operation["operationId"]
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                continue
            if "text/event-stream" in answer["content"]:
                yield f"Answers {status} with `text/event-stream`: see [the stream](streaming.md)."
                continue
            schema = answer["content"]["application/json"]["schema"]
            data = schema.get("properties", {}).get("data")
            if "$ref" in schema:
                yield f"Answers {status}, without the envelope:\n\n{self._fields(self._resolved(schema), given=False)}"
            elif data is None:
                yield f"Answers {status}, without data."
            elif _name(data) in OBJECTS:
                yield f"Answers {status}; data: a {self._kind(data)}."
            else:
                yield f"Answers {status}; data:\n\n{self._fields(self._resolved(data), given=False)}"
        failing = [int(status) for status in operation["responses"] if int(status) >= 400]
        told = [f"{status} {_codes(name, status, secured='security' in operation)}".strip() for status in failing]
        yield f"Fails with {'; '.join(told)}."

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        name = _name(schema)
        return self._schemas[name] if name else schema

    def _fields(self, schema: Mapping[str, Any], *, given: bool = True) -> str:
        """Write a table of fields; where they are given by a client, with what is taken for those left out."""
        required = schema.get("required", ())
        head = ("| field | type | default | |", "| --- | --- | --- | --- |")
        if not given:
            head = ("| field | type |", "| --- | --- |")
        rows = []
        for name, form in schema["properties"].items():
            row = f"| `{name}` | {self._kind(form)} |"
            if given:
                left_out = UNSET.get(schema["title"], {}).get(name, "")
                default = _default({"required": name in required, "schema": form}) or left_out
                row += f" {default} | {_note({'schema': form})} |"
            rows.append(row)
        return "\n".join((*head, *rows))

    def _kind(self, form: Mapping[str, Any]) -> str:
        name = _name(form)
        if name in OBJECTS:
            title = OBJECTS[name]
            return f"[{title}](#{title.lower().replace(' ', '-')})"
        if name:
            return self._kind(self._schemas[name])
        if "enum" in form or "const" in form:
            return " or ".join(f"`{json.dumps(each)}`" for each in form.get("enum", [form.get("const")]))
        if "anyOf" in form:
            return " or ".join(self._kind(each) for each in form["anyOf"])
        kind = str(form.get("type", "any JSON"))
        if kind == "array":
            kind = f"array of {self._kind(form['items'])}"
        elif kind == "object" and isinstance(form.get("additionalProperties"), dict):
            kind = f"object of {self._kind(form['additionalProperties'])}"
        if "format" in form:
            kind += f" ({form['format']})"
        return ", ".join((kind, *_bounds(form)))


def _bounds(form: Mapping[str, Any]) -> Iterator[str]:
    for least, most, things in BOUNDS:
        lower, upper = form.get(least), form.get(most)
        if upper == WHOLE_MAX:
            upper = None
        if lower is not None and upper is not None:
            yield f"{lower:g} to {upper}{things}"
        elif upper is not None:
            yield f"at most {upper}{things}"
        elif lower is not None:
            yield f"at least {lower}{things}"


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rsplit("/", 1)[-1]


def _default(one: Mapping[str, Any]) -> str:
    if one["required"]:
        return "required"
    schema = one["schema"]
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`" if "default" in schema else ""


def _note(one: Mapping[str, Any]) -> str:
    schema = one["schema"]
    notes = [
        one.get("description"),
        schema.get("description"),
        *(e.get("description") for e in schema.get("anyOf", ())),
    ]
    return " ".join(note for note in notes if note).replace("|", "\\|")


def _codes(operation: str, status: int, *, secured: bool) -> str:
    """Name the codes that an operation may fail with under a status."""
    tag = operation.partition("_")[0]
    for key in ((operation, status), (tag, status)):
        if key in OWN_CODES:
            found = OWN_CODES[key]
            break
    else:
        found = [code for code, (statuses, _) in CODES.items() if str(status) in statuses]
    if status == 401 and secured:
        found = [*TOKEN_CODES, *found]
    return ", ".join(f"`{code}`" for code in found)


def http_reference() -> str:
    """Write the page."""
    if set(CODES) != set(ERRORS):
        raise RuntimeError(f"the table of codes is not that of the API: {set(CODES) ^ set(ERRORS)}")
    document = openapi_document(HANDLERS)
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    known = {(name, int(status)) for one in operations for status in one["responses"] for name in _names(one)}
    if not OWN_CODES.keys() <= known:
        raise RuntimeError(f"no operation has such answers: {OWN_CODES.keys() - known}")
    return Page(document, asyncio.run(recorded())).written()


def _names(operation: Mapping[str, Any]) -> tuple[str, ...]:
    return (operation["operationId"], *operation["tags"])
