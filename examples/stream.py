"""Chat from a terminal, and lose no word when the connection breaks.

    python examples/stream.py http://127.0.0.1:8000 ada "What is a lease?"

It asks for the password, or takes it from LUXX_PASSWORD. Needs httpx.
"""

# ruff: noqa: INP001, T201, C901 - a program by itself, that prints, and is read from top to bottom

import getpass
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx

SILENCE = 40.0  # the server says something every 15 seconds: after this long the connection is dead
PATIENCE = 300.0  # without anything new


def log_in(http: httpx.Client, username: str, password: str) -> None:
    """Log in; register first where there is no such account."""
    body = {"username": username, "email": f"{username}@example.com", "password": password}
    http.post("/api/auth/register", json=body)  # 409: there is one
    response = http.post("/api/auth/login", json={"username": username, "password": password})
    response.raise_for_status()
    http.headers["Authorization"] = f"Bearer {response.json()['data']['access_token']}"


def events(response: httpx.Response) -> Iterator[tuple[int | None, str, Any]]:
    """Read Server-Sent Events: (id, name, data). An event that was cut off is not given."""
    identity, name, data = None, "", ""
    for line in response.iter_lines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line and data:
            yield identity, name, json.loads(data)
            identity, name, data = None, "", ""
        elif field == "id":
            identity = int(value)
        elif field == "event":
            name = value
        elif field == "data":
            data += value


def ask(http: httpx.Client, conversation_id: str, content: str) -> Iterator[tuple[str, Any]]:
    """Send a message and give the events of its answer, each once, over however many connections it takes."""
    body = {"conversation_id": conversation_id, "content": content}
    key = str(uuid.uuid4())  # the same for every try: the message is sent once
    message_id, last = None, 0
    deadline, pause = time.monotonic() + PATIENCE, 0.2
    while True:
        if message_id is None:
            request = ("POST", "/api/messages/stream", {"Idempotency-Key": key}, body)
        else:
            request = ("GET", f"/api/messages/{message_id}/stream", {"Last-Event-ID": str(last)}, None)
        method, path, headers, sent = request
        try:
            with http.stream(method, path, headers=headers, json=sent) as response:
                if response.status_code not in {200, 429, 502, 503, 504}:
                    response.read()
                    raise SystemExit(f"refused: {response.status_code} {response.text}")
                # Whoever is asked too often says when it will answer again; a proxy may say so with a date.
                after = response.headers.get("Retry-After", "")
                pause = max(pause, int(after) if after.isascii() and after.isdigit() else 0)
                if response.status_code == 200:
                    for identity, name, data in events(response):
                        if identity is None:
                            break  # the server lost its database, or stops: the answer may go on
                        if name == "start":
                            message_id = data["message_id"]
                        last, pause, deadline = identity, 0.2, time.monotonic() + PATIENCE
                        yield name, data
                        if name in {"done", "error"}:
                            return
        except httpx.TransportError:
            pass  # cut off: go on behind what was seen
        if time.monotonic() + pause > deadline:
            raise SystemExit("the server cannot be reached")
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def main() -> None:
    """Ask one question and print the answer as it comes."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    url, username, content = sys.argv[1:]
    password = os.environ.get("LUXX_PASSWORD") or getpass.getpass("Password: ")
    with httpx.Client(base_url=url, timeout=httpx.Timeout(SILENCE, connect=5), trust_env=False) as http:
        log_in(http, username, password)
        conversation_id = http.post("/api/conversations/", json={}).raise_for_status().json()["data"]["id"]
        printed = False
        for name, data in ask(http, conversation_id, content):
            if name == "start" and printed:
                print("\n\n(The service has forgotten how it was told; the whole answer again:)\n")
            elif name == "text":
                printed = True
                print(data["delta"], end="", flush=True)
            elif name == "tool_call":
                print(f"\n[{data['name']} {json.dumps(data['arguments'])}]", flush=True)
            elif name == "error":
                raise SystemExit(f"\n{data['code']}: {data['message']}")
        print()


if __name__ == "__main__":
    main()
