"""`luxx chat`"""

import argparse
import getpass
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import httpx
from msgspec import UNSET
from rich.console import Console

from luxx.client import Client, Conversation, Failed, LuxxClientError, Patience, Started, Stream, Unauthenticated
from luxx.domain.conversation import TITLE_LIMIT
from luxx.entrypoints.cli.chat_screen import PlainScreen, Screen, TerminalScreen

TOKENS: Final = ("LUXX_TOKEN", "LUXX_API_KEY")
"""The variables that a token or a key is taken from; none is a setting of the service."""

FIRST: Final = Patience(tries=2)
"""For the first words: an address where nobody is should not take long to be told."""

LAST: Final = Patience(connect_seconds=2, answer_seconds=3, tries=2)
"""For the last ones: who leaves does not wait for a service that is gone."""

HELP: Final = """\
/new          begin a new conversation
/model NAME   let another model answer; without NAME, tell which one does
/history      show this conversation from its beginning
/help         show this
/quit         leave, as Ctrl-D does

Ctrl-C stops an answer that is being written; once more, and it is not
waited for."""


class NoToken(LuxxClientError):
    """There is nothing to prove by who is chatting."""


def run(options: argparse.Namespace) -> int:
    """Chat until the end of the input; gives the exit status: 1 where an answer or the connection failed."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a byte that is no text is no reason to end
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    screen: Screen = TerminalScreen(Console()) if interactive else PlainScreen()
    try:
        with ExitStack() as stack:
            if options.url is None:
                client = stack.enter_context(_at_home(options.local))
            else:
                client = stack.enter_context(_away(options.url, options.username, interactive=interactive))
            chat = Chat(client, screen, model=options.model, thinking=options.thinking, typed=sys.stdin.isatty())
            if interactive:
                _edit_lines()
                screen.note(f"Luxx at {client.url}. /help tells what else there is; Ctrl-D leaves.")
            return chat.run()
    except KeyboardInterrupt:
        if not interactive:
            raise
        print()
        return 0
    except LuxxClientError as error:
        screen.problem(str(error))
        return 1


@contextmanager
def _at_home(local: Path | bool) -> Iterator[Client]:
    from luxx.entrypoints.cli.embedded import embedded, log_in_here  # noqa: PLC0415  # needs the whole service
    from luxx.settings import Settings  # noqa: PLC0415  # as above

    for name in TOKENS:
        os.environ.pop(name, None)
    settings = Settings.from_env()
    with embedded(settings, local=local) as url, Client(url, transport=httpx.HTTPTransport()) as client:
        log_in_here(client, settings.data_dir / "chat.json")
        with _logged_out(client, httpx.HTTPTransport):
            yield client


@contextmanager
def _away(url: str, username: str | None, *, interactive: bool) -> Iterator[Client]:
    given = next((found for name in TOKENS if (found := os.environ.get(name, "").strip())), None)
    with Client(url, token=given, patience=FIRST) as client:
        if given is not None:
            client.me()
        elif interactive:
            client.login(username or input("Username: "), getpass.getpass("Password: "))
        else:
            raise NoToken(f"no terminal to ask for a password: set {' or '.join(TOKENS)}")
        token = client.token
    with Client(url, token=token) as client:
        if given is not None:
            yield client
            return
        with _logged_out(client):
            yield client


@contextmanager
def _logged_out(client: Client, transport: Callable[[], httpx.BaseTransport | None] = lambda: None) -> Iterator[None]:
    try:
        yield
    finally:
        with (
            suppress(LuxxClientError),  # the session ends by itself, later
            Client(client.url, token=client.token, patience=LAST, transport=transport()) as leaving,
        ):
            leaving.logout()


def _edit_lines() -> None:
    with suppress(ImportError):  # there is none on Windows
        import readline  # noqa: PLC0415  # gives `input` its keys

        # What is pasted is one message, however many lines it has: Python switches that off.
        readline.parse_and_bind("set enable-bracketed-paste on")


class Chat:
    """A conversation of a person with a service.

    Lines that are `typed` hold commands or misspelt ones where they begin with a slash; those of a pipe may
    be any text, and are commands only where they are nothing else.
    """

    def __init__(self, client: Client, screen: Screen, *, model: str | None, thinking: bool, typed: bool) -> None:
        self._client: Final = client
        self._typed: Final = typed
        self._screen: Final = screen
        self._model = model
        self._thinking: Final = thinking
        self._conversation: Conversation | None = None
        self._failed = False
        self._commands: Final[dict[str, Callable[[str], None]]] = {
            "/new": self._new,
            "/model": self._change_model,
            "/history": self._history,
            "/help": lambda _: self._screen.note(HELP),
        }

    def run(self) -> int:
        """Take lines until the last; gives the exit status."""
        while True:
            try:
                line = self._screen.ask().strip()
            except EOFError:
                break
            if line in {"/quit", "/exit"}:
                break
            if not line:
                continue
            try:
                self._take(line)
            except Unauthenticated:
                raise  # no other line will do better
            except LuxxClientError as error:
                self._failed = True
                self._screen.problem(str(error))
        return 1 if self._failed else 0

    def _take(self, line: str) -> None:
        name, *words = line.split()
        if not line.startswith("/") or not (self._typed or self._is_nothing_else(name, words)):
            self._ask(line)
        elif (command := self._commands.get(name)) is None:
            self._failed = True
            self._screen.problem(f"there is no {name}; /help tells what there is")
        else:
            command(" ".join(words))

    def _is_nothing_else(self, name: str, words: Sequence[str]) -> bool:
        """Tell whether this is a command that there is, with no more behind it than it takes."""
        return name in self._commands and len(words) <= (1 if name == "/model" else 0)

    def _new(self, _: str) -> None:
        self._conversation = None
        self._screen.note("a new conversation")

    def _change_model(self, name: str) -> None:
        if name and self._conversation is not None:
            self._conversation = self._client.update_conversation(self._conversation.id, model=name)
        if name:
            self._model = name
        shown = self._model if self._conversation is None else self._conversation.model
        self._screen.note(f"{shown or 'the default model'} answers")

    def _history(self, _: str) -> None:
        if self._conversation is None:
            self._screen.note("nothing was said yet")
            return
        page = self._client.messages(self._conversation.id, limit=1000)
        if page.has_more:
            self._screen.note(f"the last {len(page.items)} of {page.total} messages:")
        self._screen.history(page.items)

    def _ask(self, content: str) -> None:
        if self._conversation is None:
            self._conversation = self._client.create_conversation(
                title=content[:TITLE_LIMIT],
                model=UNSET if self._model is None else self._model,
                thinking_enabled=self._thinking or UNSET,
            )
        with self._client.stream(self._conversation.id, content) as stream:
            canceller = Canceller(self._client, stream)
            try:
                with self._screen.answering(), canceller.on_interrupt():
                    for event in stream:
                        if isinstance(event, Started):
                            canceller.started()
                        self._screen.show(event)
            except KeyboardInterrupt:
                self._screen.note("not waited for any longer; /history tells what came of it")
        self._failed = self._failed or isinstance(stream.end, Failed)
        if canceller.trouble is not None:
            self._screen.problem(canceller.trouble)


class Canceller:
    """Makes Ctrl-C cancel an answer: the first through the API, so that the stream ends as streams do.

    The second one raises KeyboardInterrupt: the service cannot be reached, or takes its time.
    """

    def __init__(self, client: Client, stream: Stream) -> None:
        self._client: Final = client
        self._stream: Final = stream
        self._wanted = False
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Take Ctrl-C as that for the length of the block."""
        before = signal.signal(signal.SIGINT, self._interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            if self._thread is not None:
                self._thread.join(1.0)

    def started(self) -> None:
        """Note that the answer has its id: what was to be cancelled before is cancelled now."""
        if self._wanted:
            self._cancel()

    def _interrupted(self, _number: int, _frame: FrameType | None) -> Any:
        if self._wanted:
            raise KeyboardInterrupt
        self._wanted = True
        if self._stream.message_id is not None:
            self._cancel()

    def _cancel(self) -> None:
        # Not here: a signal comes in the middle of anything, and the reading goes on meanwhile.
        if self._thread is None:
            self._thread = threading.Thread(target=self._call, daemon=True)
            self._thread.start()

    def _call(self) -> None:
        message_id = self._stream.message_id
        try:
            if message_id is not None:
                self._client.cancel(message_id)
        except LuxxClientError as error:
            self.trouble = f"the answer could not be cancelled: {error}"
