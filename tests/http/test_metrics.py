"""Metrics tell how the service does, in a number of series that no client can raise."""

from asyncio import Event, timeout
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.live import PASSWORD, Account, Live
from tests.support.raw import wire
from tests.support.until import until

from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.adapters.telemetry.prometheus import PrometheusMetrics
from luxx.application.observer import RoundRecord
from luxx.domain.message import Usage

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def read(live: Live) -> Series:
    answer = await live.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return series(answer.text)


async def read_with(live: Live, name: str, **labels: str) -> Series:
    """Read until this series is there: a request is counted once its answer has been sent."""
    async with timeout(10):
        while (name, frozenset(labels.items())) not in (found := await read(live)):
            pass
    return found


def value(found: Series, name: str, **labels: str) -> float:
    return found[(name, frozenset(labels.items()))]


async def test_a_turn_is_counted_with_its_rounds_tools_and_tokens(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    usage = Usage(prompt_tokens=7, completion_tokens=5, total_tokens=12)
    model.then(
        calling(("calculate", {"expression": "1+1"}), ("calculate", {"expression": "1/0"}), usage=usage),
        spoken("Two.", usage=usage),
    )
    await user.stream(await user.new_conversation(), "What is 1+1?")
    request = {"route": "/api/messages/stream", "method": "POST", "status": "200"}
    found = await read_with(stored, "luxx_requests_total", **request)
    assert value(found, "luxx_turns_total", outcome="complete") == 1
    assert value(found, "luxx_turns_total", outcome="failed") == 0
    assert value(found, "luxx_turns_running") == 0
    assert value(found, "luxx_turn_duration_seconds_count") == 1
    assert value(found, "luxx_first_token_seconds_count") == 1
    assert value(found, "luxx_model_rounds_total", outcome="complete") == 2
    assert value(found, "luxx_tokens_total", direction="input") == 14
    assert value(found, "luxx_tokens_total", direction="output") == 10
    assert value(found, "luxx_tool_calls_total", tool="calculate", outcome="ok") == 1
    assert value(found, "luxx_tool_calls_total", tool="calculate", outcome="tool_failed") == 1
    assert value(found, "luxx_logins_total", outcome="ok") == 1
    assert value(found, "luxx_requests_total", **request) == 1
    assert value(found, "luxx_request_duration_seconds_count", route="/api/messages/stream", method="POST") == 1
    if stored.container.settings().database_url is not None:
        batches = value(found, "luxx_commit_duration_seconds_count")
        assert batches > 0
        assert value(found, "luxx_commit_batch_events_sum") >= batches
        assert value(found, "luxx_commit_batch_turns_sum") >= batches
        assert value(found, "luxx_database_connections_in_use") >= 0


async def test_a_running_turn_and_a_refused_login_are_seen(
    served: Live, user: Account, model: ScriptedChatModel
) -> None:
    gate = Event()
    model.then((*spoken("so far")[:1], gate, *spoken("done")))
    async with user.streaming(await user.new_conversation(), "hi"):
        await until(lambda: model.open_streams)
        assert value(await read(served), "luxx_turns_running") == 1
        gate.set()
    body = {"username": user.username, "password": PASSWORD + "?"}
    assert (await served.http.post("/api/auth/login", json=body)).status_code == 401
    assert value(await read(served), "luxx_logins_total", outcome="invalid_credentials") == 1


async def test_the_lag_of_the_event_loop_is_measured() -> None:
    metrics = PrometheusMetrics()

    def measured() -> float:
        return value(series(metrics.text()[0].decode()), "luxx_event_loop_lag_seconds_count")

    async with metrics.watching_loop(every=0.001):
        await until(lambda: measured() >= 3)


async def test_no_client_makes_new_series(served: Live, user: Account, model: ScriptedChatModel) -> None:
    before = None
    for number in range(3):
        model.then(calling((f"made_up_{number}", {})), spoken("no"))
        await user.stream(await user.new_conversation(model=f"model-{number}"), "hi")
        for path in (f"/nothing/{number}", f"/api/messages/conv_{number}", f"/api/tools/tool{number}", f"/?q={number}"):
            await user.get(path)
        await user.post(f"/api/tools/tool{number}/execute", json={})
        async with wire(served.url) as connection:
            await connection.ask(f"MADEUP{number}", "/api/auth/me")
        name = {"username": f"nobody{number}", "password": PASSWORD}
        await served.http.post("/api/auth/login", json=name)
        await read_with(served, "luxx_requests_total", route="/api/auth/login", method="POST", status="401")
        await read_with(served, "luxx_requests_total", route="/metrics", method="GET", status="200")
        names = {key for key in await read(served) if key[0].startswith("luxx_")}
        before = before or names
        assert names == before
    assert not any("made_up" in text or "MADEUP" in text for _, labels in before or () for _, text in labels)


def test_an_upstream_that_counts_below_zero_takes_nothing_back() -> None:
    metrics = PrometheusMetrics()
    record = RoundRecord(number=1, conversation_id="c", model="m", temperature=1.0, max_tokens=1)
    with metrics.round(record):
        record.usage = Usage(prompt_tokens=-5, completion_tokens=3)
    assert value(series(metrics.text()[0].decode()), "luxx_tokens_total", direction="input") == 0


@pytest.mark.parametrize("accept", ["", "text/plain", "application/openmetrics-text;version=1.0.0"])
async def test_the_format_is_the_one_that_the_reader_prefers(served: Live, accept: str) -> None:
    answer = await served.http.get("/metrics", headers={"Accept": accept} if accept else {})
    openmetrics = "openmetrics" in accept
    assert answer.headers["content-type"].startswith("application/openmetrics-text" if openmetrics else "text/plain")
    assert answer.text.rstrip().endswith("# EOF") == openmetrics


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=1.x", "text/plain;version=new", "text/plain;version=²"]
)
async def test_a_reader_whose_version_is_none_has_the_plain_format(served: Live, accept: str) -> None:
    answer = await served.http.get("/metrics", headers={b"Accept": accept.encode()})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
