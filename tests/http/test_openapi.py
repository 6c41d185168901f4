"""The OpenAPI document: valid, complete, and true of the running service."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from tests.support.live import Live, live

from luxx.adapters.models.offline import OfflineChatModel
from luxx.adapters.wire import EVENTS
from luxx.container import Container
from luxx.entrypoints.http.app import HANDLERS
from luxx.entrypoints.http.text import ERRORS

CONFIGURATION = """
[[operations]]
# No pattern tells what NFKC makes of a name, nor a common password.
include-operation-id = "auth_register"
checks.positive_data_acceptance.enabled = false

[[operations]]
# What no long text may hold is left out of the schema below.
include-operation-id = ["messages_send", "messages_send_and_stream"]
checks.positive_data_acceptance.enabled = false

[[operations]]
# No schema can tell a cursor that this service made from another.
include-operation-id = "conversations_list_conversations"
checks.positive_data_acceptance.enabled = false

[[operations]]
# Only the user knows the present password; a key may end neither in the past nor twice.
include-operation-id = ["auth_password", "auth_create_key"]
checks.positive_data_acceptance.enabled = false

[[operations]]
# Which arguments are good depends on the tool.
include-operation-id = "tools_execute"
checks.positive_data_acceptance.enabled = false

[[operations]]
# Which tools there are depends on the deployment.
include-operation-id = ["conversations_create", "conversations_update"]
checks.positive_data_acceptance.enabled = false
"""


async def document_of(served: Live) -> dict[str, Any]:
    answer = await served.http.get("/schema/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return dict(answer.json())


async def test_the_document_is_valid_openapi_3_1(served: Live) -> None:
    OPENAPI_31_VALIDATOR.validate(await document_of(served))


async def test_the_document_names_every_operation_once_and_nothing_it_does_not_define(served: Live) -> None:
    document = await document_of(served)
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    paths = {path for handler in HANDLERS for path in handler.paths}
    assert "/metrics" in paths, "the one handler that speaks no JSON, and is not described"
    assert len(operations) == len(HANDLERS) - 1
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    text = json.dumps(document)
    of_streams = {data.__name__ for data in EVENTS.values()}
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text or name in of_streams, f"{name} is not used"
    public = {path for (_, path), operation in operations.items() if "security" not in operation}
    assert public == {"/api/auth/register", "/api/auth/login", "/health/live", "/health/ready"}


async def test_every_error_code_of_the_contract_can_be_told_in_chinese() -> None:
    contract = """
        invalid_json validation_failed unauthenticated token_expired token_revoked invalid_credentials account_disabled
        forbidden username_taken email_taken conversation_not_found message_not_found tool_not_found not_found
        method_not_allowed payload_too_large uri_too_long unsupported_media_type generation_in_progress
        idempotency_conflict rate_limited tool_failed tool_timeout model_unavailable model_timeout model_rate_limited
        model_rejected interrupted overloaded internal_error
    """
    assert set(contract.split()) == set(ERRORS)


async def test_the_page_to_try_it_needs_nothing_from_elsewhere(served: Live) -> None:
    page = await served.http.get("/schema")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "https://" not in page.text
    assert "http://" not in page.text
    assert "src=" not in page.text
    assert "/schema/openapi.json" in page.text


def lightened(schema: Any) -> Any:
    """Give the schema without patterns on long texts: data made from both would take minutes."""
    if isinstance(schema, list):
        return [lightened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    long = schema.get("maxLength", 0) > 10_000
    return {name: lightened(item) for name, item in schema.items() if not (long and name == "pattern")}


def narrowed(document: dict[str, Any], conversation: str, spare: str, message: str) -> dict[str, Any]:
    """Give the document with the ids of things that are there, so that data made from it reaches them."""
    found: dict[str, Any] = json.loads(json.dumps(document))
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            of_conversation = path.startswith("/api/conversations") or (
                method == "get" and path == "/api/messages/{id}"
            )
            known = conversation if of_conversation else message
            for parameter in operation["parameters"]:
                if parameter["name"] == "id":
                    parameter["schema"] = {"enum": [spare if method == "delete" else known]}
                elif parameter["name"] == "name":
                    parameter["schema"] = {"enum": ["calculate", "analyze_text", "current_time"]}
    found["components"]["schemas"]["SendBody"]["properties"]["conversation_id"] = {"enum": [conversation]}
    return found


@pytest.fixture
async def talkative(container: Container) -> AsyncIterator[Live]:
    """Serve with a model that has an answer to everything."""
    container.model.override(OfflineChatModel())
    async with live(container) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("reaching", [False, True], ids=["as it is", "with known ids"])
async def test_the_service_answers_as_the_document_says(talkative: Live, tmp_path: Path, *, reaching: bool) -> None:
    """Schemathesis sends good and bad data to every operation: no 5xx, no undocumented status, header or body.

    Logging out is left out, as it would end the run's own token.
    """
    user = await talkative.account()
    document = lightened(await document_of(talkative))
    if reaching:
        conversation, spare = await user.new_conversation(), await user.new_conversation()
        sent = await user.send(conversation, "hi")
        document = narrowed(document, conversation, spare, sent.json()["data"]["assistant_message"]["id"])
    described, configured = tmp_path / "openapi.json", tmp_path / "schemathesis.toml"
    described.write_text(json.dumps(document), encoding="utf-8")
    configured.write_text(CONFIGURATION, encoding="utf-8")
    command = [
        "--config-file",
        str(configured),
        "--no-color",
        "run",
        str(described),
        f"--url={talkative.url}",
        f"--header=Authorization: Bearer {user.token}",
        "--exclude-path=/api/auth/logout",
        "--max-examples=12",
        "--seed=20240229",
        "--continue-on-failure",
        "--generation-database=none",
        "--warnings=off",
    ]
    running = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        *command,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await running.communicate()
    assert running.returncode == 0, told.decode()
