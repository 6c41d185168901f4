"""Programs of the system, and processes that tests watch from outside."""

import os
import shutil
import subprocess


def curl_speaks_json() -> bool:
    curl = shutil.which("curl")
    return (
        curl is not None
        and b"--json" in subprocess.run([curl, "--help", "all"], capture_output=True, check=True).stdout
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
