"""Wake-ups between processes on Postgres: one connection that listens, for as long as the process lives."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from luxx.domain.errors import StorageUnavailable

CHANNEL: Final = "luxx"
_PAYLOAD_LIMIT: Final = 7900  # Postgres takes payloads under 8000 bytes
_EVERYTHING: Final = "*"
_log = logging.getLogger(__name__)


class Notices:
    """Listen for what other processes commit and cancel, and connect again whenever the connection is lost.

    `committed` is called with message ids, None standing for all turns; `cancelled` with one message
    id. What this process sent itself is left out: it knows. Notices may be lost while nothing is
    connected; `committed(None)` is called once it is again.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        *,
        committed: Callable[[Sequence[str] | None], None],
        cancelled: Callable[[str], None],
        answer_seconds: float = 5.0,
    ) -> None:
        self._connect = connect
        self._committed = committed
        self._cancelled = cancelled
        self._answer_seconds = answer_seconds
        self._sender = secrets.token_hex(6)
        self.listening: Final = asyncio.Event()

    def committed_payload(self, message_ids: Sequence[str]) -> str:
        payload = " ".join(("commit", self._sender, *message_ids))
        return payload if len(payload) < _PAYLOAD_LIMIT else f"commit {self._sender} {_EVERYTHING}"

    def cancelled_payload(self, message_id: str) -> str:
        return f"cancel {self._sender} {message_id}"

    async def listen(self) -> None:
        """Run until cancelled."""
        pause = 0.05
        while True:
            try:
                await self._listen_once()
            except Exception as error:  # noqa: BLE001  # deaf for good, this process would be late for ever
                _log.log(
                    logging.DEBUG if isinstance(error, StorageUnavailable) else logging.WARNING,
                    "the connection that listens was lost: %s",
                    type(error).__name__,
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            else:
                pause = 0.05

    async def _listen_once(self) -> None:
        connection = await self._connect()
        try:
            broken = asyncio.Event()
            connection.add_termination_listener(lambda _connection: broken.set())
            async with asyncio.timeout(self._answer_seconds):
                await connection.add_listener(CHANNEL, self._hear)
            self.listening.set()
            self._committed(None)
            while not connection.is_closed():
                try:
                    async with asyncio.timeout(10):
                        await broken.wait()
                except TimeoutError:
                    # A connection that a network forgot looks idle: only asking tells.
                    await connection.execute("SELECT 1", timeout=self._answer_seconds)
        finally:
            self.listening.clear()
            connection.terminate()

    def _hear(self, _connection: object, _process: int, _channel: str, payload: object) -> None:
        kind, sender, *names = str(payload).split(" ")
        if sender == self._sender:
            return
        if kind == "cancel":
            self._cancelled(names[0])
        else:
            self._committed(None if names == [_EVERYTHING] else names)
