"""What the client is made of, and what it needs."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import pytest

import luxx
from luxx.client import AsyncClient, AsyncStream, Client, Conversation, Stream

NAMED: Final = {"close": "aclose"}

PROGRAM: Final = """
import sys

NEEDED = {"luxx", "httpx", "httpcore", "h11", "anyio", "idna", "certifi", "sniffio", "msgspec", "typing_extensions"}


class Bare:
    # Stands for an environment in which nothing else is installed.
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in NEEDED and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)


sys.meta_path.insert(0, Bare())
from luxx.client import AsyncClient, Client

Client("http://127.0.0.1:9").close()
print(sorted(name for name in sys.modules if name.startswith("luxx.")))
"""


def public(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, method in inspect.getmembers(kind, callable):
        if not name.startswith("_") or name == "__init__":
            yield name, method


@pytest.mark.parametrize(("blocking", "asynchronous"), [(Client, AsyncClient), (Stream, AsyncStream)])
def test_both_clients_have_the_same_methods_with_the_same_parameters_and_words(
    blocking: type, asynchronous: type
) -> None:
    others = dict(public(asynchronous))
    assert {NAMED.get(name, name) for name, _ in public(blocking)} == set(others)
    for name, method in public(blocking):
        other = others[NAMED.get(name, name)]
        mine, theirs = inspect.signature(method), inspect.signature(other)
        assert list(mine.parameters) == list(theirs.parameters), name
        for one, two in zip(mine.parameters.values(), theirs.parameters.values(), strict=True):
            assert (one.kind, one.default) == (two.kind, two.default), f"{name}({one.name})"
            if one.name not in {"transport", "client"}:
                assert one.annotation == two.annotation, f"{name}({one.name})"
        if name not in {"__init__", "stream", "follow", "all_conversations", "all_messages"}:
            assert inspect.iscoroutinefunction(other), name
            assert mine.return_annotation == theirs.return_annotation, name
        assert inspect.getdoc(method), f"{name} says nothing"
        assert inspect.getdoc(method) == inspect.getdoc(other), name


def test_it_needs_httpx_and_msgspec_and_of_luxx_only_the_domain_and_the_json_forms() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": str(Path(luxx.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(eval(done.stdout))  # a list of names, printed above
    strangers = {
        name for name in loaded if not name.startswith(("luxx.client", "luxx.domain")) and name != "luxx.adapters"
    }
    assert strangers == {"luxx.adapters.wire", "luxx.extras"}


@pytest.mark.parametrize("method", [Client.create_conversation, Client.update_conversation])
def test_tools_are_taken_as_a_conversation_has_them(method: Callable[..., Any]) -> None:
    """Else a type checker refuses to whoever makes one conversation like another."""
    has = get_args(get_type_hints(Conversation)["tools"])
    assert set(has) <= set(get_args(get_type_hints(method)["tools"]))
