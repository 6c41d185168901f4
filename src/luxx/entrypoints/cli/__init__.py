"""The command `luxx`."""

import argparse
import sys
from collections.abc import Sequence

from luxx import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status: 0 done, 1 failed, 2 misused or misconfigured."""
    parser = argparse.ArgumentParser(prog="luxx", description="An LLM chat backend to trust and to embed.")
    parser.add_argument("--version", action="version", version=f"luxx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve the HTTP API")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=8000, help="port to listen on; 0 for any (default: %(default)s)")

    database = commands.add_parser("db", help="look after the database")
    database.add_argument(
        "action", choices=("upgrade", "current"), help="bring the schema up to date, or tell its state"
    )

    return _run(parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> int:
    # Imported late: `luxx --help` needs neither the web framework nor a database.
    from luxx.domain.errors import LuxxError  # noqa: PLC0415
    from luxx.entrypoints.cli import database, serve  # noqa: PLC0415
    from luxx.settings import BadSettings, Settings  # noqa: PLC0415

    try:
        settings = Settings.from_env()
    except BadSettings as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if options.command == "serve":
            return serve.run(settings, host=options.host, port=options.port)
        return database.run(settings, options.action)
    except (LuxxError, OSError) as error:
        print(f"luxx: {error}", file=sys.stderr)
        return 1


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)
