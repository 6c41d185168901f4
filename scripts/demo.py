"""Play a whole conversation against a fresh server, as a client would: `make demo`."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

QUESTION = "What is 2**64 / 3? And what time is it in Tokyo?"
FOLLOW_UP = 'Count the words in "to be or not to be, that is the question".'
DIM, BOLD, PLAIN = ("\033[2m", "\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


@contextmanager
def server(data_dir: str) -> Iterator[str]:
    """Serve on a free port with embedded defaults; gives the address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUXX_")}
    command = [sys.executable, "-m", "luxx.entrypoints.cli", "serve", "--port", "0"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # No .env of the folder counts either: the demo shows the defaults.
        cwd=data_dir,
        env=environment | {"LUXX_DATA_DIR": data_dir},
    )
    assert process.stderr is not None  # noqa: S101  # it is a pipe
    try:
        seen = []
        for line in process.stderr:
            seen.append(line)
            if found := re.search(r"listens on (http://\S+)", line):
                yield found[1]
                break
        else:
            sys.exit(f"The server did not start:\n{''.join(seen)}")
    finally:
        process.terminate()
        process.communicate(timeout=60)
        if process.returncode != 0:
            sys.exit(f"The server ended with {process.returncode}")


def step(text: str) -> None:
    print(f"{BOLD}{text}{PLAIN}")


def ask(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    response = client.request(method, path, json=body)
    response.raise_for_status()
    answer = response.json()
    print(f"{DIM}  {method} {path} → {response.status_code} {answer.get('message', '')}{PLAIN}")
    return answer.get("data")


def stream(client: httpx.Client, conversation_id: str, content: str) -> None:
    """Print an answer while it streams."""
    body = {"conversation_id": conversation_id, "content": content}
    print(f"  you  │ {content}\n  luxx │ ", end="", flush=True)
    event = ""
    with client.stream("POST", "/api/messages/stream", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            if not line.startswith("data: "):
                continue
            data = json.loads(line.removeprefix("data: "))
            match event:
                case "text":
                    print(data["delta"].replace("\n", "\n       │ "), end="", flush=True)
                case "tool_call":
                    arguments = json.dumps(data["arguments"], ensure_ascii=False)
                    print(f"{DIM}⚙ {data['name']} {arguments}{PLAIN}\n       │ ", end="", flush=True)
                case "tool_result":
                    outcome = json.dumps(data["result"] if data["success"] else data["error"], ensure_ascii=False)
                    print(f"{DIM}  → {outcome} ({data['duration_ms']} ms){PLAIN}\n       │ ", end="", flush=True)
                case "done":
                    print(f"\n{DIM}  stored as {data['message']['id']}, {data['message']['status']}{PLAIN}")
                case "error":
                    sys.exit(f"\nThe answer failed: {data}")


def play(url: str) -> None:
    with httpx.Client(base_url=url, headers={"Accept-Language": "en"}, trust_env=False, timeout=60) as client:
        step(f"A server on SQLite with the built-in offline model: {url}")
        account = {"username": "ada", "password": "a-long-demo-password"}
        ask(client, "POST", "/api/auth/register", account | {"email": "ada@example.com"})
        client.headers["Authorization"] = f"Bearer {ask(client, 'POST', '/api/auth/login', account)['access_token']}"

        step("A conversation, its answers streamed, with tools that really run")
        conversation = ask(client, "POST", "/api/conversations/", {"title": "Demo"})
        stream(client, conversation["id"], QUESTION)
        stream(client, conversation["id"], FOLLOW_UP)

        step("All of it is stored")
        for message in ask(client, "GET", f"/api/messages/{conversation['id']}")["items"]:
            kinds = ", ".join(part["type"] for part in message["parts"])
            print(f"  {message['role']:>9} │ {message['status']} │ {kinds} │ {message['content'][:50]!r}…")
        ask(client, "GET", "/api/conversations/")
        ask(client, "POST", "/api/auth/logout")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="luxx-demo-") as data_dir, server(data_dir) as url:
        play(url)
    step("Done. Serve it yourself with `make run`, and look at http://127.0.0.1:8000/schema")


if __name__ == "__main__":
    main()
