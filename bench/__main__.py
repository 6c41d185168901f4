"""`python -m bench`"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the service beside what bounds it.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, print a table, write build/bench and docs/performance.md")
    run.add_argument("--quick", action="store_true", help="two or three minutes; writes no document")
    run.add_argument("--only", action="append", metavar="NAME", help="this scenario (again for more)")
    run.add_argument("--rounds", type=int, help="rounds of each scenario")
    run.add_argument("--rows", type=int, help="conversations in the large database")
    run.add_argument("--place", type=Path, help="directory for the databases; /dev/shm leaves the disk out")
    run.add_argument("--check", action="store_true", help="compare ratios with bench/limits.toml; status 1 when under")
    commands.add_parser("report", help="write docs/performance.md from what was measured last")
    upstream = commands.add_parser("upstream", help="run the scripted provider alone")
    upstream.add_argument("--port", type=int, default=9000)
    raw = commands.add_parser("raw", help="run the bare handlers alone")
    raw.add_argument("--port", type=int, default=9001)
    raw.add_argument("--database", required=True)
    raw.add_argument("--secret", default="0" * 48, help="of the service whose tokens it reads")
    raw.add_argument("--upstream", default="http://127.0.0.1:9000", help="the provider, for streams")
    peers = commands.add_parser("peers", help="put LiteLLM and Open WebUI beside the service")
    peers.add_argument("--quick", action="store_true")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    given = _parser().parse_args(arguments)
    # Each command loads what it needs: the provider's process has nothing of the others.
    match given.command:
        case "upstream":
            return _upstream(given.port)
        case "raw":
            from bench.raw import serve  # noqa: PLC0415 - as above

            serve(given.port, given.database, given.secret, given.upstream)
            return 0
        case "report":
            from bench.report import rewrite  # noqa: PLC0415 - as above

            return rewrite()
        case "peers":
            return int(importlib.import_module("bench.peers").main(quick=given.quick))
        case _:
            from bench.run import Wanted  # noqa: PLC0415 - as above
            from bench.run import main as run  # noqa: PLC0415 - as above

            wanted = Wanted(
                quick=given.quick,
                only=given.only or (),
                rounds=given.rounds,
                rows=given.rows,
                place=given.place,
                check=given.check,
            )
            return run(wanted)


def _upstream(port: int) -> int:
    import uvloop  # noqa: PLC0415 - only what the command needs

    from bench.upstream import serve  # noqa: PLC0415 - only what the command needs

    try:
        uvloop.run(serve(port))
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
