"""Traces by OpenTelemetry: request, turn, round of the model, tool; named by the GenAI semantic conventions.

The standard variables alone switch them on and say where they go (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_TRACES_EXPORTER`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` …). Spans carry no content.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from luxx import __version__
from luxx.adapters.telemetry.requests import UNANSWERED, UNMATCHED, RequestRecord
from luxx.application.observer import RoundRecord, ToolRecord, TurnRecord, Unobserved
from luxx.extras import advice

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanKind

_log = logging.getLogger(__name__)

_HEADER: Final = re.compile(r"[!#-'*+.0-9A-Z^-z|~-]+[ \t]*=[ \t]*(?P<value>[ !#-+\--:<-\[\]-~]*)")
"""What the exporter takes for a header; anything else it quotes in the log, with the secret that it holds."""

Value: TypeAlias = str | int | float | bool | list[str] | None


def wanted(environ: Mapping[str, str]) -> bool:
    """Tell whether the standard variables ask for traces."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return exporter != "none"
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(environ.get(name, "").strip() for name in endpoints)


def open_traces(environ: Mapping[str, str] | None = None, *, provider: str) -> "OpenTelemetryTraces | None":
    """Make the observer that the variables ask for; None where they ask for none, or none can be had.

    `provider` names who runs the model, for `gen_ai.provider.name`. Raises `ValueError` where they hold what
    cannot be used.
    """
    given = os.environ if environ is None else environ
    if not wanted(given):
        return None
    try:
        exporter = _exporter(given)
    except ImportError:
        _log.warning("%s", advice("sending traces", "opentelemetry", "the extra `otel`"))
        return None
    if exporter is None:
        return None
    with _told():
        return OpenTelemetryTraces(exporter, provider=provider)


@contextmanager
def _told() -> Iterator[None]:
    """Tell as one kind what the SDK raises in many, of variables that it cannot work with."""
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"traces cannot be had as the OTEL_ variables want them: {reason}") from error


def _exporter(environ: Mapping[str, str]) -> "SpanExporter | None":
    kind = environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() or "otlp"
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or ""
    ).strip()
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415  # only where it is wanted

        return ConsoleSpanExporter()
    if kind != "otlp":
        _log.warning("OTEL_TRACES_EXPORTER=%s is none that Luxx knows: use otlp, console or none; no traces", kind)
        return None
    if protocol not in {"", "http/protobuf"}:
        _log.warning("traces are sent as http/protobuf only, not as %s: point the endpoint at port 4318", protocol)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # dito

    _check(environ)
    with _told():
        return OTLPSpanExporter()


def _check(environ: Mapping[str, str]) -> None:
    """Raise `ValueError` for what the exporter would take, and stumble over with every batch; quotes no value."""
    scheme: str | None = None
    if endpoint := _variable(environ, "ENDPOINT"):
        name, value = endpoint
        if (scheme := _scheme(value)) not in {"http", "https"}:
            raise ValueError(f"{name} must be a URL that starts with http:// or https:// and names a host")
    if headers := _variable(environ, "HEADERS"):
        name, value = headers
        if not all(_is_header(one.strip(" \t")) for one in value.split(",") if one.strip(" \t")):
            raise ValueError(f"{name} must be name=value, several with commas between, each value percent-encoded")
    for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE") if scheme == "https" else ():
        if (file := _variable(environ, kind)) and not os.access(file[1], os.R_OK):
            raise ValueError(f"{file[0]} must be the path of a file that can be read")


def _variable(environ: Mapping[str, str], kind: str) -> tuple[str, str] | None:
    """Give the variable that counts for traces, with its value, which is as the exporter reads it."""
    names = (f"OTEL_EXPORTER_OTLP_TRACES_{kind}", f"OTEL_EXPORTER_OTLP_{kind}")
    return next(((name, value) for name in names if (value := environ.get(name, ""))), None)


def _scheme(url: str) -> str | None:
    """Give the scheme of a URL that names where to connect to; None for any other text."""
    try:
        parts = urlsplit(url)
        named = parts.hostname is not None and parts.port != 0
    except ValueError:
        return None
    return parts.scheme if named else None


def _is_header(text: str) -> bool:
    header = _HEADER.fullmatch(text)
    value = "" if header is None else unquote(header["value"]).strip()
    return header is not None and value.isprintable() and all(character <= "\xff" for character in value)


