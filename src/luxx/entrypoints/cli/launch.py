"""What `luxx serve` does first: logs, a local model if one is wanted, then one process that serves, or several."""

import asyncio
import logging

from luxx.adapters.telemetry.logs import configure
from luxx.settings import Settings

_log = logging.getLogger("luxx")


def run(settings: Settings, *, host: str, port: int, workers: int = 1) -> int:
    """Serve until a signal, with `workers` processes; gives the exit status.

    Raises `BadSettings` where a part cannot work with its settings, or several processes with each other.
    """
    configure(style=settings.log_format, level=settings.log_level, secrets=settings.secrets)
    # Imported late: the parent of workers serves nothing itself, and should start fast and stay small.
    if workers > 1:
        from luxx.entrypoints.cli.workers import check_workers, serve_with_workers  # noqa: PLC0415

        check_workers(settings, workers)
        serving = serve_with_workers(settings, host=host, port=port, count=workers)
        factory = None
    else:
        from luxx.entrypoints.cli.serve import loop_factory, serve  # noqa: PLC0415

        serving = serve(settings, host=host, port=port)
        factory = loop_factory()
    if settings.llm_base_url is None:
        _log.info("LUXX_LLM_BASE_URL is not set: the built-in offline model answers")
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(serving)
