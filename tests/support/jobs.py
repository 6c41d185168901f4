"""Jobs for worker processes that behave in every way there is."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from luxx.domain.errors import ToolRefused


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def surroundings() -> dict[str, Any]:
    # The C library and the interpreter may set their own; nothing comes from the parent.
    inherited = sorted(set(os.environ) - {"LC_CTYPE"})
    return {"environment": inherited, "directory": str(Path.cwd()), "input": sys.stdin.read()}


def noisy() -> str:
    print("x" * 1000, flush=True)  # noqa: T201 - that is what it is for
    os.write(1, b"y" * 1000)
    os.write(2, b"z" * 1000)
    return "done"


def spin() -> None:
    while True:
        pass


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def swell(size: int) -> int:
    return len(bytearray(size))


def touch(size: int) -> int:
    return len(b"x" * size)


def long_text(length: int) -> str:
    return "x" * length


def write(path: str) -> None:
    Path(path).write_text("x", encoding="ascii")


def refuse() -> None:
    raise ToolRefused("no, thank you")


def fail() -> float:
    return 1 / 0


def recurse() -> None:
    recurse()


def no_json() -> Any:
    return {1, 2}


def not_a_number() -> float:
    return float("nan")


def surrogates() -> Any:
    return {"a\ud800b": ["\ud83d" + "\ude00", "?"]}


def nested(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def crash() -> None:
    ctypes.string_at(0)


def die() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
