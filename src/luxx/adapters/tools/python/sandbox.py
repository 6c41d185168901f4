"""The port of sandboxes for Python code that nobody trusts."""

from dataclasses import dataclass
from typing import Final, Protocol, Self

from luxx.domain.message import Json

OUTPUT_CHARACTERS: Final = 100_000
"""Characters of standard output and of a traceback, at most; what is more is cut, and said to be."""
VALUE_CHARACTERS: Final = 500_000
"""Characters of a value as JSON, at most; a longer one is given as its `repr`, cut to as many."""
MEMORY_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonOutcome:
    """What came of a piece of code.

    `value` is that of the last expression: as JSON where it is such, else its `repr`. `error` is the
    traceback as Python prints it, None where nothing was raised.
    """

    stdout: str
    value: Json
    error: str | None

    @classmethod
    def failed(cls, error: str) -> Self:
        """Give the outcome of code that came to nothing else."""
        return cls(stdout="", value=None, error=error)


def late(seconds: float) -> str:
    """Say in a traceback's last line that code took too long."""
    return f"TimeoutError: the code ran longer than {seconds:g} seconds"


class PythonSandbox(Protocol):
    """Runs Python code that can reach neither files nor the network nor any process of the host."""

    @property
    def description(self) -> str:
        """What code can and cannot use here, in words for a model."""
        ...

    async def run(self, code: str, *, seconds: float) -> PythonOutcome:
        """Run `code` from scratch; nothing is left of it afterwards.

        Code that raises, takes more than `seconds` or more memory than it may has that as its `error`.
        Raises `ToolBroken` where the sandbox itself fails. Cancelling ends the code.
        """
        ...

    async def aclose(self) -> None: ...
