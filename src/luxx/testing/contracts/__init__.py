"""What every adapter of a port must do, as classes to subclass in a test file; needs `luxx[testing]`.

    suite                     port              fixtures to give
    ChatModelContract         ChatModel         talking, calling, lingering
    RemoteChatModelContract   ChatModel         those, and refusing, breaking, silent, let_go
    ToolContract              Tool              case: a ToolCase
    UnitOfWorkContract        UnitOfWork        storage: an empty Storage, opened
    TurnLogContract           TurnLog           storage, as above
    SharedTurnLogContract     TurnLog           storage, and second: another instance on the same data

The fixtures may be async generators. Each suite's module says of each fixture what it has to give. The tests
are coroutines: set `asyncio_mode = "auto"` for pytest-asyncio, or mark the subclass with `pytest.mark.asyncio`.
"""

from luxx.extras import needs

with needs("luxx.testing.contracts", "the extra `testing`"):
    from luxx.testing.contracts.chat_model import ChatModelContract, RemoteChatModelContract
    from luxx.testing.contracts.tool import ToolCase, ToolContract
    from luxx.testing.contracts.turn_log import SharedTurnLogContract, TurnLogContract
    from luxx.testing.contracts.unit_of_work import UnitOfWorkContract

__all__ = [
    "ChatModelContract",
    "RemoteChatModelContract",
    "SharedTurnLogContract",
    "ToolCase",
    "ToolContract",
    "TurnLogContract",
    "UnitOfWorkContract",
]
