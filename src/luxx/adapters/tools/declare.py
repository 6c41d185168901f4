"""How a tool is declared: once, as a Struct for its arguments and an async function that takes it.

From these come the JSON Schema that models and people see, the validation, and the reference in the docs.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar, get_type_hints

from luxx.extras import needs

with needs("luxx.adapters.tools.declare", "the extra `tools`"):
    import msgspec
    from msgspec import Struct

    from luxx.adapters.tools.resources import ToolResources
    from luxx.adapters.validation import convert
    from luxx.application.places import Places
    from luxx.domain.errors import ToolBroken, ToolRefused, ToolTimeout
    from luxx.domain.message import Json
    from luxx.domain.tool import ToolSpec

RESULT_BYTES: Final = 2**20
"""The largest result of any tool, as JSON."""

SECONDS: Final = 15.0
CONCURRENCY: Final = 16

Arguments = TypeVar("Arguments", bound=Struct)
ToolFunction: TypeAlias = Callable[[Arguments, ToolResources], Awaitable[Json]]
Description: TypeAlias = str | Callable[[ToolResources], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTool:
    """A tool before it has its resources; `tool` makes one, `load_tools` finds and binds it."""

    name: str
    category: str
    description: Description
    arguments: type[Struct]
    function: ToolFunction[Any]
    seconds: float
    concurrency: int
    untrusted: bool

    def bind(self, resources: ToolResources) -> "BoundTool":
        description = self.description if isinstance(self.description, str) else self.description(resources)
        spec = ToolSpec(
            name=self.name,
            description=description,
            category=self.category,
            parameters=parameters_of(self.arguments),
            untrusted=self.untrusted,
        )
        return BoundTool(self, spec, resources)


def tool(
    *,
    category: str,
    description: Description | None = None,
    seconds: float = SECONDS,
    concurrency: int = CONCURRENCY,
    untrusted: bool = False,
) -> Callable[[ToolFunction[Any]], DeclaredTool]:
    """Declare a tool: `@tool(category="data")` on `async def name(arguments: SomeStruct, resources: ToolResources)`.

    The function's name is the tool's; its docstring is the description, unless one is given (as text, or
    as a function of the resources). The Struct forbids unknown fields and describes every field.
    A call ends with `ToolTimeout` after `seconds`, waiting included; at most `concurrency` run at once in
    this process, one user's all but one of them. `untrusted` says that strangers write the results. Raises
    `TypeError` for anything else.
    """

    def declared(function: ToolFunction[Any]) -> DeclaredTool:
        name = getattr(function, "__name__", "")
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"the tool {name} must be an async function")
        text = description or inspect.cleandoc(function.__doc__ or "")
        if not text:
            raise TypeError(f"the tool {name} needs a docstring or a description: it is what the model reads")
        return DeclaredTool(
            name=name,
            category=category,
            description=text,
            arguments=_arguments_of(name, function),
            function=function,
            seconds=seconds,
            concurrency=concurrency,
            untrusted=untrusted,
        )

    return declared


def _arguments_of(name: str, function: Callable[..., object]) -> type[Struct]:
    hints = get_type_hints(function)
    kind = next((hints.get(parameter) for parameter in inspect.signature(function).parameters), None)
    if not (isinstance(kind, type) and issubclass(kind, Struct)):
        raise TypeError(f"the first parameter of the tool {name} must be annotated with a msgspec Struct")
    if not kind.__struct_config__.forbid_unknown_fields:
        raise TypeError(f"{kind.__name__}, the arguments of the tool {name}, must have forbid_unknown_fields=True")
    bare = [field for field, form in parameters_of(kind)["properties"].items() if not form.get("description")]
    if bare:
        raise TypeError(f"{kind.__name__}: Meta(description=...) is missing on {', '.join(bare)}")
    return kind


def parameters_of(kind: type[Struct]) -> dict[str, Any]:
    """Give the JSON Schema 2020-12 of a Struct as one closed object, without references or titles.

    Raises `TypeError` for a Struct that contains itself: it has no such form.
    """
    schema = msgspec.json.schema(kind)
    definitions = schema.get("$defs", {})

    def inlined(node: Any, above: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [inlined(item, above) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            name = node["$ref"].removeprefix("#/$defs/")
            if name in above:
                raise TypeError(f"{kind.__name__} contains {name} in itself; tool arguments cannot be recursive")
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return inlined(definitions[name], (*above, name)) | rest
        form = {key: _untitled(value, key, above, inlined) for key, value in node.items() if key != "title"}
        # Some providers refuse an array that does not say what it holds.
        return form | {"items": {}} if form.get("type") == "array" and "items" not in form else form

    flat: dict[str, Any] = inlined({"$ref": schema["$ref"]}, ())
    flat.pop("description", None)
    return flat


def _untitled(value: Any, key: str, above: tuple[str, ...], inlined: Callable[[Any, tuple[str, ...]], Any]) -> Any:
    if key == "properties":
        # Here the keys are names of fields, one of which may well be "title".
        return {name: inlined(form, above) for name, form in value.items()}
    return value if key in {"default", "enum", "required", "examples"} else inlined(value, above)


class BoundTool:
    """A declared tool with its resources: the adapter of the port `Tool`."""

    def __init__(self, declared: DeclaredTool, spec: ToolSpec, resources: ToolResources) -> None:
        self.declared: Final = declared
        self.spec: Final = spec
        self._resources = resources
        self._places = Places(declared.concurrency)

    async def run(self, arguments: Mapping[str, Json]) -> Json:
        """Check the arguments, run the function within its limits and give a result of at most `RESULT_BYTES`."""
        checked = convert(dict(arguments), self.declared.arguments)
        seconds = self.declared.seconds
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline, self._places.one():
                result = await self.declared.function(checked, self._resources)
        except TimeoutError as error:
            if not deadline.expired():
                raise ToolBroken(f"{self.spec.name} lost its connection; try again") from error
            raise ToolTimeout(f"{self.spec.name} took more than {seconds:g} seconds; ask for less") from error
        self._check(result)
        return result

    def _check(self, result: Json) -> None:
        try:
            size = len(msgspec.json.encode(result))
        except RecursionError as error:
            raise ToolRefused("the result is nested too deeply; ask for something flatter") from error
        except (TypeError, ValueError) as error:
            raise ToolBroken(f"{self.spec.name} gave something that is no JSON") from error
        if size > RESULT_BYTES:
            reason = f"the result is too large ({size} bytes, at most {RESULT_BYTES}); ask for less"
            raise ToolRefused(reason)
