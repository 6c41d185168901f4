"""One arena for all threads, told by glibc itself."""

import ctypes
import subprocess
import sys

import pytest

_COUNT = """
import asyncio, ctypes, threading
from luxx.entrypoints.cli.serve import status_of

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.fclose.argtypes = (ctypes.c_void_p,)
together = threading.Barrier(4)

def take():
    libc.malloc(ctypes.c_size_t(10_000))
    together.wait()

class Server:
    started = True

    async def serve(self, sockets):
        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

asyncio.run({served})
told = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, told)
libc.fclose(told)
"""


@pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_info")), reason="this is not glibc"
)
@pytest.mark.parametrize(("served", "one"), [("status_of(Server())", True), ("Server().serve(None)", False)])
def test_the_threads_of_a_service_share_one_arena(served: str, *, one: bool) -> None:
    script = _COUNT.format(served=served)
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    assert (told.count("<heap nr=") == 1) is one
