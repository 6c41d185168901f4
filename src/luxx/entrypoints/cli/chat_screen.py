"""How a chat looks: on a terminal, and in a pipe."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text as Styled

from luxx.client import (
    Done,
    Failed,
    Message,
    Role,
    Started,
    Status,
    StreamEvent,
    Text,
    TextPart,
    Thinking,
    ThinkingPart,
    ToolCalled,
    ToolCallPart,
    ToolReturned,
)

SHOWN_LIMIT: Final = 200
"""Characters shown of a tool's arguments, and of its result."""

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Take out what would steer the terminal: whoever wrote the text is not trusted with it."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def settled(text: str) -> tuple[str, str]:
    """Split Markdown that is being written into whole blocks, which stay as they are, and the rest."""
    fence = ""
    place = end = 0
    blank = False
    for line in text.splitlines(keepends=True):
        if blank and not fence and line[:1].strip():
            end = place
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1].startswith(fence) and not line[found.end() :].strip():
            fence = ""
        blank = not line.strip()
        place += len(line)
    return text[:end], text[end:]


def shortly(value: Any) -> str:
    """Show a JSON value on one line, and not too much of it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(harmless(text).split())
    return text if len(text) <= SHOWN_LIMIT else f"{text[:SHOWN_LIMIT]}…"


class Screen(Protocol):
    """Where a chat is shown."""

    def ask(self) -> str:
        """Give the next line; raises EOFError at the end, KeyboardInterrupt for Ctrl-C."""
        ...

    def answering(self) -> Any:
        """Give a context manager around the events of one answer."""
        ...

    def show(self, event: StreamEvent) -> None:
        """Show the next event of an answer."""
        ...

    def note(self, text: str) -> None:
        """Say something that is no part of the conversation."""
        ...

    def problem(self, text: str) -> None:
        """Say what went wrong."""
        ...

    def history(self, messages: tuple[Message, ...]) -> None:
        """Show what was said."""
        ...


class PlainScreen:
    """Lines in, text out: the answers alone on standard output, all else on standard error."""

    def __init__(self) -> None:
        self._ended = True
        self._visible: Final = harmless if sys.stdout.isatty() else str

    def ask(self) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line

    @contextmanager
    def answering(self) -> Iterator[None]:
        self._ended = True
        try:
            yield
        finally:
            self._end_line()

    def _end_line(self) -> None:
        if not self._ended:
            print(flush=True)
        self._ended = True

    def show(self, event: StreamEvent) -> None:
        match event:
            case Text(delta=delta):
                print(self._visible(delta), end="", flush=True)
                self._ended = delta.endswith("\n")
            case ToolCalled(name=name, arguments=arguments):
                self.note(f"[{name} {shortly(dict(arguments))}]")
            case ToolReturned(name=name):
                self.note(f"[{name}: {outcome(event)}]")
            case Done(message=message) if message.status is Status.CANCELLED:
                self.note("[cancelled]")
            case Failed(code=code, message=message):
                self.problem(f"{code}: {message}")
            case _:
                pass

    def note(self, text: str) -> None:
        self._end_line()
        print(harmless(text), file=sys.stderr, flush=True)

    def problem(self, text: str) -> None:
        self.note(f"luxx: {text}")

    def history(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            mark = "> " if message.role is Role.USER else ""
            print(self._visible(f"{mark}{message.content}"), flush=True)


def outcome(returned: ToolReturned | ToolCallPart) -> str:
    """Tell in a line what came of a tool call."""
    if returned.success is None:
        return "no result"
    if returned.success:
        return f"{shortly(returned.result)} ({returned.duration_ms} ms)"
    return f"failed: {shortly(returned.error.message if returned.error else '')}"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the terminal as it is drawn: Ctrl-C throws away nothing half drawn, and keys do not show in between.

    The keys are those of the next line. They are kept as they are pressed (no ICANON): of a Ctrl-D that the
    terminal has taken for the end of a line, a prompt would read a zero byte.
    """
    try:
        import termios  # noqa: PLC0415  # there is none on Windows
    except ImportError:
        yield
        return
    try:
        before = termios.tcgetattr(0)
    except termios.error:
        yield
        return
    during = before.copy()
    during[3] = (during[3] | termios.NOFLSH) & ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(0, termios.TCSADRAIN, during)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)


