"""llama.cpp as a child process: started, watched, started again, and ended with this process."""

import asyncio
import importlib.util
import json
import logging
import os
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from types import TracebackType
from typing import Final, Self

from luxx.adapters.children import ended
from luxx.adapters.models.local.child import HOST, Order
from luxx.adapters.models.local.weights import LocalModelUnusable, Weights
from luxx.extras import advice

CONTEXT: Final = 8192
"""Tokens of a conversation with its answer, at most; a model that was made for fewer takes fewer."""
SLOTS: Final = 2
"""Answers at once; others wait for their turn."""
START_SECONDS: Final = 300.0
LIVED_SECONDS: Final = 60.0
"""A child that lived so long is replaced without a pause that grew."""
PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
END_SECONDS: Final = 5.0

_BOOT: Final = "import sys; sys.path[:] = {path!r}; from luxx.adapters.models.local.child import main; main()"
_log = logging.getLogger("luxx.local_model")


def check_engine() -> None:
    """Raise `LocalModelUnusable` where llama.cpp is not installed: before anything is fetched for it."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelUnusable(advice("A local model", "xllamacpp", "the extra `local`"))


class LocalModel:
    """A model behind an OpenAI-compatible endpoint of its own; an async context manager, ready once entered.

    It listens on loopback, on a port that stays the same, and takes only `api_key`, which is made anew each
    time. A child that dies is started again, after a pause that doubles up to half a minute; meanwhile the
    endpoint refuses connections. It ends with this process however that ends. What llama.cpp says goes to the
    log at `debug`.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        context: int = CONTEXT,
        slots: int = SLOTS,
        threads: int | None = None,
    ) -> None:
        """`context` is in tokens; `threads` work on an answer, by default all cores but one, at most 8."""
        self.name: Final = weights.name
        self.api_key: Final = secrets.token_urlsafe(32)
        self._weights: Final = weights
        self._context: Final = context
        self._slots: Final = slots
        self._threads: Final = threads or max(1, min(8, _cores() - 1))
        self._port = 0
        self._child: Process | None = None
        self._logging: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """The endpoint's root, which ends in /v1; known once entered."""
        return f"http://{HOST}:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """The child's process, None while there is none."""
        return None if self._child is None or self._child.returncode is not None else self._child.pid

    async def __aenter__(self) -> Self:
        """Start the child, and return once it answers; raises `LocalModelUnusable`."""
        check_engine()
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        self._keeping = asyncio.create_task(self._keep(), name="luxx local model")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self._end()

    async def _start(self) -> None:
        """Start a child, and return once it answers; raises `LocalModelUnusable`."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-X", "utf8", "-c", _BOOT.format(path=sys.path)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={name: text for name, text in os.environ.items() if not name.startswith("LUXX_")},
            start_new_session=True,
        )
        self._child = child
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None  # noqa: S101, PT018  # pipes
        self._logging = asyncio.create_task(_log_lines(child.stderr), name="luxx local model's log")
        order = Order(
            parent=os.getpid(),
            path=str(self._weights.path),
            name=self.name,
            key=self.api_key,
            port=self._port,
            context=self._context,
            slots=self._slots,
            threads=self._threads,
        )
        child.stdin.write(json.dumps(order).encode() + b"\n")
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await child.stdout.readline()
        except TimeoutError:
            raise LocalModelUnusable(
                f"The model {self._weights.path} cannot be used: it was not loaded within {START_SECONDS:g} s."
            ) from None
        outcome = json.loads(line or b'{"failed": "llama.cpp ended while loading it"}')
        if "port" not in outcome:
            raise LocalModelUnusable(
                f"The model {self._weights.path} cannot be used: {outcome['failed']}. LUXX_LOG_LEVEL=debug tells more."
            )
        self._port = outcome["port"]

    async def _keep(self) -> None:
        """Start the child again whenever it is gone."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            began = loop.time()
            assert self._child is not None  # noqa: S101  # it is started before
            status = await self._child.wait()
            await self._end()
            pause = (
                PAUSE_SECONDS
                if loop.time() - began >= LIVED_SECONDS
                else min(max(2 * pause, PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            )
            _log.warning("the local model ended with the status %d; it is started again in %g s", status, pause)
            await asyncio.sleep(pause)
            try:
                await self._start()
            except (LocalModelUnusable, OSError) as error:
                _log.warning("the local model could not be started again: %s", error)
                await self._end()
            else:
                _log.info("the local model answers again, in process %d", self.pid)

    async def _end(self) -> None:
        """End the child, and wait until it is gone."""
        child = self._child
        if child is None or child.stdin is None:
            return
        child.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await child.wait()
        except TimeoutError:
            child.kill()
        await ended(child)
        if self._logging is not None:
            await self._logging


async def _log_lines(said: asyncio.StreamReader) -> None:
    kept = b""
    while data := await said.read(1 << 16):
        *lines, kept = (kept + data).split(b"\n")
        for line in lines:
            _log.debug("%s", line.decode(errors="replace").strip())


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only some systems know it
        return os.cpu_count() or 1
