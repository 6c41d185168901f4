"""What drivers raise, in the words of the port; told once, at the edge."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from luxx.domain.errors import StorageUnavailable

# SQLSTATE classes and codes (Postgres, appendix A) by which the server says "not now": connections,
# resources, operator intervention, rolled back for another's sake, a session that idled too long, a
# standby that takes no writes, a lock not to be had, tables that nobody has made yet.
_NOT_NOW: Final = ("08", "53", "57", "58", "40", "25P03", "25006", "55P03", "42P01")


def unavailable() -> StorageUnavailable:
    return StorageUnavailable("The database cannot be reached now. Try again in a moment.")


def _passing(error: sa.exc.DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(state, str):
        return error.connection_invalidated or state.startswith(_NOT_NOW)
    # Without a code it is SQLite (busy, full, not to be opened) or a connection of asyncpg's that broke.
    return error.connection_invalidated or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)


@contextmanager
def translated() -> Iterator[None]:
    """Raise `StorageUnavailable` for what has to do with reaching the database, and the rest as it is."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if _passing(error):
            raise unavailable() from error
        raise
    except (sa.exc.TimeoutError, OSError) as error:
        # The pool is used up, or the connection broke where no driver put it into words.
        raise unavailable() from error
