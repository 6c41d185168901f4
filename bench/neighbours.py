"""Other services for the same work: LiteLLM's proxy and Open WebUI, installed from the package registry.

Each is run as its makers ship it, with one worker, pointed at the scripted provider, with everything
switched off that would call home, fetch a model or ask the provider for more than the answer.
"""

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import msgspec

from bench.answers import Answer
from bench.load import OPENAI, Address, Faulty, Job, completion_request
from bench.page import PAGE, PageJob
from bench.proc import Cores
from bench.processes import NotStarted, Process, Served, free_port, root

ENVIRONMENTS: Final = root() / "build" / "bench" / "envs"
PINS: Final = Path(__file__).with_name("peers.toml")
_PASSWORD: Final = "correct-horse-battery-staple"  # of accounts that live for one run
_KEY: Final = "sk-0123456789abcdef0123456789abcdef"  # LiteLLM refuses to start without one
_START_SECONDS: Final = 240.0
_INSTALL_SECONDS: Final = 1800.0


class Peer(msgspec.Struct, frozen=True):
    """What to install: requirements, and packages that they ask for and that are left out."""

    requirements: list[str]
    without: list[str] = []


def pins() -> Mapping[str, Peer]:
    """Read what is pinned, by name."""
    return msgspec.convert(tomllib.loads(PINS.read_text()), dict[str, Peer])


class NotInstalled(Exception):
    """A peer could not be installed; the text says what was tried, and what was said to it."""


def installed(name: str, peer: Peer, *, environments: Path = ENVIRONMENTS) -> Path:
    """Give the `bin` directory of a peer's environment, made anew where the pins have changed.

    Raises `NotInstalled`.
    """
    place = environments / name
    stamp, wanted = place / ".installed.json", msgspec.json.encode(peer)
    if stamp.exists() and stamp.read_bytes() == wanted:
        return place / "bin"
    place.parent.mkdir(parents=True, exist_ok=True)
    left_out = place.with_suffix(".without")
    left_out.write_text("\n".join(peer.without))
    uv = [sys.executable, "-m", "uv", "--quiet"]
    _run([*uv, "venv", "--clear", "--python", sys.executable, str(place)])
    python = str(place / "bin" / "python")
    _run([*uv, "pip", "install", "--python", python, "--excludes", str(left_out), *peer.requirements])
    stamp.write_bytes(wanted)
    return place / "bin"


def _run(command: Sequence[str]) -> None:
    shown = " ".join(command).replace(f"{root()}/", "")
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        raise NotInstalled(f"{shown} failed:\n{error.stderr[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{shown} was not through after {_INSTALL_SECONDS:g} s") from error


