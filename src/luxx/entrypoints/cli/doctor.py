"""`luxx doctor`"""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

import httpx

from luxx.adapters.database import Database, SchemaState
from luxx.adapters.models.openai import trusted_authorities
from luxx.adapters.security.jwt import kept_secret
from luxx.adapters.tools.python.bubblewrap import SandboxUnusable
from luxx.container import Container
from luxx.domain.errors import LuxxError, StorageUnavailable
from luxx.settings import BadSettings, Settings

SECONDS: Final = 15.0
"""How long one check may take."""

Check: TypeAlias = Callable[[], Awaitable[str]]


class Wrong(LuxxError):
    """Something is wrong: the text says what to do about it."""


def run(settings: Settings, *, host: str, port: int) -> int:
    """Look at all that the service needs, and tell of each whether it is well; gives the exit status."""
    return asyncio.run(_run(settings, host, port))


async def _run(settings: Settings, host: str, port: int) -> int:
    checks: tuple[tuple[str, Check], ...] = (
        ("settings", lambda: _settings(settings)),
        ("data directory", lambda: _data_directory(settings)),
        ("database", lambda: _database(settings)),
        ("schema", lambda: _schema(settings)),
        ("model", lambda: _model(settings)),
        ("sandbox", lambda: _sandbox(settings)),
        ("port", lambda: _port(host, port)),
    )
    failed = False
    for name, check in checks:
        try:
            async with asyncio.timeout(SECONDS):
                print(f"ok    {name}: {await check()}", flush=True)
        except TimeoutError:
            failed = True
            print(f"FAIL  {name}: no answer within {SECONDS:g} seconds", flush=True)
        except BadSettings as error:
            failed = True
            print("\n".join(f"FAIL  {name}: {fault}" for fault in error.faults), flush=True)
        except (LuxxError, OSError) as error:
            failed = True
            print(f"FAIL  {name}: {error}", flush=True)
    return 1 if failed else 0


async def _settings(settings: Settings) -> str:
    # Those that cannot be read have ended the command before; here are those that a part cannot work with.
    container = Container(settings=settings)
    container.toolbox()
    container.model()
    return "they can be used"


async def _data_directory(settings: Settings) -> str:
    path = settings.data_dir
    if not path.exists():
        above = next(one for one in path.absolute().parents if one.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            raise Wrong(f"{path} cannot be made: {above} is not writable; set LUXX_DATA_DIR to a place that is")
        return f"{path} is made at the first start"
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise Wrong(f"{path} is no directory that this user can read and write; mend that, or set LUXX_DATA_DIR")
    for private in (path, path / "jwt_secret"):
        if private.exists() and stat.S_IMODE(private.stat().st_mode) & 0o077:
            raise Wrong(f"others may look into {private}: chmod go= {private}")
    if settings.jwt_secret is None and (path / "jwt_secret").exists():
        kept_secret(path / "jwt_secret")
    return f"{path} is writable, and nobody else may look into it"


def _not_made_yet(settings: Settings) -> bool:
    return not settings.on_postgres and not Path(settings.storage_url.removeprefix("sqlite:///")).exists()


async def _state(settings: Settings) -> SchemaState:
    database = Database(settings.storage_url, pool_size=1)
    try:
        return await database.schema_state()
    finally:
        await database.close()


async def _database(settings: Settings) -> str:
    if _not_made_yet(settings):
        above = Path(settings.storage_url.removeprefix("sqlite:///")).parent
        if settings.database_url is not None and not above.is_dir():
            raise Wrong(f"there is no directory {above}: make it, or let LUXX_DATABASE_URL name another file")
        return "the file is made at the first start"
    try:
        await _state(settings)
    except StorageUnavailable as error:
        if settings.on_postgres:
            what = "is Postgres running, and does LUXX_DATABASE_URL name it?"
            raise Wrong(f"it cannot be reached ({error.reason}): {what}") from None
        raise Wrong(f"it cannot be read ({error.reason}): is it the right file?") from None
    return "Postgres answers" if settings.on_postgres else "the file can be opened"


async def _schema(settings: Settings) -> str:
    if _not_made_yet(settings):
        return "it is made at the first start"
    try:
        state = await _state(settings)
    except StorageUnavailable:
        raise Wrong("nobody can tell while the database cannot be read") from None
    match state:
        case SchemaState.CURRENT:
            return "it is current"
        case SchemaState.MISSING if settings.on_postgres:
            raise Wrong("there is none yet: run `luxx db upgrade`")
        case SchemaState.STALE if settings.on_postgres:
            raise Wrong("it is of an older version: run `luxx db upgrade`")
        case SchemaState.NEWER:
            raise Wrong("it is of a newer version than this one: run that one, or go back to an older copy")
        case _:
            return "it is brought up to date at the next start"


async def _model(settings: Settings) -> str:
    if settings.llm_base_url is None:
        return "LUXX_LLM_BASE_URL is not set: the built-in offline model answers"
    try:
        Container(settings=settings).model()
    except BadSettings:
        raise Wrong("it cannot be asked with these settings") from None
    base = settings.llm_base_url.rstrip("/")
    headers = {} if settings.llm_api_key is None else {"Authorization": f"Bearer {settings.llm_api_key}"}
    try:
        async with httpx.AsyncClient(timeout=SECONDS - 5, trust_env=False, verify=trusted_authorities()) as http:
            answer = await http.get(f"{base}/models", headers=headers)
    except httpx.HTTPError as error:
        raise Wrong(f"{base} cannot be reached ({type(error).__name__}): does LUXX_LLM_BASE_URL name it?") from None
    if answer.status_code in {401, 403}:
        raise Wrong(f"{base} refuses the key ({answer.status_code}): set LUXX_LLM_API_KEY to one that it takes")
    if answer.status_code == 404:
        raise Wrong(f"{base} knows no /models (404): LUXX_LLM_BASE_URL must be the root that ends in /v1 or the like")
    if not answer.is_success:
        raise Wrong(f"{base} answers {answer.status_code} to /models: look at its own state")
    try:
        names = {str(model["id"]) for model in answer.json()["data"]}
    except (ValueError, TypeError, KeyError):
        raise Wrong(f"{base}/models answers with no list of models: is it an OpenAI-compatible endpoint?") from None
    if settings.default_model not in names:
        return f"{base} answers; {settings.default_model!r} is not in its list, which may or may not be whole"
    return f"{base} answers and offers {settings.default_model!r}"


async def _sandbox(settings: Settings) -> str:
    container = Container(settings=settings)
    try:
        async with container.tool_resources() as resources:
            outcome = await resources.python.run("6 * 7", seconds=5)
    except (LuxxError, SandboxUnusable, ValueError) as error:
        raise Wrong(f"{settings.python_sandbox} cannot run code here: {error}") from None
    if outcome.value != 42:
        raise Wrong(f"{settings.python_sandbox} ran code and gave {outcome.value!r} for 6 * 7: {outcome.error}")
    return f"{settings.python_sandbox} runs code"


async def _port(host: str, port: int) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Wrong(f"{host} is no address of this machine ({error.strerror}): give another --host") from None
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
                probe.listen()
            except OSError as error:
                raise Wrong(
                    f"nobody can listen on {host} port {port} ({error.strerror}): stop who does, or give another --port"
                ) from None
    return f"{host} port {port} is free"
