"""What the OpenAI-compatible adapter does when a provider refuses, fails, stalls or misbehaves."""

import asyncio
import logging
import socket
import traceback
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificates import certificate_for
from tests.support.far_end import answering, far_end, tls_of
from tests.support.openai import KEY, PATIENT, REQUEST, error_from, open_model

from luxx.adapters.models.openai import OpenAIChatModel, OpenAISettings, trusted_authorities
from luxx.application.ports import ModelEnd, ModelText
from luxx.domain.errors import ModelError, ModelRateLimited, ModelRejected, ModelTimeout, ModelUnavailable
from luxx.domain.message import Usage
from luxx.testing.contracts.chat_model import heard, heard_until_error, text_in
from luxx.testing.upstream import (
    DONE,
    Close,
    Endless,
    Raw,
    Reply,
    Reset,
    ScriptedUpstream,
    Stall,
    Wait,
    asking,
    delta,
    event,
    failing,
    finish,
    saying,
    usage,
)

# --- statuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (400, ModelRejected, "model name"),
        (401, ModelRejected, "API key"),
        (403, ModelRejected, "API key"),
        (404, ModelRejected, "base URL"),
        (413, ModelRejected, "too long"),
        (422, ModelRejected, "max_tokens"),
        (429, ModelRateLimited, "later"),
        (408, ModelTimeout, "later"),
        (504, ModelTimeout, "later"),
        (301, ModelUnavailable, "redirects are not followed"),
        (418, ModelUnavailable, "base URL"),
        (500, ModelUnavailable, "later"),
        (503, ModelUnavailable, "later"),
    ],
)
async def test_a_status_is_told_with_what_to_check_and_without_the_upstreams_words(
    upstream: ScriptedUpstream, status: int, kind: type[ModelError], hint: str
) -> None:
    error = await error_from(upstream, failing(status, body=b'{"error": {"message": "OWN WORDS"}}'))
    assert type(error) is kind
    assert hint in str(error)
    assert str(status) in str(error)
    assert "OWN WORDS" not in str(error)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(
            b'{"error":{"code":"content_filter","message":"The response was filtered ...","status":400}}',
            id="Azure",
        ),
        pytest.param(b'{"error":{"code":"data_inspection_failed","message":"<400> InternalError.Algo..."}}', id="Qwen"),
        pytest.param(b'{"code":"DataInspectionFailed","message":"Input data may contain ..."}', id="Qwen's own"),
        pytest.param('{"error":{"code":"1301","message":"系统检测到输入或生成内容可能包含…"}}'.encode(), id="GLM"),
        pytest.param(b'{"error":{"message":"Content Exists Risk","code":"invalid_request_error"}}', id="DeepSeek"),
    ],
)
async def test_what_a_content_filter_refuses_is_told_as_that(upstream: ScriptedUpstream, said: bytes) -> None:
    error = await error_from(upstream, failing(400, body=said))
    assert isinstance(error, ModelRejected)
    assert "content filter" in str(error)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
async def test_retry_after_is_read_in_seconds_or_as_a_date_gone_by(
    upstream: ScriptedUpstream, header: str, least: float, most: float
) -> None:
    error = await error_from(upstream, failing(429, retry_after=header))
    assert isinstance(error, ModelRateLimited)
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


async def test_retry_after_as_a_date_to_come_is_the_time_until_then(upstream: ScriptedUpstream) -> None:
    header = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    error = await error_from(upstream, failing(429, retry_after=header))
    assert isinstance(error, ModelRateLimited)
    assert error.retry_after is not None
    assert 3000 <= error.retry_after <= 3600


@pytest.mark.parametrize("header", [None, "soon", "-1", "", "Wed, 21 Oct 2015 07:28:00 +" + "9" * 19])
async def test_a_retry_after_that_says_nothing_is_none(upstream: ScriptedUpstream, header: str | None) -> None:
    error = await error_from(upstream, failing(429, retry_after=header))
    assert isinstance(error, ModelRateLimited)
    assert error.retry_after is None


