"""`python -m bench`"""

import argparse
import sys
from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the service beside what bounds it.")
    commands = parser.add_subparsers(dest="command", required=True)
    upstream = commands.add_parser("upstream", help="run the scripted provider alone")
    upstream.add_argument("--port", type=int, default=9000)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    given = _parser().parse_args(arguments)
    import uvloop  # noqa: PLC0415  # not on every platform

    if given.command == "upstream":
        from bench.upstream import serve  # noqa: PLC0415  # nothing of the client in the provider's process

        try:
            uvloop.run(serve(given.port))
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
