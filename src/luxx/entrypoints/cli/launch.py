"""What `luxx serve` does first: logs, a local model if one is wanted, then one process that serves, or several."""

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from luxx.adapters.models.local.server import LocalModel, check_engine
from luxx.adapters.models.local.weights import Weights, find_weights
from luxx.adapters.telemetry.logs import configure
from luxx.entrypoints.cli.leaving import leave
from luxx.entrypoints.cli.workers import check_workers, serve_with_workers
from luxx.settings import Settings

Serving: TypeAlias = Callable[[Settings], Coroutine[Any, Any, int]]

_log = logging.getLogger("luxx")


def run(settings: Settings, *, host: str, port: int, workers: int = 1, local: Path | bool = False) -> int:
    """Serve until a signal, with `workers` processes; gives the exit status.

    `local` is a GGUF file to answer with, or True for the small model that is fetched where it is missing.
    Raises `BadSettings` where a part cannot work with its settings, or several processes with each other;
    `LocalModelUnusable` where the model cannot be run; KeyboardInterrupt where Ctrl-C came before there was a
    server to stop.
    """
    _configure(settings)
    if workers > 1:
        check_workers(settings, workers)
    weights = weights_for(local)
    if weights is None and settings.llm_base_url is None:
        _log.info("LUXX_LLM_BASE_URL is not set: the built-in offline model answers")
    serving: Serving = functools.partial(serve_with_workers, host=host, port=port, count=workers)
    factory = None
    if workers == 1:
        # Imported late: what the parent of workers does not need, it should not wait for or carry.
        from luxx.entrypoints.cli.serve import loop_factory, serve  # noqa: PLC0415 - as above

        serving = functools.partial(serve, host=host, port=port)
        factory = loop_factory()
    if weights is not None:
        serving = functools.partial(_with_model, weights, serving)
    with asyncio.Runner(loop_factory=factory) as runner:
        return leave(runner, runner.run(serving(settings)))


def weights_for(local: Path | bool) -> Weights | None:
    """Give the weights that `--local` asks for, fetched where they are missing; None where it was not given.

    Raises `LocalModelUnusable`.
    """
    if local is False:
        return None
    check_engine()
    return find_weights(None if local is True else local)


def _configure(settings: Settings) -> None:
    configure(style=settings.log_format, level=settings.log_level, secrets=settings.secrets)


async def _with_model(weights: Weights, serving: Serving, settings: Settings) -> int:
    async with LocalModel(weights) as model:
        _log.info("%s answers, from %s by llama.cpp in process %d", model.name, weights.path, model.pid)
        settings = answered_by(model, settings, tools=weights.tools)
        _configure(settings)  # there is one secret more
        return await serving(settings)


def answered_by(model: LocalModel, settings: Settings, *, tools: bool) -> Settings:
    """Give the settings with a local model behind them; without `tools` it is shown none, in no conversation."""
    return replace(
        settings,
        llm_base_url=model.base_url,
        llm_api_key=model.api_key,
        llm_thinking="none",
        default_model=model.name,
        max_tool_rounds=settings.max_tool_rounds if tools else 0,
    )