async def test_a_redirect_is_not_followed(upstream: ScriptedUpstream) -> None:
    elsewhere = Reply(status=307, headers={"Location": upstream.url + "/chat/completions"})
    await error_from(upstream, elsewhere, retries=2)
    assert len(upstream.requests) == 1


async def test_a_web_page_in_place_of_a_stream_points_to_the_base_url(upstream: ScriptedUpstream) -> None:
    error = await error_from(upstream, Reply(content_type="text/html; charset=utf-8", steps=(b"<h1>OWN WORDS</h1>",)))
    assert isinstance(error, ModelUnavailable)
    assert "base URL" in str(error)
    assert "OWN WORDS" not in str(error)


@pytest.mark.parametrize("more", [Stall(), Endless(b"x" * 999), Reset()])
async def test_the_words_of_a_refusal_are_not_waited_for(upstream: ScriptedUpstream, more: Any) -> None:
    error = await error_from(upstream, Reply(status=400, content_type="application/json", steps=(b'{"', more)))
    assert isinstance(error, ModelRejected)
    await upstream.until_open(0)


# --- connections ------------------------------------------------------------------------------------


async def test_a_refused_connection_points_to_the_base_url() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with open_model(f"http://127.0.0.1:{unused.getsockname()[1]}/v1") as model:
            with pytest.raises(ModelUnavailable, match="base URL"):
                await heard(model, REQUEST)


async def test_a_certificate_that_nobody_vouches_for_is_told_as_such_and_can_be_vouched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's own endpoint has a certificate of its own authority."""
    certificate = certificate_for("localhost", tmp_path)
    whole = b'{"choices": [{"message": {"content": "there"}}]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(whole)
    async with far_end(answering(head + whole), tls=tls_of(certificate)[0]) as far:
        url = f"https://localhost:{far.port}/v1"
        async with open_model(url) as model:
            with pytest.raises(ModelUnavailable, match=r"certificate is not trusted.*SSL_CERT_FILE"):
                await heard(model, REQUEST)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        trusted_authorities.cache_clear()
        try:
            async with open_model(url) as model:
                assert text_in(await heard(model, REQUEST)) == "there"
        finally:
            trusted_authorities.cache_clear()


async def test_a_name_that_does_not_resolve_points_to_the_base_url() -> None:
    async with open_model("http://luxx.invalid/v1") as model:
        with pytest.raises(ModelUnavailable, match="base URL"):
            await heard(model, REQUEST)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(head=False, steps=(Reset(),)), id="reset before the head"),
        pytest.param(Reply(head=False, steps=(Close(),)), id="closed before the head"),
        pytest.param(Reply(head=False, steps=(Raw(b"SSH-2.0-OpenSSH_9\r\n"), Close())), id="not HTTP"),
        pytest.param(
            Reply(head=False, steps=(Raw(b"HTTP/1.1 200 OK\r\nX: "), Endless(b"x" * 9_999))), id="endless head"
        ),
        pytest.param(Reply(steps=(Reset(),)), id="reset after the head"),
        pytest.param(Reply(steps=(Raw(b"no chunk\r\n"), Close())), id="broken framing"),
    ],
)
async def test_a_connection_that_breaks_or_speaks_another_protocol_is_unavailable(
    upstream: ScriptedUpstream, reply: Reply
) -> None:
    error = await error_from(upstream, reply)
    assert isinstance(error, ModelUnavailable)


@pytest.mark.parametrize("end", [(Wait(0.05), Reset()), (Close(),), (Raw(b"400\r\ndata: {"), Close())])
async def test_what_came_before_a_break_is_given(upstream: ScriptedUpstream, end: tuple[Any, ...]) -> None:
    upstream.play(Reply(steps=(delta(content="half"), *end)))
    async with open_model(upstream.url) as model:
        events, error = await heard_until_error(model, REQUEST)
    assert events == [ModelText("half")]
    assert isinstance(error, ModelUnavailable)


