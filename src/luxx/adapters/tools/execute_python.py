"""`execute_python`: let a model compute."""

from typing import Annotated

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.message import Json


def _description(resources: ToolResources) -> str:
    return (
        "Run Python code in a sandbox without files, network or other processes. Gives `stdout` (what was printed), "
        "`value` (that of the last expression) and `error` (the traceback, null where nothing was raised). Every call "
        "starts from scratch: nothing is kept from the one before. " + resources.python.description
    )


class ExecutePythonArguments(Struct, frozen=True, forbid_unknown_fields=True):
    code: Annotated[
        str,
        Meta(min_length=1, max_length=100_000, description="The Python code to run", examples=["sum(range(101))"]),
    ]
    timeout_s: Annotated[float, Meta(ge=0.1, le=30, description="Seconds that the code may take, at most 30")] = 10


@tool(category="code", description=_description, seconds=45, concurrency=8)
async def execute_python(arguments: ExecutePythonArguments, resources: ToolResources) -> Json:
    outcome = await resources.python.run(arguments.code, seconds=arguments.timeout_s)
    return {"stdout": outcome.stdout, "value": outcome.value, "error": outcome.error}
