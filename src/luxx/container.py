"""Where adapters meet ports: the only place that names both.

To swap a part in a test or an embedding service, override its provider before the app is made:

    container = Container(settings=settings)
    container.model.override(ScriptedChatModel.saying("hello"))
"""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from datetime import timedelta
from typing import Final

from luxx.application.accounts import (
    Authenticate,
    ChangePassword,
    EndSession,
    ListSessions,
    LogIn,
    LogOut,
    RegisterUser,
)
from luxx.application.api_keys import CreateApiKey, DeleteApiKey, ListApiKeys
from luxx.application.cancel_turn import CancelTurn
from luxx.application.conversations import (
    CreateConversation,
    DeleteConversation,
    GetConversation,
    ListConversations,
    UpdateConversation,
)
from luxx.application.follow_turn import FollowTurn
from luxx.application.messages import DeleteMessage, ListMessages
from luxx.application.observer import Observer, Observers
from luxx.application.operating import ChangeUser, ListUsers, ResetPassword
from luxx.application.passwords import AT_ONCE, TryLimits
from luxx.application.places import Places
from luxx.application.ports import ChatModel, Clock, Storage
from luxx.application.run_turn import RunTurn
from luxx.application.send_message import SendMessage
from luxx.application.supervisor import TurnSupervisor
from luxx.application.tools import ExecuteTool, GetTool, ListTools, Toolbox
from luxx.domain.errors import StorageUnavailable
from luxx.extras import needs
from luxx.settings import BadSettings, Settings, quoted

with needs("luxx.container", "the extra `server`"):
    try:
        from dependency_injector import containers, providers
    except ValueError as error:
        # It imports FastAPI where that is installed, and so what reads this variable while it is imported.
        if not os.environ.get("OTEL_PROPAGATORS"):
            raise
        raise BadSettings([f"OTEL_PROPAGATORS: {error}"]) from error

    from luxx.adapters.database import Database
    from luxx.adapters.models.offline import OfflineChatModel
    from luxx.adapters.models.openai import OpenAIChatModel, OpenAISettings
    from luxx.adapters.models.openai_request import ThinkingStyle
    from luxx.adapters.request_rates import BucketRates
    from luxx.adapters.security.argon2 import Argon2Cost, Argon2Hasher
    from luxx.adapters.security.jwt import JwtCodec, kept_secret
    from luxx.adapters.system import SortableIds, utc_now
    from luxx.adapters.telemetry.logs import LogObserver
    from luxx.adapters.telemetry.opentelemetry import OpenTelemetryTraces, open_traces
    from luxx.adapters.telemetry.prometheus import PrometheusMetrics
    from luxx.adapters.tools.loading import ToolsMisdeclared, load_tools
    from luxx.adapters.tools.python.bubblewrap import SandboxUnusable
    from luxx.adapters.tools.resources import ToolResources, ToolSettings
    from luxx.adapters.tools.web.addresses import AddressRules

OFFLINE_PAUSE: Final = 0.02
"""Seconds between the offline model's words, so that its answers stream as a model's do."""


@contextmanager
def _told_as_settings(about: str = "") -> Iterator[None]:
    """Tell what a part cannot work with as what it is: a setting that an operator has to mend, one `about` this."""
    try:
        yield
    except (ValueError, SandboxUnusable, ToolsMisdeclared) as error:
        raise BadSettings([about + str(error)]) from error


@_told_as_settings()
def _database(settings: Settings, observer: Observer) -> Database:
    if not settings.on_postgres and settings.database_url is None:
        settings.make_data_dir()
    return Database(settings.storage_url, pool_size=settings.database_pool, observer=observer)


@_told_as_settings()
def _traces(settings: Settings) -> OpenTelemetryTraces | None:
    return open_traces(provider="luxx" if settings.llm_base_url is None else "openai")


def _watchers(
    logs: LogObserver, metrics: PrometheusMetrics, traces: OpenTelemetryTraces | None
) -> Sequence[LogObserver | PrometheusMetrics | OpenTelemetryTraces]:
    # Traces first: they are entered first and left last, so that their duration holds the others.
    return (logs, metrics) if traces is None else (traces, logs, metrics)


def _observer(watchers: Sequence[Observer]) -> Observers:
    return Observers(*watchers)


def _hasher(settings: Settings) -> Argon2Hasher:
    return Argon2Hasher(
        Argon2Cost(
            memory_kib=settings.password_memory_kib, passes=settings.password_passes, lanes=settings.password_lanes
        )
    )


@_told_as_settings()
def _tokens(settings: Settings) -> JwtCodec:
    if settings.jwt_secret is not None:
        return JwtCodec(settings.jwt_secret)
    settings.make_data_dir()
    return JwtCodec(kept_secret(settings.data_dir / "jwt_secret"))


