"""The weather tools against a server on loopback that speaks as Open-Meteo does."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.web import Answer, Asked, WebServer

from luxx.domain.errors import InvalidInput, ToolBroken, ToolRefused

from .conftest import Run

JSON = {"Content-Type": "application/json"}
PLACES: list[dict[str, Any]] = [
    {
        "name": "Paris",
        "latitude": 48.85341,
        "longitude": 2.3488,
        "timezone": "Europe/Paris",
        "country": "France",
        "country_code": "FR",
        "admin1": "Île-de-France",
    },
    {
        "name": "Paris",
        "latitude": 33.66094,
        "longitude": -95.55551,
        "timezone": "America/Chicago",
        "country": "United States",
        "country_code": "US",
        "admin1": "Texas",
    },
]


def geocode(asked: Asked) -> Answer:
    if asked.query["name"] in {"Paris", "北京"}:
        return Answer(json.dumps({"results": PLACES[: int(asked.query["count"])]}), headers=JSON)
    return Answer(json.dumps({"generationtime_ms": 0.1}), headers=JSON)


def forecast(asked: Asked) -> Answer:
    query = asked.query
    answer: dict[str, Any] = {"latitude": 1, "timezone": query["timezone"]}
    if "current" in query:
        answer["current_units"] = {
            "time": "iso8601",
            "interval": "seconds",
            "temperature_2m": "°C",
            "weather_code": "wmo",
        }
        answer["current"] = {
            "time": "2026-03-01T12:00",
            "interval": 900,
            "temperature_2m": 50.5 if query.get("temperature_unit") == "fahrenheit" else 10.3,
            "weather_code": 61,
            "is_day": 1,
        }
    if "daily" in query:
        count = int(query["forecast_days"])
        answer["daily_units"] = {"time": "iso8601", "temperature_2m_max": "°C"}
        answer["daily"] = {
            "time": [f"2026-03-{day:02}" for day in range(1, count + 1)],
            "weather_code": [0] * count,
            "temperature_2m_max": [10.0 + day for day in range(count)],
        }
    return Answer(json.dumps(answer), headers=JSON)


@pytest.fixture
def run(tools: Callable[..., Run], site: WebServer) -> Run:
    site.pages["/geo/v1/search"] = geocode
    site.pages["/meteo/v1/forecast"] = forecast
    return tools(geocoding_url=site.url("/geo"), forecast_url=site.url("/meteo"))


async def test_the_weather_now_is_told_with_the_place_that_was_understood(run: Run, site: WebServer) -> None:
    assert await run("current_weather", location=" Paris ") == {
        "place": {
            "name": "Paris",
            "region": "Île-de-France",
            "country": "France",
            "latitude": 48.85341,
            "longitude": 2.3488,
            "timezone": "Europe/Paris",
        },
        "current": {
            "condition": "slight rain",
            "is_day": True,
            "time": "2026-03-01T12:00",
            "temperature_2m": 10.3,
        },
        "units": {"temperature_2m": "°C"},
    }
    asked = site.asked[-1].query
    assert (asked["latitude"], asked["longitude"], asked["timezone"]) == ("48.8534", "2.3488", "Europe/Paris")


async def test_a_region_or_country_after_a_comma_chooses_among_places_of_one_name(run: Run) -> None:
    for location in ("Paris, Texas", "Paris, United States", "paris,us".replace("paris", "Paris"), "Paris，Texas"):
        place = (await run("current_weather", location=location))["place"]
        assert place["region"] == "Texas", location


async def test_a_chinese_name_is_asked_for_in_chinese(run: Run, site: WebServer) -> None:
    await run("current_weather", location="北京")
    assert site.asked[0].query["language"] == "zh"


async def test_coordinates_need_no_name(run: Run, site: WebServer) -> None:
    place = (await run("current_weather", location="52.52, 13.4"))["place"]
    assert (place["latitude"], place["longitude"], place["timezone"]) == (52.52, 13.4, "auto")
    assert "/geo/v1/search" not in site.paths
    with pytest.raises(ToolRefused, match="from -90 to 90"):
        await run("current_weather", location="91, 0")


async def test_units_are_passed_on(run: Run, site: WebServer) -> None:
    weather = await run("current_weather", location="Paris", units="imperial")
    assert weather["current"]["temperature_2m"] == 50.5
    assert site.asked[-1].query["wind_speed_unit"] == "mph"


async def test_the_days_ahead_are_told_one_by_one(run: Run) -> None:
    weather = await run("weather_forecast", location="Paris", days=2)
    assert weather["days"] == [
        {"date": "2026-03-01", "condition": "clear sky", "temperature_2m_max": 10.0},
        {"date": "2026-03-02", "condition": "clear sky", "temperature_2m_max": 11.0},
    ]
    assert len((await run("weather_forecast", location="Paris"))["days"]) == 3
    for days in (0, 17):
        with pytest.raises(InvalidInput, match="days must be at"):
            await run("weather_forecast", location="Paris", days=days)


async def test_an_answer_is_remembered_for_a_while(run: Run, site: WebServer) -> None:
    for _ in range(3):
        await run("current_weather", location="Paris")
        await run("current_weather", location="paris")
    assert site.paths.count("/meteo/v1/forecast") == 1
    assert site.paths.count("/geo/v1/search") == 1
    await run("current_weather", location="Paris", units="imperial")
    assert site.paths.count("/meteo/v1/forecast") == 2


async def test_a_place_that_does_not_exist_is_refused_in_words(run: Run) -> None:
    with pytest.raises(ToolRefused, match="no place named 'Atlantis'"):
        await run("current_weather", location="Atlantis")
    with pytest.raises(ToolRefused, match="no place named"):
        await run("current_weather", location="Paris, Atlantis")


@pytest.mark.parametrize(
    "answer",
    [Answer("no", 500), Answer("{}", headers=JSON), Answer('{"current": 1}', headers=JSON), Answer("[]", 200, JSON)],
)
async def test_a_service_that_fails_is_a_failure_and_is_not_remembered(
    run: Run, site: WebServer, answer: Answer
) -> None:
    site.pages["/meteo/v1/forecast"] = answer
    for name in ("current_weather", "weather_forecast"):
        with pytest.raises(ToolBroken, match="the weather service"):
            await run(name, location="Paris")
    if answer.status == 500:
        site.pages["/meteo/v1/forecast"] = forecast
        assert (await run("current_weather", location="Paris"))["current"]
