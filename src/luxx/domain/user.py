"""Users, their sessions, and the rules for names, e-mail addresses and passwords."""

import re
import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final

from luxx.domain.errors import Conflict, Fault, NotFound
from luxx.domain.fields import string_fault

USERNAME_MIN: Final = 3
USERNAME_MAX: Final = 50
EMAIL_MAX: Final = 254
PASSWORD_MIN: Final = 8
PASSWORD_MAX: Final = 128

# RFC 5321 lengths; the dot-atom of RFC 5322 with the letters of RFC 6531; host names as in RFC 1123 and IDNA.
_EMAIL: Final = re.compile(
    r"(?=.{1,64}@)[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*"
    r"@(?=.{1,253}\Z)(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_](?:[\w-]{0,61}[^\W_])?",
)


class Role(StrEnum):
    USER = "user"
    ADMIN = "admin"


def no_user(number: int) -> NotFound:
    return NotFound(f"There is no user with the number {number!r}: make an account first.")


def no_session(session_id: str) -> NotFound:
    return NotFound(f"There is no session {session_id!r}.")


def username_taken(username: str) -> Conflict:
    return Conflict(f"The username {username!r} is taken.", code="username_taken")


def email_taken(email: str) -> Conflict:
    return Conflict(f"The e-mail address {email!r} is taken.", code="email_taken")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An account. `username` and `email` are as the user wrote them; the keys are what they are compared by."""

    id: int
    username: str
    email: str
    password_hash: str
    role: Role
    is_active: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """An account that the storage has not numbered yet."""

    username: str
    email: str
    password_hash: str
    role: Role
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One login. A token is good only as long as its session is neither expired nor revoked."""

    id: str
    user_id: int
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


def comparison_key(text: str) -> str:
    """Give the form by which names and addresses are compared: case-folded NFKC (UAX #15, UAX #31)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded)


def normalized_password(password: str) -> str:
    """Give the form in which a password is counted and hashed: NFC, so that every keyboard types the same."""
    return unicodedata.normalize("NFC", password)


# Letters and marks by category that nobody can see: Default_Ignorable_Code_Point (UAX #44).
_INVISIBLE: Final = frozenset(
    map(
        chr,
        (
            0x034F,
            *range(0x115F, 0x1161),
            *range(0x17B4, 0x17B6),
            *range(0x180B, 0x1810),
            0x3164,
            *range(0xFE00, 0xFE10),
            0xFFA0,
            *range(0xE0100, 0xE01F0),
        ),
    )
)


def _plain(character: str) -> bool:
    # Marks are part of the letters of many scripts (Devanagari, Thai); format characters are not.
    kinds = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd"}
    return character in "_-." or (unicodedata.category(character) in kinds and character not in _INVISIBLE)


def username_fault(username: str) -> Fault | None:
    """Check a username: 3 to 50 characters, letters and digits of any script, and `_ - .`."""
    if (fault := string_fault("username", username)) is not None:
        return fault
    if len(username) < USERNAME_MIN:
        return Fault(field="username", rule="too_short", parameters={"limit": USERNAME_MIN})
    if len(username) > USERNAME_MAX:
        return Fault(field="username", rule="too_long", parameters={"limit": USERNAME_MAX})
    if unicodedata.category(username[0])[0] == "M" or not all(map(_plain, username + comparison_key(username))):
        return Fault(field="username", rule="characters")
    return None


def email_fault(email: str) -> Fault | None:
    """Check an e-mail address: `local@host.domain`, 254 characters at most (RFC 5321)."""
    if (fault := string_fault("email", email)) is not None:
        return fault
    if len(email) > EMAIL_MAX:
        return Fault(field="email", rule="too_long", parameters={"limit": EMAIL_MAX})
    if not _EMAIL.fullmatch(email):
        return Fault(field="email", rule="email")
    return None


def password_fault(password: str) -> Fault | None:
    """Check a password: 8 to 128 characters after NFC, and none of the most common ones."""
    if (fault := string_fault("password", password)) is not None:
        return fault
    normalized = normalized_password(password)
    if len(normalized) < PASSWORD_MIN:
        return Fault(field="password", rule="too_short", parameters={"limit": PASSWORD_MIN})
    if len(normalized) > PASSWORD_MAX:
        return Fault(field="password", rule="too_long", parameters={"limit": PASSWORD_MAX})
    if "\0" in normalized:
        return Fault(field="password", rule="nul")
    if normalized.casefold() in common_passwords():
        return Fault(field="password", rule="common")
    return None


def new_password_fault(password: str) -> Fault | None:
    """Check as `password_fault` does, for a field that is called `new_password`."""
    fault = password_fault(password)
    return None if fault is None else replace(fault, field="new_password")


@cache
def common_passwords() -> frozenset[str]:
    """Give the 3 000 most common passwords that are long enough to be chosen at all, case-folded."""
    text = files("luxx.domain").joinpath("common_passwords.txt").read_text(encoding="utf-8")
    return frozenset(text.splitlines())
