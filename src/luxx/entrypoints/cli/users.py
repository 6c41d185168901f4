"""`luxx user`"""

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from luxx.adapters.security.argon2 import Argon2Hasher
from luxx.container import Container, made_usable
from luxx.domain.errors import LuxxError
from luxx.domain.user import Role, User
from luxx.settings import Settings


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Make, list or change accounts; gives the exit status."""
    # Asked before anything is opened: people take their time.
    password = _password() if options.action in {"create", "password"} else ""
    return asyncio.run(_run(settings, options, password))


async def _run(settings: Settings, options: argparse.Namespace, password: str) -> int:
    async with _opened(settings) as container:
        match options.action:
            case "create":
                role = Role.ADMIN if options.admin else Role.USER
                user = await container.register_user()(
                    username=options.username, email=options.email, password=password, role=role
                )
                print(f"The account {user.username!r} has the number {user.id} and the role {user.role}.")
            case "list":
                _print([user async for user in container.list_users()()], as_json=options.json)
            case "password":
                user = await container.reset_password()(username=options.username, password=password)
                print(f"The password of {user.username!r} is set, and all its sessions are ended.")
            case action:
                user = await container.change_user()(
                    username=options.username,
                    is_active={"disable": False, "enable": True}.get(action),
                    role=Role.ADMIN if action == "promote" else None,
                )
                state = "enabled" if user.is_active else "disabled"
                print(f"The account {user.username!r} is {state} and has the role {user.role}.")
    return 0


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Container]:
    container = Container(settings=settings)
    storage = container.storage()
    try:
        await made_usable(storage)  # as `luxx serve` does
        yield container
    finally:
        hasher = container.hasher()
        if isinstance(hasher, Argon2Hasher):
            hasher.close()
        await storage.close()


class NoPassword(LuxxError):
    """There is no password to set."""


def _password() -> str:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != password:
            raise NoPassword("The two are not the same: nothing was changed.")
        return password
    try:
        password = sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise NoPassword("The password on standard input is no UTF-8: nothing was changed.") from None
    if not password:
        raise NoPassword("There is no password on standard input: give it there as one line.")
    return password


def _print(users: Iterable[User], *, as_json: bool) -> None:
    rows = [
        {
            "id": user.id,
            "username": user.username,
            "email": user.email,
            "role": user.role.value,
            "is_active": user.is_active,
            "created_at": user.created_at.isoformat(),
        }
        for user in users
    ]
    if as_json:
        seen = (sys.stdout.encoding or "").lower().startswith("utf")
        print(json.dumps(rows, ensure_ascii=not seen, indent=2))
        return
    for row in rows:
        state = "active" if row["is_active"] else "disabled"
        print(f"{row['id']:>6}  {row['role']:<5}  {state:<8}  {row['username']}  <{row['email']}>")
