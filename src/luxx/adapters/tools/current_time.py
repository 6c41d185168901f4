"""`current_time`: now, anywhere."""

import asyncio
import difflib
from functools import cache
from importlib.resources import files
from typing import Annotated
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.errors import ToolRefused
from luxx.domain.message import Json


class CurrentTimeArguments(Struct, frozen=True, forbid_unknown_fields=True):
    timezone: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            description="The name of an IANA time zone, for example UTC, Asia/Shanghai or Europe/Berlin",
            examples=["UTC", "Asia/Shanghai"],
        ),
    ] = "UTC"


@tool(category="data", seconds=5)
async def current_time(arguments: CurrentTimeArguments, resources: ToolResources) -> Json:
    """Tell the current date and time in a time zone.

    Gives `iso` (ISO 8601 with offset), `date`, `time`, `weekday` (in English), `utc_offset` (like +08:00),
    `timezone` and `unix` (seconds since 1970).
    """
    zone = await asyncio.to_thread(_zone, arguments.timezone)
    now = resources.clock().astimezone(zone).replace(microsecond=0)
    return {
        "timezone": zone.key,
        "iso": now.isoformat(),
        "date": now.date().isoformat(),
        "time": now.time().isoformat(),
        "weekday": _WEEKDAYS[now.weekday()],
        "utc_offset": f"{now:%z}"[:3] + ":" + f"{now:%z}"[3:5],
        "unix": int(now.timestamp()),
    }


_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@cache
def _names() -> dict[str, str]:
    """Give all names of zones by their lower-case form; from the package, so that they are the same everywhere."""
    text = files("tzdata").joinpath("zones").read_text(encoding="utf-8")
    return {name.lower(): name for name in text.split()}


def _zone(name: str) -> ZoneInfo:
    wanted = name.strip().replace(" ", "_").lower()
    known = _names()
    if wanted in known:
        return ZoneInfo(known[wanted])
    cities = {lower.rsplit("/", 1)[-1]: full for lower, full in known.items() if "/" in lower}
    near = cities.get(wanted.rsplit("/", 1)[-1])
    if near is None:
        close = difflib.get_close_matches(wanted, known, n=1)
        near = known[close[0]] if close else None
    hint = f"did you mean {near}?" if near else "give an IANA name, for example Asia/Shanghai"
    raise ToolRefused(f"there is no time zone named {name!r}; {hint}")
