"""JMESPath over JSON."""

import json
from collections.abc import Iterator
from typing import Any, Final

from luxx.domain.errors import ToolRefused

RESULT_CHARACTERS: Final = 1_000_000
RESULT_VALUES: Final = 500_000


def transform_json(data: Any, expression: str) -> Any:
    """Apply a JMESPath expression; raises `ToolRefused` where it does not parse or does not fit the data.

    A text that is itself a JSON object or array is read as such.
    """
    import jmespath  # noqa: PLC0415 - only the worker that needs it carries it
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415 - as above

    if isinstance(data, str) and data.lstrip()[:1] in {"{", "["}:
        try:
            data = json.loads(data)
        except ValueError as error:
            raise ToolRefused(f"the data starts like a JSON object or array but is none: {error}") from error
    try:
        result = jmespath.search(expression, data)
    except (JMESPathError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        # jmespath lets some mistakes through as plain Python errors.
        raise ToolRefused(f"JMESPath: {error}") from error
    # One small part can stand in a result a million times without taking memory, until it is written out.
    if sum(1 for _ in _limited(result)) > RESULT_VALUES:
        raise ToolRefused(f"the result holds more than {RESULT_VALUES} values; ask for less")
    try:
        length = len(json.dumps(result, ensure_ascii=False, allow_nan=False))
    except ValueError as error:
        raise ToolRefused("the result holds a number that JSON has no form for") from error
    except TypeError as error:
        # A reference such as &name is a value of JMESPath alone, for functions like sort_by.
        raise ToolRefused("the result is an expression (&...), or holds one, and no JSON") from error
    if length > RESULT_CHARACTERS:
        raise ToolRefused(f"the result is longer than {RESULT_CHARACTERS} characters; ask for less")
    return result


def _limited(value: Any) -> Iterator[Any]:
    """Walk through all values, and a little past the limit at most."""
    waiting = [value]
    count = 0
    while waiting and count <= RESULT_VALUES:
        item = waiting.pop()
        count += 1
        yield item
        if isinstance(item, list):
            waiting.extend(item[: RESULT_VALUES + 1])
        elif isinstance(item, dict):
            waiting.extend(item.values())
