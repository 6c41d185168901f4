"""One arena for all threads, told by glibc itself."""

import ctypes
import subprocess
import sys

import pytest

_COUNT = """
import ctypes, threading
from luxx.entrypoints.cli.allocator import one_arena

{call}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.fclose.argtypes = (ctypes.c_void_p,)
together = threading.Barrier(4)

def take():
    libc.malloc(ctypes.c_size_t(10_000))
    together.wait()

threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
told = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, told)
libc.fclose(told)
"""


@pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_info")), reason="this is not glibc"
)
@pytest.mark.parametrize(("call", "one"), [("one_arena()", True), ("", False)])
def test_threads_share_one_arena_once_it_is_asked_for(call: str, *, one: bool) -> None:
    script = _COUNT.format(call=call)
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    assert (told.count("<heap nr=") == 1) is one
