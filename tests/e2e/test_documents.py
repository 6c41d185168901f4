"""What the documents show works as shown."""

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.live import live

from luxx.adapters.memory import MemoryStorage
from luxx.container import Container
from luxx.settings import Settings

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:8000"


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"<!-- the suite runs this block -->\n```{language}\n(.*?)```", text, re.DOTALL)


async def run(*command: str, given: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, problems = await process.communicate(given.encode())
    assert process.returncode == 0, problems.decode()
    return out.decode()


def curl_speaks_json() -> bool:
    curl = shutil.which("curl")
    return (
        curl is not None
        and b"--json" in subprocess.run([curl, "--help", "all"], capture_output=True, check=True).stdout
    )


@pytest.mark.parametrize(
    ("language", "command"),
    [
        pytest.param(
            "sh", ("sh", "-e"), marks=pytest.mark.skipif(not curl_speaks_json(), reason="needs curl 7.82 or newer")
        ),
        ("python", (sys.executable, "-")),
    ],
)
async def test_the_readmes_clients_stream_an_answer_with_a_tool_call(
    language: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    (client,) = blocks("README.md", language)
    container = Container(settings=Settings(data_dir=tmp_path))
    container.storage.override(MemoryStorage())
    async with live(container) as server:
        printed = await run(*command, given=client.replace(URL, server.url))
    assert "tool_call" in printed
    assert "42" in printed


async def test_the_embedding_of_the_architecture_page_prints_the_whole_turn() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    printed = await run(sys.executable, "-", given=example)
    assert "Started" in printed
    assert "Hello, " in printed
    assert printed.splitlines()[-1].split()[1].startswith("Done")


def test_every_link_between_the_documents_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert links
    broken = [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert broken == []


def test_the_pages_made_from_the_code_are_current() -> None:
    subprocess.run([sys.executable, ROOT / "scripts/make_docs.py", "--check"], check=True)


async def test_the_demo_plays_a_whole_conversation_and_ends_well() -> None:
    printed = await run(sys.executable, str(ROOT / "scripts/demo.py"), given="")
    assert "18446744073709551616" in printed or "6148914691236517205" in printed
    assert "201 Registered" in printed
    assert "200 Logged out" in printed
