"""What runs in a worker process: read a job, run it within the limits, write the outcome, again.

A frame is four bytes of length (big-endian) and as many bytes of JSON. A job is
`{"job": "module:function", "arguments": [...], "seconds": n}`; an outcome is `{"result": ...}` or
`{"refused"|"broken"|"timeout": "text"}`, each with `"peak"`, the most memory ever used, in KiB.

Of others only the standard library: this is all that a fresh child loads.
"""

import contextlib
import ctypes
import importlib
import json
import math
import os
import re
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import IO, Any, Final

from luxx.adapters.orphans import on_death_of_parent
from luxx.domain.errors import ToolBroken, ToolRefused, ToolTimeout

LENGTH: Final = struct.Struct(">I")
OPEN_FILES: Final = 64
_HALVES: Final = re.compile("[\ud800-\udfff]")
_PR_SET_DUMPABLE: Final = 4
_M_ARENA_MAX: Final = -8


def main(parent: int, memory_bytes: int, result_bytes: int) -> None:
    """Serve jobs from standard input until it ends; `parent` is the process to live and die with."""
    orders: SimpleQueue[bytes] = SimpleQueue()
    source = os.fdopen(os.dup(0), "rb")
    outcomes = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not end up between the frames.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    _die_with(parent)
    threading.Thread(target=_listen, args=(source, orders), daemon=True).start()
    _bound(memory_bytes)
    while True:
        outcome = _run(orders.get())
        write_frame(outcomes, _encoded(outcome, result_bytes))


def _listen(source: IO[bytes], orders: SimpleQueue[bytes]) -> None:
    """Pass on what the parent orders; when it is gone, end this process and all that it started, whatever they do."""
    while frame := read_frame(source):
        orders.put(frame)
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


@contextlib.contextmanager
def own_processes() -> Iterator[None]:
    """Allow a job to start processes: the end of the parent then ends them first, and this one with them.

    Elsewhere the kernel kills this process so fast that it could not take others along.
    """
    on_death_of_parent(0)
    try:
        yield
    finally:
        on_death_of_parent(signal.SIGKILL)


def read_frame(stream: IO[bytes]) -> bytes:
    """Read one frame; empty at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return b""
    return stream.read(LENGTH.unpack(head)[0])


def write_frame(stream: IO[bytes], frame: bytes) -> None:
    stream.write(LENGTH.pack(len(frame)))
    stream.write(frame)
    stream.flush()


def _die_with(parent: int) -> None:
    """End together with the parent, even one that was killed; elsewhere than on Linux the closed pipe does it."""
    on_death_of_parent(signal.SIGKILL)
    if sys.platform == "linux":
        # Nobody but root may look into this process.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _bound(memory_bytes: int) -> None:
    if sys.platform == "linux":
        # One heap for all threads: else each of DuckDB's reserves 64 MiB of the address space, and uses none of it.
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        return
    # Not RLIMIT_NPROC: it counts threads, of all processes of the user, and DuckDB starts some.
    limits = {"RLIMIT_AS": memory_bytes, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": OPEN_FILES}
    for name, limit in limits.items():
        # A system that does not know a limit, or holds a lower one already, keeps its own.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (limit, limit))


def _allow_cpu(seconds: float) -> None:
    """Let this process use so much more processor time; the kernel ends it then, if the parent did not before."""
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    until = math.ceil(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _peak() -> int:
    """Give the most memory that this process ever used, in KiB; 0 where the system does not tell.

    Not `ru_maxrss`: that starts with what the parent used when it started this process.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123 - nothing to load
            return next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


def _run(frame: bytes) -> dict[str, Any]:
    try:
        order = json.loads(frame)
        _allow_cpu(order["seconds"])
        module, _, name = order["job"].partition(":")
        function = getattr(importlib.import_module(module), name)
        return {"result": function(*order["arguments"])}
    except ToolRefused as error:
        return {"refused": str(error)}
    except ToolTimeout as error:
        return {"timeout": str(error)}
    except ToolBroken as error:
        return {"broken": str(error)}
    except MemoryError:
        return {"refused": "this needs more memory than a tool may use; try it with less data"}
    except RecursionError:
        return {"refused": "this is nested too deeply; try something flatter"}
    except Exception as error:  # noqa: BLE001 - a job's mistake must not take the worker's protocol down
        return {"broken": f"the tool failed with {type(error).__name__}"}


def _encoded(outcome: dict[str, Any], result_bytes: int) -> bytes:
    peak = _peak()
    try:
        text = json.dumps(outcome | {"peak": peak}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Half a surrogate pair has no form in UTF-8.
        frame = _HALVES.sub("\ufffd", text).encode()
    except MemoryError:
        return _small({"refused": "the result is too large; ask for less"}, peak)
    except RecursionError:
        return _small({"refused": "the result is nested too deeply; ask for something flatter"}, peak)
    except (TypeError, ValueError) as error:
        return _small({"broken": f"the tool gave no JSON ({type(error).__name__})"}, peak)
    if len(frame) > result_bytes:
        reason = f"the result is too large ({len(frame)} bytes, at most {result_bytes}); ask for less"
        return _small({"refused": reason}, peak)
    return frame


def _small(outcome: dict[str, Any], peak: int) -> bytes:
    return json.dumps(outcome | {"peak": peak}).encode()
