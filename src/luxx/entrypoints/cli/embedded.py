"""The whole service inside another command, on a free port of loopback, for as long as the command runs."""

import asyncio
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from luxx.adapters.models.local.server import LocalModel
from luxx.adapters.models.local.weights import Weights
from luxx.adapters.telemetry.logs import configure
from luxx.client import Client, Conflict, Unauthenticated
from luxx.container import Container, made_usable
from luxx.domain.errors import LuxxError, StorageUnavailable
from luxx.entrypoints.cli.launch import answered_by, weights_for
from luxx.entrypoints.cli.serve import DrainingServer, server_of
from luxx.settings import Settings

_log = logging.getLogger("luxx")


class NotStarted(LuxxError):
    """The service did not start; the text says where the reason is."""


@contextmanager
def embedded(settings: Settings, *, local: Path | bool = False) -> Iterator[str]:
    """Serve until the block ends; gives the root URL. The log goes to `chat.log` in the data directory.

    `local` is as in `launch.run`. Raises `LocalModelUnusable` where that model cannot be run,
    `StorageUnavailable` where the database cannot be used, `NotStarted` where the service did not start
    for another reason.
    """
    weights = weights_for(local)
    settings.make_data_dir()
    path = settings.data_dir / "chat.log"
    with open(path, "w", encoding="utf-8", opener=_private) as log:

        def configured(settings: Settings) -> None:
            configure(style=settings.log_format, level=settings.log_level, secrets=settings.secrets, stream=log)

        try:
            configured(settings)
            with _serving(settings, path, weights, configured) as url:
                yield url
        finally:
            logging.getLogger().handlers[:] = [logging.NullHandler()]  # the file is closed now


@contextmanager
def _serving(
    settings: Settings, path: Path, weights: Weights | None, configured: Callable[[Settings], None]
) -> Iterator[str]:
    started: Future[tuple[str, DrainingServer]] = Future()

    def serve() -> None:
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C is the chat's, and only the main thread's waiting is broken off by it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            asyncio.run(_serve(settings, weights, configured, started))
        except (LuxxError, OSError) as error:
            if not started.done():
                started.set_exception(error)
        except (Exception, SystemExit):  # noqa: BLE001  # whatever it is, the thread has nobody else to tell
            _log.exception("the embedded service failed")

    # Who is interrupted while it starts does not wait for it.
    thread = threading.Thread(target=serve, name="luxx-embedded", daemon=True)
    thread.start()
    while not started.done() and thread.is_alive():
        thread.join(0.01)
    if not started.done():
        raise NotStarted(f"the embedded service did not start; {path} has the reason")
    url, server = started.result()
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()


async def _serve(
    settings: Settings,
    weights: Weights | None,
    configured: Callable[[Settings], None],
    started: Future[tuple[str, DrainingServer]],
) -> None:
    if weights is None:
        await _serve_with(settings, started)
        return
    async with LocalModel(weights) as model:
        settings = answered_by(model, settings, tools=weights.tools)
        configured(settings)  # there is one secret more
        await _serve_with(settings, started)


async def _serve_with(settings: Settings, started: Future[tuple[str, DrainingServer]]) -> None:
    container = Container(settings=settings)
    # Looked at before, for the sake of a reason that a person can read: the server's own start only logs it.
    storage = container.storage()
    try:
        await made_usable(storage)
    except StorageUnavailable:
        await storage.close()
        raise
    server = server_of(container, host="127.0.0.1", port=0)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.wait({serving}, timeout=0.005)
    if server.started:
        port = server.servers[0].sockets[0].getsockname()[1]
        started.set_result((f"http://127.0.0.1:{port}", server))
    await serving


@dataclass(frozen=True, slots=True)
class LocalAccount:
    """The account that chats here; its password is random and known to its file alone."""

    username: str
    password: str


def log_in_here(client: Client, path: Path) -> None:
    """Log in with the account kept in `path` (mode 0600), made where there is none, so that its conversations stay.

    In another database than before it is made again. Of several that begin at once, one's account is kept.
    Raises `LuxxClientError`, OSError.
    """
    account = _kept(path)
    try:
        _log_in(client, account)
    except Unauthenticated:  # its password was changed by somebody else
        if _kept(path) == account:
            path.unlink(missing_ok=True)
        _log_in(client, _kept(path))


def _log_in(client: Client, account: LocalAccount) -> None:
    """Log in; where there is no such account, register it first."""
    try:
        client.login(account.username, account.password)
    except Unauthenticated:
        with suppress(Conflict):  # it is there: somebody has just made it, or its password is another
            client.register(account.username, f"{account.username}@chat.invalid", account.password)  # RFC 2606
        client.login(account.username, account.password)


def _kept(path: Path) -> LocalAccount:
    """Read the account that is kept there; where there is none, invent and keep one."""
    with suppress(FileNotFoundError):
        return _read(path)
    account = LocalAccount(f"chat-{secrets.token_hex(4)}", secrets.token_urlsafe(24))
    # Written elsewhere, for its owner alone, and put there whole: nobody reads half of it.
    with NamedTemporaryFile(dir=path.parent, prefix=".chat-") as file:
        file.write(msgspec.json.encode(account))
        file.flush()
        with suppress(FileExistsError):  # somebody was quicker
            os.link(file.name, path)
    return _read(path)


def _read(path: Path) -> LocalAccount:
    try:
        return msgspec.json.decode(path.read_bytes(), type=LocalAccount)
    except msgspec.MsgspecError:
        raise OSError(f"{path} cannot be read: delete it to chat with a new account") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
