"""`transform_json`: reshape JSON."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.jobs import reshape
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.message import Json


class TransformJsonArguments(Struct, frozen=True, forbid_unknown_fields=True):
    data: Annotated[
        Any,
        Meta(
            description="The JSON to read: any JSON value, or the text of a JSON object or array",
            examples=[{"people": [{"name": "Ada", "age": 36}]}],
        ),
    ]
    expression: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=10_000,
            description="A JMESPath expression, for example people[?age > `30`].name",
            examples=["people[?age > `30`].name"],
        ),
    ]


@tool(category="data", seconds=10)
async def transform_json(arguments: TransformJsonArguments, resources: ToolResources) -> Json:
    """Select from JSON and reshape it with a JMESPath expression (https://jmespath.org).

    The result is what the expression selects; null where it selects nothing.
    """
    return await resources.workers.run(8, reshape.transform_json, arguments.data, arguments.expression)