class TerminalScreen:
    """A terminal: Markdown as it comes, thinking dimmed, tool calls with their outcome.

    What is whole is printed once and stays; only the block that is being written is drawn again.
    """

    def __init__(self, console: Console) -> None:
        self._console: Final = console
        self._text = ""
        self._thinking = ""
        self._running: dict[str, ToolCalled] = {}
        self._waiting = False
        self._apart = False
        self._live: Live | None = None

    def ask(self) -> str:
        return input("› ")

    @contextmanager
    def answering(self) -> Iterator[None]:
        self._text, self._thinking, self._running = "", "", {}
        self._waiting, self._apart = True, False
        live = Live(
            console=self._console,
            get_renderable=self._unfinished,
            refresh_per_second=12,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live = live
        try:
            with undisturbed(), live:
                try:
                    yield
                finally:
                    self._waiting = False
                    self._finish_thinking()
                    self._finish_text()
                    self._running = {}
        finally:
            self._live = None
        self._console.print()

    def _print(self, what: RenderableType = "") -> None:
        if self._live is not None:
            self._live.refresh()  # what is printed for good must not be drawn below itself once more
        self._console.print(what)

    def _unfinished(self) -> RenderableType:
        shown: list[RenderableType] = []
        if self._thinking:
            shown.append(Styled(self._thinking, style="dim italic"))
        if self._text:
            shown.append(_markdown(self._text))
        shown += [Spinner("dots", _call(call.name, call.arguments)) for call in self._running.values()]
        if not shown and self._waiting:
            shown.append(Spinner("dots", Styled("…", style="dim")))
        return _Tail(Group(*shown))

    def show(self, event: StreamEvent) -> None:
        match event:
            case Started():
                return
            case Thinking(delta=delta):
                self._finish_text()
                self._thinking += harmless(delta)
                whole, newline, rest = self._thinking.rpartition("\n")
                if newline:
                    self._thinking = rest
                    self._print(Styled(whole, style="dim italic"))
            case Text(delta=delta):
                self._finish_thinking()
                whole, self._text = settled(self._text + harmless(delta))
                self._print_markdown(whole)
            case ToolCalled():
                self._finish_thinking()
                self._finish_text()
                self._running[event.call_id] = event
            case ToolReturned():
                called = self._running.pop(event.call_id, None)
                self._tool(event.name, {} if called is None else called.arguments, event)
            case Done(message=message):
                self._finish_text()
                if message.status is Status.CANCELLED:
                    self.note("cancelled")
            case Failed(code=code, message=message):
                self._finish_text()
                self.problem(f"{message} ({code})")

    def _finish_thinking(self) -> None:
        if self._thinking:
            thought, self._thinking = self._thinking, ""
            self._print(Styled(thought, style="dim italic"))

    def _finish_text(self) -> None:
        text, self._text = self._text, ""
        self._print_markdown(text)

    def _print_markdown(self, text: str) -> None:
        if text.strip():
            if self._apart:
                self._print()
            self._print(_markdown(text))
            self._apart = True

    def _tool(self, name: str, arguments: Mapping[str, Any], came: ToolReturned | ToolCallPart) -> None:
        line = Styled("⚙ ", style="green" if came.success else "red") + _call(name, arguments)
        self._print(line + Styled(f" → {outcome(came)}", style="dim"))
        self._apart = True

    def note(self, text: str) -> None:
        self._print(Styled(harmless(text), style="dim"))

    def problem(self, text: str) -> None:
        self._print(Styled(harmless(text), style="red"))

    def history(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            if message.role is Role.USER:
                self._print(Styled(f"› {harmless(message.content)}", style="bold"))
                continue
            self._apart = False
            for part in message.parts:
                match part:
                    case TextPart(text=text):
                        self._print_markdown(harmless(text))
                    case ThinkingPart(text=text):
                        self._print(Styled(harmless(text), style="dim italic"))
                    case ToolCallPart():
                        self._tool(part.name, part.arguments, part)
            if message.status is not Status.COMPLETE:
                self.note(message.status.value)
            self._print()


def _markdown(text: str) -> Markdown:
    # A link shows where it leads: its words are the model's.
    markdown = Markdown(text, hyperlinks=False)
    _disarm(markdown.parsed)
    return markdown


def _disarm(tokens: Iterable[Token]) -> None:
    """Clean what is shown of parsed Markdown: links and entities spell out what its source only hints at."""
    for token in tokens:
        # Of HTML rich heeds <kbd> alone, and fails where it is closed without having been opened.
        token.content = "" if token.type == "html_inline" else harmless(token.content)
        token.attrs = {
            name: harmless(value) if isinstance(value, str) else value for name, value in token.attrs.items()
        }
        _disarm(token.children or ())


def _call(name: str, arguments: Mapping[str, Any]) -> Styled:
    return Styled.assemble((harmless(name), "bold"), " ", (shortly(dict(arguments)), "dim"))


class _Tail:
    """The last lines of something, as many as the terminal has: what is drawn again must not scroll."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner: Final = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._inner, options, pad=False)
        for line in lines[-max(console.size.height - 2, 1) :]:
            yield from line
            yield Segment.line()
