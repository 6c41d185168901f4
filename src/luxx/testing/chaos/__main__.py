"""The command; see the package."""

import argparse
import asyncio
import sys
import time
from typing import Final

from luxx.extras import MissingExtra, needs

with needs("luxx.testing.chaos", "the extra `testing`"):
    from luxx.testing.chaos.run import NotLuxx, Result, Storage, run_against, run_own

_NOTES: Final = 40


def main() -> int:
    """Run chaos; gives the exit status: 0 if every promise was kept, 1 if one was broken, 2 if nobody was there."""
    parser = argparse.ArgumentParser(
        prog="python -m luxx.testing.chaos", description="Break what can be broken, and count what was lost."
    )
    parser.add_argument("--storage", choices=("sqlite", "postgres", "both"), default="both", help="what is started")
    parser.add_argument("--url", action="append", help="use this deployment instead (repeat it for its replicas)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to disturb, in all")
    parser.add_argument("--seed", type=int, default=1, help="repeats the same faults, as far as time allows")
    parser.add_argument("--clients", type=int, default=6, help="users at once")
    parser.add_argument("--verbose", action="store_true", help="show the log of the processes where a promise broke")
    options = parser.parse_args()
    if options.url:
        urls = [url.rstrip("/") for url in options.url]
        work = run_against(urls, seconds=options.seconds, seed=options.seed, clients=options.clients)
        try:
            return _told(asyncio.run(work), options, options.seconds)
        except NotLuxx as failure:
            _say(str(failure))
            return 2
    storages: tuple[Storage, ...] = ("sqlite", "postgres") if options.storage == "both" else (options.storage,)
    status = 0
    for storage in storages:
        seconds = options.seconds / len(storages)
        work = run_own(storage, seconds=seconds, seed=options.seed, clients=options.clients)
        try:
            status |= _told(asyncio.run(work), options, seconds, storage)
        except MissingExtra as failure:
            _say(str(failure))
            return 2
    return status


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _told(result: Result, options: argparse.Namespace, seconds: float, storage: str = "") -> int:
    _say(f"\n{result.title}, seed {options.seed}: {result.summary}")
    _say(result.tally.report(result.promises))
    broken = result.tally.violations
    for note in result.tally.notes[:_NOTES]:
        _say(f"  {note}")
    if broken > _NOTES:
        _say(f"  … and {broken - _NOTES} more")
    if broken and options.verbose:
        _say(result.log)
    idle = [promise for promise in result.promises if not result.tally.checks[promise]]
    if idle:
        _say(f"Never looked at: {', '.join(idle)}. Give it more seconds, or a model that takes longer to answer.")
    if not broken:
        _say("All promises were kept." if not idle else "The other promises were kept.")
        return 0
    where = " ".join(f"--url {url}" for url in options.url or ()) or f"--storage {storage}"
    again = f"python -m luxx.testing.chaos {where} --seconds {seconds:g} --seed {options.seed}"
    _say(f"{broken} violations. Again: {again}")
    return 1


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    _say(f"({time.monotonic() - began:.0f} s)")
    sys.exit(status)
