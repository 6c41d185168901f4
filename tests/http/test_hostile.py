"""Hostile clients: odd bytes in every place, each with the status and code that it must get, and never a 5xx."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.live import Account, Live
from tests.support.raw import RawAnswer, wire

JSON = ("Content-Type", "application/json")
CREATE = ("POST", "/api/conversations/")
INVALID = (400, "invalid_json")
REFUSED = (422, "validation_failed")
MEDIA = (415, "unsupported_media_type")
DEEP = 200_000


@dataclass(frozen=True, slots=True)
class Body:
    """A body to send as it is, and the status and code (None on success) that it must get."""

    raw: bytes
    expected: tuple[int, str | None]


BODIES = {
    "empty": Body(b"", INVALID),
    "white space": Body(b" \r\n\t ", INVALID),
    "cut": Body(b'{"title": "a', INVALID),
    "no quotes": Body(b"{title: 1}", INVALID),
    "single quotes": Body(b"{'title': 'a'}", INVALID),
    "a comment": Body(b'{/* */"title": "a"}', INVALID),
    "a trailing comma": Body(b'{"title": "a",}', INVALID),
    "something behind": Body(b"{} x", INVALID),
    "two values": Body(b"{}{}", INVALID),
    "a form": Body(b"title=a", INVALID),
    "XML": Body(b"<title>a</title>", INVALID),
    "a byte order mark": Body(b"\xef\xbb\xbf{}", INVALID),
    "UTF-16": Body("{}".encode("utf-16"), INVALID),
    "UTF-32": Body("{}".encode("utf-32-le"), INVALID),
    "no UTF-8 in a value": Body(b'{"title": "\xff"}', INVALID),
    "no UTF-8 in a key": Body(b'{"\xc3(": 1}', INVALID),
    "overlong UTF-8": Body(b'{"title": "\xc0\x80"}', INVALID),
    "cut UTF-8": Body(b'{"title": "\xf0\x9f"}', INVALID),
    "beyond Unicode": Body(b'{"title": "\xf4\x90\x80\x80"}', INVALID),
    "a raw surrogate": Body(b'{"title": "\xed\xa0\x80"}', INVALID),
    "an escaped high surrogate": Body(b'{"title": "\\ud800"}', INVALID),
    "an escaped low surrogate": Body(b'{"title": "\\udfff"}', INVALID),
    "surrogates the wrong way round": Body(b'{"title": "\\ude00\\ud83d"}', INVALID),
    "a surrogate in a key": Body(b'{"\\ud800": 1}', INVALID),
    "a raw control character": Body(b'{"title": "a\nb"}', INVALID),
    "a raw U+0000": Body(b'{"title": "a\x00b"}', INVALID),
    "U+0000 around it": Body(b"\x00{}\x00", INVALID),
    "NaN": Body(b'{"temperature": NaN}', INVALID),
    "Infinity": Body(b'{"temperature": Infinity}', INVALID),
    "minus Infinity": Body(b'{"temperature": -Infinity}', INVALID),
    "1e400": Body(b'{"temperature": 1e400}', INVALID),
    "minus 1e400": Body(b'{"temperature": -1e400}', INVALID),
    "an unknown 1e400": Body(b'{"nothing": 1e400}', INVALID),
    "a leading zero": Body(b'{"max_tokens": 01}', INVALID),
    "a plus": Body(b'{"max_tokens": +1}', INVALID),
    "hexadecimal": Body(b'{"max_tokens": 0x10}', INVALID),
    "deep arrays": Body(b"[" * DEEP + b"]" * DEEP, INVALID),
    "deep objects": Body(b'{"a":' * DEEP + b"1" + b"}" * DEEP, INVALID),
    "deep and never closed": Body(b"[" * DEEP, INVALID),
    "deep inside a field": Body(b'{"title":' + b"[" * DEEP + b"]" * DEEP + b"}", INVALID),
    "null": Body(b"null", REFUSED),
    "true": Body(b"true", REFUSED),
    "a number": Body(b"1", REFUSED),
    "a string": Body(b'"x"', REFUSED),
    "an array": Body(b"[]", REFUSED),
    "an object in an array": Body(b'[{"title": "a"}]', REFUSED),
    "an unknown field": Body(b'{"temprature": 1}', REFUSED),
    "an unknown empty field": Body(b'{"": 1}', REFUSED),
    "an unknown field named U+0000": Body(b'{"\\u0000": 1}', REFUSED),
    "__proto__": Body(b'{"__proto__": {"title": "a"}}', REFUSED),
    "the case of a field": Body(b'{"Title": "a"}', REFUSED),
    "a hundred thousand unknown fields": Body(json.dumps({f"k{n}": n for n in range(100_000)}).encode(), REFUSED),
    "a string for a number": Body(b'{"temperature": "1"}', REFUSED),
    "true for a number": Body(b'{"max_tokens": true}', REFUSED),
    "a number for a string": Body(b'{"title": 1}', REFUSED),
    "a number for a boolean": Body(b'{"thinking_enabled": 1}', REFUSED),
    "null for a title": Body(b'{"title": null}', REFUSED),
    "an object for a string": Body(b'{"title": {}}', REFUSED),
    "half a token": Body(b'{"max_tokens": 1.5}', REFUSED),
    "a negative number": Body(b'{"max_tokens": -1}', REFUSED),
    "too hot": Body(b'{"temperature": 2.0000001}', REFUSED),
    "an integer of 400 digits": Body(b'{"max_tokens": ' + b"9" * 400 + b"}", REFUSED),
    "an integer of 5000 digits": Body(b'{"max_tokens": ' + b"9" * 5000 + b"}", INVALID),
    "a temperature of 400 digits": Body(b'{"temperature": ' + b"9" * 400 + b"}", REFUSED),
    "1e300 tokens": Body(b'{"max_tokens": 1e300}', REFUSED),
    "more tokens than fit": Body(b'{"max_tokens": 2147483648}', REFUSED),
    "an empty title": Body(b'{"title": ""}', REFUSED),
    "a title too long": Body(json.dumps({"title": "x" * 256}).encode(), REFUSED),
    "a prompt too long": Body(json.dumps({"system_prompt": "x" * 65_537}).encode(), REFUSED),
    "a whole float": Body(b'{"max_tokens": 5.0}', (201, None)),
    "minus zero": Body(b'{"temperature": -0.0}', (201, None)),
    "a pair of surrogates": Body(b'{"title": "\\ud83d\\ude00"}', (201, None)),
    "U+FFFF and U+FEFF": Body(b'{"title": "\\uffff\\ufeff"}', (201, None)),
    # As nearly every reader of JSON does (RFC 8259, 4): the last one counts.
    "a field given twice": Body(b'{"title": "a", "title": "b"}', (201, None)),
}


def outcome(answer: RawAnswer) -> tuple[int, str | None]:
    """Give status and code; checks what every answer must have."""
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.body)
    assert body["success"] is (answer.status < 400)
    if answer.status < 400:
        return answer.status, None
    assert body["message"]
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
    return answer.status, body["error"]["code"]


def authorized(user: Account, *headers: tuple[str, str]) -> Iterable[tuple[str, str]]:
    return [*user.headers.items(), *headers]


async def test_an_odd_body_is_refused_by_its_kind_and_the_connection_goes_on(served: Live, user: Account) -> None:
    wrong = {}
    async with wire(served.url) as connection:
        for name, body in BODIES.items():
            answer = await connection.ask(*CREATE, headers=authorized(user, JSON), body=body.raw)
            if outcome(answer) != body.expected:
                wrong[name] = outcome(answer)
            assert len(answer.body) < 50_000, name
    assert not wrong


async def test_of_a_field_given_twice_the_last_counts(served: Live, user: Account) -> None:
    async with wire(served.url) as connection:
        body = BODIES["a field given twice"].raw
        answer = await connection.ask(*CREATE, headers=authorized(user, JSON), body=body)
    assert json.loads(answer.body)["data"]["title"] == "b"


async def test_every_operation_with_a_body_refuses_the_same_bodies(served: Live, user: Account) -> None:
    conversation = await user.new_conversation()
    async with wire(served.url) as connection:
        for method, path in (
            ("POST", "/api/auth/register"),
            ("POST", "/api/auth/login"),
            ("PUT", f"/api/conversations/{conversation}"),
            ("POST", "/api/messages/"),
            ("POST", "/api/messages/stream"),
            ("POST", "/api/tools/calculate/execute"),
        ):
            for name, body in BODIES.items():
                if body.expected[0] not in {400, 422} or b"title" in body.raw or b"temper" in body.raw:
                    continue
                answer = await connection.ask(method, path, headers=authorized(user, JSON), body=body.raw)
                assert outcome(answer) == body.expected, (method, path, name)


STRINGS = {
    ("POST", "/api/auth/register"): {"username": "abc", "email": "a@example.com", "password": "a fine password"},
    ("POST", "/api/auth/login"): {"username": "abc", "password": "a fine password"},
    ("POST", "/api/conversations/"): {"title": "t", "model": "m", "project_id": "p", "system_prompt": "s"},
    ("PUT", "/api/conversations/{id}"): {"title": "t", "model": "m", "project_id": "p", "system_prompt": "s"},
    ("POST", "/api/messages/"): {"conversation_id": "{id}", "content": "c"},
    ("POST", "/api/messages/stream"): {"conversation_id": "{id}", "content": "c"},
    ("POST", "/api/tools/analyze_text/execute"): {"text": "t", "pattern": "p"},
}


async def test_nul_is_named_in_every_string_of_every_body(stored: Live) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    async with wire(stored.url) as connection:
        for (method, path), strings in STRINGS.items():
            for name in strings:
                for odd in ("\0", "\0before", "in\0between", "behind\0"):
                    body = strings | {name: strings[name] + odd}
                    raw = json.dumps(body).replace("{id}", conversation).encode()
                    target = path.replace("{id}", conversation)
                    answer = await connection.ask(method, target, headers=authorized(user, JSON), body=raw)
                    assert outcome(answer) == REFUSED, (path, name, odd)
                    details = json.loads(answer.body)["error"]["details"]
                    assert [detail["field"] for detail in details] == [name]


async def test_a_million_faults_are_not_all_told(served: Live, user: Account) -> None:
    async with wire(served.url) as connection:
        body = BODIES["a hundred thousand unknown fields"].raw
        headers = authorized(user, JSON, ("Accept-Language", "en"))
        answer = await connection.ask(*CREATE, headers=headers, body=body)
    assert len(answer.body) < 50_000
    told = json.loads(answer.body)
    assert len(told["error"]["details"]) == 100
    assert told["message"].endswith("; and 99900 more")


async def test_only_json_is_read_whatever_else_it_says_it_is(served: Live, user: Account) -> None:
    table: list[tuple[list[str], tuple[int, str | None]]] = [
        ([], MEDIA),
        ([""], MEDIA),
        (["text/plain"], MEDIA),
        (["text/json"], MEDIA),
        (["application/jsonx"], MEDIA),
        (["application/vnd.api+json"], MEDIA),
        (["application/x-www-form-urlencoded"], MEDIA),
        (["multipart/form-data; boundary=x"], MEDIA),
        (["application/json, text/plain"], MEDIA),
        (["application/json", "text/plain"], MEDIA),
        (["text/plain", "application/json"], MEDIA),
        (["\u00ff"], MEDIA),
        (["application/json"], (201, None)),
        (["APPLICATION/JSON"], (201, None)),
        (["application/json; charset=utf-8"], (201, None)),
        (["application/json;charset=utf-16"], (201, None)),
    ]
    async with wire(served.url) as connection:
        for types, expected in table:
            headers = authorized(user, *(("Content-Type", one) for one in types))
            answer = await connection.ask(*CREATE, headers=headers, body=b"{}")
            assert outcome(answer) == expected, types
        assert outcome(await connection.ask(*CREATE, headers=authorized(user))) == MEDIA


async def test_a_compressed_body_is_told_to_be_so(served: Live, user: Account) -> None:
    table = [
        ("gzip", gzip.compress(b"{}"), MEDIA),
        ("GZIP", gzip.compress(b"{}"), MEDIA),
        ("br", b"\x0b\x00\x80{}\x03", MEDIA),
        ("identity", b"{}", (201, None)),
        ("identity", b"{", INVALID),
        ("", b"{", INVALID),
    ]
    async with wire(served.url) as connection:
        for coding, body, expected in table:
            headers = authorized(user, JSON, ("Content-Encoding", coding), ("Accept-Language", "en"))
            answer = await connection.ask(*CREATE, headers=headers, body=body)
            assert outcome(answer) == expected, coding
            assert (b"Content-Encoding" in answer.body) is (expected == MEDIA)


async def test_an_odd_address_is_absent_or_refused(served: Live, user: Account) -> None:
    table: list[tuple[str, tuple[int, str | None]]] = [
        ("/", (404, "not_found")),
        ("/api", (404, "not_found")),
        ("/api/", (404, "not_found")),
        ("/api/%00", (404, "not_found")),
        ("/%00", (404, "not_found")),
        ("/%ff", (404, "not_found")),
        ("/%", (404, "not_found")),
        ("/api/conversations/a%2Fb", (404, "not_found")),
        ("/api/conversations/../auth/me", (404, "not_found")),
        ("/api/conversations/..%2f..%2fhealth", (404, "not_found")),
        ("/api/conversations/%00", (404, "conversation_not_found")),
        ("/api/conversations/%zz", (404, "conversation_not_found")),
        ("/api/messages/%00/stream", (404, "message_not_found")),
        ("/api/tools/%00", (404, "tool_not_found")),
        ("/api/tools/..%00", (404, "tool_not_found")),
        ("/api/Conversations/", (404, "not_found")),
        ("/api/conversations/?" + "x" * 30_000, REFUSED),
        ("/api/conversations/?" + "&" * 30_000, (200, None)),
        ("/api/conversations/?" + "page=1&" * 5_000, REFUSED),
        ("/api/conversations/?nothing=%00", REFUSED),
        ("/api/conversations/?%ff=%ff", REFUSED),
        ("/api/conversations/?project_id=%00", REFUSED),
        ("/api/conversations/?project_id=%ff", (200, None)),
        ("/api/conversations/?page[]=1", REFUSED),
        ("/api/tools/?category=%00", REFUSED),
        ("/api/tools/?category=" + "x" * 65, REFUSED),
    ]
    async with wire(served.url) as connection:
        for target, expected in table:
            answer = await connection.ask("GET", target, headers=authorized(user))
            assert outcome(answer) == expected, target[:80]


async def test_other_methods_are_told_which_ones_there_are(served: Live, user: Account) -> None:
    async with wire(served.url) as connection:
        for path, status in (("/api/auth/me", 405), ("/api/conversations/", 405), ("/nothing", 404)):
            code = "method_not_allowed" if status == 405 else "not_found"
            for method in ("PATCH", "TRACE", "CONNECT", "PROPFIND"):
                answer = await connection.ask(method, path, headers=authorized(user))
                assert outcome(answer) == (status, code), (method, path)
            options = await connection.ask("OPTIONS", path)
            assert options.status == (204 if status == 405 else 404)
            assert options.headers["x-request-id"]


NO_HTTP = [
    (b"GET / HTTP/9.9\r\n\r\n", INVALID),
    (b"NOT-A-METHOD / HTTP/1.1\r\nHost: x\r\n\r\n", INVALID),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", INVALID),
    (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", INVALID),
    (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", INVALID),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", INVALID),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", INVALID),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", INVALID),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", INVALID),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", INVALID),
    (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (414, "uri_too_long")),
]


async def test_what_is_no_http_gets_the_envelope_and_is_hung_up_on(served: Live) -> None:
    for sent, expected in NO_HTTP:
        async with wire(served.url) as connection:
            await connection.send(sent)
            answer = await connection.answer()
            assert outcome(answer) == expected, sent[:80]
            assert answer.headers["connection"] == "close"
    assert (await served.http.get("/health/live")).status_code == 200
