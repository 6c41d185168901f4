"""Egress has one door: outside `web/`, no tool opens a connection."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import luxx.adapters.tools

HOME = Path(luxx.adapters.tools.__path__[0])
MODULES = sorted(path.relative_to(HOME).as_posix() for path in HOME.rglob("*.py"))

CLIENTS = {
    "ddgs", "ftplib", "http.client", "http.server", "httpcore", "httpx", "imaplib", "luxx.adapters.models", "niquests",
    "nntplib", "poplib", "primp", "pycurl", "requests", "smtplib", "socket", "socketserver", "telnetlib",
    "trafilatura.downloads", "urllib.request", "urllib3", "websockets", "xmlrpc",
}  # fmt: skip
CALLS = {"create_connection", "open_connection", "open_unix_connection", "sock_connect", "fetch_url", "urlopen"}

ALLOWED = {
    "web/client.py": {"httpcore", "httpx"},
    "web/crawler.py": {"httpx"},
    "web/names.py": {"socket"},
    # It asks search engines only, at addresses that no caller can choose, and in a worker process.
    "jobs/duckduckgo.py": {"ddgs"},
}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def clients_in(source: str) -> set[str]:
    tree = ast.parse(source)
    found = {client for name in imported(tree) for client in CLIENTS if name == client or name.startswith(f"{client}.")}
    calls = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & CALLS
    return found | calls


@pytest.mark.parametrize("module", MODULES)
def test_no_module_of_the_tools_has_an_http_client_of_its_own(module: str) -> None:
    assert clients_in((HOME / module).read_text(encoding="utf-8")) <= ALLOWED.get(module, set())


def test_a_client_would_be_noticed() -> None:
    assert clients_in("import httpx") == {"httpx"}
    assert clients_in("from urllib import request") == {"urllib.request"}
    assert clients_in("def f():\n    from http.client import HTTPConnection") == {"http.client"}
    assert clients_in("import asyncio\nasyncio.open_connection('x', 1)") == {"open_connection"}
    assert len(MODULES) > 30
