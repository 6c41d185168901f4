"""`calculate`: arithmetic that can be trusted."""

from typing import Annotated

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.jobs import arithmetic
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.message import Json


class CalculateArguments(Struct, frozen=True, forbid_unknown_fields=True):
    expression: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4_000,
            description="The expression to evaluate, for example (2 + 3) * 4, 0.1 + 0.2, 2**100 or sqrt(2)",
            examples=["(2 + 3) * 4", "2**100", "round(10/3, 2)"],
        ),
    ]


@tool(category="data", seconds=5)
async def calculate(arguments: CalculateArguments, resources: ToolResources) -> Json:
    """Evaluate an arithmetic expression exactly.

    Integers and decimals are exact (0.1 + 0.2 is 0.3); what cannot be is rounded to 28 digits. Operators: + - * / //
    (floor division) % (remainder) ** or ^ (power) ! (factorial) and brackets. Constants: pi, e, tau. Functions:
    abs, round, floor, ceil, trunc, min, max, sum, product, mean, median, stdev, variance, sqrt, cbrt, hypot, pow,
    exp, ln, log, log2, log10, sin, cos, tan, asin, acos, atan, atan2, sinh, cosh, tanh (in radians), degrees, radians,
    factorial, comb, perm, gcd, lcm, mod. Gives `value` (a number), `text` (all digits) and `exact`.
    """
    return await resources.workers.run(4, arithmetic.calculate, arguments.expression)