@pytest.mark.parametrize("fault", [Close(), Reset(), Stall(), Endless(b": on and on\n"), b"data: {\n\n"])
async def test_a_fault_after_the_finish_reason_costs_the_usage_and_not_the_answer(
    upstream: ScriptedUpstream, fault: Any
) -> None:
    upstream.play(Reply(steps=(delta(content="a"), finish(), Wait(0.02), fault)))
    async with open_model(upstream.url, idle_s=0.2) as model:
        assert await heard(model, REQUEST) == [ModelText("a"), ModelEnd("stop")]


@pytest.mark.parametrize("fault", [Close(), Reset(), Stall()])
async def test_a_finish_reason_in_every_chunk_is_none_until_the_end(upstream: ScriptedUpstream, fault: Any) -> None:
    """Gemini does so behind some gateways: half of such an answer must not pass for all of it."""
    half = [step for text in ("a", "b") for step in (_and_finish(text), Wait(0.02))]
    upstream.play(Reply(steps=(*half, fault)), Reply(steps=(*half, Wait(0.2), _and_finish("c"), DONE)))
    async with open_model(upstream.url, idle_s=0.5) as model:
        events, error = await heard_until_error(model, REQUEST)
        assert text_in(events) == "ab"
        assert isinstance(error, ModelError)
        events = await heard(model, REQUEST)
    assert (text_in(events), events[-1]) == ("abc", ModelEnd("stop"))


def _and_finish(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]})


async def test_the_usage_is_waited_for_after_the_finish_reason(upstream: ScriptedUpstream) -> None:
    upstream.play(Reply(steps=(finish(), Wait(0.05), usage(1, 2), Stall())))
    async with open_model(upstream.url, idle_s=0.3) as model:
        (end,) = await heard(model, REQUEST)
    assert end == ModelEnd("stop", Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))


async def test_the_usage_is_not_waited_for_as_a_token_is(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luxx.adapters.models.openai._USAGE_GRACE_S", 0.1)
    upstream.play(Reply(steps=(delta(content="a"), finish(), Stall())))
    async with asyncio.timeout(10), open_model(upstream.url, idle_s=3600, total_s=3600) as model:
        assert await heard(model, REQUEST) == [ModelText("a"), ModelEnd("stop")]


async def test_a_line_without_an_end_is_refused(upstream: ScriptedUpstream) -> None:
    endless = Reply(steps=(delta(content="a"), b"data: ", Endless(b"x" * 65_536)))
    error = await error_from(upstream, endless, line_limit=1 << 20)
    assert isinstance(error, ModelUnavailable)
    assert "line" in str(error)
    await upstream.until_open(0)


async def test_an_answer_without_an_end_is_cut_off_at_the_limit(upstream: ScriptedUpstream) -> None:
    error = await error_from(upstream, Reply(steps=(Endless(delta(content="on ")),)), response_limit=200_000)
    assert isinstance(error, ModelUnavailable)
    assert "200000 bytes" in str(error)
    await upstream.until_open(0)


# --- deadlines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((Stall(),), id="nothing"),
        pytest.param((delta(role="assistant", content=""), Stall()), id="a role"),
        pytest.param((Endless(b": still here\n\n"),), id="comments without end"),
    ],
)
async def test_what_is_no_token_does_not_put_off_the_first_token_deadline(
    upstream: ScriptedUpstream, steps: tuple[Any, ...]
) -> None:
    error = await error_from(upstream, Reply(steps=steps), first_token_s=0.1, retries=2)
    assert isinstance(error, ModelTimeout)
    assert "no first token within 0.1 s" in str(error)
    assert len(upstream.requests) == 1


async def test_a_head_that_does_not_come_is_covered_by_the_first_token_deadline(upstream: ScriptedUpstream) -> None:
    error = await error_from(upstream, Reply(head=False, steps=(Stall(),)), first_token_s=0.1)
    assert isinstance(error, ModelTimeout)
    assert "first token" in str(error)


@pytest.mark.parametrize("end", [Stall(), Endless(b": still here\n\n")])
async def test_a_pause_between_tokens_is_bounded(upstream: ScriptedUpstream, end: Any) -> None:
    error = await error_from(upstream, Reply(steps=(delta(content="a"), end)), idle_s=0.1)
    assert isinstance(error, ModelTimeout)
    assert "no further token within 0.1 s" in str(error)
    await upstream.until_open(0)


