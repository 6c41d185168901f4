"""What is measured, and what it is measured with, as processes."""

import asyncio
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import httpx
import msgspec

from bench import environment
from bench.answers import Answer
from bench.load import LUXX, OPENAI, Address, Format, Job, completion_request, luxx_request
from bench.proc import Cores, cpu_of, on

NGINX: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SECRET: Final = "0" * 48
PASSWORD: Final = "correct horse battery staple"  # of accounts that live for one run
_START_SECONDS: Final = 60.0


class NotStarted(Exception):
    """A process did not come up; the text holds its last words."""


class Process:
    """A process of ours, with its log in a file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        cores: frozenset[int],
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.command: Final = list(command)
        self.log: Final = log
        self._cores: Final = cores
        self._environ: Final = environ
        self._directory: Final = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.began = 0.0
        """When it was started, by `time.perf_counter`."""
        self.ready = 0.0
        """Seconds from there until it answered what was waited for."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; it may not answer yet."""
        with self.log.open("wb") as log, on(self._cores):
            self.began = time.perf_counter()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                cwd=self._directory,
                # A group of its own: Ctrl-C is for whoever measures, who then stops it.
                process_group=0,
            )

    def wait_for(self, address: Address, path: str, *, within: float = _START_SECONDS) -> float:
        """Wait until a GET is answered with 200; gives the seconds since the start. Raises `NotStarted`."""
        assert self._process is not None
        sent = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        while not _answers(address, sent):
            if self._process.poll() is not None or time.perf_counter() - self.began > within:
                self.stop()
                said = self.log.read_text(errors="replace")[-2000:]
                raise NotStarted(f"{' '.join(self.command)} did not start:\n{said}")
            time.sleep(0.005)
        self.ready = time.perf_counter() - self.began
        return self.ready

    @contextmanager
    def running(self, address: Address, path: str, *, within: float = _START_SECONDS) -> Iterator[Self]:
        """Start it, wait for it, and end it with the block."""
        self.start()
        try:
            self.wait_for(address, path, within=within)
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """End it and its children: politely, and after a while not."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._process = None


def _answers(address: Address, sent: bytes) -> bool:
    try:
        with socket.create_connection((address.host, address.port), timeout=5) as connection:
            connection.sendall(sent)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def free_port() -> int:
    """Give a port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def upstream(place: Path, cores: Cores) -> Iterator[tuple[Process, Address]]:
    """Run the scripted provider beside what is measured."""
    address = Address(port=free_port())
    command = [sys.executable, "-m", "bench", "upstream", "--port", str(address.port)]
    process = Process(command, log=place / "upstream.log", cores=cores.others, directory=root())
    with process.running(address, "/v1/models"):
        yield process, address


def root() -> Path:
    """Give the directory of the checkout."""
    return Path(__file__).parents[1]


# --- what is measured ---------------------------------------------------------------------------------


class Served(msgspec.Struct):
    """Something that streams answers: its name, where it listens, its processes, how to ask it."""

    name: str
    address: Address
    processes: list[Process]
    settings: dict[str, str]
    database_pid: int | None = None
    """Its database server, whose CPU time is told beside its own."""

    def cpu(self) -> float:
        """CPU seconds of its own processes so far."""
        return cpu_of([process.pid for process in self.processes])

    def database_cpu(self) -> float:
        """CPU seconds of its database server so far."""
        return 0.0 if self.database_pid is None else cpu_of([self.database_pid])

    async def jobs(self, answer: Answer, streams: int, *, over: float = 0.0) -> list[Job]:
        """Prepare so many streams, begun evenly `over` some seconds: what comes before the request is done here."""
        raise NotImplementedError


def _delays(streams: int, over: float) -> list[float]:
    return [over * number / streams for number in range(streams)]


