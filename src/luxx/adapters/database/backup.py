"""A copy of an SQLite database that is in use."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path


def copy_sqlite(url: str, target: Path) -> None:
    """Copy the database of `url` (`sqlite:///path`) to `target`, a new file that only its owner may read.

    The copy is one state of the whole database, however busy it is; writers are not held up. The file
    appears when it is whole. Raises `FileNotFoundError`, `FileExistsError` and other `OSError`s.
    """
    source = Path(url.removeprefix("sqlite:///"))
    if not source.is_file():
        raise FileNotFoundError(f"there is no database at {source}: nothing to back up")
    if os.path.lexists(target):
        raise FileExistsError(f"{target} is there already: name another file, or move it away")
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        draft.touch(mode=0o600, exist_ok=False)
    except OSError as error:  # it would tell the draft's name, which nobody has given
        raise OSError(f"{target} cannot be written: {error.strerror}") from error
    try:
        with closing(sqlite3.connect(source, timeout=10)) as reading, closing(sqlite3.connect(draft)) as writing:
            # All pages in one step: a reader of the write-ahead log sees one state and blocks nobody.
            reading.backup(writing, pages=-1)
            # The copy is one file, and reads as such wherever it is put.
            writing.execute("PRAGMA journal_mode=DELETE")
            if writing.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise OSError(f"the copy of {source} is damaged, and so the original may be")
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        _name(draft, target)
    except sqlite3.Error as error:
        raise OSError(f"{source} cannot be copied to {target}: {error}") from error
    finally:
        for left in (draft, draft.with_name(f"{draft.name}-journal")):
            left.unlink(missing_ok=True)


def _name(draft: Path, target: Path) -> None:
    try:
        os.link(draft, target)  # unlike a rename, it never puts one file in the place of another
    except FileExistsError:
        raise
    except OSError:  # this file system has no second names
        draft.rename(target)