async def test_fragments_of_a_tool_call_are_tokens(upstream: ScriptedUpstream) -> None:
    (call, *rest) = asking(("t", "{}")).steps
    pieces = [step for _ in range(4) for step in (Wait(0.1), delta(tool_calls=[{"index": 0, "function": {}}]))]
    upstream.play(Reply(steps=(call, *pieces, *rest)))
    async with open_model(upstream.url, idle_s=0.3) as model:
        assert len(await heard(model, REQUEST)) == 2


async def test_bytes_that_drip_do_not_put_off_the_deadline(upstream: ScriptedUpstream) -> None:
    error = await error_from(upstream, replace(saying("Hello"), drip_s=0.02), first_token_s=0.2)
    assert isinstance(error, ModelTimeout)


async def test_the_whole_answer_is_bounded_although_tokens_keep_coming(upstream: ScriptedUpstream) -> None:
    dripping = [step for _ in range(100) for step in (delta(content="on "), Wait(0.02))]
    error = await error_from(upstream, Reply(steps=tuple(dripping)), total_s=0.2)
    assert isinstance(error, ModelTimeout)
    assert "no whole answer within 0.2 s" in str(error)


async def test_the_time_that_the_reader_takes_is_not_counted_as_the_providers(upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()
    upstream.play(Reply(steps=(delta(content="a"), Wait(more), delta(content="b"), finish(), DONE)))
    async with open_model(upstream.url, idle_s=0.2) as model, aclosing(model.stream(REQUEST)) as answer:
        assert await anext(answer) == ModelText("a")
        await asyncio.sleep(0.3)  # longer than the provider may pause
        more.set()
        assert [event async for event in answer] == [ModelText("b"), ModelEnd("stop")]


async def test_connecting_has_a_deadline_of_its_own() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            # Fills the queue of connections that nobody accepts, so that the next has to wait.
            one.setblocking(False)
            one.connect_ex(address)
        try:
            async with open_model(f"http://127.0.0.1:{address[1]}/v1", connect_s=0.1) as model:
                with pytest.raises(ModelTimeout, match=r"connected to within 0\.1 s"):
                    await heard(model, REQUEST)
        finally:
            for one in waiting:
                one.close()


# --- retries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [failing(429), failing(500), failing(503), failing(408), Reply(head=False, steps=(Close(),))]
)
async def test_what_fails_before_an_answer_begins_is_tried_again(upstream: ScriptedUpstream, fault: Reply) -> None:
    upstream.play(fault, fault, saying("there"))
    async with open_model(upstream.url, retries=2) as model:
        assert text_in(await heard(model, REQUEST)) == "there"
    assert len(upstream.requests) == 3


async def test_there_are_no_more_tries_than_allowed_and_the_last_error_counts(upstream: ScriptedUpstream) -> None:
    error = await error_from(upstream, failing(500), failing(500), failing(429), saying("too late"), retries=2)
    assert isinstance(error, ModelRateLimited)
    assert len(upstream.requests) == 3


@pytest.mark.parametrize(
    "reply",
    [
        failing(400),
        failing(401),
        Reply(steps=(delta(content="half"), Close())),
        Reply(steps=(Close(),)),
        Reply(content_type="text/html"),
    ],
)
async def test_refusals_and_answers_that_have_begun_are_not_tried_again(
    upstream: ScriptedUpstream, reply: Reply
) -> None:
    await error_from(upstream, reply, saying("never asked for"), retries=2)
    assert len(upstream.requests) == 1


async def test_a_short_retry_after_is_waited_for(upstream: ScriptedUpstream) -> None:
    upstream.play(failing(429, retry_after="0.2"), saying("there"))
    started = asyncio.get_running_loop().time()
    async with open_model(upstream.url, retries=1) as model:
        await heard(model, REQUEST)
    assert asyncio.get_running_loop().time() - started >= 0.2


