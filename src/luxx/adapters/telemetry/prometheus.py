"""Metrics for Prometheus. Labels come from small sets that the code or the operator names, never from a client."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from luxx.adapters.telemetry.requests import RequestRecord
from luxx.application.observer import RoundRecord, ToolRecord, TurnRecord

SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SERIES_KEPT: Final = 1024
"""Series of requests that are found at once; more than there can be routes, methods and statuses."""
COUNTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


SHARED_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the directory in which several processes keep their numbers, each in files of its own.

prometheus_client reads it when it is imported: a process has it from its start, or not at all.
"""


def forget_process(pid: int, directory: Path) -> None:
    """Take a dead process's gauges out of `directory`; what it counted stays."""
    mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]  # prometheus_client is typed in part


class PrometheusMetrics:
    """The metrics of one service, in a registry of their own.

    Where processes share a directory, each gives the sums over all, without the series of the process itself.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._shared: Final = os.environ.get(SHARED_DIRECTORY)
        self._pool_in_use: Callable[[], float] | None = None
        if self._shared is None:
            ProcessCollector(registry=registry)
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        gauge = partial(Gauge, multiprocess_mode="livesum", registry=registry)
        requests = counter("luxx_requests", "Requests answered.", ("route", "method", "status"))
        # Its own look-up takes a lock and a tuple for each request.
        self._requests: Final = lru_cache(SERIES_KEPT)(requests.labels)
        request_seconds = histogram(
            "luxx_request_duration_seconds",
            "Time from a request to the end of its answer; of a stream, to the end of the stream.",
            ("route", "method"),
            buckets=(*SHORT, 30, 60, 300),
        )
        self._request_seconds: Final = lru_cache(SERIES_KEPT)(request_seconds.labels)
        self._running = gauge("luxx_turns_running", "Answers being written.")
        self._turns = counter("luxx_turns", "Answers that ended.", ("outcome",))
        self._turn_seconds = histogram("luxx_turn_duration_seconds", "Time that an answer took.", buckets=LONG)
        self._first_token = histogram(
            "luxx_first_token_seconds", "Time from the start of an answer to the model's first word.", buckets=LONG
        )
        self._rounds = counter("luxx_model_rounds", "Requests to the model.", ("outcome",))
        self._round_seconds = histogram(
            "luxx_model_round_duration_seconds", "Time of a request to the model.", buckets=LONG
        )
        self._tokens = counter("luxx_tokens", "Tokens that the model counted.", ("direction",))
        self._tools = counter("luxx_tool_calls", "Runs of tools.", ("tool", "outcome"))
        self._tool_seconds = histogram(
            "luxx_tool_duration_seconds", "Time of a run of a tool.", ("tool",), buckets=LONG
        )
        self._batch_events = histogram(
            "luxx_commit_batch_events", "Events in one commit of the turn log.", buckets=COUNTS
        )
        self._batch_turns = histogram(
            "luxx_commit_batch_turns", "Answers in one commit of the turn log.", buckets=COUNTS
        )
        self._commit_seconds = histogram(
            "luxx_commit_duration_seconds", "Time of one commit of the turn log.", buckets=SHORT
        )
        self._logins = counter("luxx_logins", "Tries to log in.", ("outcome",))
        self._pool = gauge("luxx_database_connections_in_use", "Pooled connections lent.")
        self._lag = histogram(
            "luxx_event_loop_lag_seconds",
            "How much later than it asked a task is run, looked at four times a second.",
            buckets=SHORT,
        )
        for direction in ("input", "output"):
            self._tokens.labels(direction)
        for outcome in ("complete", "cancelled", "interrupted", "failed", "lost"):
            self._turns.labels(outcome)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Give all metrics in the format that `accept` prefers, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # what it names as a version is none
            encode, content_type = choose_encoder("")
        if self._shared is None:
            return encode(self.registry), content_type
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._shared)  # type: ignore[no-untyped-call]  # as above
        return encode(together), content_type

    def watch_pool(self, in_use: Callable[[], float]) -> None:
        """Ask `in_use` for the connections lent, whenever the metrics are read; in a shared directory, now and then."""
        if self._shared is None:
            self._pool.set_function(in_use)
        else:
            self._pool_in_use = in_use

    @asynccontextmanager
    async def watching_loop(self, every: float = 0.25) -> AsyncIterator[None]:
        """Measure the lag of the running event loop."""
        task = asyncio.create_task(self._measure_lag(every), name="luxx event loop lag")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _measure_lag(self, every: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time() + every
            await asyncio.sleep(every)
            self._lag.observe(max(loop.time() - asked, 0.0))
            if self._pool_in_use is not None:
                self._pool.set(self._pool_in_use())

    @contextmanager
    def request(self, record: RequestRecord, carrier: Mapping[str, str]) -> Iterator[None]:  # noqa: ARG002  # the port's
        try:
            yield
        finally:
            self._requests(record.route, record.method, str(record.status)).inc()
            self._request_seconds(record.route, record.method).observe(record.duration_s)

    @contextmanager
    def turn(self, record: TurnRecord) -> Iterator[None]:
        self._running.inc()
        try:
            yield
        finally:
            self._running.dec()
            self._turns.labels(record.outcome).inc()
            self._turn_seconds.observe(record.duration_s)
            if record.first_token_s is not None:
                self._first_token.observe(record.first_token_s)

    @contextmanager
    def round(self, record: RoundRecord) -> Iterator[None]:
        try:
            yield
        finally:
            self._rounds.labels(record.error or record.outcome).inc()
            self._round_seconds.observe(record.duration_s)
            if record.usage is not None:
                self._tokens.labels("input").inc(max(record.usage.prompt_tokens, 0))
                self._tokens.labels("output").inc(max(record.usage.completion_tokens, 0))

    @contextmanager
    def tool(self, record: ToolRecord) -> Iterator[None]:
        try:
            yield
        finally:
            self._tools.labels(record.name, record.outcome).inc()
            self._tool_seconds.labels(record.name).observe(record.duration_s)

    def committed(self, *, turns: int, events: int, seconds: float) -> None:
        self._batch_turns.observe(turns)
        self._batch_events.observe(events)
        self._commit_seconds.observe(seconds)

    def login(self, outcome: str) -> None:
        self._logins.labels(outcome).inc()
