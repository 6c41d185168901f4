"""The page of Open WebUI is played as a server of its kind understands it, and believes nothing of what it hears."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from bench.answers import Answer, fast
from bench.load import Address, Faulty, wave
from bench.page import PAGE, PageJob, frame, frames, page_fault

ANSWER = fast(4)
TOKENS = [ANSWER.token(number) for number in range(4)]


def sent_by_a_server(payload: bytes, opcode: int = 1) -> bytes:
    if len(payload) < 126:
        return bytes([0x80 | opcode, len(payload)]) + payload
    return bytes([0x80 | opcode, 126]) + len(payload).to_bytes(2, "big") + payload


def unmasked(sent: bytes) -> tuple[int, bytes]:
    """Read one frame of a client from its end: short ones only have two bytes before the mask."""
    assert sent[1] & 0x80, "a client masks its frames"
    start = {126: 4, 127: 10}.get(sent[1] & 0x7F, 2)
    mask, payload = sent[start : start + 4], sent[start + 4 :]
    return sent[0] & 0x0F, bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def event(kind: str, **data: object) -> bytes:
    return b"42" + json.dumps(["events", {"chat_id": "c", "data": {"type": kind, "data": data}}]).encode()


def delta(text: str) -> bytes:
    return event("response:completion", type="response.output_text.delta", delta=text)


def end(text: str) -> bytes:
    content = [{"type": "output_text", "text": text}]
    # Written as Open WebUI writes it: without blanks.
    return event("chat:completion", done=True, output=[{"type": "message", "content": content}]).replace(
        b'"done": true', b'"done":true'
    )


# --- frames ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
def test_a_frame_that_goes_out_is_masked_and_carries_its_payload(length: int) -> None:
    payload = bytes(number % 251 for number in range(length))
    assert unmasked(frame(1, payload)) == (1, payload)


def test_frames_are_found_wherever_the_bytes_were_cut() -> None:
    whole = sent_by_a_server(b"2") + sent_by_a_server(b"x" * 300) + sent_by_a_server(b"", 9)
    for cut in range(len(whole) + 1):
        early, rest = frames(whole[:cut])
        late, nothing = frames(rest + whole[cut:])
        assert early + late == [(1, b"2"), (1, b"x" * 300), (9, b"")]
        assert nothing == b""


@pytest.mark.parametrize(
    "received", [b"\x01\x01x", b"\xc1\x01x", b"\x81\x81aaaax"], ids=["in parts", "compressed", "masked"]
)
def test_what_was_not_agreed_on_is_refused(received: bytes) -> None:
    with pytest.raises(ValueError, match="masked, compressed or part"):
        frames(received)


# --- what the events say --------------------------------------------------------------------------------


def test_an_answer_is_whole_when_its_parts_and_its_end_say_the_same() -> None:
    heard = [event("chat:active", active=True), *map(delta, TOKENS), end(ANSWER.text.strip()), b"2"]
    assert page_fault(heard, ANSWER) is None


@pytest.mark.parametrize(
    ("heard", "fault"),
    [
        (list(map(delta, TOKENS)), "it has no end"),
        ([*map(delta, TOKENS[:-1]), end(ANSWER.text.strip())], "the text is not what the model said"),
        ([*map(delta, [TOKENS[1], TOKENS[0], *TOKENS[2:]]), end(ANSWER.text.strip())], "it differs at"),
        ([*map(delta, TOKENS), end("something else")], "the text at its end"),
        ([event("chat:message:error", error={"content": "no model"})], "no model"),
    ],
)
def test_an_answer_that_is_not_whole_is_a_fault_that_says_what_is_wrong(heard: list[bytes], fault: str) -> None:
    assert fault in str(page_fault(heard, ANSWER))


# --- the page -------------------------------------------------------------------------------------------

Answering = Callable[[Callable[[bytes], None]], Awaitable[None]]


class Server:
    """As much of Open WebUI as the page needs; `heard` is what came on the websocket, `asked` the messages."""

    def __init__(self, answering: Answering, *, status: str = "200 OK") -> None:
        self.heard: list[str] = []
        self.asked: list[dict[str, object]] = []
        self.pong = asyncio.Event()
        self._answering = answering
        self._status = status
        self._sockets: dict[str, asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await (self._socket if head.startswith("GET /ws/socket.io/?EIO=4") else self._post)(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the page has left
        finally:
            writer.close()

    async def _socket(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert "Upgrade: websocket" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + sent_by_a_server(b'0{"sid":"engine"}'))
        while True:
            first = await reader.readexactly(2)
            wide = await reader.readexactly(2) if first[1] & 0x7F == 126 else b""
            length = int.from_bytes(wide, "big") if wide else first[1] & 0x7F
            opcode, payload = unmasked(first + wide + await reader.readexactly(4 + length))
            assert opcode == 1
            self.heard.append(payload.decode())
            if payload.startswith(b"40"):
                session = f"session of {json.loads(payload[2:])['token']}"
                self._sockets[session] = writer
                writer.write(sent_by_a_server(b"40" + json.dumps({"sid": session}).encode()))
            elif payload == b"3":
                self.pong.set()

    async def _post(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = re.search(r"Content-Length: (\d+)", head)
        assert length is not None
        body = json.loads(await reader.readexactly(int(length[1])))
        self.asked.append(body)
        said = json.dumps({"status": True, "chat_id": f"chat {len(self.asked)}"}).encode()
        writer.write(f"HTTP/1.1 {self._status}\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said)
        socket = self._sockets[str(body["session_id"])]
        await self._answering(lambda payload: socket.write(sent_by_a_server(payload)))


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[Address]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener:
        yield Address(port=listener.sockets[0].getsockname()[1])


def page_job(address: Address, token: str, chats: list[tuple[str, str]], answer: Answer = ANSWER) -> PageJob:
    return PageJob(address=address, request=b"", answer=answer, format=PAGE, token=token, chats=chats)


async def in_full(say: Callable[[bytes], None]) -> None:
    for token in TOKENS:
        say(delta(token))
    say(end(ANSWER.text.strip()))


async def test_a_page_signs_in_asks_in_a_new_chat_and_hears_its_answer() -> None:
    server = Server(in_full)
    chats: list[tuple[str, str]] = []
    async with listening(server) as address:
        found = await wave([page_job(address, token, chats) for token in ("ada", "eve")], within=10)
    assert (found.streams, found.tokens, found.first.count) == (2, 8, 2)
    assert sorted(chats) == [("ada", "chat 1"), ("eve", "chat 2")]
    assert '40{"token":"ada"}' in server.heard
    assert '42["user-join",{"auth":{"token":"ada"}}]' in server.heard
    assert [one["session_id"] for one in server.asked] == ["session of ada", "session of eve"]
    asked = server.asked[0]
    assert asked["parent_id"] is None
    assert "chat_id" not in asked
    assert asked["model"] == ANSWER.model


async def test_a_page_answers_the_servers_pings_while_it_waits() -> None:
    async def after_a_ping(say: Callable[[bytes], None]) -> None:
        say(b"2")
        await asyncio.wait_for(server.pong.wait(), 5)
        await in_full(say)

    server = Server(after_a_ping)
    async with listening(server) as address:
        await wave([page_job(address, "ada", [])], within=10)
    assert "3" in server.heard


async def test_a_message_that_is_refused_is_a_fault_and_not_a_wait() -> None:
    async def nothing(say: Callable[[bytes], None]) -> None:
        pass

    async with listening(Server(nothing, status="400 Bad Request")) as address:
        with pytest.raises(Faulty, match="was refused"):
            await wave([page_job(address, "ada", [])], within=10)


async def test_an_answer_that_breaks_off_is_a_fault() -> None:
    async def cut(say: Callable[[bytes], None]) -> None:
        say(delta(TOKENS[0]))
        say(b"")  # an empty packet is nothing to it
        say(event("chat:message:error", error={"content": "gone"}))
        say(end(TOKENS[0].strip()))

    async with listening(Server(cut)) as address:
        with pytest.raises(Faulty, match="gone"):
            await wave([page_job(address, "ada", [])], within=10)
