"""/metrics: for Prometheus, or whatever reads its text. Keep it from strangers: it tells how busy the service is."""

from typing import Any

from litestar import Request, Response

from luxx.entrypoints.http.methods import get
from luxx.entrypoints.http.uses import uses


@get("/metrics")
async def read_metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    body, content_type = uses(request).metrics.text(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})


HANDLERS = (read_metrics,)
