"""`make sbom` writes a valid bill of materials of all that is locked, with hashes, the same each time, offline."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT: Final = Path(__file__).parents[2]


def written(place: Path) -> str:
    """Run the very command of the Makefile, with another place for the result."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nsbom:")[1].split("\n\n")[0].replace("\\\n", " ")
    (line,) = re.findall(r"\$\(BIN\)/(cyclonedx-py .*)", recipe)
    command = [str(Path(sys.executable).parent / shlex.split(line)[0]), *shlex.split(line)[1:]]
    command[command.index("dist/luxx.cdx.json")] = str(place)
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    return place.read_text(encoding="utf-8")


def test_the_bill_is_valid_complete_and_the_same_each_time(tmp_path: Path) -> None:
    text = written(tmp_path / "one.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["name"] == "luxx"
    locked = re.findall(r"^([\w.-]+)==([^ ;\\]+)", (ROOT / "requirements/server.txt").read_text(), re.MULTILINE)
    assert len(locked) > 30
    assert {(one["name"], one["version"]) for one in bill["components"]} == set(locked)
    assert all(
        any(reference.get("hashes") for reference in one.get("externalReferences", [])) or one.get("hashes")
        for one in bill["components"]
    )
    assert written(tmp_path / "two.json") == text
