"""What the HTTP server tells of a request, for logs, metrics and traces: never its path, query, headers or body."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from luxx.application.observer import Together

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

UNMATCHED: Final = "unmatched"
"""Stands for the route where no route has the path."""

UNANSWERED: Final = 499
"""Stands for the status where the client went away before there was one."""


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """A request: its id from the start, the rest by its end. `route` is the template that the path matched.

    `method` is one of `METHODS` or `OTHER`, because clients may make names up.
    """

    id: str
    method: str
    route: str = UNMATCHED
    status: int = UNANSWERED
    user_id: int | None = None
    duration_s: float = 0.0


class RequestObserver(Protocol):
    """Watches requests; entered in the task that serves one, left when the answer is sent to its end.

    `carrier` has the headers by which a trace goes on (W3C Trace Context), for whoever traces. It must be
    quick, must not wait, and must not raise.
    """

    def request(self, record: RequestRecord, carrier: Mapping[str, str]) -> AbstractContextManager[None]: ...


def watched(
    observers: Iterable[RequestObserver], record: RequestRecord, carrier: Mapping[str, str]
) -> AbstractContextManager[None]:
    """Have all of these watch a request; what one raises is logged and goes no further."""
    return Together([partial(one.request, record, carrier) for one in observers])