async def test_a_long_retry_after_is_handed_on_and_not_waited_for(upstream: ScriptedUpstream) -> None:
    error = await error_from(upstream, failing(429, retry_after="3600"), retries=2)
    assert isinstance(error, ModelRateLimited)
    assert error.retry_after == 3600
    assert len(upstream.requests) == 1


async def test_no_retry_begins_after_the_deadline_of_the_whole_answer(upstream: ScriptedUpstream) -> None:
    error = await error_from(upstream, failing(500), retries=2, backoff_s=60, total_s=1)
    assert isinstance(error, ModelUnavailable)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(("jitter", "least"), [(0.0, 0.15), (1.0, 0.3)])
async def test_the_pause_before_a_retry_doubles_and_is_spread_by_the_jitter(
    upstream: ScriptedUpstream, jitter: float, least: float
) -> None:
    upstream.play(failing(500), failing(500), saying("there"))
    settings = replace(PATIENT, base_url=upstream.url, retries=2, backoff_s=0.1)
    model = OpenAIChatModel(settings, jitter=lambda: jitter)
    started = asyncio.get_running_loop().time()
    await heard(model, REQUEST)
    passed = asyncio.get_running_loop().time() - started
    await model.aclose()
    assert least <= passed < least + 2


# --- letting go -------------------------------------------------------------------------------------


async def test_a_cancel_before_the_head_closes_the_request(upstream: ScriptedUpstream) -> None:
    upstream.play(Reply(head=False, steps=(Stall(),)))
    async with open_model(upstream.url) as model:
        task = asyncio.create_task(heard(model, REQUEST))
        await upstream.until_open(1)
        task.cancel()
        await upstream.until_open(0, within_s=1)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancel_between_tries_ends_them(upstream: ScriptedUpstream) -> None:
    upstream.play(failing(500))
    async with open_model(upstream.url, retries=1, backoff_s=9) as model:
        task = asyncio.create_task(heard(model, REQUEST))
        await upstream.until_asked(1)
        await upstream.until_open(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_connection_is_used_again_after_a_whole_answer(upstream: ScriptedUpstream) -> None:
    upstream.play(saying("a"), asking(("t", "{}")), saying("b"))
    async with open_model(upstream.url) as model:
        for _ in range(3):
            await heard(model, REQUEST)
    assert upstream.connections == 1


async def test_two_hundred_answers_are_open_at_once(upstream: ScriptedUpstream) -> None:
    go = asyncio.Event()
    upstream.play(*[Reply(steps=(Wait(go), *saying("there").steps))] * 200)
    async with open_model(upstream.url) as model:
        tasks = [asyncio.create_task(heard(model, REQUEST)) for _ in range(200)]
        await upstream.until_open(200)
        go.set()
        assert {text_in(events) for events in await asyncio.gather(*tasks)} == {"there"}


# --- the key ----------------------------------------------------------------------------------------


async def test_the_key_is_sent_and_shown_nowhere_else(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    error = await error_from(upstream, failing(401))
    assert upstream.requests[0].headers["authorization"] == f"Bearer {KEY}"
    shown = [repr(PATIENT), "".join(traceback.format_exception(error)), caplog.text]
    assert not any(KEY in text for text in shown)


async def test_no_header_goes_out_without_a_key(upstream: ScriptedUpstream) -> None:
    upstream.play(saying("a"))
    async with open_model(upstream.url + "/", api_key=None) as model:
        await heard(model, REQUEST)
    (asked,) = upstream.requests
    assert "authorization" not in asked.headers
    assert asked.path == "/v1/chat/completions"


async def test_proxies_of_the_environment_are_not_used(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    upstream.play(saying("a"))
    async with open_model(upstream.url) as model:
        assert text_in(await heard(model, REQUEST)) == "a"


@pytest.mark.parametrize("key", ["with space", "line\nbreak", "ключ"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_quoted(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        OpenAISettings(base_url="http://host/v1", api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["", "host/v1", "ftp://host/v1", "http://", "http://u:p@host/v1", "http://h/v1?a=b"])
def test_a_base_url_that_cannot_be_asked_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        OpenAISettings(base_url=url)
