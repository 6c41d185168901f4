"""Statements of SQLAlchemy Core's, compiled once, and run on the drivers themselves.

Core says in one place what both databases are asked; to execute through it costs as much again as the
drivers and the databases together.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect

Row: TypeAlias = Sequence[Any]
Parameters: TypeAlias = Mapping[str, Any]

_Result = TypeVar("_Result")
Step: TypeAlias = "tuple[Statement, Parameters | Sequence[Parameters]]"
Script: TypeAlias = Generator[Step, Sequence[Row], _Result]
"""Statements that belong together: yields each with its parameters, is sent the rows, returns a result.

With a sequence of parameters a statement is run once for each, and gives no rows.
"""

_POSTGRES: Final = asyncpg_dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy says nothing of it
_SQLITE: Final = sqlite.dialect()


class Compiled:
    """A statement in the words of one database."""

    __slots__ = ("_binds", "_decoders", "text", "writes")

    def __init__(self, core: sa.Executable, dialect: sa.Dialect) -> None:
        compiled: Any = core.compile(dialect=dialect)  # type: ignore[attr-defined]  # every executable compiles
        self.text: Final[str] = compiled.string
        self.writes: Final = isinstance(core, sa.UpdateBase)
        binds = [(name, compiled.binds[name]) for name in compiled.positiontup]
        self._binds: Final = [
            (name, bind.required, bind.value, bind.type.dialect_impl(dialect).bind_processor(dialect))
            for name, bind in binds
        ]
        decoders = [
            (place, column.type.dialect_impl(dialect).result_processor(dialect, None))
            for place, column in enumerate(getattr(core, "exported_columns", ()))
            # What asyncpg gives needs no more than what types of our own add.
            if dialect is _SQLITE or isinstance(column.type, sa.types.TypeDecorator)
        ]
        self._decoders: Final = [(place, decoder) for place, decoder in decoders if decoder is not None]

    def arguments(self, parameters: Parameters) -> list[Any]:
        """Give the values in the order of the text; those that it does not name are left out."""
        values = []
        for name, required, default, encode in self._binds:
            value = parameters[name] if required else parameters.get(name, default)
            values.append(value if encode is None else encode(value))
        return values

    def decoded(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Turn what the driver gave into what the columns hold."""
        if not self._decoders or not rows:
            return rows
        found = []
        for row in rows:
            values = list(row)
            for place, decode in self._decoders:
                values[place] = decode(values[place])
            found.append(values)
        return found


class Statement:
    """What a database is asked: `core`, or what it makes of being told whether it is for Postgres."""

    __slots__ = ("_compiled", "_core")

    def __init__(self, core: sa.Executable | Callable[[bool], sa.Executable]) -> None:
        self._core = core
        self._compiled: dict[bool, Compiled] = {}

    def on(self, *, postgres: bool) -> Compiled:
        compiled = self._compiled.get(postgres)
        if compiled is None:
            core = self._core if isinstance(self._core, sa.Executable) else self._core(postgres)
            compiled = self._compiled[postgres] = Compiled(core, _POSTGRES if postgres else _SQLITE)
        return compiled


def insert_if_new(table: sa.Table, *, postgres: bool) -> postgresql.Insert | sqlite.Insert:
    """Insert, and do nothing where it is there: a violated constraint would void a transaction on Postgres."""
    insert = postgresql.insert if postgres else sqlite.insert
    return insert(table).on_conflict_do_nothing()
