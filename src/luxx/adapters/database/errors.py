"""What drivers raise, in the words of the port."""

from luxx.domain.errors import StorageUnavailable


def unavailable(error: BaseException | None = None) -> StorageUnavailable:
    """Say that the database cannot be used now, with what a driver raised as the reason."""
    reason = "" if error is None else _reason(error)
    return StorageUnavailable("The database cannot be reached now. Try again in a moment.", reason=reason)


def _reason(error: BaseException) -> str:
    # The first argument alone: what Postgres has as details may quote rows.
    words = next(iter(error.args), "")
    if isinstance(error, OSError):
        words = error.strerror or words
    if isinstance(error, OSError) and isinstance(error.filename, str):
        words = f"{words}: {error.filename}"
    kind = type(error).__name__
    return f"{kind}: {words}".splitlines()[0] if words else kind


class NotUnique(Exception):
    """What was to be stored is there already, as a constraint or an index says; its name is the argument."""
