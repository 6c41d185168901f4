"""Finding tools: in the modules of `luxx.adapters.tools`, and in other packages by entry point."""

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Final

import luxx.adapters.tools
from luxx.adapters.tools.declare import BoundTool, DeclaredTool
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.tool import category_order

ENTRY_POINTS: Final = "luxx.tools"
"""The group under which another package names a tool, or a module with tools."""


class ToolsMisdeclared(Exception):
    """The tools cannot be loaded as they are: the text says which, and why."""


def load_tools(resources: ToolResources) -> tuple[BoundTool, ...]:
    """Find all tools and give them their resources, in the order of categories, then of names.

    Raises `ToolsMisdeclared` for two tools of one name, and for an entry point that gives no tool.
    """
    found: dict[str, tuple[DeclaredTool, str]] = {}
    for declared, source in (*_own(), *_foreign()):
        if declared.name in found:
            other = found[declared.name][1]
            raise ToolsMisdeclared(f"{source} and {other} both declare a tool named {declared.name!r}; rename one")
        found[declared.name] = (declared, source)
    bound = [_bound(*one, resources) for one in found.values()]
    return tuple(sorted(bound, key=lambda tool: (category_order(tool.spec.category), tool.spec.name)))


def _bound(declared: DeclaredTool, source: str, resources: ToolResources) -> BoundTool:
    with _loading(source):
        return declared.bind(resources)


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Name whose fault it is, whatever a foreign module raises or wants to end: the operator needs to know."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ToolsMisdeclared(f"{source} cannot be loaded: {type(error).__name__}: {error}") from error


def _own() -> Iterator[tuple[DeclaredTool, str]]:
    package = luxx.adapters.tools
    for entry in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not entry.ispkg:
            for declared in _tools_of(import_module(entry.name)):
                yield declared, entry.name


def _foreign() -> Iterator[tuple[DeclaredTool, str]]:
    for entry in entry_points(group=ENTRY_POINTS):
        source = _source(entry)
        with _loading(source):
            found = entry.load()
        if isinstance(found, DeclaredTool):
            yield found, source
            continue
        tools = _tools_of(found) if isinstance(found, ModuleType) else []
        if not tools:
            raise ToolsMisdeclared(f"{source} names {entry.value}, which is neither a tool nor a module with tools")
        for declared in tools:
            yield declared, source


def _source(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    return f"the entry point {entry.name} of {package}"


def _tools_of(module: ModuleType) -> list[DeclaredTool]:
    # A tool that a module has only imported belongs to where it was declared.
    declared = (value for value in vars(module).values() if isinstance(value, DeclaredTool))
    return [one for one in declared if one.function.__module__ == module.__name__]
