"""Decoded JSON in, Structs out, and every fault at once where that cannot be.

`msgspec.convert` stops at the first fault; forms and models that correct themselves need all of them.
So a value is walked along its Struct's type, and only a value without a fault is converted.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, inspect

from luxx.domain.errors import Fault, InvalidInput

T = TypeVar("T")

FaultCheck: TypeAlias = Callable[[Any], Fault | None]

STRING: Final = "a string"
INTEGER: Final = "an integer"
NUMBER: Final = "a number"
FINITE: Final = "a finite number"
BOOLEAN: Final = "true or false"
NULL: Final = "null"
ARRAY: Final = "an array"
OBJECT: Final = "an object"
EXPECTED: Final = (STRING, INTEGER, NUMBER, FINITE, BOOLEAN, NULL, ARRAY, OBJECT)
"""What the parameter `expected` of a `type` fault is made of; several are joined by " or "."""

_JSON_TYPES: Final[Mapping[type[inspect.Type], tuple[str, type | tuple[type, ...]]]] = {
    inspect.StrType: (STRING, str),
    inspect.IntType: (INTEGER, int),
    inspect.FloatType: (NUMBER, (int, float)),
    inspect.BoolType: (BOOLEAN, bool),
    inspect.NoneType: (NULL, type(None)),
    inspect.ListType: (ARRAY, list),
    inspect.DictType: (OBJECT, dict),
    inspect.StructType: (OBJECT, dict),
}

_EXACT_FLOAT: Final = 2**53


def convert(value: object, kind: type[T]) -> T:
    """Convert decoded JSON to the Struct `kind`; raises `InvalidInput` with every fault, by dotted path.

    Types are strict: "5" is no integer, true is no number; 5.0 is an integer, as JSON Schema has it.
    NaN and infinities, U+0000 and unpaired surrogates are refused everywhere, in values of any type too.

    A field's `Meta(extra={"fault": check})` names a rule of the domain: `check(value)` runs where the
    value keeps all other rules and is not null, and its `Fault` is reported as it is.
    """
    faults: list[Fault] = []
    checked = _checked(value, _type_of(kind), "", faults)  # type: ignore[arg-type]  # mypy: a type[T] is hashable
    if faults:
        raise InvalidInput(*faults)
    try:
        return msgspec.convert(checked, kind)
    except msgspec.ValidationError as error:
        # Only what a Struct checks in its own `__post_init__` is left to fail here.
        raise InvalidInput(Fault(field="", rule="invalid", parameters={"reason": str(error)})) from error


@lru_cache(maxsize=256)
def _type_of(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def _at(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _checked(  # noqa: C901, PLR0912 - one case a type
    value: Any, kind: inspect.Type, path: str, faults: list[Fault]
) -> Any:
    """Give `value`, its integral floats made integers where the type asks for that; add what is wrong to `faults`."""
    match kind:
        case inspect.Metadata():
            before = len(faults)
            value = _checked(value, kind.type, path, faults)
            check: FaultCheck | None = (kind.extra or {}).get("fault")
            if check is not None and value is not None and len(faults) == before:
                faults.extend(fault for fault in (check(value),) if fault is not None)
            return value
        case inspect.UnionType():
            return _union(value, kind, path, faults)
        case inspect.StructType():
            return _struct(value, kind, path, faults)
        case inspect.ListType():
            return _list(value, kind, path, faults)
        case inspect.DictType():
            return _dict(value, kind, path, faults)
        case inspect.StrType():
            faults.extend(_string_faults(value, kind, path))
            return value
        case inspect.IntType() | inspect.FloatType():
            return _number(value, kind, path, faults)
        case inspect.BoolType() | inspect.NoneType():
            if not _fits(value, kind):
                faults.append(_type_fault(path, kind))
            return value
        case inspect.LiteralType():
            if not any(value == choice and type(value) is type(choice) for choice in kind.values):
                choices = ", ".join(str(choice) for choice in kind.values)
                faults.append(Fault(field=path, rule="choice", parameters={"choices": choices}))
            return value
        case inspect.AnyType():
            faults.extend(_plain_faults(value, path))
            return value
        case _:
            raise TypeError(f"{path or 'value'}: a field of the type {kind!r} cannot be read from JSON")


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """Give the types that `kind` allows: several for a union, else one."""
    if isinstance(kind, inspect.Metadata):
        return _members(kind.type)
    if isinstance(kind, inspect.UnionType):
        return tuple(inner for member in kind.types for inner in _members(member))
    return (kind,)


def _type_fault(path: str, kind: inspect.Type) -> Fault:
    names = (_JSON_TYPES.get(type(member), (STRING, str))[0] for member in _members(kind))
    return Fault(field=path, rule="type", parameters={"expected": " or ".join(dict.fromkeys(names))})


def _fits(value: object, kind: inspect.Type) -> bool:
    """Tell whether the JSON type of `value` is that of `kind`, whatever its content."""
    return any(_fits_one(value, member) for member in _members(kind))


def _fits_one(value: object, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.LiteralType):
        return type(value) in {type(choice) for choice in kind.values}
    if type(kind) not in _JSON_TYPES:
        return True
    if isinstance(kind, inspect.IntType) and isinstance(value, float):
        return value.is_integer() and abs(value) <= _EXACT_FLOAT
    if isinstance(value, bool):
        return isinstance(kind, inspect.BoolType)
    return isinstance(value, _JSON_TYPES[type(kind)][1])


def _union(value: Any, kind: inspect.UnionType, path: str, faults: list[Fault]) -> Any:
    for member in kind.types:
        if _fits(value, member):
            return _checked(value, member, path, faults)
    faults.append(_type_fault(path, kind))
    return value


def _struct(value: Any, kind: inspect.StructType, path: str, faults: list[Fault]) -> Any:
    if not isinstance(value, dict):
        faults.append(_type_fault(path, kind))
        return value
    checked: dict[str, Any] = {}
    for field in kind.fields:
        given = value.get(field.encode_name, UNSET)
        if given is not UNSET:
            checked[field.encode_name] = _checked(given, field.type, _at(path, field.encode_name), faults)
        elif field.required:
            faults.append(Fault(field=_at(path, field.encode_name), rule="required"))
    if kind.forbid_unknown_fields:
        known = {field.encode_name for field in kind.fields}
        faults.extend(Fault(field=_at(path, key), rule="unknown") for key in value if key not in known)
    return checked


def _list(value: Any, kind: inspect.ListType, path: str, faults: list[Fault]) -> Any:
    if not isinstance(value, list):
        faults.append(_type_fault(path, kind))
        return value
    fault = _length_fault(path, len(value), kind.min_length, kind.max_length, ("too_few", "too_many"))
    if fault is not None:
        # The items of a list that is too long are not looked at: there may be millions of faults in it.
        faults.append(fault)
        return value
    return [_checked(item, kind.item_type, _at(path, place), faults) for place, item in enumerate(value)]


def _dict(value: Any, kind: inspect.DictType, path: str, faults: list[Fault]) -> Any:
    if not isinstance(value, dict):
        faults.append(_type_fault(path, kind))
        return value
    fault = _length_fault(path, len(value), kind.min_length, kind.max_length, ("too_few", "too_many"))
    if fault is not None:
        faults.append(fault)
        return value
    for key in value:
        _checked(key, kind.key_type, _at(path, key), faults)
    return {key: _checked(item, kind.value_type, _at(path, key), faults) for key, item in value.items()}


def _length_fault(path: str, length: int, least: int | None, most: int | None, rules: tuple[str, str]) -> Fault | None:
    if least is not None and length < least:
        return Fault(field=path, rule=rules[0], parameters={"limit": least})
    if most is not None and length > most:
        return Fault(field=path, rule=rules[1], parameters={"limit": most})
    return None


def _string_faults(value: Any, kind: inspect.StrType, path: str) -> Iterable[Fault]:
    if not isinstance(value, str):
        return (_type_fault(path, kind),)
    fault = _length_fault(path, len(value), kind.min_length, kind.max_length, ("too_short", "too_long"))
    if fault is not None:
        return (fault,)
    fault = _text_fault(value, path)
    if fault is not None:
        return (fault,)
    if kind.pattern is not None and not re.search(kind.pattern, value):
        return (Fault(field=path, rule="invalid", parameters={"reason": f"it must match {kind.pattern}"}),)
    return ()


def _text_fault(text: str, path: str) -> Fault | None:
    if "\0" in text:
        return Fault(field=path.replace("\0", "\N{REPLACEMENT CHARACTER}"), rule="nul")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        readable = path.encode(errors="replace").decode()
        return Fault(field=readable, rule="invalid", parameters={"reason": "it holds an unpaired surrogate"})
    return None


def _number(value: Any, kind: inspect.IntType | inspect.FloatType, path: str, faults: list[Fault]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        faults.append(Fault(field=path, rule="type", parameters={"expected": FINITE}))
        return value
    if not _fits(value, kind):
        faults.append(_type_fault(path, kind))
        return value
    faults.extend(_bound_faults(value, kind, path))
    return int(value) if isinstance(kind, inspect.IntType) else value


def _bound_faults(value: float, kind: inspect.IntType | inspect.FloatType, path: str) -> Iterable[Fault]:
    if kind.ge is not None and value < kind.ge:
        return (Fault(field=path, rule="too_small", parameters={"limit": kind.ge}),)
    if kind.le is not None and value > kind.le:
        return (Fault(field=path, rule="too_large", parameters={"limit": kind.le}),)
    reason = ""
    if kind.gt is not None and value <= kind.gt:
        reason = f"it must be more than {kind.gt}"
    elif kind.lt is not None and value >= kind.lt:
        reason = f"it must be less than {kind.lt}"
    elif kind.multiple_of is not None and value % kind.multiple_of != 0:
        reason = f"it must be a multiple of {kind.multiple_of}"
    elif isinstance(kind, inspect.FloatType) and isinstance(value, int) and not _representable(value):
        reason = "the number is too large"
    return (Fault(field=path, rule="invalid", parameters={"reason": reason}),) if reason else ()


def _representable(value: int) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _plain_faults(value: Any, path: str) -> Iterable[Fault]:
    """Look through a value of any type for what no JSON text may hold; nesting costs no stack."""
    waiting: list[tuple[Any, str]] = [(value, path)]
    while waiting:
        item, place = waiting.pop()
        if isinstance(item, str):
            fault = _text_fault(item, place)
            if fault is not None:
                yield fault
        elif isinstance(item, float):
            if not math.isfinite(item):
                yield Fault(field=place, rule="type", parameters={"expected": FINITE})
        elif isinstance(item, list):
            waiting.extend((inner, _at(place, index)) for index, inner in enumerate(item))
        elif isinstance(item, dict):
            for key, inner in item.items():
                waiting.append((key, _at(place, key)))
                waiting.append((inner, _at(place, key)))
