"""What runs inside the bubblewrap sandbox: CPython itself, told by its standard input what to do.

Standard library only, and nothing of Luxx: this text is handed to another interpreter.
"""

import ast
import contextlib
import io
import json
import linecache
import os
import resource
import sys
import traceback


class _Output(io.StringIO):
    """Collects what is printed, up to a limit."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.room = most

    def write(self, text: str) -> int:
        if self.room < 0:
            return len(text)
        kept = text[: self.room]
        self.room -= len(kept)
        super().write(kept)
        if len(kept) < len(text) and self.room == 0:
            self.room = -1
            super().write("\n… the output was cut here")
        return len(text)


def main() -> None:
    """Read the order, run its code within the limits, and answer."""
    own_pid = os.getpid()
    order = json.loads(sys.stdin.buffer.read())
    answer = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    limits = {
        resource.RLIMIT_AS: order["memory_bytes"],
        resource.RLIMIT_CPU: int(order["seconds"]) + 2,
        resource.RLIMIT_FSIZE: order["file_bytes"],
        resource.RLIMIT_NPROC: order["processes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))
    code = order["code"]
    linecache.cache["main.py"] = (len(code), None, (code + "\n").splitlines(keepends=True), "main.py")
    answer.write(order["marker"].encode())
    answer.flush()
    output = _Output(order["output_characters"])
    value: object = None
    error: str | None = None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            value = run(code)
        except SystemExit as end:
            error = None if end.code in (None, 0) else f"SystemExit: {end.code}"
        except BaseException as raised:  # noqa: BLE001 - whatever the code raised is its result
            error = "".join(own(raised))
        shown = json_of(value, order["value_characters"])
    if os.getpid() != own_pid:
        # A process that the code has forked came all the way here; one answer is enough.
        os._exit(0)
    text = output.getvalue()
    answer.write(json.dumps({"stdout": text, "value": shown, "error": error}).encode())
    answer.flush()
    os._exit(0)


def run(code: str) -> object:
    """Run all statements, and give the value of the last one where it is an expression."""
    tree = ast.parse(code, "main.py")
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(tree, "main.py", "exec"), names)  # noqa: S102 - that is what the sandbox is for
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), "main.py", "eval"), names)  # noqa: S307 - as above


def own(error: BaseException) -> list[str]:
    """Format a traceback without the frames of this file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != "main.py":
        trace = trace.tb_next
    return traceback.format_exception(type(error), error, trace)


def json_of(value: object, most: int) -> object:
    """Give a value as JSON where it is such, else its repr."""
    try:
        text = json.dumps(value, allow_nan=False)
        if len(text) <= most:
            parsed: object = json.loads(text)
            return parsed
    except BaseException:  # noqa: BLE001, S110 - a value's own methods may raise anything
        pass
    try:
        return repr(value)[:most]
    except BaseException as error:  # noqa: BLE001 - as above
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


if __name__ == "__main__":
    main()
