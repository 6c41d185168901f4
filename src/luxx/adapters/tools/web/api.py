"""JSON services that an operator named: reached through the same door, at their own address and nowhere else."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from luxx.adapters.tools.web.addresses import AddressRules
from luxx.adapters.tools.web.client import AddressRefused, WebClient, parsed
from luxx.domain.errors import ToolBroken, ToolError, ToolTimeout


class JsonApi:
    """A service under `base_url`. `label` is what people call it.

    Its host may be private, because the operator chose it; only this host is reached, and no redirect is
    followed. Raises `ValueError` for a `base_url` that is none.
    """

    def __init__(self, label: str, base_url: str, *, seconds: float = 10.0) -> None:
        self._label = label
        try:
            url = parsed(base_url)
        except ToolError as error:
            raise ValueError(f"the address of {label}: {error}") from error
        base, _, self._query = str(url).partition("?")
        self._base = base.rstrip("/")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        name = url.raw_host.decode("ascii")
        host = f"[{name}]" if ":" in name else name
        self._client = WebClient(AddressRules.allowing([f"{host}:{port}"]), seconds=seconds)

    async def get(self, path: str, parameters: Mapping[str, str], *, headers: Mapping[str, str] | None = None) -> Any:
        """Ask for JSON; raises `ToolBroken` for any other status than 200 and for what is no JSON."""
        query = "&".join(filter(None, (self._query, urlencode(parameters))))
        try:
            answer = await self._client.get(f"{self._base}{path}?{query}", headers=headers, redirects=0)
        except ToolTimeout:
            raise
        except AddressRefused as error:
            # This host may be reached wherever it leads to.
            raise ToolBroken(f"{self._label} failed: its name cannot be resolved") from error
        except ToolError as error:
            # What went wrong is between this server and the service; the caller's arguments are not to blame.
            raise ToolBroken(f"{self._label} failed: {error}") from error
        if answer.status != 200:
            raise ToolBroken(f"{self._label} answered {answer.status}{_hint(answer.status)}")
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ToolBroken(f"{self._label} gave an answer that is no JSON") from error

    async def aclose(self) -> None:
        await self._client.aclose()


def _hint(status: int) -> str:
    if status in {401, 403}:
        return ": this server is not allowed to use it; the operator should look at the key and the settings"
    if status == 429:
        return ": it is asked too often; try again later"
    return "; try again later" if status >= 500 else ""
