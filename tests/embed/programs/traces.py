"""A turn whose spans are printed."""

import asyncio

from one_turn import answer  # type: ignore[import-not-found]  # it lies beside this program

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.telemetry.opentelemetry import open_traces
from luxx.application import Observers

assert open_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, provider="luxx") is not None
traces = open_traces({"OTEL_TRACES_EXPORTER": "console"}, provider="luxx")
assert traces is not None
asyncio.run(answer(MemoryStorage(), observer=Observers(traces)))
traces.close()
