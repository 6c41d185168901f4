"""Traces follow a request through its turn to the model and the tools, over real OTLP, without content."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.http.conftest import SECRET, container_of
from tests.support.live import live

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.adapters.telemetry.opentelemetry import open_traces, wanted
from luxx.domain.errors import ModelTimeout
from luxx.domain.message import Usage
from luxx.settings import Settings


@dataclass(slots=True)
class Receiver:
    """An OTLP/HTTP receiver on loopback."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def spans(self) -> dict[str, Span]:
        return {
            span.name: span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    @property
    def resource(self) -> dict[str, Any]:
        (found, *_) = ExportTraceServiceRequest.FromString(self.bodies[0]).resource_spans
        return {one.key: one.value.string_value for one in found.resource.attributes}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:"))
        self.paths.append(head.split(" ")[1])
        self.bodies.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    found = Receiver()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    async with server:
        found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield found


def attributes(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind) if kind else None
    return found


@asynccontextmanager
async def traced(tmp_path: Path, model: ScriptedChatModel) -> AsyncIterator[Any]:
    """Serve; what was traced has arrived when this is left."""
    container = container_of(Settings(data_dir=tmp_path, jwt_secret=SECRET), model)
    container.storage.override(MemoryStorage())
    async with live(container) as served:
        yield served


async def test_spans_lead_from_the_request_through_the_turn_to_model_and_tool(
    receiver: Receiver, tmp_path: Path, model: ScriptedChatModel
) -> None:
    usage = Usage(prompt_tokens=7, completion_tokens=5, total_tokens=12)
    model.then(calling(("calculate", {"expression": "40+2"}), usage=usage), spoken("forty-two", usage=usage))
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with traced(tmp_path, model) as served:
        user = await served.account()
        conversation = await user.new_conversation(model="glm-x", temperature=0.5)
        sent = {"conversation_id": conversation, "content": "how much?"}
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert (await user.post("/api/messages", json=sent, headers=headers)).status_code == 201
    spans = receiver.spans
    request, turn = spans["POST /api/messages"], spans["invoke_agent luxx"]
    chat, tool = spans["chat glm-x"], spans["execute_tool calculate"]
    assert set(receiver.paths) == {"/v1/traces"}
    assert {one.trace_id.hex() for one in (request, turn, chat, tool)} == {trace}
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    assert [one.parent_span_id for one in (turn, chat, tool)] == [request.span_id, turn.span_id, turn.span_id]
    assert (request.kind, chat.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert attributes(request)["http.response.status_code"] == 201
    told = attributes(chat)
    assert told["gen_ai.operation.name"] == "chat"
    assert (told["gen_ai.request.model"], told["gen_ai.request.temperature"]) == ("glm-x", 0.5)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (7, 5)
    assert told["gen_ai.response.finish_reasons"].values[0].string_value == "stop"
    assert attributes(turn)["gen_ai.usage.input_tokens"] == 14
    assert attributes(turn)["gen_ai.conversation.id"] == conversation
    assert attributes(tool)["gen_ai.tool.name"] == "calculate"
    assert attributes(tool)["gen_ai.tool.call.id"] == "call_1"
    assert receiver.resource["service.name"] == "luxx"
    assert receiver.resource["deployment.environment.name"] == "test"
    everything = b"".join(receiver.bodies)
    assert not [text for text in ("how much?", "forty-two", "40+2", user.token) if text.encode() in everything]


async def test_what_failed_is_marked_with_its_code(
    receiver: Receiver, tmp_path: Path, model: ScriptedChatModel
) -> None:
    model.then((ModelTimeout("private words of the upstream"),))
    async with traced(tmp_path, model) as served:
        user = await served.account()
        assert (await user.send(await user.new_conversation(model="m"), "hi")).status_code == 504
    spans = receiver.spans
    for name in ("invoke_agent luxx", "chat m"):
        assert spans[name].status.code == Status.STATUS_CODE_ERROR
        assert attributes(spans[name])["error.type"] == "model_timeout"
    assert attributes(spans["POST /api/messages"])["error.type"] == "504"
    assert b"private words" not in b"".join(receiver.bodies)


async def test_a_receiver_that_is_away_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: ScriptedChatModel
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    model.then(spoken("well"))
    async with asyncio.timeout(20), traced(tmp_path, model) as served:
        user = await served.account()
        assert (await user.send(await user.new_conversation(), "hi")).status_code == 201


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_SERVICE_NAME": "only a name"}, False),
    ],
)
def test_the_standard_variables_alone_switch_traces_on(environ: dict[str, str], expected: bool) -> None:
    assert wanted(environ) is expected


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ENDPOINT": "collector:4318/s3cret"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
        ({"ENDPOINT": "http://s3cret@[::1"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
        ({"ENDPOINT": "http://s3cret@c:port"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
        ({"TRACES_ENDPOINT": "grpc://s3cret@c:4317"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must"),
        ({"HEADERS": "Authorization: Bearer s3cret"}, "OTEL_EXPORTER_OTLP_HEADERS must"),
        ({"HEADERS": "a=b,s3cret"}, "OTEL_EXPORTER_OTLP_HEADERS must"),
        ({"HEADERS": "a=s3cret;b"}, "OTEL_EXPORTER_OTLP_HEADERS must"),
        ({"HEADERS": "a=s3cret%0Ab"}, "OTEL_EXPORTER_OTLP_HEADERS must"),
        ({"TRACES_HEADERS": "a=s3cret%E2%82%AC"}, "OTEL_EXPORTER_OTLP_TRACES_HEADERS must"),
        ({"ENDPOINT": "https://c:4318", "CERTIFICATE": "/no/such"}, "OTEL_EXPORTER_OTLP_CERTIFICATE must"),
        ({"ENDPOINT": "https://c:4318", "TRACES_CLIENT_KEY": "/no/such"}, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY must"),
    ],
)
def test_variables_that_nothing_can_be_sent_with_are_refused_and_never_quoted(
    variables: dict[str, str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    with pytest.raises(ValueError, match=f"^{told} ") as bad:
        open_traces({"OTEL_TRACES_EXPORTER": "otlp"} | environ, provider="luxx")
    assert "s3cret" not in str(bad.value) + caplog.text


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_EXPORTER_OTLP_HEADERS": " api-key = Basic%20abc== , x=,", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer abc", "OTEL_EXPORTER_OTLP_ENDPOINT": "HTTP://u:p@c:1/x/"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1]:4318/", "OTEL_EXPORTER_OTLP_ENDPOINT": "unused"},
        {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x=y", "OTEL_EXPORTER_OTLP_HEADERS": "unused"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": "unused"},
    ],
)
def test_variables_that_can_be_used_or_are_not_are_no_fault(environ: dict[str, str]) -> None:
    traces = open_traces({"OTEL_TRACES_EXPORTER": "otlp"} | environ, provider="luxx")
    assert traces is not None
    traces.close()


def test_what_the_sdk_cannot_work_with_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(
        ValueError, match=r"^traces cannot be had as the OTEL_ variables want them: max_queue_size must"
    ):
        open_traces({"OTEL_TRACES_EXPORTER": "otlp"}, provider="luxx")


def test_an_exporter_that_is_not_known_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="luxx"):
        assert open_traces({"OTEL_TRACES_EXPORTER": "zipkin"}, provider="luxx") is None
    assert "zipkin" in caplog.text
