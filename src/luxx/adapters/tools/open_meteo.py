"""The weather by Open-Meteo (https://open-meteo.com): no key, places by name, answers cached for minutes."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from luxx.adapters.tools.web.api import JsonApi
from luxx.domain.errors import ToolBroken, ToolRefused

T = TypeVar("T")

GEOCODING_URL: Final = "https://geocoding-api.open-meteo.com"
FORECAST_URL: Final = "https://api.open-meteo.com"
PLACE_SECONDS: Final = 24 * 3600.0
WEATHER_SECONDS: Final = 600.0
CACHED: Final = 1_000

_CURRENT: Final = (
    "temperature_2m,apparent_temperature,relative_humidity_2m,precipitation,weather_code,cloud_cover,"
    "pressure_msl,wind_speed_10m,wind_direction_10m,wind_gusts_10m,is_day"
)
_DAILY: Final = (
    "weather_code,temperature_2m_max,temperature_2m_min,precipitation_sum,precipitation_probability_max,"
    "wind_speed_10m_max,wind_gusts_10m_max,sunrise,sunset,uv_index_max"
)
UNITS: Final[Mapping[str, Mapping[str, str]]] = {
    "metric": {},
    "imperial": {"temperature_unit": "fahrenheit", "wind_speed_unit": "mph", "precipitation_unit": "inch"},
}

# WMO 4677 as Open-Meteo uses it.
CONDITIONS: Final[Mapping[int, str]] = {
    0: "clear sky",
    1: "mainly clear",
    2: "partly cloudy",
    3: "overcast",
    45: "fog",
    48: "depositing rime fog",
    51: "light drizzle",
    53: "moderate drizzle",
    55: "dense drizzle",
    56: "light freezing drizzle",
    57: "dense freezing drizzle",
    61: "slight rain",
    63: "moderate rain",
    65: "heavy rain",
    66: "light freezing rain",
    67: "heavy freezing rain",
    71: "slight snowfall",
    73: "moderate snowfall",
    75: "heavy snowfall",
    77: "snow grains",
    80: "slight rain showers",
    81: "moderate rain showers",
    82: "violent rain showers",
    85: "slight snow showers",
    86: "heavy snow showers",
    95: "thunderstorm",
    96: "thunderstorm with slight hail",
    99: "thunderstorm with heavy hail",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place as it was understood."""

    name: str
    region: str | None
    country: str | None
    latitude: float
    longitude: float
    timezone: str | None


class OpenMeteo:
    """Asks Open-Meteo. Raises `ToolRefused` for a place that it does not know, `ToolBroken` where it fails."""

    def __init__(self, geocoding: JsonApi, forecasts: JsonApi) -> None:
        self._geocoding = geocoding
        self._forecasts = forecasts
        self._places: _Cache[Place] = _Cache(PLACE_SECONDS)
        self._answers: _Cache[dict[str, Any]] = _Cache(WEATHER_SECONDS)

    async def place(self, location: str) -> Place:
        """Find a place by the name that a person gave it: `Paris`, `Paris, Texas`, `北京`, or `48.85, 2.35`."""
        wanted = " ".join(location.split())
        return await self._places.get(wanted.casefold(), lambda: self._found(wanted))

    async def current(self, place: Place, units: str) -> dict[str, Any]:
        """Give what Open-Meteo says of now: `current` and `current_units`."""
        return await self._asked(place, units, {"current": _CURRENT})

    async def daily(self, place: Place, units: str, days: int) -> dict[str, Any]:
        """Give what Open-Meteo says of the days from today on: `daily` (arrays) and `daily_units`."""
        return await self._asked(place, units, {"daily": _DAILY, "forecast_days": str(days)})

    async def aclose(self) -> None:
        await self._geocoding.aclose()
        await self._forecasts.aclose()

    async def _asked(self, place: Place, units: str, wanted: Mapping[str, str]) -> dict[str, Any]:
        parameters = {
            "latitude": f"{place.latitude:.4f}",
            "longitude": f"{place.longitude:.4f}",
            "timezone": place.timezone or "auto",
            **wanted,
            **UNITS[units],
        }
        key = repr(sorted(parameters.items()))
        return await self._answers.get(key, lambda: self._fetched(parameters))

    async def _fetched(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        answer = await self._forecasts.get("/v1/forecast", parameters)
        if not isinstance(answer, dict):
            raise ToolBroken("the weather service gave an answer that cannot be read")
        return answer

    async def _found(self, location: str) -> Place:
        coordinates = _coordinates(location)
        if coordinates is not None:
            return Place(
                name=location,
                region=None,
                country=None,
                latitude=coordinates[0],
                longitude=coordinates[1],
                timezone=None,
            )
        name, *parts = [
            part for part in (piece.strip() for piece in location.replace("，", ",").split(",")) if part
        ] or [""]
        language = "zh" if any("\u3400" <= character <= "\u9fff" for character in name) else "en"
        answer = await self._geocoding.get(
            "/v1/search", {"name": name, "count": "20" if parts else "1", "language": language, "format": "json"}
        )
        results = answer.get("results") or [] if isinstance(answer, dict) else []
        places = [
            result for result in results if isinstance(result, dict) and _matches(result, list(filter(None, parts)))
        ]
        if not places:
            raise ToolRefused(
                f"there is no place named {location!r}; give the name of a town, and its country after a comma"
            )
        return _place(places[0])


def _coordinates(location: str) -> tuple[float, float] | None:
    pieces = location.split(",")
    if len(pieces) != 2:
        return None
    try:
        latitude, longitude = (float(piece) for piece in pieces)
    except ValueError:
        return None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise ToolRefused("coordinates are a latitude from -90 to 90 and a longitude from -180 to 180")
    return latitude, longitude


def _matches(result: Mapping[str, Any], parts: list[str]) -> bool:
    """Tell whether every part after the name is one of the place's regions, or its country or the code of it."""
    keys = ("admin1", "admin2", "admin3", "country", "country_code")
    known = [str(result.get(key) or "").casefold() for key in keys]
    return all(any(part.casefold() in name for name in known if name) for part in parts)


def _place(result: Mapping[str, Any]) -> Place:
    try:
        return Place(
            name=str(result["name"]),
            region=result.get("admin1"),
            country=result.get("country"),
            latitude=float(result["latitude"]),
            longitude=float(result["longitude"]),
            timezone=result.get("timezone"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ToolBroken("the weather service gave a place that cannot be read") from error


class _Cache(Generic[T]):
    """Remembers the last answers for a while; failures are not remembered."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: OrderedDict[str, tuple[float, T]] = OrderedDict()

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        value = await ask()
        self._kept[key] = (time.monotonic() + self._seconds, value)
        self._kept.move_to_end(key)
        while len(self._kept) > CACHED:
            self._kept.popitem(last=False)
        return value
