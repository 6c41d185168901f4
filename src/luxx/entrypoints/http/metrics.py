"""/metrics: for Prometheus, or whatever reads its text. Keep it from strangers: it tells how busy the service is."""

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency

from luxx.adapters.telemetry.prometheus import PrometheusMetrics


@get("/metrics")
async def read_metrics(request: Request[Any, Any, Any], metrics: NamedDependency[PrometheusMetrics]) -> Response[bytes]:
    body, content_type = metrics.text(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})


HANDLERS = (read_metrics,)
