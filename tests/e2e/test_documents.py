"""What the documents show works as shown."""

import asyncio
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import jsonschema_rs
import pytest
from tests.support.commands import curl_speaks_json
from tests.support.live import live

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.tools.loading import ENTRY_POINTS
from luxx.adapters.wire import EVENTS
from luxx.container import Container
from luxx.entrypoints.http.app import HANDLERS
from luxx.entrypoints.http.openapi import openapi_document
from luxx.settings import Settings
from luxx.testing.chaos.record import Tally

ROOT: Final = Path(__file__).parents[2]
URL: Final = "http://127.0.0.1:8000"
RUN: Final = "<!-- the suite runs this block -->"
PRINTS: Final = "<!-- which prints, … standing for anything -->"
MARK: Final = "=== the next block ==="


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A block of code in a page. `note` is the comment right above it, empty where there is none."""

    page: str
    language: str
    code: str
    note: str

    @property
    def first(self) -> str:
        return self.code.partition("\n")[0]


def fences(page: str) -> Iterator[Fence]:
    lines = iter((ROOT / page).read_text(encoding="utf-8").splitlines())
    before = ""
    for line in lines:
        if line.lstrip().startswith("```"):
            indent = line[: len(line) - len(line.lstrip())]
            code = []
            for inner in lines:
                if inner.strip() == "```":
                    break
                code.append(inner.removeprefix(indent))
            note = before if before.startswith("<!--") else ""
            yield Fence(page=page, language=line.strip().removeprefix("```"), code="\n".join(code) + "\n", note=note)
        before = line.strip()


PAGES: Final = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if not path.name.startswith("README")  # tests/e2e/test_readmes.py has these
)
FENCES: Final = [fence for page in PAGES for fence in fences(page)]


async def run(*command: str, given: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=os.environ | dict(environment or {}),
    )
    out, problems = await process.communicate(given.encode())
    assert process.returncode == 0, problems.decode()
    return out.decode()


CHECKED: Final[Mapping[tuple[str, str], str]] = {
    ("docs/architecture.md", "python"): "test_the_embedding_of_the_architecture_page_prints_the_whole_turn",
    ("docs/adding-a-model.md", "python"): (
        "tests/plugin/test_guides.py::test_the_model_of_the_guide_passes_its_suite_and_serves"
    ),
    ("docs/adding-a-storage.md", "python"): (
        "tests/plugin/test_guides.py::test_the_storage_of_the_guide_passes_its_suites_and_serves"
    ),
    ("docs/adding-a-tool.md", "python"): "tests/unit/tools/test_docs.py::test_the_tool_in_the_guide_works",
    ("docs/adding-a-tool.md", "toml"): "test_the_entry_point_of_the_tool_guide_is_the_one_that_is_looked_for",
    ("docs/streaming.md", "text"): "test_the_stream_of_the_stream_page_has_the_events_and_the_form_of_streams",
    ("docs/testing.md", "python"): "tests/plugin/test_testing_page.py::test_the_tests_that_the_page_shows_pass",
    ("docs/testing.md", "toml"): "tests/plugin/test_testing_page.py::test_the_tests_that_the_page_shows_pass",
    ("docs/start.md", "sh"): "test_a_clone_and_its_wheel_are_installed_and_served_as_the_first_page_says",
    ("docs/http-reference.md", "http"): "test_requests_and_answers_are_as_the_openapi_document_says",
    ("docs/streaming.md", "http"): "test_requests_and_answers_are_as_the_openapi_document_says",
}
"""Blocks that a test of their own looks at, by page and language; the others run, or are commands that exist."""

NO_COMMAND: Final[Mapping[tuple[str, str], str]] = {}
"""Blocks of which nothing is checked, by page and first line, each with its reason. Keep it empty where you can."""


def test_no_block_of_code_in_any_page_goes_unchecked() -> None:
    unchecked = [
        f"{fence.page}: {fence.first}"
        for fence in FENCES
        if fence.note not in {RUN, PRINTS}
        and (fence.page, fence.language) not in CHECKED
        and (fence.page, fence.first) not in NO_COMMAND
        and fence.language not in {"sh", "console"}
        and not fence.language.startswith("{")  # of the site's builder, which fails where it cannot follow it
    ]
    assert unchecked == []


def test_every_test_that_a_page_relies_on_is_there_and_every_exception_is_needed() -> None:
    here = str(Path(__file__).relative_to(ROOT))
    shown = {(fence.page, fence.language) for fence in FENCES}
    for (page, language), test in CHECKED.items():
        assert (page, language) in shown
        path, _, name = test.rpartition("::")
        source = (ROOT / (path or here)).read_text(encoding="utf-8")
        assert f"def {name}(" in source
        assert Path(page).name in source
    firsts = {(fence.page, fence.first) for fence in FENCES}
    assert NO_COMMAND.keys() <= firsts


# --- blocks that run --------------------------------------------------------------------------------

RUNNING: Final = sorted({(fence.page, fence.language) for fence in FENCES if fence.note == RUN})
"""Pages and languages of blocks that run one after the other, in one process."""


def pattern_of(shown: str) -> str:
    return "(?s:.*?)".join(re.escape(piece) for piece in shown.strip().split("…"))


@pytest.mark.parametrize(("page", "language"), RUNNING)
async def test_the_blocks_of_a_page_run_and_print_what_it_says(page: str, language: str, tmp_path: Path) -> None:
    """One after the other against a server on memory; `$TOKEN` is of somebody who is logged in."""
    if language == "sh" and not curl_speaks_json():
        pytest.skip("needs curl 7.82 or newer")
    running = [fence for fence in fences(page) if fence.language == language or fence.note == PRINTS]
    blocks_ = [fence.code for fence in running if fence.note == RUN]
    told = f'echo; echo "{MARK}"\n' if language == "sh" else f'print("\\n{MARK}", flush=True)\n'
    program = told.join(blocks_).replace(URL, "{url}")
    command = ("sh", "-e") if language == "sh" else (sys.executable, "-")
    container = Container(settings=Settings(data_dir=tmp_path))
    container.storage.override(MemoryStorage())
    async with live(container) as server:
        token = (await server.account()).token
        printed = await run(
            *command, given=program.replace("{url}", server.url), cwd=tmp_path, environment={"TOKEN": token}
        )
    outputs = iter(printed.split(MARK))
    output = ""
    for fence in running:
        if fence.note == RUN:
            output = next(outputs).strip()
        elif fence.note == PRINTS:
            shown = re.sub(r"(\"id\":)\d+", r"\1…", fence.code) if language == "sh" else fence.code
            assert re.fullmatch(pattern_of(shown), output), f"{page} shows\n{fence.code}\nbut it was\n{output}"


BEGINNING: Final = (
    ("README.md", "python", "luxx.client import"),
    ("docs/client.md", "python", ""),
    ("docs/http-guide.md", "python", ""),
    ("README.md", "sh", "curl"),
    ("docs/start.md", "sh", ""),
)
"""Pages that begin with an account: page, language, and a word of the blocks that are meant."""


async def test_pages_that_make_accounts_run_after_one_another_and_again(tmp_path: Path) -> None:
    container = Container(settings=Settings(data_dir=tmp_path))
    container.storage.override(MemoryStorage())
    async with live(container) as server:
        for page, language, word in 2 * BEGINNING:
            if language == "sh" and not curl_speaks_json():
                continue
            shown = [fence.code for fence in fences(page) if (fence.note, fence.language) == (RUN, language)]
            program = "\n".join(code for code in shown if word in code)
            command = ("sh", "-e") if language == "sh" else (sys.executable, "-")
            await run(*command, given=program.replace(URL, server.url), cwd=tmp_path)


# --- commands ---------------------------------------------------------------------------------------

COMMANDS: Final = sorted(
    {
        (fence.page, line)
        for fence in FENCES
        if fence.language in {"sh", "console"} and fence.note != RUN and (fence.page, fence.language) not in CHECKED
        if (fence.page, fence.first) not in NO_COMMAND
        for line in fence.code.splitlines()
        if line.strip() and (fence.language == "sh" or line.startswith("$ "))
    }
)


def test_pages_show_commands() -> None:
    assert ("CONTRIBUTING.md", "$ make setup") in {(page, line.partition("  ")[0]) for page, line in COMMANDS}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_that_a_page_shows_is_there_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line.removeprefix("$ "), comments=True)
    for command in split_at(words, "&&"):
        rest = [word for word in command if word != "export"]
        while rest and (found := re.fullmatch(r"(\w+)=.*", rest[0])):
            assert found[1].lower().removeprefix("luxx_") in {field.name for field in dataclasses.fields(Settings)}
            rest = rest[1:]
        if not rest:
            continue
        program, arguments = Path(rest[0]).name, rest[1:]
        if program == "make":
            subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
        elif program == "luxx":
            assert_takes((sys.executable, "-m", "luxx.entrypoints.cli"), arguments)
        elif program.startswith("python") and arguments[:1] == ["-m"] and arguments[1].startswith("luxx."):
            assert_takes((sys.executable, *arguments[:2]), arguments[2:])
        elif program == "pip" and arguments[0] == "install":
            assert_installable(arguments[1:])
        else:
            assert rest[0].startswith(".venv/bin/"), f"{page}: who checks {line!r}?"
            assert (Path(sys.executable).parent / program).exists()
            assert all((ROOT / word.partition("::")[0]).exists() for word in arguments if "/" in word)


def split_at(words: list[str], mark: str) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word == mark:
            yield part
            part = []
        else:
            part.append(word)
    yield part


def assert_installable(wanted: list[str]) -> None:
    """Hold what is named of Luxx to its extras; other packages and options are not looked at."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = [re.fullmatch(r"\.(?:\[([\w,]+)\])?", word) for word in wanted]
    assert any(named)
    assert {extra for found in named if found and found[1] for extra in found[1].split(",")} <= extras.keys()


