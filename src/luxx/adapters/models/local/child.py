"""What the child runs: llama.cpp's HTTP server inside this process, for as long as the parent lives.

Standard input brings one line, an `Order` as JSON; its end says that the parent is gone. On standard output goes
one line of JSON: `{"port": n}` once questions are answered, or `{"failed": "text"}`. llama.cpp itself writes to
standard error.
"""

import importlib
import json
import os
import signal
import threading
from typing import Any, Final, TypedDict
from urllib.parse import urlsplit

from luxx.adapters.orphans import on_death_of_parent

HOST: Final = "127.0.0.1"
ANSWER_TOKENS: Final = 2048
"""Tokens of an answer, at most."""


class Order(TypedDict):
    """How to serve: `port` 0 is any free one; `context` tokens are shared by `slots` answers at once."""

    parent: int
    path: str
    name: str
    key: str
    port: int
    context: int
    slots: int
    threads: int


def main() -> None:
    """Serve until the parent is gone."""
    # Ctrl-C and an engine's signals come to all processes: only the parent says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    order: Order = json.loads(_line(0))
    # While llama.cpp loads a file no thread of Python's runs; where there is a kernel that helps, it does.
    on_death_of_parent(signal.SIGKILL)
    if os.getppid() != order["parent"]:
        os._exit(0)
    threading.Thread(target=_end_with, args=(0,), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        server = _serve(order)
    except ImportError as error:
        outcome: dict[str, Any] = {"failed": f"llama.cpp cannot be loaded ({error.name or error})"}
    except RuntimeError:
        outcome = {"failed": "llama.cpp cannot load it; is the file whole, and is there enough memory for it?"}
    else:
        outcome = {"port": urlsplit(server.listening_address).port}
    print(json.dumps(outcome), file=answers, flush=True)
    if "port" in outcome:
        threading.Event().wait()
    os._exit(1)


def _serve(order: Order) -> Any:
    llama = importlib.import_module("xllamacpp")
    options = llama.CommonParams()
    options.model.path = order["path"]
    options.model_alias = {order["name"]}
    options.hostnames = [HOST]
    options.port = order["port"]
    options.api_keys = [order["key"]]
    options.n_ctx = order["context"]
    options.n_parallel = order["slots"]
    options.kv_unified = True
    options.cpuparams.n_threads = order["threads"]
    options.cpuparams_batch.n_threads = order["threads"]
    # A small model that repeats itself goes on for ever, and is believed by nobody.
    options.sampling.penalty_repeat = 1.1
    options.sampling.penalty_last_n = 256
    options.n_predict = ANSWER_TOKENS
    # Nothing beside the answers: no page, no list of what is being answered, no memory for prompts that are over.
    options.ui = False
    options.endpoint_slots = False
    options.cache_ram_mib = 0
    return llama.Server(options)


def _line(number: int) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (data := os.read(number, 1 << 16)):
        line += data
    return line


def _end_with(number: int) -> None:
    while os.read(number, 1 << 16):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
