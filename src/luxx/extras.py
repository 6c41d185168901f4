"""What to install where a package of somebody else's is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


class MissingExtra(ModuleNotFoundError):
    """An import of Luxx needs a package that one of its extras brings; the text names both."""


def advice(needing: str, missing: str, extra: str) -> str:
    """Say what `needing` lacks, and how it is had; `extra` is as in `needs`."""
    return f"{needing} needs {missing}: install luxx with {extra}"


@contextmanager
def needs(needing: str, extra: str) -> Iterator[None]:
    """Put around imports: where a package is missing, `MissingExtra` is raised and says what to install.

    `needing` is who imports, `extra` goes into the sentence: "the extra `client`". Around others of its kind, this
    one's words count. A module of Luxx that is not there, or one of a package that is, is not a matter of extras.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing == "luxx" or _installed(missing):
            raise
        raise MissingExtra(advice(needing, missing, extra), name=error.name, path=error.path) from error


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # imported without a spec, as by hand
        return True