@_told_as_settings("LUXX_LLM_BASE_URL, LUXX_LLM_API_KEY: ")
def _model(settings: Settings) -> ChatModel:
    if settings.llm_base_url is None:
        return OfflineChatModel(pause_s=OFFLINE_PAUSE)
    return OpenAIChatModel(
        OpenAISettings(
            base_url=settings.llm_base_url,
            api_key=settings.llm_api_key,
            thinking=ThinkingStyle(settings.llm_thinking),
            connect_s=settings.llm_connect_seconds,
            first_token_s=settings.llm_first_token_seconds,
            idle_s=settings.llm_idle_seconds,
            total_s=settings.llm_total_seconds,
            retries=settings.llm_retries,
        )
    )


@_told_as_settings()
def _tool_resources(settings: Settings, clock: Clock) -> ToolResources:
    for word in settings.fetch_allow_hosts:
        try:
            AddressRules.allowing([word])
        except ValueError:
            wanted = "host names, addresses or CIDR blocks, each with or without a port"
            raise BadSettings([f"LUXX_FETCH_ALLOW_HOSTS must be {wanted}; {quoted(word)} is none"]) from None
    return ToolResources.open(
        clock,
        ToolSettings(
            workers=settings.tool_workers,
            allow_hosts=settings.fetch_allow_hosts,
            search_engine=settings.search_engine,  # type: ignore[arg-type]  # the settings know the same words
            search_url=settings.search_url,
            search_key=settings.search_key,
            python_sandbox=settings.python_sandbox,  # type: ignore[arg-type]  # the settings know the same words
            geocoding_url=settings.geocoding_url,
            forecast_url=settings.forecast_url,
        ),
    )


def _toolbox(settings: Settings, resources: ToolResources, observer: Observer) -> Toolbox:
    with _told_as_settings():
        tools = load_tools(resources)
    if unknown := settings.disabled_tools - {tool.spec.name for tool in tools}:
        # Passed over, a misspelt name would leave on what was to be off.
        names = ", ".join(map(quoted, sorted(unknown)))
        raise BadSettings([f"LUXX_DISABLED_TOOLS names no tool by {names}; docs/tools.md has the names"])
    return Toolbox(tools, timeout=settings.tool_seconds, disabled=settings.disabled_tools, observer=observer)


def _try_limits(settings: Settings) -> TryLimits:
    return TryLimits(
        account=settings.login_tries,
        peer=settings.login_peer_tries,
        window=timedelta(seconds=settings.login_pause_seconds),
    )


def _lease(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.lease_seconds)


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"