class Direct(Served):
    """An OpenAI-compatible endpoint that stores nothing: the provider itself, or nginx before it."""

    format: Format = OPENAI

    async def jobs(self, answer: Answer, streams: int, *, over: float = 0.0) -> list[Job]:
        sent = completion_request(answer)
        return [
            Job(address=self.address, request=sent, answer=answer, format=self.format, delay=delay)
            for delay in _delays(streams, over)
        ]


class Account(msgspec.Struct, frozen=True):
    """A user who is logged in."""

    id: int
    name: str
    token: str


class Luxx(Served):
    """`luxx serve`, once or several times on one database. Streams are shared out among accounts and processes."""

    addresses: list[Address] = []
    accounts: list[Account] = []

    async def sign_up(self, name: str) -> Account:
        """Register and log in."""
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        async with httpx.AsyncClient(base_url=self.address.url, trust_env=False, timeout=30) as http:
            (await http.post("/api/auth/register", json=body)).raise_for_status()
            return await self.log_in(name)

    async def log_in(self, name: str) -> Account:
        """Log in as somebody who is registered, with the password that all share."""
        async with httpx.AsyncClient(base_url=self.address.url, trust_env=False, timeout=30) as http:
            answer = await http.post("/api/auth/login", json={"username": name, "password": PASSWORD})
        data = answer.raise_for_status().json()["data"]
        return Account(id=data["user"]["id"], name=name, token=data["access_token"])

    async def people(self, number: int = 10) -> list[Account]:
        """Give so many accounts, made when they are first asked for."""
        while len(self.accounts) < number:
            self.accounts.append(await self.sign_up(f"reader{len(self.accounts)}"))
        return self.accounts[:number]

    async def jobs(self, answer: Answer, streams: int, *, over: float = 0.0) -> list[Job]:
        """Make a new conversation for each: none has a history."""
        people = await self.people(min(10, streams))
        limit = asyncio.Semaphore(8)
        async with httpx.AsyncClient(base_url=self.address.url, trust_env=False, timeout=60) as http:

            async def new(number: int) -> Job:
                account = people[number % len(people)]
                headers = {"Authorization": f"Bearer {account.token}"}
                async with limit:
                    made = await http.post("/api/conversations/", json={"model": answer.model}, headers=headers)
                return Job(
                    address=self.addresses[number % len(self.addresses)],
                    request=luxx_request(made.raise_for_status().json()["data"]["id"], account.token),
                    answer=answer,
                    format=LUXX,
                    delay=over * number / streams,
                )

            return list(await asyncio.gather(*map(new, range(streams))))


class Bare(Served, kw_only=True):
    """The bare handlers on the database of a service, which is asked to make the conversations."""

    beside: Luxx

    async def jobs(self, answer: Answer, streams: int, *, over: float = 0.0) -> list[Job]:
        found = await self.beside.jobs(answer, streams, over=over)
        return [msgspec.structs.replace(job, address=self.address) for job in found]


def luxx_process(
    name: str, *, place: Path, cores: Cores, settings: Mapping[str, str], port: int, number: int = 0
) -> Process:
    """Prepare `luxx serve` on a port; `settings` are its only LUXX_ variables."""
    return Process(
        [*environment.command(), "serve", "--port", str(port)],
        log=place / f"{name}.{number}.log",
        cores=cores.measured,
        environ=_environ(settings),
        directory=place,
    )


def _environ(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in os.environ.items() if not key.startswith("LUXX_")} | {
        **environment.variables(),
        **settings,
    }


