"""SQL over one table, in an in-memory DuckDB that can reach nothing else."""

import csv
import datetime as dt
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

from luxx.domain.errors import ToolRefused

ROWS: Final = 1_000
"""Rows of a result, at most."""
RESULT_CHARACTERS: Final = 500_000
COLUMNS: Final = 500
CELLS: Final = 2_000_000

_SETTINGS: Final[Mapping[str, str | bool | int | float | list[str]]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "temp_directory": "",
    "threads": "1",
    "memory_limit": "256MB",
}
_ALLOWED: Final = {"SELECT", "EXPLAIN", "MULTI"}
"""Kinds of statements; a PIVOT is a MULTI."""

_INTEGER: Final = re.compile(r"[+-]?(?:0|[1-9]\d{0,17})", re.ASCII)
_REAL: Final = re.compile(r"[+-]?(?:0|[1-9]\d*)?(?:\.\d+|(?<=\d)\.?)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?", re.ASCII)
_BOOLEANS: Final = {"true", "false"}

Column: TypeAlias = tuple[str, str, list[Any]]
"""Name, DuckDB type, and the cells as text, number or None."""


def query_table(data: str | list[Any], sql: str) -> dict[str, Any]:
    """Run one query over the table `data`; raises `ToolRefused` with what is wrong with either.

    Gives `columns`, `rows`, `row_count` (of the rows given) and `truncated`.
    """
    import duckdb  # noqa: PLC0415 - only the worker that needs it carries it

    table = _columns(data)
    with duckdb.connect(":memory:", config=dict(_SETTINGS)) as database:
        try:
            # Not the zone of the machine; and from here on nothing can be set.
            database.execute("SET TimeZone = 'UTC'")
            database.execute("SET lock_configuration = true")
            _fill(database, table)
            statements = database.extract_statements(sql)
            if len(statements) != 1:
                raise ToolRefused(f"give one SQL query, not {len(statements)}")
            kind = statements[0].type.name
            if kind not in _ALLOWED:
                raise ToolRefused(f"only queries such as SELECT are run over the table data, and this is {kind}")
            cursor = database.execute(statements[0])
            columns = [column[0] for column in cursor.description or ()]
            kinds = [str(column[1]) for column in cursor.description or ()]
            if any(map(_has_no_python_form, kinds)):
                cursor = database.execute(_as_text(statements[0].query, kinds))
            return _result(columns, [kind == "JSON" for kind in kinds], iter(cursor.fetchone, None))
        except duckdb.OutOfMemoryException as error:
            raise ToolRefused("this query needs more memory than a tool may use; ask for less") from error
        except duckdb.Error as error:
            raise ToolRefused(_readable(str(error))) from error


def _has_no_python_form(kind: str) -> bool:
    """Tell whether a cell is lost on its way: times with a zone need another package, a timedelta has no months."""
    return "TIME ZONE" in kind or "INTERVAL" in kind


def _as_text(sql: str, kinds: Sequence[str]) -> str:
    """Let DuckDB write what it cannot hand over as it is."""
    names = [f"column{place}" for place in range(len(kinds))]
    cells = (f"{name}::VARCHAR" if _has_no_python_form(kind) else name for name, kind in zip(names, kinds, strict=True))
    query = sql.encode()[: _end_of(sql)].decode()
    return f"SELECT {', '.join(cells)} FROM (\n{query}\n) AS result({', '.join(names)})"  # noqa: S608 - names are ours


def _end_of(sql: str) -> int | None:
    """Give the place, in bytes, of the semicolon that ends a statement; comments may follow it."""
    import duckdb  # noqa: PLC0415 - as above

    signs = (place for place, kind in duckdb.tokenize(sql) if kind == duckdb.token_type.operator)
    return next((place for place in signs if sql.encode()[place : place + 1] == b";"), None)


def _readable(text: str) -> str:
    """Keep what DuckDB says about the query, without its advice on settings."""
    return re.split(r"\n\nPossible solutions|\nTraceback|, due to the following Python", text, maxsplit=1)[0].strip()[
        :1_000
    ]


