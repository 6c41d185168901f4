"""How a service takes memory, and gives it back, told by the system itself."""

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


pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_info")), reason="this is not glibc"
)


@pytest.mark.parametrize(("served", "one"), [("status_of(Server())", True), ("Server().serve(None)", False)])
def test_the_threads_of_a_service_share_one_arena(served: str, *, one: bool) -> None:
    script = _COUNT.format(served=served)
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    assert (told.count("<heap nr=") == 1) is one


_LEFT = """
import asyncio, ctypes
from pathlib import Path
from luxx.entrypoints.cli.serve import status_of

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = (ctypes.c_void_p,)
MIB = 1024 * 1024

def held():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1024

def hash_a_password():
    block = libc.malloc(ctypes.c_size_t(19 * MIB))
    ctypes.memset(block, 1, 19 * MIB)
    libc.free(block)

class Server:
    started = True

    async def serve(self, sockets):
        hash_a_password()  # from now on glibc keeps what one takes
        before = held()
        hash_a_password()
        assert held() - before > 15
        async with asyncio.timeout(30):
            while held() - before > 3:
                await asyncio.sleep(0.1)

assert asyncio.run(status_of(Server())) == 0
"""


def test_a_service_gives_back_what_a_hash_took() -> None:
    ran = subprocess.run([sys.executable, "-c", _LEFT], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
