"""The command `luxx`."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from luxx import __version__

INTERRUPTED: Final = 130
"""The exit status after a Ctrl-C that nothing else has answered: a shell's 128, and SIGINT's number."""

UNREAD: Final = 141
"""The exit status where nobody reads the output any more, as `| head` does not: 128, and SIGPIPE's number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives 0 for done, 1 failed, 2 misused or misconfigured, 130 interrupted, 141 unread."""
    parser = _parser()
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error does: what is done must not look undone because a name cannot be shown.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(parser.parse_args(arguments))
        sys.stdout.flush()  # not at the very end, where nobody could answer for it
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        return UNREAD
    except EOFError:
        print("\nluxx: the input ended before all was asked", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="luxx", description="An LLM chat backend to trust and to embed.")
    parser.add_argument("--version", action="version", version=f"luxx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve the HTTP API")
    _address(serve)
    serve.add_argument(
        "--workers",
        type=_count,
        default=1,
        metavar="N",
        help="processes that take requests; more than one needs Postgres (default: %(default)s)",
    )
    _local(serve)
    _address(commands.add_parser("doctor", help="look for what is missing or wrong, and tell what to do"))

    chat = commands.add_parser("chat", help="chat in the terminal, with a service elsewhere or one of its own")
    where = chat.add_mutually_exclusive_group()
    where.add_argument("--url", metavar="URL", help="the service's root; without it, one is started for this chat")
    _local(where)
    chat.add_argument("--username", metavar="NAME", help="who logs in, where LUXX_TOKEN or LUXX_API_KEY is not set")
    chat.add_argument("--model", metavar="NAME", help="the model that answers, instead of the service's default")
    chat.add_argument("--thinking", action="store_true", help="let the model think, and show it")

    database = commands.add_parser("db", help="look after the database")
    actions = database.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("upgrade", help="bring the schema up to date")
    actions.add_parser("current", help="tell whether the schema is current")
    backup = actions.add_parser("backup", help="copy an SQLite database that may be in use")
    backup.add_argument("path", type=Path, metavar="PATH", help="the file to write; it must not be there yet")

    users = commands.add_parser("user", help="look after accounts")
    actions = users.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make an account; the password is asked for, or read from a pipe")
    create.add_argument("username", metavar="NAME")
    create.add_argument("email", metavar="EMAIL")
    create.add_argument("--admin", action="store_true", help="give it the role `admin`")
    listing = actions.add_parser("list", help="list all accounts")
    listing.add_argument("--json", action="store_true", help="as one JSON array")
    for action, purpose in (
        ("disable", "refuse an account, its sessions and keys, from now on"),
        ("enable", "let a disabled account in again"),
        ("promote", "give an account the role `admin`"),
        ("password", "set a password, asked for or read from a pipe, and end all sessions of the account"),
    ):
        actions.add_parser(action, help=purpose).add_argument("username", metavar="NAME")
    return parser


def _give_up_output() -> None:
    """Lead what is still to be written to nothing: the interpreter tries once more when it ends, and complains."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _open_closed_streams() -> None:
    """Open what was closed at the start to nothing: the next file or socket would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  # for as long as the process
            os.set_inheritable(stream.fileno(), True)  # for its children as well
            setattr(sys, name, stream)


def _local(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--local",
        nargs="?",
        type=Path,
        const=True,
        default=False,
        metavar="PATH",
        help="answer with a model on this machine: a GGUF file, or a small one that is fetched once (93 MB)",
    )


def _address(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=_port, default=8000, help="port to listen on; 0 for any (default: %(default)s)")


def _run(options: argparse.Namespace) -> int:
    # Imported late: no command waits for what only another one needs.
    from luxx.domain.errors import LuxxError  # noqa: PLC0415 - as above
    from luxx.extras import MissingExtra, needs  # noqa: PLC0415 - as above
    from luxx.settings import BadSettings  # noqa: PLC0415 - as above

    extra = "the extra `server`"
    if options.command == "chat":
        extra = "the extras `chat` and `server`" if options.url is None else "the extra `chat`"
    try:
        with needs(f"`luxx {options.command}`", extra):
            # Another service's chat needs no settings of ours.
            return _chat(options) if options.command == "chat" else _serve_or_look_after(options)
    except BadSettings as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise  # nobody reads what would be said
    except LuxxError as error:
        print(f"luxx: {error.to_operator()}", file=sys.stderr)
        return 1
    except (MissingExtra, OSError) as error:
        print(f"luxx: {error}", file=sys.stderr)
        return 1


def _serve_or_look_after(options: argparse.Namespace) -> int:
    from luxx.settings import BadSettings, Settings  # noqa: PLC0415 - as above

    try:
        settings = Settings.from_env()
    except BadSettings as error:
        if options.command != "doctor":
            raise
        print("\n".join(f"FAIL  settings: {fault}" for fault in error.faults))
        return 1
    match options.command:
        case "serve":
            from luxx.entrypoints.cli import launch  # noqa: PLC0415 - as above

            return launch.run(
                settings, host=options.host, port=options.port, workers=options.workers, local=options.local
            )
        case "doctor":
            from luxx.entrypoints.cli import doctor  # noqa: PLC0415 - as above

            return doctor.run(settings, host=options.host, port=options.port)
        case "user":
            from luxx.entrypoints.cli import users  # noqa: PLC0415 - as above

            return users.run(settings, options)
        case _:
            from luxx.entrypoints.cli import database  # noqa: PLC0415 - as above

            return database.run(settings, options)


def _chat(options: argparse.Namespace) -> int:
    from luxx.entrypoints.cli import chat  # noqa: PLC0415 - as above

    try:
        return chat.run(options)
    except ValueError as error:
        print(f"luxx: {error}", file=sys.stderr)
        return 1


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers: give one from 1 to 256")
    return int(text)
