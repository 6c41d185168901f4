"""A short run of `make chaos`."""

import asyncio
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_chaos_breaks_no_promise(storage: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "luxx.testing.chaos", "--verbose"),
        *("--storage", storage, "--seconds", "12", "--seed", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
