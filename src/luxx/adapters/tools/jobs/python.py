"""Python in Monty, an interpreter of its own (https://github.com/pydantic/monty), in a process of its own."""

import contextlib
import json
import math
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from luxx.adapters.tools.python.sandbox import VALUE_CHARACTERS, late
from luxx.adapters.tools.workers.child import own_processes
from luxx.domain.errors import ToolBroken

RECURSION: Final = 500
ADDRESS_SPACE: Final = 640 * 2**20
CUT: Final = "\n… the output was cut here"


def run_python(
    code: str, seconds: float, memory_bytes: int, output_characters: int, program: str | None
) -> dict[str, Any]:
    """Run code in a fresh Monty process; gives `stdout`, `value` and `error`.

    `program` is Monty's, for where it is not installed beside this interpreter.
    """
    import pydantic_monty as monty  # noqa: PLC0415 - only the worker that needs it carries it

    output = _Output(output_characters)
    limits = monty.ResourceLimits(
        max_feed_duration_secs=seconds,
        max_total_sleep_secs=seconds,
        max_memory=memory_bytes,
        max_recursion_depth=RECURSION,
        max_suspensions=1_000,
    )
    value: Any = None
    error: str | None = None
    try:
        with own_processes(), _address_space(ADDRESS_SPACE):
            # The limits above are kept by Monty itself; behind them stand the pool's deadline and the kernel's limits.
            pool = monty.Monty(
                min_processes=1, max_processes=1, request_timeout=seconds + 1, binary_path=_found(program)
            )
            with pool, pool.checkout(limits=limits) as session:
                value = session.feed_run(code, print_callback=output.take)
    except (monty.MontyRuntimeError, monty.MontySyntaxError) as raised:
        error = _traceback(raised.display(), seconds, output_characters)
    except monty.MontyCrashedError as crash:
        error = late(seconds) if crash.timed_out else "MemoryError"
    except monty.MontyError as failure:
        raise ToolBroken(f"the Python sandbox failed ({type(failure).__name__}); try again") from failure
    return {"stdout": output.text, "value": jsonable(value), "error": error}


def _found(program: str | None) -> str | None:
    beside = Path(sysconfig.get_path("scripts"), "monty")
    if program is None and not beside.is_file():
        raise ToolBroken("the Python sandbox is not installed; the operator should install pydantic-monty")
    return None if beside.is_file() else program


class _Output:
    """Collects what code prints, up to a limit."""

    def __init__(self, most: int) -> None:
        self._parts: list[str] = []
        self._room = most
        self._cut = False

    def take(self, _stream: str, text: str) -> None:
        if len(text) > self._room:
            self._cut = True
        self._parts.append(text[: self._room])
        self._room -= len(self._parts[-1])

    @property
    def text(self) -> str:
        return "".join(self._parts) + (CUT if self._cut else "")


@contextlib.contextmanager
def _address_space(limit: int) -> Iterator[None]:
    """Let processes that start here have less address space than this one."""
    import resource  # noqa: PLC0415 - there is none on Windows

    own = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (min(limit, own[1]) if own[1] != resource.RLIM_INFINITY else limit, own[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, own)


def _traceback(text: str, seconds: float, most: int) -> str:
    last = text.rsplit("\n", 1)[-1]
    if last.startswith("TimeoutError: feed time limit exceeded"):
        return late(seconds)
    return text if len(text) <= most else text[: most // 2] + "\n…\n" + text[-most // 2 :]


def jsonable(value: Any) -> Any:
    """Give a value as JSON where it is such (a tuple is a list), else as its `repr`, cut where it is long."""
    try:
        plain = _plain(value, 0)
        if len(json.dumps(plain, allow_nan=False)) <= VALUE_CHARACTERS:
            return plain
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        shown = repr(value)
    except (ValueError, RecursionError):
        # An integer with too many digits has no text in Python either.
        return f"<{type(value).__name__} that is too large to show>"
    return shown if len(shown) <= VALUE_CHARACTERS else shown[:VALUE_CHARACTERS] + "…"


def _plain(value: Any, depth: int) -> Any:
    if depth > 100:
        raise ValueError
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        str(value)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    raise TypeError
