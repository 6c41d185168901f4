"""Passwords and tokens."""

import base64
import gc
import hashlib
import hmac
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luxx.adapters.security.argon2 import Argon2Cost, Argon2Hasher
from luxx.adapters.security.jwt import VERIFIED_KEPT, JwtCodec, kept_secret
from luxx.application.ports import TokenClaims
from luxx.domain.errors import Unauthenticated

CHEAP = Argon2Cost(memory_kib=8, passes=1)
SECRET = "s" * 32
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLAIMS = TokenClaims(user_id=7, session_id="sess_1", issued_at=NOW, expires_at=NOW + timedelta(hours=1))


@pytest.fixture
def hasher() -> Iterator[Argon2Hasher]:
    with closing(Argon2Hasher(CHEAP)) as hasher:
        yield hasher


async def test_a_hash_is_argon2id_salted_and_verified_by_its_password_alone(hasher: Argon2Hasher) -> None:
    one, two = await hasher.hash("correct horse"), await hasher.hash("correct horse")
    assert one.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert one != two
    assert await hasher.verify("correct horse", one)
    assert not await hasher.verify("Correct horse", one)
    assert not await hasher.verify("", one)


async def test_the_default_cost_is_what_owasp_asks_for_at_least() -> None:
    with closing(Argon2Hasher()) as hasher:
        assert (await hasher.hash("correct horse")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_threads_that_hash_let_the_others_go_first() -> None:
    before = set(threading.enumerate())
    with closing(Argon2Hasher(CHEAP)) as hasher:
        await hasher.hash("correct horse")
        hashing = [thread.native_id for thread in set(threading.enumerate()) - before]
        assert hashing
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        for native_id in hashing:
            assert native_id is not None
            assert os.getpriority(os.PRIO_PROCESS, native_id) > own


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_threads_that_hash_go_behind_a_process_that_itself_lets_others_go_first() -> None:
    """Told by the system itself, in a process of its own: a priority that was lowered cannot always be raised again."""
    script = """
import asyncio, os
from luxx.adapters.security.argon2 import Argon2Hasher

os.nice(15)
hasher = Argon2Hasher()
asyncio.run(hasher.hash("correct horse"))
hashing = [thread.native_id for thread in hasher._threads._threads]
print({os.getpriority(os.PRIO_PROCESS, native_id) > os.getpriority(os.PRIO_PROCESS, 0) for native_id in hashing})
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "{True}\n"


async def test_verifying_against_nobody_computes_a_real_hash_and_says_no() -> None:
    """The same memory and passes are spent: the time of an answer does not tell which names exist."""
    costs: list[tuple[int, int, int]] = []

    class Counting(argon2.PasswordHasher):
        def verify(self, hash: Any, password: Any) -> Any:  # noqa: A002 - the library's name
            parameters = argon2.extract_parameters(hash)
            costs.append((parameters.memory_cost, parameters.time_cost, parameters.parallelism))
            return super().verify(hash, password)

    with closing(Argon2Hasher(CHEAP)) as hasher:
        hasher._hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)  # type: ignore[misc]  # watched only
        somebodys = await hasher.hash("correct horse")
        assert not await hasher.verify("correct horse", None)
        assert not await hasher.verify("the password of nobody", None)
        assert await hasher.verify("correct horse", somebodys)
    assert costs == [(8, 1, 1)] * 3


@pytest.mark.parametrize(
    "hashed",
    [None, "!", "", "not a hash", "no häsh", "$argon2id$v=19$m=8,t=1,p=1$broken", "$2b$12$" + "x" * 53],
)
async def test_what_is_no_hash_is_made_by_no_password_and_costs_as_much_as_nobodys(hashed: str | None) -> None:
    """The time of an answer must not tell an account that no password opens from one that does not exist."""
    whole = 0

    class Counting(argon2.PasswordHasher):
        def verify(self, hash: Any, password: Any) -> Any:  # noqa: A002 - the library's name
            nonlocal whole
            try:
                matches = super().verify(hash, password)
            except argon2.exceptions.VerifyMismatchError:
                whole += 1
                raise
            whole += 1
            return matches

    with closing(Argon2Hasher(CHEAP)) as hasher:
        hasher._hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)  # type: ignore[misc]  # watched only
        for password in ("correct horse", "the password of nobody"):
            assert not await hasher.verify(password, hashed)
    assert whole == 2


async def test_a_hash_of_other_parameters_is_verified_and_outdated(hasher: Argon2Hasher) -> None:
    with closing(Argon2Hasher(Argon2Cost(memory_kib=16, passes=1))) as dearer:
        old = await hasher.hash("correct horse")
        assert await dearer.verify("correct horse", old)
        assert dearer.outdated(old)
        assert not hasher.outdated(old)
        assert not dearer.outdated(await dearer.hash("correct horse"))


async def test_hashing_is_done_in_threads_of_its_own(hasher: Argon2Hasher) -> None:
    await hasher.hash("correct horse")
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("luxx-argon2")]
    assert 0 < len(names) <= (os.cpu_count() or 1)


# --- tokens -----------------------------------------------------------------------------------------


@pytest.fixture
def codec() -> JwtCodec:
    return JwtCodec(SECRET)


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def forged(header: dict[str, Any] | None = None, *, secret: str = SECRET, without: str = "", **claims: Any) -> str:
    """Make a token by hand, signed with HS256 whatever its header says."""
    head = {"alg": "HS256", "typ": "at+jwt"} | (header or {})
    payload = {
        "iss": "luxx",
        "aud": "luxx",
        "sub": "7",
        "sid": "sess_1",
        "jti": "x",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 3600,
    } | claims
    payload.pop(without, None)
    signed = f"{segment(head)}.{segment(payload)}"
    return f"{signed}.{segment(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def code_of(codec: JwtCodec, token: str, now: datetime = NOW) -> str:
    with pytest.raises(Unauthenticated) as refused:
        codec.decode(token, now=now)
    assert SECRET not in str(refused.value)
    return refused.value.code


def test_a_token_says_what_it_was_made_with(codec: JwtCodec) -> None:
    assert codec.decode(codec.encode(CLAIMS), now=NOW) == CLAIMS
    assert codec.decode(forged(), now=NOW) == CLAIMS, "the tests forge good tokens unless they say otherwise"


def test_a_token_is_an_at_jwt_with_the_claims_of_rfc_9068(codec: JwtCodec) -> None:
    header, payload, _ = (
        base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in codec.encode(CLAIMS).split(".")
    )
    assert json.loads(header) == {"alg": "HS256", "typ": "at+jwt"}
    assert set(json.loads(payload)) == {"iss", "aud", "sub", "sid", "jti", "iat", "exp"}


def test_no_two_tokens_are_the_same(codec: JwtCodec) -> None:
    assert codec.encode(CLAIMS) != codec.encode(CLAIMS)


def test_a_token_expires_by_the_clock_that_is_given(codec: JwtCodec) -> None:
    token = codec.encode(CLAIMS)
    codec.decode(token, now=CLAIMS.expires_at - timedelta(seconds=1))
    assert code_of(codec, token, now=CLAIMS.expires_at) == "token_expired"
    codec.decode(token, now=CLAIMS.issued_at - timedelta(days=365))


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "HS384", "HS512", "RS256", "ES256", "hs256", "", None, 1, ["HS256"]]
)
def test_another_algorithm_is_refused_whatever_the_signature(codec: JwtCodec, algorithm: Any) -> None:
    token = forged({"alg": algorithm})
    assert code_of(codec, token) == "unauthenticated"
    assert code_of(codec, token[: token.rindex(".") + 1]) == "unauthenticated"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_is_refused_though_its_signature_is_good(codec: JwtCodec, algorithm: str) -> None:
    payload = codec.encode(CLAIMS).split(".")[1]
    signed = f"{segment({'alg': algorithm, 'typ': 'at+jwt'})}.{payload}"
    digest = hmac.digest(SECRET.encode(), signed.encode(), algorithm.replace("HS", "sha"))
    assert code_of(codec, f"{signed}.{segment(digest)}") == "unauthenticated"


@pytest.mark.parametrize("kind", ["JWT", "at+JWT ", "application/at+jwt", "", None, 1])
def test_another_type_is_refused(codec: JwtCodec, kind: Any) -> None:
    assert code_of(codec, forged({"typ": kind})) == "unauthenticated"


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "sid", "jti", "iat", "exp"])
def test_a_missing_claim_is_refused(codec: JwtCodec, claim: str) -> None:
    assert code_of(codec, forged(without=claim)) == "unauthenticated"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "other"},
        {"aud": "other"},
        {"aud": ["other"]},
        {"sub": "me"},
        {"sub": None},
        {"sub": 7},
        {"iat": "now"},
        {"exp": "never"},
        {"exp": None},
        {"exp": 10**30},
        {"exp": -(10**30)},
        {"iat": 10**18},
    ],
)
def test_a_claim_of_another_value_is_refused(codec: JwtCodec, claims: dict[str, Any]) -> None:
    assert code_of(codec, forged(**claims)) == "unauthenticated"


def test_a_token_of_another_secret_issuer_or_audience_is_refused(codec: JwtCodec) -> None:
    assert code_of(codec, JwtCodec("t" * 32).encode(CLAIMS)) == "unauthenticated"
    assert code_of(codec, JwtCodec(SECRET, issuer="other").encode(CLAIMS)) == "unauthenticated"
    assert code_of(codec, JwtCodec(SECRET, audience="other").encode(CLAIMS)) == "unauthenticated"


def test_a_token_that_one_codec_took_is_nothing_to_one_of_another_secret(codec: JwtCodec) -> None:
    token = codec.encode(CLAIMS)
    assert codec.decode(token, now=NOW) == codec.decode(token, now=NOW) == CLAIMS
    assert code_of(JwtCodec("t" * 32), token) == "unauthenticated"


def test_each_of_many_tokens_keeps_its_own_claims_and_few_are_kept(codec: JwtCodec) -> None:
    tokens = {number: codec.encode(replace(CLAIMS, user_id=number)) for number in range(1, VERIFIED_KEPT + 200)}
    for number in (*tokens, *reversed(tokens)):
        assert codec.decode(tokens[number], now=NOW) == replace(CLAIMS, user_id=number)
    gc.collect()
    assert sum(isinstance(thing, TokenClaims) for thing in gc.get_objects()) < VERIFIED_KEPT + 100


def test_no_change_of_any_character_leaves_a_token_good(codec: JwtCodec) -> None:
    """The last character of a part is the exception that base64 makes: its last bits say nothing, in the signature."""
    token = codec.encode(CLAIMS)
    codec.decode(token, now=NOW)
    for place, character in enumerate(token[:-1]):
        other = "A" if character != "A" else "B"
        assert code_of(codec, f"{token[:place]}{other}{token[place + 1 :]}") == "unauthenticated", place


@pytest.mark.parametrize("change", ["{}=", "{}==", "{}\n", " {}", "{}.", ".{}", "{}.x", "Bearer {}", "{}\0", "{}é"])
def test_nothing_is_put_around_a_token(codec: JwtCodec, change: str) -> None:
    assert code_of(codec, change.format(codec.encode(CLAIMS))) == "unauthenticated"


def test_padding_within_a_token_is_refused(codec: JwtCodec) -> None:
    header, payload, signature = codec.encode(CLAIMS).split(".")
    for parts in ((f"{header}=", payload, signature), (header, f"{payload}==", signature)):
        assert code_of(codec, ".".join(parts)) == "unauthenticated"


@given(st.text() | st.binary().map(lambda data: f"{segment(data)}.{segment(data)}.{segment(data)}"))
def test_any_text_is_no_token(text: str) -> None:
    assert code_of(JwtCodec(SECRET), text) == "unauthenticated"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["alg", "typ", "b64", "crit", "kid", "jwk", "zip", "x"]), json_like, min_size=1))
def test_any_header_is_refused_or_changes_nothing(header: dict[str, Any]) -> None:
    try:
        claims = JwtCodec(SECRET).decode(forged(header), now=NOW)
    except Unauthenticated:
        return
    assert claims == CLAIMS
    assert (header.get("alg", "HS256"), header.get("typ", "at+jwt")) == ("HS256", "at+jwt")


@given(
    st.dictionaries(st.sampled_from(["iss", "aud", "sub", "sid", "jti", "iat", "exp", "nbf"]), json_like, min_size=1)
)
def test_any_claims_are_read_or_refused(claims: dict[str, Any]) -> None:
    """Only who knows the secret can sign them; still nothing else than `Unauthenticated` may come of them."""
    with suppress(Unauthenticated):
        JwtCodec(SECRET).decode(forged(**claims), now=NOW)


@pytest.mark.parametrize("part", [b"[" * 60_000, b'{"a":' * 20_000, b"1" * 60_000, b"[1]", b'"x"', b"\xff"])
def test_a_header_that_is_hard_to_read_is_refused(codec: JwtCodec, part: bytes) -> None:
    assert code_of(codec, f"{segment(part)}.{segment({})}.AAAA") == "unauthenticated"


@pytest.mark.parametrize("secret", ["", "s" * 31])
def test_a_short_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        JwtCodec(secret)
    JwtCodec("é" * 16)


# --- the kept secret --------------------------------------------------------------------------------


def test_a_secret_is_made_once_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "jwt_secret"
    before = os.umask(0)
    try:
        secret = kept_secret(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(secret) >= 64
    assert kept_secret(path) == secret
    assert [one.name for one in path.parent.iterdir()] == ["jwt_secret"], "no draft is left"
    assert kept_secret(tmp_path / "other") != secret


def _race(path: Path, start: Any, found: Any) -> None:
    start.wait()
    found.put(kept_secret(path))


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, found = context.Event(), context.SimpleQueue()
    racers = [context.Process(target=_race, args=(tmp_path / "jwt_secret", start, found)) for _ in range(12)]
    for racer in racers:
        racer.start()
    start.set()
    secrets = {found.get() for _ in racers}
    for racer in racers:
        racer.join()
    assert len(secrets) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["jwt_secret"]


@pytest.mark.parametrize("kept", [b"", b"short\n", "é".encode() * 40, b"\xff" * 64])
def test_a_file_that_holds_no_secret_is_an_error_that_says_what_to_do(tmp_path: Path, kept: bytes) -> None:
    path = tmp_path / "jwt_secret"
    path.write_bytes(kept)
    with pytest.raises(OSError, match="delete it, and a new one is made"):
        kept_secret(path)
    assert path.read_bytes() == kept


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="ascii")
    with pytest.raises(OSError, match="file"):
        kept_secret(tmp_path / "file" / "jwt_secret")
