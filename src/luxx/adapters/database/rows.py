"""Domain types as rows: columns are named as fields."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from luxx.adapters.database.statements import Row


def names_of(kind: type) -> tuple[str, ...]:
    """Name the columns of a domain type, which are named as its fields."""
    return tuple(field.name for field in fields(kind))


def columns_of(table: sa.Table, kind: type) -> list[sa.Column[Any]]:
    """Give the columns that hold a domain type, in the order of its fields."""
    return [table.c[name] for name in names_of(kind)]


def insert_of(table: sa.Table, columns: Sequence[sa.Column[Any]]) -> sa.Insert:
    return sa.insert(table).values({column: sa.bindparam(column.name) for column in columns})


def values_of(one: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(one, name) for name in names}


def named(names: Sequence[str], row: Row) -> dict[str, Any]:
    return dict(zip(names, row, strict=True))
