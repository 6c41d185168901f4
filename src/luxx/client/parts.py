"""What both clients are made of: their settings, and the stream as far as it is no I/O."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypedDict

import httpx

from luxx import __version__
from luxx.client.calls import Request
from luxx.client.following import Following, answer_of
from luxx.client.patience import LONGEST_SECONDS, Patience
from luxx.client.results import Done, Failed, Login, StreamEvent
from luxx.domain.message import Message

DEFAULT_PATIENCE: Final = Patience()

_TOKEN: Final = re.compile(r"[!-~]+")
_LANGUAGE: Final = re.compile(r"([!-~]([ -~]*[!-~])?)?")

LAST_PORT: Final = 65535


class _Options(TypedDict):
    headers: dict[str, str]
    timeout: httpx.Timeout
    limits: httpx.Limits


@contextmanager
def from_environment() -> Iterator[None]:
    """Say of what httpx takes from the environment, where it cannot, what and where it is. Raises ValueError."""
    try:
        yield
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        raise ValueError(
            "what the environment says of proxies (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) or certificates"
            f" (SSL_CERT_FILE, SSL_CERT_DIR) cannot be used: {error}"
        ) from error


class ClientParts:
    """A client's settings, without its connections."""

    def __init__(self, url: str, *, token: str | None, language: str, patience: Patience) -> None:
        try:
            parts = httpx.URL(url)
            parts.raw_host.decode().encode("idna")  # as resolving it does, which raises what no caller waits for
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ValueError(f"the URL cannot be read: {error}") from None
        if parts.userinfo:
            raise ValueError("the URL must hold no name and no password: log in with them")
        if parts.scheme not in {"http", "https"} or not parts.host:
            raise ValueError(f"the URL must be like https://chat.example.com, not {url!r}")
        if parts.query or parts.fragment:
            raise ValueError(f"the URL must have no query and no fragment, as {url!r} has: it is the service's root")
        if parts.port is not None and parts.port > LAST_PORT:  # sockets would take a part of it, and find another one
            raise ValueError(f"the URL must have a port of at most {LAST_PORT}, not {parts.port}")
        if _LANGUAGE.fullmatch(language) is None:
            raise ValueError(f"the language must be one as in Accept-Language, `en` or `zh`, not {language!r}")
        self.url: Final = url.rstrip("/")
        self.token = token
        self.language: Final = language
        self.patience: Final = patience
        self._reached = False

    @property
    def token(self) -> str | None:
        """What proves who is asking, if anything does; it may be set at any time. ValueError for what is none."""
        return self._token

    @token.setter
    def token(self, token: str | None) -> None:
        # What fits in no header would be shown by whatever says so.
        if token is not None and _TOKEN.fullmatch(token) is None:
            raise ValueError("the token must be letters, digits and signs of ASCII: is there a line break behind it?")
        self._token = token

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _options(self) -> _Options:
        return {
            "headers": {"User-Agent": f"luxx-client/{__version__}", "Accept-Language": self.language},
            "timeout": self._timeout(self.patience.answer_seconds),
            # A stream keeps its connection as long as the answer is written.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        }

    def _timeout(self, read_seconds: float) -> httpx.Timeout:
        patience = self.patience
        return httpx.Timeout(
            connect=min(patience.connect_seconds, LONGEST_SECONDS),
            read=min(read_seconds, LONGEST_SECONDS),
            write=min(patience.answer_seconds, LONGEST_SECONDS),
            pool=None,
        )

    def _arguments(self, request: Request, *, streamed: bool = False) -> dict[str, Any]:
        """Give a request as httpx takes it. Raises ValueError where it fits in no address."""
        patience = self.patience
        try:
            url = httpx.URL(self.url + request.path, params=dict(request.params))
        except httpx.InvalidURL as error:
            raise ValueError(f"what is asked for fits in no address: {error}") from None
        seconds = patience.send_seconds if request.whole_answer else patience.answer_seconds
        headers = dict(request.headers)
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        return {
            "method": request.method,
            "url": url,
            "content": request.body,
            "headers": headers,
            "timeout": self._timeout(patience.silence_seconds if streamed else seconds),
        }

    def _logged_in(self, login: Login) -> Login:
        self.token = login.access_token
        return login


class StreamParts:
    """What is known of an answer while it is read."""

    def __init__(self, following: Following) -> None:
        self._following: Final = following
        self.idempotency_key: Final = following.idempotency_key
        """The key that the message is sent with; None where an answer is only followed."""
        self.last_event_id = following.after
        """The id of the last event given, at first the `after` of `follow`: what the next `follow` takes."""

    @property
    def message_id(self) -> str | None:
        """The id of the answer; None until `Started` came."""
        return self._following.message_id

    @property
    def end(self) -> Done | Failed | None:
        """The last event, once it has come."""
        return self._following.end

    def _giving(self, event: StreamEvent) -> StreamEvent:
        self.last_event_id = event.id
        return event

    def _message(self) -> Message:
        return answer_of(self._following.end, request_id=self._following.request_id)
