"""Access tokens as JSON Web Tokens (RFC 9068, signed with HS256)."""

import os
import re
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jwt

from luxx.application.ports import TokenClaims
from luxx.domain.errors import Unauthenticated

ALGORITHM: Final = "HS256"
TYPE: Final = "at+jwt"
SECRET_MIN: Final = 32
"""Bytes of a signing secret, at least (RFC 7518, 3.2)."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_CLAIMS: Final = ("iss", "aud", "sub", "sid", "jti", "iat", "exp")


VERIFIED_KEPT: Final = 4096
"""Tokens whose signature is not computed again, at most: some 3 MiB."""


class JwtCodec:
    """`TokenCodec` on PyJWT: the algorithm, issuer, audience and type are pinned; times are in whole seconds.

    What never changes of a good token, its signature and claims, is verified once for as long as it is
    among the latest; what changes, the time, is looked at in each call. Bad ones are not kept.
    """

    def __init__(self, secret: str, *, issuer: str = "luxx", audience: str = "luxx") -> None:
        if len(secret.encode()) < SECRET_MIN:
            raise ValueError(f"the signing secret must have at least {SECRET_MIN} bytes")
        self._secret: Final = secret
        self._issuer: Final = issuer
        self._audience: Final = audience
        # It keeps results only, and no error is one.
        self._claims: Final = lru_cache(VERIFIED_KEPT)(self._verified)

    def encode(self, claims: TokenClaims) -> str:
        payload = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(claims.user_id),
            "sid": claims.session_id,
            "jti": secrets.token_hex(16),
            "iat": int(claims.issued_at.timestamp()),
            "exp": int(claims.expires_at.timestamp()),
        }
        return jwt.encode(payload, self._secret, algorithm=ALGORITHM, headers={"typ": TYPE})

    def decode(self, token: str, *, now: datetime) -> TokenClaims:
        claims = self._claims(token)
        if claims.expires_at <= now:
            raise Unauthenticated("The access token has expired: log in again.", code="token_expired")
        return claims

    def _verified(self, token: str) -> TokenClaims:
        # PyJWT accepts padding and any `typ`; both would make a second token out of one.
        if not _COMPACT.fullmatch(token):
            raise _invalid()
        try:
            whole = jwt.decode_complete(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                # The time is checked by the clock that `decode` is given.
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError:
            raise _invalid() from None
        if whole["header"].get("typ") != TYPE:
            raise _invalid()
        return _claims(whole["payload"])


def _claims(payload: dict[str, Any]) -> TokenClaims:
    try:
        return TokenClaims(
            user_id=int(payload["sub"]),
            session_id=str(payload["sid"]),
            issued_at=datetime.fromtimestamp(payload["iat"], UTC),
            expires_at=datetime.fromtimestamp(payload["exp"], UTC),
        )
    except (TypeError, ValueError, OverflowError, OSError):
        raise _invalid() from None


def _invalid() -> Unauthenticated:
    return Unauthenticated("The access token is not valid.")


def kept_secret(path: Path) -> str:
    """Read the secret at `path`; if there is none, make one and keep it there, readable by its owner only.

    Processes that start at once agree on one. Raises `OSError` where the file cannot be made or read.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        draft.touch(mode=0o600, exist_ok=False)
        draft.write_text(secrets.token_urlsafe(48), encoding="ascii")
        # A link is made whole or not at all: nobody reads half a secret, and the first one stays.
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    # What is no ASCII was not made here: read as nothing, so that the error below says what to do.
    kept = path.read_bytes()
    secret = kept.decode().strip() if kept.isascii() else ""
    if len(secret) < SECRET_MIN:
        raise OSError(f"{path} holds no secret of {SECRET_MIN} bytes: delete it, and a new one is made")
    return secret