class Container(containers.DeclarativeContainer):
    """All parts of the service; give it `settings`, and enter `running` around its use."""

    settings = providers.Dependency(instance_of=Settings)

    clock = providers.Object(utc_now)
    new_id = providers.Singleton(SortableIds)
    hasher = providers.Singleton(_hasher, settings)
    tokens = providers.Singleton(_tokens, settings)
    metrics = providers.Singleton(PrometheusMetrics)
    traces = providers.Singleton(_traces, settings)
    watchers = providers.Singleton(_watchers, providers.Singleton(LogObserver), metrics, traces)
    observer = providers.Singleton(_observer, watchers)
    storage: providers.Provider[Storage] = providers.Singleton(_database, settings, observer)
    new_unit = storage.provided.new_unit
    log = storage.provided.log
    model: providers.Provider[ChatModel] = providers.Singleton(_model, settings)
    tool_resources = providers.Singleton(_tool_resources, settings, clock)
    toolbox = providers.Singleton(_toolbox, settings, tool_resources, observer)

    register_user = providers.Singleton(RegisterUser, new_unit=new_unit, hasher=hasher, clock=clock)
    try_limits = providers.Singleton(_try_limits, settings)
    password_gate = providers.Singleton(Places, AT_ONCE)
    log_in = providers.Singleton(
        LogIn,
        limits=try_limits,
        gate=password_gate,
        new_unit=new_unit,
        hasher=hasher,
        tokens=tokens,
        clock=clock,
        new_id=new_id,
        session_for=settings.provided.token_hours,
        observer=observer,
    )
    log_out = providers.Singleton(LogOut, new_unit=new_unit, clock=clock)
    change_password = providers.Singleton(
        ChangePassword,
        limits=try_limits,
        gate=password_gate,
        new_unit=new_unit,
        hasher=hasher,
        clock=clock,
        new_id=new_id,
    )
    list_sessions = providers.Singleton(ListSessions, new_unit=new_unit, clock=clock)
    end_session = providers.Singleton(EndSession, new_unit=new_unit, clock=clock)
    list_users = providers.Singleton(ListUsers, new_unit=new_unit)
    change_user = providers.Singleton(ChangeUser, new_unit=new_unit)
    reset_password = providers.Singleton(ResetPassword, new_unit=new_unit, hasher=hasher, clock=clock)
    create_api_key = providers.Singleton(CreateApiKey, new_unit=new_unit, clock=clock, new_id=new_id)
    list_api_keys = providers.Singleton(ListApiKeys, new_unit=new_unit)
    delete_api_key = providers.Singleton(DeleteApiKey, new_unit=new_unit)
    request_rate = providers.Singleton(BucketRates, settings.provided.user_requests_per_minute)
    authenticate = providers.Singleton(Authenticate, new_unit=new_unit, tokens=tokens, clock=clock)

    run_turn = providers.Singleton(
        RunTurn,
        log=log,
        model=model,
        toolbox=toolbox,
        max_rounds=settings.provided.max_tool_rounds,
        result_budget=settings.provided.tool_result_chars,
        observer=observer,
    )
    supervisor = providers.Singleton(
        TurnSupervisor,
        run_turn=run_turn,
        new_unit=new_unit,
        log=log,
        clock=clock,
        holder=providers.Callable(_holder),
        lease_for=providers.Callable(_lease, settings),
        keep_log=settings.provided.log_hours,
        max_turns=settings.provided.max_turns,
    )
    stream_heartbeat = settings.provided.heartbeat_seconds
    follow_turn = providers.Singleton(
        FollowTurn,
        new_unit=new_unit,
        log=log,
        leaving=supervisor.provided.drained,
        owner_here=supervisor.provided.owner_of,
        unstored=run_turn.provided.unstored.__contains__,
    )
    cancel_turn = providers.Singleton(CancelTurn, new_unit=new_unit, log=log, follow_turn=follow_turn)
    send_message = providers.Singleton(
        SendMessage,
        history=settings.provided.history_messages,
        turns_of_user=settings.provided.user_turns,
        new_unit=new_unit,
        clock=clock,
        new_id=new_id,
        supervisor=supervisor,
    )
    list_messages = providers.Singleton(ListMessages, new_unit=new_unit, log=log)
    delete_message = providers.Singleton(DeleteMessage, new_unit=new_unit, cancel_turn=cancel_turn)

    create_conversation = providers.Singleton(
        CreateConversation,
        new_unit=new_unit,
        clock=clock,
        new_id=new_id,
        default_model=settings.provided.default_model,
        toolbox=toolbox,
    )
    get_conversation = providers.Singleton(GetConversation, new_unit=new_unit)
    list_conversations = providers.Singleton(ListConversations, new_unit=new_unit)
    update_conversation = providers.Singleton(UpdateConversation, new_unit=new_unit, toolbox=toolbox)
    delete_conversation = providers.Singleton(DeleteConversation, new_unit=new_unit, cancel_turn=cancel_turn)

    list_tools = providers.Singleton(ListTools, toolbox=toolbox)
    get_tool = providers.Singleton(GetTool, toolbox=toolbox)
    execute_tool = providers.Singleton(ExecuteTool, toolbox=toolbox)


async def made_usable(storage: Storage) -> None:
    """Bring an embedded database up to date; raises `StorageUnavailable` where storage cannot be used."""
    if isinstance(storage, Database):
        # An embedded database has no operator of its own; one that is shared is upgraded on purpose.
        if not storage.postgres:
            await storage.upgrade()
        await storage.check()
    elif (missing := await storage.missing()) is not None:
        raise StorageUnavailable(missing)


@asynccontextmanager
async def running(container: Container) -> AsyncIterator[None]:
    """Open what the container holds, in order, and close it in reverse; turns still running end as interrupted.

    Raises `StorageUnavailable` where the database cannot be reached or its schema is not current, RuntimeError
    for a container that was entered before.
    """
    with container.supervisor().entering():
        opened = await _opened(container)
    async with opened:
        yield


async def _opened(container: Container) -> AsyncExitStack:
    """Open what the container holds; gives what closes it."""
    async with AsyncExitStack() as stack:
        metrics, traces = container.metrics(), container.traces()
        if traces is not None:
            stack.push_async_callback(asyncio.to_thread, traces.close)
        await stack.enter_async_context(metrics.watching_loop())
        storage = container.storage()
        if isinstance(storage, Database):
            metrics.watch_pool(lambda: storage.connections_in_use)
        stack.push_async_callback(storage.close)
        await made_usable(storage)
        await storage.open()
        hasher = container.hasher()
        if isinstance(hasher, Argon2Hasher):
            stack.enter_context(closing(hasher))
        model = container.model()
        if isinstance(model, OpenAIChatModel):
            stack.push_async_callback(model.aclose)
        await stack.enter_async_context(container.tool_resources())
        container.toolbox()
        await stack.enter_async_context(container.supervisor())
        return stack.pop_all()
