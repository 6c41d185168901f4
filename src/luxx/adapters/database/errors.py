"""What drivers raise, in the words of the port."""

from luxx.domain.errors import StorageUnavailable


def unavailable() -> StorageUnavailable:
    return StorageUnavailable("The database cannot be reached now. Try again in a moment.")


class NotUnique(Exception):
    """What was to be stored is there already, as a constraint or an index says; its name is the argument."""