# --- reading -----------------------------------------------------------------------------------------


def _columns(data: str | list[Any]) -> list[Column]:
    if isinstance(data, str):
        text = data.lstrip("\ufeff")
        return _of_json(_parsed(text)) if text.lstrip().startswith("[") else _of_csv(text)
    return _of_json(data)


def _parsed(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ToolRefused(f"the data starts like a JSON array but is none: {error}") from error
    if not isinstance(value, list):
        raise ToolRefused("the data must be CSV text or a JSON array")
    return value


def _of_csv(text: str) -> list[Column]:
    if not text.strip():
        raise ToolRefused("the data is empty: give CSV text with a line of column names first")
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text.strip("\r\n")), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise ToolRefused(f"the CSV cannot be read: {error}") from error
    names = _names(rows[0])
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > len(names):
            raise ToolRefused(f"row {number} of the CSV has {len(row)} cells, but there are {len(names)} columns")
    _check_size(len(rows), len(names))
    cells = [[row[place] or None if place < len(row) else None for row in rows[1:]] for place in range(len(names))]
    return [_typed(name, column) for name, column in zip(names, cells, strict=True)]


def _of_json(items: Sequence[Any]) -> list[Column]:
    if not items:
        raise ToolRefused("the data is an empty array: there is no column to ask for")
    if all(isinstance(item, dict) for item in items):
        names = list(dict.fromkeys(name for item in items for name in item))
        if not names:
            raise ToolRefused("the objects in the data have no keys: there is no column to ask for")
        _check_size(len(items), len(names))
        cells = [[item.get(name) for item in items] for name in names]
        return [_typed(name, column) for name, column in zip(_names(names), cells, strict=True)]
    if all(isinstance(item, list) for item in items):
        return _of_arrays(items)
    if any(isinstance(item, dict | list) for item in items):
        raise ToolRefused("the data must be an array of objects, of arrays, or of plain values, not of several kinds")
    return [_typed("value", list(items))]


def _of_arrays(rows: Sequence[list[Any]]) -> list[Column]:
    """Read arrays as rows; the first names the columns if it is the only one of nothing but distinct texts."""
    width = max(len(row) for row in rows)
    head = rows[0]
    named = (
        len(rows) > 1
        and len(head) == width
        and all(isinstance(name, str) and name for name in head)
        and len(set(head)) == width
        and any(not isinstance(cell, str) for row in rows[1:] for cell in row)
    )
    names = _names(head if named else [f"column{place}" for place in range(width)])
    body = rows[1:] if named else rows
    _check_size(len(body), width)
    if not width:
        raise ToolRefused("the rows of the data are empty: there is no column to ask for")
    cells = [[row[place] if place < len(row) else None for row in body] for place in range(width)]
    return [_typed(name, column) for name, column in zip(names, cells, strict=True)]


def _check_size(rows: int, columns: int) -> None:
    if columns > COLUMNS:
        raise ToolRefused(f"the data has {columns} columns; at most {COLUMNS} are read")
    if rows * columns > CELLS:
        raise ToolRefused(f"the data has {rows * columns} cells; at most {CELLS} are read")


def _names(names: Iterable[str]) -> list[str]:
    """Give every column a name of its own; SQL does not tell upper from lower case."""
    taken: set[str] = set()
    given: list[str] = []
    for place, name in enumerate(names):
        plain = name.strip() or f"column{place}"
        unique, number = plain, 2
        while unique.casefold() in taken:
            unique, number = f"{plain}_{number}", number + 1
        taken.add(unique.casefold())
        given.append(unique)
    return given


def _typed(name: str, cells: list[Any]) -> Column:
    """Find the narrowest type that holds every cell as it stands."""
    present = [cell for cell in cells if cell is not None]
    kinds = {type(cell) for cell in present}
    if kinds <= {bool}:
        return name, "BOOLEAN" if kinds else "VARCHAR", cells
    if kinds <= {int} and all(-(2**63) <= cell < 2**63 for cell in present):
        return name, "BIGINT", cells
    if kinds <= {int, float}:
        return name, "DOUBLE", [None if cell is None else _real(cell) for cell in cells]
    if kinds <= {str}:
        return name, _type_of_texts(present), cells
    if kinds & {dict, list}:
        return name, "JSON", [None if cell is None else json.dumps(cell, ensure_ascii=False) for cell in cells]
    return name, "VARCHAR", [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]