class OpenTelemetryTraces(Unobserved):
    """Observes as spans, sent in batches by a thread of the SDK's own. Close it to send the last ones."""

    def __init__(self, exporter: "SpanExporter", *, provider: str) -> None:
        # An installation without traces has none of these.
        from opentelemetry import propagate, trace  # noqa: PLC0415 - as above
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above

        named = Resource.create({SERVICE_NAME: "luxx", "service.version": __version__})
        # Not the global provider: a process may hold several services, or one of its own.
        self._tracers: Final = TracerProvider(
            resource=named.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._tracers.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Final = self._tracers.get_tracer("luxx", __version__)
        self._trace: Final = trace
        self._extract: Final = propagate.extract
        self._provider: Final = provider

    def close(self) -> None:
        """Send what is left, and stop. Waits for the receiver: not for an event loop's own thread."""
        self._tracers.shutdown()

    @contextmanager
    def request(self, record: RequestRecord, carrier: Mapping[str, str]) -> Iterator[None]:
        with self._span(record.method, self._trace.SpanKind.SERVER, context=self._extract(carrier)) as span:
            try:
                yield
            finally:
                if record.route != UNMATCHED:
                    span.update_name(f"{record.method} {record.route}")
                    span.set_attribute("http.route", record.route)
                span.set_attribute("http.request.method", record.method)
                if record.status != UNANSWERED:
                    span.set_attribute("http.response.status_code", record.status)
                _set(span, {"luxx.request.id": record.id, "enduser.id": _text(record.user_id)})
                if record.status >= 500:
                    self._fail(span, str(record.status))

    @contextmanager
    def turn(self, record: TurnRecord) -> Iterator[None]:
        with self._span("invoke_agent luxx", self._trace.SpanKind.INTERNAL) as span:
            try:
                yield
            finally:
                usage = record.usage
                _set(
                    span,
                    {
                        "gen_ai.operation.name": "invoke_agent",
                        "gen_ai.provider.name": self._provider,
                        "gen_ai.agent.name": "luxx",
                        "gen_ai.conversation.id": record.conversation_id,
                        "gen_ai.request.model": record.model,
                        "gen_ai.usage.input_tokens": None if usage is None else usage.prompt_tokens,
                        "gen_ai.usage.output_tokens": None if usage is None else usage.completion_tokens,
                        "luxx.turn.id": record.message_id,
                        "luxx.turn.outcome": record.outcome,
                        "luxx.turn.rounds": record.rounds,
                        "luxx.turn.first_token_s": record.first_token_s,
                        "enduser.id": str(record.user_id),
                    },
                )
                if record.outcome in {"failed", "interrupted", "lost"}:
                    self._fail(span, record.error or record.outcome)

    @contextmanager
    def round(self, record: RoundRecord) -> Iterator[None]:
        with self._span(f"chat {record.model}", self._trace.SpanKind.CLIENT) as span:
            _set(
                span,
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.provider.name": self._provider,
                    "gen_ai.conversation.id": record.conversation_id,
                    "gen_ai.request.model": record.model,
                    "gen_ai.request.temperature": record.temperature,
                    "gen_ai.request.max_tokens": record.max_tokens,
                    "luxx.round": record.number,
                },
            )
            try:
                yield
            finally:
                usage = record.usage
                _set(
                    span,
                    {
                        "gen_ai.response.finish_reasons": None if record.reason is None else [record.reason],
                        "gen_ai.usage.input_tokens": None if usage is None else usage.prompt_tokens,
                        "gen_ai.usage.output_tokens": None if usage is None else usage.completion_tokens,
                    },
                )
                if record.outcome == "failed":
                    self._fail(span, record.error or "_OTHER")

    @contextmanager
    def tool(self, record: ToolRecord) -> Iterator[None]:
        with self._span(f"execute_tool {record.name}", self._trace.SpanKind.INTERNAL) as span:
            try:
                yield
            finally:
                _set(
                    span,
                    {
                        "gen_ai.operation.name": "execute_tool",
                        "gen_ai.tool.name": record.name,
                        "gen_ai.tool.type": "function",
                        "gen_ai.tool.call.id": record.call_id,
                    },
                )
                if record.outcome not in {"ok", "cancelled"}:
                    self._fail(span, record.outcome)

    def _span(self, name: str, kind: "SpanKind", context: "Context | None" = None) -> "AbstractContextManager[Span]":
        # What is raised may quote what people wrote.
        return self._tracer.start_as_current_span(
            name, context=context, kind=kind, record_exception=False, set_status_on_exception=False
        )

    def _fail(self, span: "Span", error: str) -> None:
        span.set_attribute("error.type", error)
        span.set_status(self._trace.StatusCode.ERROR)


def _set(span: "Span", attributes: Mapping[str, Value]) -> None:
    for name, value in attributes.items():
        if value is not None:
            span.set_attribute(name, value)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
