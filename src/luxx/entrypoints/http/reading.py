"""Reading requests: strict JSON bodies, query strings, ids and headers."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from msgspec import inspect

from luxx.adapters.validation import NO_CHECKS, FaultCheck, convert
from luxx.application.send_message import KEY_LIMIT
from luxx.domain.errors import Fault, InvalidInput, NotFound, Unauthenticated
from luxx.entrypoints.http.answers import BadRequest
from luxx.entrypoints.http.forms import WHOLE_MAX
from luxx.entrypoints.http.text import COMPRESSED

T = TypeVar("T", bound=msgspec.Struct)

BODY_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a request body, at most."""

ID_LIMIT: Final = 128

NO_KEY: Final = f"1 to {KEY_LIMIT} characters of ASCII"

_KEY: Final = re.compile(rf"(?=.{{1,{KEY_LIMIT}}}\Z)[ -~]+")

_WHOLE: Final = re.compile(r"-?[0-9]{1,1000}")


async def read_json(request: Request[Any, Any, Any]) -> object:
    """Read and decode the body; raises `BadRequest` 400, 413 or 415."""
    given = request.headers.getall("content-type", [])
    if [one.partition(";")[0].strip().lower() for one in given] != ["application/json"]:
        raise BadRequest("The request body must be application/json.", code="unsupported_media_type", status=415)
    try:
        raw = await request.body()
    except InternalServerException:
        # So the framework says that the client hung up in mid-body. Nobody reads the answer; it is no fault of ours.
        raise BadRequest("The request body was not sent whole.", code="invalid_json", status=400) from None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        if request.headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
            raise BadRequest(COMPRESSED, code="unsupported_media_type", status=415) from None
        raise BadRequest("The request body is no valid JSON (RFC 8259).", code="invalid_json", status=400) from None


async def read_body(
    request: Request[Any, Any, Any], kind: type[T], *, checks: Mapping[str, FaultCheck] = NO_CHECKS
) -> T:
    """Read the body as `kind`; raises `BadRequest`, `InvalidInput` with every fault, those of `checks` too."""
    return convert(await read_json(request), kind, checks=checks)


def read_query(request: Request[Any, Any, Any], kind: type[T]) -> T:
    """Read the query string as `kind`; raises `InvalidInput` with every fault.

    Parameters that it does not know are faults where it forbids unknown fields, but for the `_` that
    clients add to pass by caches; else they are passed over.
    """
    given = request.query_params.dict()
    known = _parameters_of(kind)
    faults = [Fault(field=name, rule="duplicate") for name in known if len(given.get(name, ())) > 1]
    values: dict[str, object] = {name: "" for name in given if name not in known and name != "_"}
    for name, whole in known.items():
        if texts := given.get(name):
            values[name] = int(texts[0]) if whole and _WHOLE.fullmatch(texts[0]) else texts[0]
    try:
        query = convert(values, kind)
    except InvalidInput as error:
        raise InvalidInput(*faults, *error.faults, more=error.more) from None
    if faults:
        raise InvalidInput(*faults)
    return query


@cache
def _parameters_of(kind: type[msgspec.Struct]) -> dict[str, bool]:
    """Name the fields of `kind`, and tell which may hold whole numbers."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)  # noqa: S101  # `kind` is a Struct
    return {field.encode_name: "int" in str(field.type).lower() for field in info.fields}


def only_header(request: Request[Any, Any, Any], name: str) -> str | None:
    """Read a header that may be given once; raises `InvalidInput` where it is given more often."""
    given = request.headers.getall(name.lower(), [])
    if len(given) > 1:
        raise InvalidInput(Fault(field=name, rule="duplicate"))
    return given[0].strip(" \t") if given else None


def idempotency_key(request: Request[Any, Any, Any]) -> str | None:
    """Read the header Idempotency-Key: of other characters than these, hops make whatever they like (RFC 9110, 5.5)."""
    given = only_header(request, "Idempotency-Key")
    if given is not None and not _KEY.fullmatch(given):
        raise InvalidInput(Fault(field="Idempotency-Key", rule="invalid", parameters={"reason": NO_KEY}))
    return given


def known_id(value: str, code: str) -> str:
    """Check an id of a path: what can be no id is absent. Raises `NotFound` with `code`."""
    if len(value) > ID_LIMIT or not value.isprintable():
        raise NotFound(f"There is nothing with the id {value[:ID_LIMIT]!r}.", code=code)
    return value


def bearer_token(request: Request[Any, Any, Any]) -> str:
    """Read `Authorization: Bearer` (RFC 6750, 2.1); raises `Unauthenticated`."""
    given = request.headers.getall("authorization", [])
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Log in and send the access token as Authorization: Bearer.")
    return token.strip()


def last_seen(request: Request[Any, Any, Any], after: int | None) -> int:
    """Give the event after which a reader goes on: the header Last-Event-ID, else `?after=`, else 0.

    The header goes first: an EventSource that connects again asks for the same URL, and only the header says
    what it has seen since (HTML, 9.2.3).
    """
    given = only_header(request, "Last-Event-ID")
    if not given:  # an empty one is as good as none (HTML, 9.2.4)
        return after or 0
    # As far as `?after=` goes: a stream that is gone on with behind its end gives the same id back.
    if not re.fullmatch(r"[0-9]{1,16}", given) or int(given) > WHOLE_MAX:
        reason = "it must be the id of an event"
        raise InvalidInput(Fault(field="Last-Event-ID", rule="invalid", parameters={"reason": reason}))
    return int(given)
