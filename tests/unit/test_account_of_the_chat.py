"""The account that a chat without a URL makes and keeps."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from luxx.client import Client, Conflict, Unauthenticated
from luxx.entrypoints.cli.embedded import log_in_here


class Accounts:
    """What the service knows; `meanwhile` is done once, just before an account is registered."""

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}
        self.logins: list[str] = []
        self.meanwhile: Callable[[], None] | None = None

    def register(self, username: str, email: str, password: str) -> None:
        assert email == f"{username}@chat.invalid"
        if self.meanwhile is not None:
            work, self.meanwhile = self.meanwhile, None
            work()
        if username in self.passwords:
            raise Conflict("taken", code="username_taken", status=409)
        self.passwords[username] = password

    def login(self, username: str, password: str) -> None:
        if self.passwords.get(username) != password:
            raise Unauthenticated("wrong", code="invalid_credentials", status=401)
        self.logins.append(username)


@pytest.fixture
def service() -> Accounts:
    return Accounts()


def log_in(service: Accounts, path: Path) -> None:
    log_in_here(cast("Client", service), path)


def test_it_is_made_once_and_for_nobody_else_to_read(service: Accounts, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    log_in(service, path)
    log_in(service, path)
    assert service.logins == [*service.passwords] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", ["nothing", "another database", "another password"])
def test_of_two_that_begin_at_once_one_account_is_kept(service: Accounts, tmp_path: Path, before: str) -> None:
    path = tmp_path / "chat.json"
    if before != "nothing":
        log_in(Accounts() if before == "another database" else service, path)
    for username in service.passwords:
        service.passwords[username] = "changed"
    service.logins.clear()
    service.meanwhile = lambda: log_in(service, path)
    log_in(service, path)
    log_in(service, path)
    assert len(service.logins) == 3
    assert len(set(service.logins)) == 1


def test_in_another_database_it_is_made_again(service: Accounts, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    log_in(service, path)
    other = Accounts()
    log_in(other, path)
    assert other.passwords == service.passwords


def test_where_its_password_was_changed_there_is_a_new_one(service: Accounts, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    log_in(service, path)
    (first,) = service.passwords
    service.passwords[first] = "changed"
    log_in(service, path)
    assert service.logins[-1] != first
    log_in(service, path)
    assert service.logins[-1] == service.logins[-2]


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_file_that_cannot_be_read_is_told_with_what_to_do(service: Accounts, tmp_path: Path, text: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    with pytest.raises(OSError, match="delete it"):
        log_in(service, path)
    assert path.read_text() == text


def test_a_link_to_nothing_is_an_error_and_no_endless_search(service: Accounts, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.symlink_to(tmp_path / "nowhere" / "chat.json")
    with pytest.raises(FileNotFoundError):
        log_in(service, path)
