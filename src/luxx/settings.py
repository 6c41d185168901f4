"""All settings of the service: read once from the environment, checked at once."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import unquote, unquote_plus, urlsplit

from luxx.domain.errors import LuxxError
from luxx.domain.fields import unstorable, visible
from luxx.extras import needs

PREFIX: Final = "LUXX_"
QUOTED: Final = 20
"""Characters of a value that an error quotes whole: keys and tokens are longer, and any may be set in a wrong place."""
FAULT_LIMIT: Final = 500
T = TypeVar("T")


class BadSettings(LuxxError):
    """One or more settings cannot be used; `faults` holds a sentence for each."""

    def __init__(self, faults: list[str]) -> None:
        # What came from elsewhere may hold anything: each stays one line, and commands no terminal.
        shown = map(visible, faults)
        self.faults = tuple(one if len(one) <= FAULT_LIMIT else f"{one[:FAULT_LIMIT]}…" for one in shown)
        super().__init__("\n".join(["Bad settings:", *(f"  {fault}" for fault in self.faults)]))


def quoted(value: str) -> str:
    """Show a value in an error: in full only where it is short, and holds no password as an address may."""
    if len(value) <= QUOTED and "@" not in value:
        return repr(value)
    beginning = value[:4] if len(value) > QUOTED else ""
    return f"{beginning + '…'!r} ({len(value)} characters)"


def _setting(default: Any, read: Callable[[str], object], about: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"read": read, "about": about})


def _text(value: str) -> str:
    # Python gives bytes that are no UTF-8 as lone surrogates, which can be neither stored nor sent.
    if unstorable(value, "") is not None:
        raise ValueError("must be text in UTF-8")
    return value


def _url(*schemes: str) -> Callable[[str], str]:
    wanted = f"must be a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}"

    def read(value: str) -> str:
        try:
            parts = urlsplit(value)
            # As libpq reads it: several hosts, each with its port (of which urlsplit knows nothing).
            apart = parts.netloc.rpartition("@")[2].split(",") if parts.scheme.startswith("postgres") else ()
            hosts = [urlsplit(f"//{one}") for one in apart] or [parts]
            named = all(host.hostname is not None and host.port != 0 for host in hosts)
        except ValueError:
            # What was raised may tell the password: it quotes the part before the path.
            raise ValueError(f"{wanted} and names a host and a port that can be") from None
        if parts.scheme not in schemes:
            raise ValueError(wanted)
        if not named and (parts.scheme in {"http", "https"} or not parts.path.strip("/")):
            raise ValueError(f"{wanted} and goes on")
        if parts.scheme in {"http", "https"} and "@" in parts.netloc:
            raise ValueError("must hold no user name and no password")
        # Schemes are the same in any case (RFC 3986, 3.1); whoever asks for one later need not know.
        return parts.scheme + value[len(parts.scheme) :].rstrip("/")

    return read


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"-?\d{1,18}", value) or not least <= int(value) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(value)

    return read


def _seconds(least: float, most: float, *, unit: str = "seconds") -> Callable[[str], float]:
    def read(value: str) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value) or not least <= float(value) <= most:
            raise ValueError(f"must be a number of {unit} from {least:g} to {most:g}")
        return float(value)

    return read


def _hours(least: float, most: float) -> Callable[[str], timedelta]:
    read = _seconds(least, most, unit="hours")
    return lambda value: timedelta(hours=read(value))


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be one of: {', '.join(choices)}")
        return value

    return read


def _words(value: str) -> frozenset[str]:
    return frozenset(re.split(r"[\s,]+", value.strip())) - {""}


def _hosts(value: str) -> frozenset[str]:
    words = _words(value)
    for word in words:
        if "/" in word:
            try:
                ip_network(word)
            except ValueError:
                raise ValueError(f"must be host names, addresses or CIDR blocks; {quoted(word)} is none") from None
    return words


def _networks(value: str) -> frozenset[str]:
    words = _words(value)
    for word in words:
        try:
            ip_network(word)
        except ValueError:
            raise ValueError(f"must be addresses or CIDR blocks; {quoted(word)} is none") from None
    return words


def _secret(value: str) -> str:
    if len(_text(value).encode()) < 32:
        raise ValueError("must have at least 32 bytes; make one with: openssl rand -base64 48")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings; a field `x` is read from the variable `LUXX_X`."""

    data_dir: Path = _setting(Path(".luxx"), Path, "where the embedded database and the made secret are kept")
    database_url: str | None = _setting(
        None,
        _url("sqlite", "postgresql", "postgres"),
        "`sqlite:///path` or `postgresql://user:password@host/name`; without it, `luxx.db` in the data directory",
        secret=True,
    )
    database_pool: int = _setting(10, _whole(1, 1000), "database connections of one process, at most")
    jwt_secret: str | None = _setting(
        None, _secret, "signs the access tokens; required with Postgres, else made once and kept", secret=True
    )
    token_hours: timedelta = _setting(timedelta(hours=24), _hours(0.01, 8760), "how long a login lasts")
    password_memory_kib: int = _setting(
        19 * 1024, _whole(128, 4 * 1024 * 1024), "KiB of memory that one password hash (argon2id) takes"
    )
    password_passes: int = _setting(2, _whole(1, 100), "passes of a password hash over its memory")
    password_lanes: int = _setting(1, _whole(1, 16), "lanes of a password hash")
    login_tries: int = _setting(10, _whole(1, 1000), "wrong passwords at one account, before it is slowed down")
    login_peer_tries: int = _setting(
        100, _whole(1, 1_000_000), "wrong passwords from one address (an IPv6 /64), before it is slowed down"
    )
    login_pause_seconds: float = _setting(300.0, _seconds(1, 86400), "the time within which these are counted")
    trusted_proxies: frozenset[str] = _setting(
        frozenset(), _networks, "addresses or CIDR blocks of proxies whose `X-Forwarded-For` is believed"
    )
    llm_base_url: str | None = _setting(
        None, _url("http", "https"), "an OpenAI-compatible `/v1` root; without it, the built-in offline model answers"
    )
    llm_api_key: str | None = _setting(None, _text, "the key for it", secret=True)
    llm_thinking: str = _setting(
        "glm",
        _one_of("glm", "enable_thinking", "reasoning_effort", "none"),
        "how it is asked to think: `glm` (`thinking: {type}`), `enable_thinking`, `reasoning_effort`, `none`",
    )
    llm_connect_seconds: float = _setting(10.0, _seconds(0.1, 600), "deadline for the connection to the model")
    llm_first_token_seconds: float = _setting(60.0, _seconds(0.1, 3600), "deadline for the model's first event")
    llm_idle_seconds: float = _setting(60.0, _seconds(0.1, 3600), "deadline for each further event")
    llm_total_seconds: float = _setting(600.0, _seconds(1, 86400), "deadline for one whole round of the model")
    llm_retries: int = _setting(2, _whole(0, 10), "further tries before the model's first event")
    default_model: str = _setting("glm-5", _text, "the model of conversations that name none")
    max_tool_rounds: int = _setting(10, _whole(0, 100), "rounds with tool calls in one answer, at most")
    tool_seconds: float = _setting(60.0, _seconds(0.1, 3600), "deadline for one tool call")
    tool_result_chars: int = _setting(20_000, _whole(100, 1_000_000), "characters of a tool result shown to the model")
    disabled_tools: frozenset[str] = _setting(frozenset(), _words, "names of tools that this deployment does not offer")
    history_messages: int = _setting(
        1000, _whole(1, 100_000), "earlier messages shown to the model, at most; of these, 8 million characters"
    )
    log_hours: timedelta = _setting(
        timedelta(hours=24), _hours(0.01, 8760), "how long a finished stream can be replayed"
    )
    heartbeat_seconds: float = _setting(15.0, _seconds(0.1, 15), "silence of a stream after which it sends a comment")
    lease_seconds: float = _setting(
        15.0, _seconds(1, 15), "how long a process may be silent before another one ends its answers, about"
    )
    user_requests_per_minute: int = _setting(
        0, _whole(0, 1_000_000), "requests that one process takes of one user in a minute; 0 is no limit"
    )
    user_turns: int = _setting(
        0, _whole(0, 100_000), "answers of one user written at once, by all processes; 0 is no limit"
    )
    request_seconds: float = _setting(
        60.0, _seconds(0.1, 3600), "how long a client may take to send a request's head, and then its body"
    )
    grace_seconds: float = _setting(30.0, _seconds(0, 3600), "how long SIGTERM lets running answers finish")
    max_turns: int = _setting(10_000, _whole(1, 1_000_000), "answers written at once by one process, at most")
    fetch_allow_hosts: frozenset[str] = _setting(
        frozenset(), _hosts, "hosts or CIDR blocks that the crawler may reach although they are private"
    )

    log_format: str = _setting(
        "pretty", _one_of("pretty", "json"), "how a line of the log is written: for the eye, or for a program"
    )
    log_level: str = _setting(
        "info", _one_of("debug", "info", "warning", "error"), "from which level on Luxx writes into its log"
    )

    search_engine: str = _setting("duckduckgo", _one_of("duckduckgo", "searxng", "brave"), "who answers `web_search`")
    search_url: str | None = _setting(None, _url("http", "https"), "the SearXNG instance; or where Brave is asked")
    search_key: str | None = _setting(None, _text, "the key for Brave Search", secret=True)
    python_sandbox: str = _setting(
        "monty",
        _one_of("monty", "bubblewrap"),
        "what runs `execute_python`: `monty`, or full CPython in `bubblewrap` (Linux, not as root)",
    )
    geocoding_url: str = _setting(
        "https://geocoding-api.open-meteo.com", _url("http", "https"), "Open-Meteo's geocoding, or one like it"
    )
    forecast_url: str = _setting(
        "https://api.open-meteo.com", _url("http", "https"), "Open-Meteo's forecast, or one like it"
    )
    tool_workers: int | None = _setting(None, _whole(1, 64), "worker processes for tools; without it, by the cores")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read `environ` (the process's and `.env`, if None); raises `BadSettings` with every fault at once.

        An empty variable counts as absent; a `LUXX_` variable that is no setting is a fault, unless Kubernetes
        set it or it is the token that `luxx chat` shows elsewhere.
        """
        given = _environment() if environ is None else environ
        known = {f"{PREFIX}{one.name.upper()}": one for one in fields(cls)}
        faults = [
            f"{name} is no setting; {_nearest(name, known)}"
            for name in sorted(given)
            if name.startswith(PREFIX)
            and name not in known
            and name != f"{PREFIX}TOKEN"
            and not name.startswith(f"{PREFIX}TEST_")
            and not _of_a_service(name, given)
        ]
        values: dict[str, object] = {}
        for name, one in known.items():
            text = given.get(name, "").strip()
            if not text:
                continue
            try:
                values[one.name] = one.metadata["read"](text)
            except ValueError as error:
                shown = "" if not one.repr else f", not {quoted(text)}"
                faults.append(f"{name} {error}{shown}")
        url = str(values.get("database_url") or "")
        if url.startswith("postgres") and not given.get(f"{PREFIX}JWT_SECRET", "").strip():
            faults.append(
                f"{PREFIX}JWT_SECRET is required with Postgres, the same for every process; "
                "make one with: openssl rand -base64 48"
            )
        if values.get("search_engine") == "searxng" and "search_url" not in values:
            faults.append(f"{PREFIX}SEARCH_URL is required with SearXNG: the address of the instance")
        if values.get("search_engine") == "brave" and "search_key" not in values:
            faults.append(f"{PREFIX}SEARCH_KEY is required with Brave Search")
        if faults:
            raise BadSettings(faults)
        return cls(**values)  # type: ignore[arg-type]  # each value comes from its own field's reader

    @property
    def on_postgres(self) -> bool:
        return self.database_url is not None and self.database_url.startswith("postgres")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be read outside this process, as it stands in texts."""
        given = (self.jwt_secret, self.llm_api_key, self.search_key, *_passwords(self.database_url))
        return tuple(sorted({secret for secret in given if secret}))

    @property
    def storage_url(self) -> str:
        """The database's URL, the embedded default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir / 'luxx.db'}"

    def make_data_dir(self) -> None:
        """Make the data directory for its owner alone, if it is not there; raises `BadSettings` where it cannot be."""
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            wanted = "must name a directory, or a place where one can be made"
            raise BadSettings([f"{PREFIX}DATA_DIR {wanted}, not {self.data_dir} ({error.strerror})"]) from None


def _passwords(url: str | None) -> Iterator[str]:
    parts = urlsplit(url or "")
    for escaped in (parts.password or "", *re.findall(r"(?:^|&)(?:ssl)?password=([^&]*)", parts.query)):
        yield from (escaped, unquote(escaped), unquote_plus(escaped))


def _environment() -> Mapping[str, str]:
    with needs("Settings.from_env", "the extra `server`"):
        from dotenv import dotenv_values  # noqa: PLC0415  # who gives the environment needs no dotenv

    try:
        kept = dotenv_values(".env")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings([f"the file .env cannot be read as UTF-8 text: {error}"]) from None
    return {name: text for name, text in kept.items() if text is not None} | os.environ


_SERVICE: Final = re.compile(
    r"(?P<service>\w+?)_(SERVICE_HOST|SERVICE_PORT\w*|(?P<link>PORT)|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)"
)


def _of_a_service(name: str, given: Mapping[str, str]) -> bool:
    """Tell whether Kubernetes has set this, of a Service that is named after us: it tells all containers of all."""
    found = _SERVICE.fullmatch(name)
    if found is None or (found["link"] and "://" not in given[name]):
        return False
    return {f"{found['service']}_SERVICE_HOST", f"{found['service']}_SERVICE_PORT"} <= given.keys()


def _nearest(name: str, known: Mapping[str, object]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415  # only bad settings need it

    # All begin with the prefix: only what comes after it can be near.
    near = get_close_matches(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], n=1)
    return f"did you mean {PREFIX}{near[0]}?" if near else "see docs/settings.md for those there are"


def settings_table() -> str:
    """Tell all settings as a Markdown table, for the documentation."""
    rows = (
        f"| `{PREFIX}{one.name.upper()}` | {_shown(one.default)} | {one.metadata['about']} |"
        for one in fields(Settings)
    )
    return "\n".join(("| variable | default | |", "| --- | --- | --- |", *rows))


def _shown(default: object) -> str:
    match default:
        case None | frozenset():
            return "none"
        case timedelta():
            return f"`{default.total_seconds() / 3600:g}`"
        case float():
            return f"`{default:g}`"
        case _:
            return f"`{default}`"