def test_nobody_is_told_to_install_luxx_from_an_index() -> None:
    """It is on none: whoever took its name there would be installed."""
    texts = [
        path
        for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "examples/**/*.py", "src/**/*.py", "deploy/**/*")
        for path in ROOT.glob(pattern)
        if path.is_file()
    ]
    assert len(texts) > 100
    by_name = re.compile(r"""pip install [^\n`]*?(?<![\w/.-])luxx(?![\w/-])""")
    assert [str(path) for path in texts if by_name.search(path.read_text(encoding="utf-8"))] == []
    assert by_name.search("pip install 'luxx[client]'")
    assert by_name.search("pip install luxx")


def assert_takes(program: tuple[str, ...], arguments: list[str]) -> None:
    """Ask a program for its help, and find every option there."""
    named = [word.partition("=")[0] for word in arguments if word.startswith("-")]
    before = arguments[: arguments.index(named[0])] if named else arguments
    done = subprocess.run([*program, *before, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(re.search(rf"(?m)(^|[\s\[,]){option}\b", done.stdout) for option in named)


# --- HTTP -------------------------------------------------------------------------------------------

DOCUMENT: Final = openapi_document(HANDLERS)


def operation_of(method: str, path: str) -> dict[str, Any]:
    """Find an operation by a path with its parameters filled in: the one with the fewest of them."""
    fitting = [
        template
        for template in sorted(DOCUMENT["paths"], key=lambda template: template.count("{"))
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path)
        and method in DOCUMENT["paths"][template]
    ]
    assert fitting, f"there is no {method} {path}"
    return dict(DOCUMENT["paths"][fitting[0]][method])


def check(value: object, schema: object) -> None:
    """Hold a value to a schema of the document."""
    whole = {"$schema": DOCUMENT["jsonSchemaDialect"], "components": DOCUMENT["components"], "allOf": [schema]}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(value)


def read_http(code: str) -> tuple[str, dict[str, str], str]:
    head, _, body = code.partition("\n\n")
    first, *lines = head.strip().split("\n")
    return first, dict(line.split(": ", 1) for line in lines), body.strip()


@pytest.mark.parametrize("page", sorted({fence.page for fence in FENCES if fence.language == "http"}))
def test_requests_and_answers_are_as_the_openapi_document_says(page: str) -> None:
    """Both in docs/http-reference.md, where every operation has its example, and in docs/streaming.md."""
    operation: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    seen = set()
    for fence in fences(page):
        if fence.language != "http":
            continue
        first, headers, body = read_http(fence.code)
        if not first.startswith("HTTP/"):
            method, target, _ = first.split(" ")
            path, _, query = target.partition("?")
            operation = operation_of(method.lower(), path)
            asked = json.loads(body) if body else {}
            known = {one["name"] for one in operation["parameters"]}
            assert headers.keys() - {"Authorization", "Content-Type"} <= known
            assert {pair.partition("=")[0] for pair in query.split("&") if pair} <= known
            assert ("Authorization" in headers) == ("security" in operation)
            assert bool(body) == ("requestBody" in operation)
            continue
        status = first.split(" ")[1]
        answer = operation["responses"][status]["content"]
        if body and "requestBody" in operation and status != "422":
            check(asked, operation["requestBody"]["content"]["application/json"]["schema"])
        kind = headers["Content-Type"].partition(";")[0]
        for value in events_in(body) if kind == "text/event-stream" else [json.loads(body)]:
            check(value, answer[kind]["schema"])
        if int(status) < 400:
            seen.add(operation["operationId"])
    if page == "docs/http-reference.md":
        every = {one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()}
        assert seen == every


def events_in(body: str) -> Iterator[dict[str, str]]:
    """Read the events of a stream, each held to the schema of its data as well."""
    kinds = operation_of("post", "/api/messages/stream")["responses"]["200"]["content"]["text/event-stream"]["schema"]
    schemas = {
        kind["properties"]["event"]["const"]: kind["properties"]["data"]["contentSchema"] for kind in kinds["oneOf"]
    }
    for block in body.split("\n\n"):
        event = dict(line.split(": ", 1) for line in block.split("\n"))
        check(json.loads(event["data"]), schemas[event["event"]])
        yield event


def test_the_reference_and_the_guide_tell_what_the_server_refuses_by_itself() -> None:
    """Before there is a request that an operation could answer: no operation lists these."""
    refusals = re.findall(
        r'_refuse\("(\d+) [^"]+", "(\w+)"', (ROOT / "src/luxx/entrypoints/http/unreadable.py").read_text("utf-8")
    )
    assert {status for status, _ in refusals} == {"400", "408", "414", "431"}
    codes = re.findall(
        r"^\| `(\w+)` \| ([\d, ]+) \|", (ROOT / "docs/http-reference.md").read_text("utf-8"), re.MULTILINE
    )
    for status, code in refusals:
        assert status in dict(codes)[code].split(", "), (status, code)
    advised = re.findall(r"^\| ([\d, ]+) .*\|", (ROOT / "docs/http-guide.md").read_text("utf-8"), re.MULTILINE)
    assert {status for status, _ in refusals} <= set(", ".join(advised).split(", ")), advised


def test_the_stream_of_the_stream_page_has_the_events_and_the_form_of_streams() -> None:
    """The page is docs/streaming.md; its other text is a line of the report of `luxx.testing.chaos`."""
    stream, report = (fence for fence in fences("docs/streaming.md") if fence.language == "text")
    told = [block.split("\n") for block in stream.code.strip().split("\n\n")]
    events = [lines for lines in told if not lines[0].startswith(":")]
    assert [lines[0] for lines in events] == [f"id: {number}" for number in range(1, len(events) + 1)]
    assert {lines[1].removeprefix("event: ") for lines in events} <= EVENTS.keys()
    assert [lines[0] for lines in told if lines not in events] == [": heartbeat"]
    counted, kept = re.fullmatch(r"(P1 faults .*?) +\d+ checks  (.*)\n", report.code, re.DOTALL).groups()  # type: ignore[union-attr]  # None fails the test
    made = Tally().report(("P1",))
    assert re.sub(r"\d+", "0", counted.removeprefix("P1")) == re.sub(r"\d+", "0", made.partition("  ")[0][2:])
    assert made.endswith(kept)


# --- pages with a test of their own -----------------------------------------------------------------


def test_the_entry_point_of_the_tool_guide_is_the_one_that_is_looked_for() -> None:
    """docs/adding-a-tool.md"""
    (shown,) = (fence.code for fence in fences("docs/adding-a-tool.md") if fence.language == "toml")
    assert list(tomllib.loads(shown)["project"]["entry-points"]) == [ENTRY_POINTS]


@asynccontextmanager
async def serving(program: str, *, cwd: Path, environment: Mapping[str, str]) -> AsyncIterator[str]:
    """Run a shell program that ends with a server; gives the server's address once it listens."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-ec", program, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    told = []
    try:
        async for line in process.stderr:
            told.append(line.decode())
            if found := re.search(r"listens on (http://\S+)", told[-1]):
                yield found[1]
                break
        else:
            pytest.fail("".join(told))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@pytest.mark.slow
async def test_a_clone_and_its_wheel_are_installed_and_served_as_the_first_page_says(tmp_path: Path) -> None:
    """docs/start.md: what `make run` runs, and the blocks that install a clone and its wheel, offline.

    Its dependencies are those of this environment, so that nothing is fetched: `make wheel` installs them anew.
    """
    clone, install, wheel = (
        fence.code for fence in fences("docs/start.md") if fence.language == "sh" and fence.note != RUN
    )
    planned = await run("make", "-n", "-C", str(ROOT), *clone.split()[1:], given="")
    assert ".venv/bin/luxx serve" in planned.splitlines()
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # so pip spells it
    }
    install, serve = install.rsplit("\n", 2)[0], install.strip().rsplit("\n", 1)[1]
    program = f"{install}\nluxx-env/bin/pip uninstall --quiet --yes luxx\n{wheel}\nexec {serve} --port 0"
    async with (
        serving(program, cwd=tmp_path, environment=environment) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        assert (await client.get("/health/ready")).json()["status"] == "ok"
    assert (tmp_path / ".luxx/luxx.db").exists()
    installed = list((tmp_path / "luxx-env").glob("lib/python3*/site-packages/luxx/__init__.py"))
    assert len(installed) == 1


async def test_the_embedding_of_the_architecture_page_prints_the_whole_turn() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    printed = await run(sys.executable, "-", given=example)
    assert "Started" in printed
    assert "".join(re.findall(r"Text\(delta='(.*?)'\)", printed)) == "Hello, world"
    lines = re.findall(r"(?m)^ +(?:storage, ids|ports|run_turn|async with .*|create|send|follow)(?: =|:$)", example)
    assert len(lines) == 7
    assert "seven lines make one" in text
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