def _environ(place: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Give them nothing of this process's environment but where programs are."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": str(place), "LANG": "C.UTF-8", "DO_NOT_TRACK": "1", **more}


# --- LiteLLM --------------------------------------------------------------------------------------------


class WithKey(Served):
    """An OpenAI-compatible endpoint that asks for a key and stores nothing; keys are used in turn."""

    path: str = "/v1/chat/completions"
    keys: list[str] = msgspec.field(default_factory=list)

    async def jobs(self, answer: Answer, streams: int, *, over: float = 0.0) -> list[Job]:
        return [
            Job(
                address=self.address,
                request=completion_request(answer, token=self.keys[number % len(self.keys)], path=self.path),
                answer=answer,
                format=OPENAI,
                delay=over * number / streams,
            )
            for number in range(streams)
        ]


def litellm_configuration(models: Sequence[str], upstream: Address) -> str:
    """Write its configuration (JSON is YAML): the provider's models under their own names, no database."""
    return json.dumps(
        {
            "model_list": [
                {
                    "model_name": model,
                    "litellm_params": {"model": f"openai/{model}", "api_base": f"{upstream.url}/v1", "api_key": "none"},
                }
                for model in models
            ],
            "litellm_settings": {"telemetry": False},
        },
        indent=1,
    )


@contextmanager
def litellm(*, place: Path, cores: Cores, upstream: Address, models: Sequence[str]) -> Iterator[WithKey]:
    """Run LiteLLM's proxy; raises `NotInstalled` and `NotStarted`."""
    program = installed("litellm", pins()["litellm"]) / "litellm"
    home = place / "litellm"
    home.mkdir()
    configuration = home / "config.yaml"
    configuration.write_text(litellm_configuration(models, upstream))
    address = Address(port=free_port())
    settings = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    options = ["--host", address.host, "--port", str(address.port), "--num_workers", "1"]
    process = Process(
        [str(program), "--config", str(configuration), *options],
        log=place / "litellm.log",
        cores=cores.measured,
        environ=_environ(home, {**settings, "LITELLM_MASTER_KEY": _KEY}),
        directory=home,
    )
    with process.running(address, "/health/liveliness", within=_START_SECONDS):
        yield WithKey(name="litellm", address=address, processes=[process], settings=settings, keys=[_KEY])


# --- Open WebUI -----------------------------------------------------------------------------------------

_OPEN_WEBUI_SETTINGS: Final = {
    "ENV": "prod",  # as in its image
    # Nothing from outside.
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "SCARF_NO_ANALYTICS": "true",
    "ENABLE_OLLAMA_API": "false",
    "RAG_EMBEDDING_ENGINE": "openai",  # a model of its own would need torch
    # No further requests to the provider beside the answer.
    "ENABLE_TITLE_GENERATION": "false",
    "ENABLE_TAGS_GENERATION": "false",
    "ENABLE_FOLLOW_UP_GENERATION": "false",
    "ENABLE_AUTOCOMPLETE_GENERATION": "false",
    # Else nobody but its administrator may use a model before somebody has allowed it.
    "BYPASS_MODEL_ACCESS_CONTROL": "true",
    # With the 5 s it comes with, some of a hundred chats begun at once are refused: "database is locked".
    "DATABASE_SQLITE_PRAGMA_BUSY_TIMEOUT": "120000",
}


class Pages(Served):
    """Open WebUI as its page uses it: a new chat in somebody's own page for each stream, stored in its SQLite."""

    tokens: list[str] = msgspec.field(default_factory=list)
    chats: list[tuple[str, str]] = msgspec.field(default_factory=list)

    async def jobs(self, answer: Answer, streams: int, *, over: float = 0.0) -> list[Job]:
        """Everybody has one page: an event goes to all pages of its user, and two would make it two."""
        if streams > len(self.tokens):
            raise ValueError(f"{streams} pages want as many users; there are {len(self.tokens)}")
        self.chats.clear()
        return [
            PageJob(
                address=self.address,
                request=b"",
                answer=answer,
                format=PAGE,
                delay=over * number / streams,
                token=self.tokens[number],
                chats=self.chats,
            )
            for number in range(streams)
        ]

    async def check_stored(self, answer: Answer, streams: int) -> None:
        """Look whether all answers of the last wave were stored; raises `Faulty`."""
        if len(self.chats) != streams:
            raise Faulty(f"Open WebUI made {len(self.chats)} chats for {streams} messages")
        async with httpx.AsyncClient(base_url=self.address.url, trust_env=False, timeout=60) as http:
            for token, chat in self.chats:
                got = await http.get(f"/api/v1/chats/{chat}", headers={"Authorization": f"Bearer {token}"})
                messages = got.raise_for_status().json()["chat"]["history"]["messages"].values()
                texts = [one["content"] for one in messages if one["role"] == "assistant"]
                if texts != [answer.text.strip()]:
                    raise Faulty(f"chat {chat} of Open WebUI does not hold the answer")


class OpenWebUI(msgspec.Struct):
    """One process, used in two ways."""

    api: WithKey
    pages: Pages


async def _people(address: Address, number: int) -> list[str]:
    """Sign in as its administrator and make users; gives their tokens."""
    async with httpx.AsyncClient(base_url=address.url, trust_env=False, timeout=60) as http:
        credentials = {"email": "admin@example.com", "password": _PASSWORD}
        admin = (await http.post("/api/v1/auths/signin", json=credentials)).raise_for_status().json()["token"]
        headers = {"Authorization": f"Bearer {admin}"}
        # It learns the provider's models when they are first asked for.
        (await http.get("/api/models", headers=headers)).raise_for_status()
        tokens = []
        for one in range(number):
            user = {"name": f"reader{one}", "email": f"reader{one}@example.com", "password": _PASSWORD, "role": "user"}
            made = await http.post("/api/v1/auths/add", json=user, headers=headers)
            tokens.append(made.raise_for_status().json()["token"])
        return tokens


@contextmanager
def open_webui(*, place: Path, cores: Cores, upstream: Address, people: int = 100) -> Iterator[OpenWebUI]:
    """Run Open WebUI on a new SQLite database with so many users; raises `NotInstalled` and `NotStarted`."""
    program = installed("open-webui", pins()["open-webui"]) / "open-webui"
    home = place / "open-webui"
    (home / "data").mkdir(parents=True)
    address = Address(port=free_port())
    private = {
        "DATA_DIR": str(home / "data"),
        "WEBUI_SECRET_KEY": "0" * 48,
        "WEBUI_ADMIN_EMAIL": "admin@example.com",
        "WEBUI_ADMIN_PASSWORD": _PASSWORD,
        "OPENAI_API_BASE_URL": f"{upstream.url}/v1",
        "OPENAI_API_KEY": "none",
    }
    process = Process(
        [str(program), "serve", "--host", address.host, "--port", str(address.port)],
        log=place / "open-webui.log",
        cores=cores.measured,
        environ=_environ(home, {**_OPEN_WEBUI_SETTINGS, **private}),
        directory=home,
    )
    with process.running(address, "/health", within=_START_SECONDS):
        try:
            tokens = asyncio.run(_people(address, people))
        except (httpx.HTTPError, KeyError) as error:
            said = process.log.read_text(errors="replace")[-2000:]
            raise NotStarted(f"Open WebUI does not take users in: {error!r}\n{said}") from error
        yield OpenWebUI(
            api=WithKey(
                name="open-webui",
                address=address,
                processes=[process],
                settings=_OPEN_WEBUI_SETTINGS,
                path="/api/chat/completions",
                keys=tokens,
            ),
            pages=Pages(
                name="open-webui stored",
                address=address,
                processes=[process],
                settings=_OPEN_WEBUI_SETTINGS,
                tokens=tokens,
            ),
        )
