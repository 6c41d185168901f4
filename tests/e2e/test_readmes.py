"""What the READMEs show works as shown, and both show the same."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.support.commands import curl_speaks_json
from tests.support.live import live

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.openai import OpenAISettings
from luxx.container import Container
from luxx.settings import Settings

ROOT: Final = Path(__file__).parents[2]
ENGLISH: Final = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE: Final = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
URL: Final = "http://127.0.0.1:8000"
RUN: Final = "the suite runs this block"
READ: Final = "the suite reads these settings"
BLOCK: Final = re.compile(r"(?:^<!-- ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""A block of code: the mark above it, its language, its text."""


def runnable(language: str, word: str) -> str:
    """Give the one block in that language with that word that the suite is to run."""
    (found,) = (
        text for mark, written, text in BLOCK.findall(ENGLISH) if (mark, written) == (RUN, language) and word in text
    )
    return str(found)


def commands() -> list[str]:
    """Give what is typed in the console blocks, without the comments."""
    shown = "".join(text for _, language, text in BLOCK.findall(ENGLISH) if language == "console")
    return [line.partition(" #")[0].strip() for line in re.findall(r"^\$ (.*)$", shown, re.MULTILINE)]


def environment() -> dict[str, str]:
    """Give the environment of somebody who has set nothing and has `luxx` at hand."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {name: text for name, text in os.environ.items() if not name.startswith("LUXX_")} | {"PATH": path}


async def run(*command: str, given: str = "", cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, env=environment()
    )
    out, problems = await process.communicate(given.encode())
    assert process.returncode == 0, out.decode() + problems.decode()
    return out.decode()


@asynccontextmanager
async def serving(script: str, cwd: Path) -> AsyncIterator[str]:
    """Run a shell script that serves; gives the URL once it does, and ends all of its processes."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-ec", script), stderr=subprocess.PIPE, cwd=cwd, env=environment(), start_new_session=True
    )
    assert process.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(120):
            while not (found := re.search(r"listens on (http://[\d.:]+)", said)):
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        yield found[1]
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(120):
            await process.communicate()  # until the last of them has closed it


async def is_ready(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        return (await http.get(f"{url}/health/ready")).is_success


@pytest.mark.parametrize(
    ("language", "word", "command"),
    [
        pytest.param(
            *("sh", "curl", ("sh", "-e")),
            marks=pytest.mark.skipif(not curl_speaks_json(), reason="needs curl 7.82 or newer"),
        ),
        ("python", "luxx.client", (sys.executable, "-W", "error", "-")),
    ],
)
async def test_the_clients_stream_an_answer_with_a_tool_call(
    language: str, word: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    container = Container(settings=Settings(data_dir=tmp_path))
    container.storage.override(MemoryStorage())
    async with live(container) as server:
        printed = await run(*command, given=runnable(language, word).replace(URL, server.url), cwd=tmp_path)
    assert "calculate" in printed
    assert "42" in printed


async def test_the_embedded_chat_answers(tmp_path: Path) -> None:
    assert await run(sys.executable, "-W", "error", "-", given=runnable("python", "Chat("), cwd=tmp_path)


async def test_the_tests_of_somebody_who_swaps_parts_pass(tmp_path: Path) -> None:
    """The block is the test file of a project that has set up nothing."""
    tmp_path.joinpath("test_mine.py").write_text(runnable("python", "luxx_client"), encoding="utf-8")
    tmp_path.joinpath("pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    printed = await run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert int(re.findall(r"(\d+) passed", printed)[0]) > 5


def test_the_settings_that_are_shown_are_settings() -> None:
    (text,) = (text for mark, _, text in BLOCK.findall(ENGLISH) if mark == READ)
    settings = Settings.from_env(dict(line.split("=", 1) for line in text.splitlines()))
    assert settings.llm_base_url is not None
    assert settings.default_model == "glm-5"
    OpenAISettings(base_url=settings.llm_base_url, api_key=settings.llm_api_key)  # takes them as they stand


async def test_several_workers_serve_on_one_postgres(tmp_path: Path, postgres_url: str) -> None:
    script = runnable("sh", "--workers")
    for shown, here in (
        ("postgresql://luxx:password@db/luxx", f"'{postgres_url}'"),
        ("--host 0.0.0.0", "--port 0"),
        ("--workers 4", "--workers 2"),
    ):
        assert shown in script
        script = script.replace(shown, here)
    async with serving(script, tmp_path) as url:
        assert await is_ready(url)


async def test_a_model_answers_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="needs luxx[local]")
    (line,) = (line for line in commands() if line.startswith("luxx serve"))
    async with serving(f"{line} --port 0", tmp_path) as url:
        assert await is_ready(url)


async def test_the_chat_in_the_terminal_answers_as_shown(tmp_path: Path) -> None:
    assert "luxx chat" in commands()
    (question,) = re.findall(r"^› (.*)$", ENGLISH, re.MULTILINE)
    (answer,) = re.findall(r"^(2\*\*64 .*)$", ENGLISH, re.MULTILINE)
    assert answer in await run("luxx", "chat", given=f"{question}\n", cwd=tmp_path)


def test_every_make_target_that_is_shown_is_there() -> None:
    """What `make demo` does is run by tests/e2e/test_documents.py."""
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert {"demo", "test", "run"} <= set(targets)
    subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_nothing_is_shown_that_no_test_tries() -> None:
    assert {line.split()[0] for line in commands()} == {"make", "luxx"}
    assert {mark for mark, language, _ in BLOCK.findall(ENGLISH) if language != "console"} == {RUN, READ}


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def test_both_languages_show_the_same_code() -> None:
    assert BLOCK.findall(CHINESE) == BLOCK.findall(ENGLISH)


def test_both_languages_name_the_same_code_in_their_prose() -> None:
    """Word order differs, so the order may."""

    def names(text: str) -> list[str]:
        return sorted(re.findall(r"`([^`\n]+)`", prose(text)))

    assert names(CHINESE) == names(ENGLISH)


def test_both_languages_have_the_same_headings_and_lead_to_the_same_places() -> None:
    def links(text: str) -> list[str]:
        return re.findall(r"\]\(([^)]+)\)", prose(text))

    def levels(text: str) -> list[int]:
        return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]

    assert levels(CHINESE) == levels(ENGLISH)
    assert (links(ENGLISH)[0], links(CHINESE)[0]) == ("README.zh-CN.md", "README.md")
    assert sorted(links(CHINESE)[1:]) == sorted(links(ENGLISH)[1:])


def test_chinese_is_set_with_the_marks_of_chinese() -> None:
    text = re.sub(r"`[^`\n]+`|\]\([^)]+\)", "", prose(CHINESE))
    assert re.findall(r"[\u4e00-\u9fff][,;:!?()]|[,;:!?()][\u4e00-\u9fff]", text) == []
    # A line break is shown as a blank, and none stands there.
    assert re.findall(r"[\u3001-\u9fff\uff01-\uff5e]\n *[\u4e00-\u9fff]", text) == []
