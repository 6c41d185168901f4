"""What tests of Luxx, of its adapters and of programs around it need; needs `luxx[testing]`.

    ScriptedChatModel   a model that plays rounds; `spoken` and `calling` write them
    MemoryStorage       a storage that goes with the test
    FixedClock          a clock that is moved by hand
    CountingIds         ids that are known beforehand
    ScriptedUpstream    an OpenAI-compatible provider on loopback, with every fault there is
    FaultProxy          a proxy on loopback that cuts connections
    ThrowawayPostgres   a Postgres server for the time of a test run; needs `luxx[postgres]` and its binaries
    serving             serve any ASGI application on loopback for the time of a test; needs `luxx[server]`
    contracts           the suites that prove an adapter, as classes to subclass
    plugin              fixtures for pytest, found by themselves: luxx_model, luxx_container, luxx_app, luxx_client,
                        luxx_url, luxx_token

Nothing is imported before it is asked for: a run of pytest that uses none of this pays for none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from luxx.adapters.memory import MemoryStorage
    from luxx.adapters.models.scripted import ScriptedChatModel, ScriptExhausted, calling, spoken
    from luxx.testing.fault_proxy import FaultProxy
    from luxx.testing.fixed import CountingIds, FixedClock
    from luxx.testing.postgres import NoPostgres, ThrowawayPostgres
    from luxx.testing.served import serving
    from luxx.testing.upstream import ScriptedUpstream

__all__ = [
    "CountingIds",
    "FaultProxy",
    "FixedClock",
    "MemoryStorage",
    "NoPostgres",
    "ScriptExhausted",
    "ScriptedChatModel",
    "ScriptedUpstream",
    "ThrowawayPostgres",
    "calling",
    "serving",
    "spoken",
]

_HOMES: Final = {
    "CountingIds": "luxx.testing.fixed",
    "FaultProxy": "luxx.testing.fault_proxy",
    "FixedClock": "luxx.testing.fixed",
    "MemoryStorage": "luxx.adapters.memory",
    "NoPostgres": "luxx.testing.postgres",
    "ScriptExhausted": "luxx.adapters.models.scripted",
    "ScriptedChatModel": "luxx.adapters.models.scripted",
    "ScriptedUpstream": "luxx.testing.upstream",
    "ThrowawayPostgres": "luxx.testing.postgres",
    "calling": "luxx.adapters.models.scripted",
    "serving": "luxx.testing.served",
    "spoken": "luxx.adapters.models.scripted",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
