"""`query_table`: SQL over data that comes with the question."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.jobs import table
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.message import Json


class QueryTableArguments(Struct, frozen=True, forbid_unknown_fields=True):
    data: Annotated[
        Annotated[str, Meta(max_length=4_000_000)] | list[Any],
        Meta(
            description="The table: CSV text whose first line names the columns, or a JSON array of objects "
            "(one per row) or of arrays",
            examples=["city,people\nBerlin,3700000\nParis,2100000"],
        ),
    ]
    sql: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=20_000,
            description="One SQL query (DuckDB dialect) over the table named data, "
            "for example SELECT city, people FROM data ORDER BY people DESC",
            examples=["SELECT sum(people) FROM data"],
        ),
    ]


@tool(category="data", seconds=15, concurrency=4)
async def query_table(arguments: QueryTableArguments, resources: ToolResources) -> Json:
    """Run one SQL query (DuckDB dialect) over a table given as CSV text or as a JSON array.

    The table is named `data`. Column types are recognised: integers, decimals, booleans, dates, times; nested
    JSON is read with -> and ->>. Only queries are run; files, the network and settings are out of reach. Gives
    `columns`, `rows` (at most 1000), `row_count` and `truncated`.
    """
    return await resources.workers.run(10, table.query_table, arguments.data, arguments.sql)