@contextmanager
def luxx(
    name: str,
    *,
    place: Path,
    cores: Cores,
    upstream: Address,
    database: str | None = None,
    database_pid: int | None = None,
    count: int = 1,
) -> Iterator[Luxx]:
    """Run the service `count` times on SQLite, or on the Postgres database whose URL is given."""
    settings = {
        "LUXX_DATA_DIR": str(place / name),
        "LUXX_JWT_SECRET": SECRET,
        "LUXX_LLM_BASE_URL": f"{upstream.url}/v1",
        "LUXX_LLM_THINKING": "none",
    }
    if database is not None:
        settings["LUXX_DATABASE_URL"] = database
        upgrade = [*environment.command(), "db", "upgrade"]
        subprocess.run(upgrade, env=_environ(settings), cwd=place, check=True, capture_output=True)
    addresses = [Address(port=free_port()) for _ in range(count)]
    processes = [
        luxx_process(name, place=place, cores=cores, settings=settings, port=address.port, number=number)
        for number, address in enumerate(addresses)
    ]
    try:
        for process, address in zip(processes, addresses, strict=True):
            process.start()
            process.wait_for(address, "/health/ready")
        yield Luxx(
            name=name,
            address=addresses[0],
            addresses=addresses,
            processes=processes,
            settings=settings,
            database_pid=database_pid,
        )
    finally:
        for process in processes:
            process.stop()


@contextmanager
def bare(
    name: str, *, place: Path, cores: Cores, database: str, upstream: Address
) -> Iterator[tuple[Process, Address]]:
    """Run the bare handlers on a database."""
    address = Address(port=free_port())
    python, *_ = environment.command()
    told = {"--port": str(address.port), "--database": database, "--secret": SECRET, "--upstream": upstream.url}
    process = Process(
        [python, "-m", "bench", "raw", *itertools.chain(*told.items())],
        log=place / f"{name}.log",
        cores=cores.measured,
        environ=_environ({"PYTHONPATH": os.pathsep.join([str(root()), environment.variables()["PYTHONPATH"]])}),
        directory=place,
    )
    with process.running(address, "/health"):
        yield process, address


@contextmanager
def bare_beside(served: Luxx, *, place: Path, cores: Cores, upstream: Address) -> Iterator[Bare]:
    """Run the bare handlers on the database of a service."""
    database = served.settings.get("LUXX_DATABASE_URL") or f"sqlite:///{served.settings['LUXX_DATA_DIR']}/luxx.db"
    name = f"bare {served.name}"
    with bare(name, place=place, cores=cores, database=database, upstream=upstream) as (process, address):
        yield Bare(
            name=name,
            address=address,
            processes=[process],
            settings={},
            database_pid=served.database_pid,
            beside=served,
        )


_NGINX_CONFIGURATION: Final = """
daemon off;
worker_processes 1;
pid {place}/nginx.pid;
error_log {place}/nginx.error.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {place}/nginx.body;
  proxy_temp_path {place}/nginx.proxy;
  fastcgi_temp_path {place}/nginx.fastcgi;
  uwsgi_temp_path {place}/nginx.uwsgi;
  scgi_temp_path {place}/nginx.scgi;
  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 1024; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""


@contextmanager
def nginx(*, place: Path, cores: Cores, upstream: Address) -> Iterator[Direct | None]:
    """Run nginx as a plain unbuffered proxy of one worker; None where it is not installed."""
    if NGINX is None:
        yield None
        return
    address = Address(port=free_port())
    configuration = place / "nginx.conf"
    text = _NGINX_CONFIGURATION.format(place=place, port=address.port, upstream=upstream.port)
    if os.geteuid() == 0:
        text = "user root;" + text  # its workers would become `nobody`, who may not enter this directory
    configuration.write_text(text)
    process = Process(
        [NGINX, "-p", str(place), "-c", str(configuration)],
        log=place / "nginx.log",
        cores=cores.measured,
    )
    with process.running(address, "/v1/models"):
        yield Direct(name="nginx", address=address, processes=[process], settings={"proxy_buffering": "off"})


@contextmanager
def workplace() -> Iterator[Path]:
    """Give a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="luxx-bench-", ignore_cleanup_errors=True) as place:
        yield Path(place)


def nginx_version() -> str | None:
    """Give the version of nginx, None where there is none."""
    if NGINX is None:
        return None
    said = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"nginx/(\S+)", said.stderr + said.stdout)
    return found[1] if found else None
