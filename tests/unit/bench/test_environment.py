"""The service that is measured has an environment of its own."""

import sys
from pathlib import Path

from bench.environment import command


def test_an_environment_made_from_another_lock_is_not_used(tmp_path: Path) -> None:
    lock = tmp_path / "server.txt"
    lock.write_text("litestar==1\n")
    place = tmp_path / "luxx"
    (place / "bin").mkdir(parents=True)
    assert command(place, lock=lock)[0] == sys.executable
    (place / ".lock").write_text("litestar==1\n")
    assert command(place, lock=lock)[0] == str(place / "bin" / "python")
    lock.write_text("litestar==2\n")
    assert command(place, lock=lock)[0] == sys.executable
