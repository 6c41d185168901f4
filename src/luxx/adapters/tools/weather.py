"""`current_weather` and `weather_forecast`."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.open_meteo import CONDITIONS, Place
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.errors import ToolBroken
from luxx.domain.message import Json

Location = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="The name of a town, with its region or country after a comma where there are several, "
        "or latitude and longitude",
        examples=["Berlin", "Paris, Texas", "北京"],
    ),
]
Units = Annotated[
    Literal["metric", "imperial"],
    Meta(description="metric (°C, km/h, mm) or imperial (°F, mph, inch)"),
]


class CurrentWeatherArguments(Struct, frozen=True, forbid_unknown_fields=True):
    location: Location
    units: Units = "metric"


class WeatherForecastArguments(Struct, frozen=True, forbid_unknown_fields=True):
    location: Location
    days: Annotated[int, Meta(ge=1, le=16, description="How many days to tell, today being the first")] = 3
    units: Units = "metric"


@tool(category="weather", seconds=25)
async def current_weather(arguments: CurrentWeatherArguments, resources: ToolResources) -> Json:
    """Tell the weather now at a place named by a person.

    Gives `place` (as it was understood), `current` (temperature, humidity, wind, `condition` in words and so on) and
    the `units` of its numbers.
    """
    place = await resources.weather.place(arguments.location)
    answer = await resources.weather.current(place, arguments.units)
    current, units = answer.get("current"), answer.get("current_units")
    if not isinstance(current, dict) or not isinstance(units, dict):
        raise ToolBroken("the weather service gave no current weather for this place")
    return {
        "place": _shown(place, answer),
        "current": _described({key: value for key, value in current.items() if key != "interval"}),
        "units": _units(units),
    }


@tool(category="weather", seconds=25)
async def weather_forecast(arguments: WeatherForecastArguments, resources: ToolResources) -> Json:
    """Tell the weather of the days ahead at a place named by a person.

    Gives `place` (as it was understood), `days` (each with `date`, highest and lowest temperature, precipitation,
    wind, `condition` in words and so on) and the `units` of their numbers.
    """
    place = await resources.weather.place(arguments.location)
    answer = await resources.weather.daily(place, arguments.units, arguments.days)
    daily, units = answer.get("daily"), answer.get("daily_units")
    dates = daily.get("time") if isinstance(daily, dict) else None
    if not isinstance(daily, dict) or not isinstance(units, dict) or not isinstance(dates, list):
        raise ToolBroken("the weather service gave no forecast for this place")
    columns = {key: column for key, column in daily.items() if isinstance(column, list) and len(column) == len(dates)}
    days = [{key: column[number] for key, column in columns.items()} for number in range(len(dates))]
    return {
        "place": _shown(place, answer),
        "days": [{"date": day.pop("time"), **_described(day)} for day in days[: arguments.days]],
        "units": _units(units),
    }


def _shown(place: Place, answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": place.name,
        "region": place.region,
        "country": place.country,
        "latitude": place.latitude,
        "longitude": place.longitude,
        "timezone": place.timezone or answer.get("timezone"),
    }


def _described(values: dict[str, Any]) -> dict[str, Any]:
    """Put the condition into words; the code itself means nothing to most readers."""
    code = values.pop("weather_code", None)
    condition = CONDITIONS.get(code, f"weather code {code}") if isinstance(code, int) else None
    day = {"is_day": bool(values.pop("is_day"))} if "is_day" in values else {}
    return {"condition": condition, **day, **values}


def _units(units: dict[str, Any]) -> dict[str, Any]:
    without = {"time", "interval", "weather_code", "is_day", "sunrise", "sunset"}
    return {key: unit for key, unit in units.items() if key not in without}
