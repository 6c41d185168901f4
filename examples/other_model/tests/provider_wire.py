"""The provider's answers, byte for byte, for the upstream that Luxx ships to play."""

import json
from typing import Any

from luxx.testing.upstream import Reply, Step

KEY = "a key of nobody's"


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def text(*deltas: str) -> list[Step]:
    return [
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": delta}) for delta in deltas),
    ]


def call(index: int, name: str, *pieces: str) -> list[Step]:
    block = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return [
        event("content_block_start", index=index, content_block=block),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def reply(*steps: Step, reason: str = "end_turn", whole: bool = True) -> Reply:
    begin = event("message_start", message={"usage": {"input_tokens": 7, "output_tokens": 1}})
    end = (
        event("content_block_stop", index=0),
        event("ping"),
        event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 5}),
        event("message_stop"),
    )
    return Reply(steps=(begin, *steps, *(end if whole else ())))
