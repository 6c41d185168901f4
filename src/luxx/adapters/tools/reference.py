"""The reference of tools for people, made from the same declarations that models see."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from luxx.adapters.tools.declare import BoundTool

_BOUNDS: Final[Mapping[str, str]] = {
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "maxItems": "≤ {} items",
    "maxLength": "≤ {} characters",
}


def reference(tools: Iterable[BoundTool]) -> str:
    """Write the reference of tools in Markdown: a section each, in the order given."""
    return "\n\n".join(_section(tool) for tool in tools)


def _section(tool: BoundTool) -> str:
    spec, declared = tool.spec, tool.declared
    required = set(spec.parameters["required"])
    rows = [
        f"| `{name}` | {_type(form)} | {_default(name, form, required)} | {_cell(form['description'])} |"
        for name, form in spec.parameters["properties"].items()
    ]
    limits = f"At most {declared.seconds:g} seconds; {declared.concurrency} at once in one process."
    origin = " Strangers write its results: they are marked as untrusted for the model." if spec.untrusted else ""
    return "\n".join(
        (
            f"### `{spec.name}` ({spec.category})",
            "",
            " ".join(spec.description.split()),
            "",
            "| argument | type | default | |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            limits + origin,
        )
    )


def _type(form: Mapping[str, Any]) -> str:
    if "enum" in form:
        return " \\| ".join(f"`{choice}`" for choice in form["enum"])
    if "anyOf" in form:
        return " or ".join(_type(each) for each in form["anyOf"])
    name = str(form.get("type", "any JSON"))
    if name == "array" and form.get("items"):
        name = f"array of {_type(form['items'])}"
    bounds = [words.format(form[key]) for key, words in _BOUNDS.items() if key in form]
    return f"{name}, {', '.join(bounds)}" if bounds else name


def _default(name: str, form: Mapping[str, Any], required: set[str]) -> str:
    return "required" if name in required else f"`{json.dumps(form.get('default'), ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
