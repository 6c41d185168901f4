"""How a child process learns that its parent is gone."""

import ctypes
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def on_death_of_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when its parent dies, 0 for none; only Linux knows how.

    A parent that died before is not noticed: compare `os.getppid()` afterwards. Elsewhere a pipe that the
    parent holds open tells, to a thread that waits for its end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