def _real(number: float) -> float:
    try:
        return float(number)
    except OverflowError as error:
        raise ToolRefused("the data holds a number that is too large") from error


def _type_of_texts(texts: Sequence[str]) -> str:
    if not texts:
        return "VARCHAR"
    # Numbers with leading zeros are names of something (a zip code), and stay text.
    for pattern, kind in ((_INTEGER, "BIGINT"), (_REAL, "DOUBLE"), (_DAY, "DATE"), (_MOMENT, "TIMESTAMP")):
        if all(pattern.fullmatch(text.strip()) for text in texts):
            return kind
    return "BOOLEAN" if {text.strip().lower() for text in texts} <= _BOOLEANS else "VARCHAR"


def _fill(database: Any, table: Sequence[Column]) -> None:
    import duckdb  # noqa: PLC0415 - as above

    quoted = ['"' + name.replace('"', '""') + '"' for name, _, _ in table]
    for attempt in (
        [kind for _, kind, _ in table],
        ["VARCHAR" if k in {"DATE", "TIMESTAMP"} else k for _, k, _ in table],
    ):
        chosen = ", ".join(
            f"unnest(${place}::{_array_of(cells)})::{kind} AS {name}"
            for place, (name, kind, (_, _, cells)) in enumerate(zip(quoted, attempt, table, strict=True), start=1)
        )
        try:
            database.execute(f"CREATE TABLE data AS SELECT {chosen}", [cells for _, _, cells in table])
        except duckdb.ConversionException:
            # A 30th of February looks like a date and is none: then the column is text.
            continue
        return
    raise ToolRefused("the data cannot be read as a table")


def _array_of(cells: Sequence[Any]) -> str:
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {bool}:
        return "BOOLEAN[]"
    if kinds == {int}:
        return "BIGINT[]"
    return "DOUBLE[]" if kinds == {float} else "VARCHAR[]"


# --- writing -----------------------------------------------------------------------------------------


def _result(columns: Sequence[str], is_json: Sequence[bool], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    given: list[list[Any]] = []
    characters, truncated = 0, False
    for row in rows:
        cells = [
            _read(cell) if decoded and cell is not None else _json(cell)
            for cell, decoded in zip(row, is_json, strict=True)
        ]
        characters += len(json.dumps(cells, ensure_ascii=False, allow_nan=False))
        if len(given) == ROWS or characters > RESULT_CHARACTERS:
            truncated = True
            break
        given.append(cells)
    if truncated and not given:
        raise ToolRefused(f"the first row of the result alone is larger than {RESULT_CHARACTERS} characters")
    return {"columns": list(columns), "rows": given, "row_count": len(given), "truncated": truncated}


def _read(cell: str) -> Any:
    """Read JSON; what holds a number that is too large for one stays text."""
    try:
        value = json.loads(cell)
        json.dumps(value, allow_nan=False)
    except ValueError:
        return cell
    return value


def _json(cell: Any) -> Any:
    match cell:
        case None | bool() | int() | str():
            return cell
        case float():
            return cell if math.isfinite(cell) else str(cell)
        case Decimal():
            return _plain(cell)
        case dt.datetime() | dt.date() | dt.time():
            return cell.isoformat()
        case bytes():
            return cell.hex()
        case list() | tuple():
            return [_json(item) for item in cell]
        case dict():
            return {str(key): _json(value) for key, value in cell.items()}
        case _:
            return str(cell)


def _plain(number: Decimal) -> int | float | str:
    """Give a decimal as a JSON number where that is the same number, else as text."""
    if not number.is_finite():
        return str(number)
    if number == number.to_integral_value():
        return int(number)
    value = float(number)
    return value if Decimal(repr(value)) == number else str(number)
