"""Decoded JSON in, Structs out, and every fault at once where that cannot be.

`msgspec.convert` stops at the first fault; forms and models that correct themselves need all of them.
So a value is walked along its Struct's type, and only a value without a fault is converted.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any, Final, NamedTuple, Optional, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, inspect

from luxx.domain.errors import FAULTS_LIMIT, Fault, InvalidInput
from luxx.domain.fields import ARRAY, BOOLEAN, FINITE, INTEGER, NULL, NUMBER, OBJECT, STRING, unstorable
from luxx.domain.message import clean

T = TypeVar("T")

FaultCheck: TypeAlias = Callable[[Any], Fault | None]

NO_CHECKS: Final[Mapping[str, FaultCheck]] = {}

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

KEY_LIMIT: Final = 200
"""Characters shown of one key in a path."""

PATH_LIMIT: Final = 500
"""Characters shown of a path."""

_EXACT_FLOAT: Final = 2**53

_LOOKED_AT: Final = (str, float, list, dict)
"""The types of which a value may be at fault, or hold one that is."""


class _Place(NamedTuple):
    """Where a value stands. It is put into words for a fault only: the keys are the client's, long and many."""

    above: Optional["_Place"] = None
    key: object = ""

    def at(self, key: object) -> "_Place":
        return _Place(self, key)

    def path(self) -> str:
        keys: list[str] = []
        place = self
        while place.above is not None:
            keys.append(_shortened(str(place.key), KEY_LIMIT))
            place = place.above
        return str(clean(_shortened(".".join(reversed(keys)), PATH_LIMIT)))


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


class _Faults:
    """What is wrong: the first faults, and how many more there are."""

    def __init__(self) -> None:
        self.first: Final[list[Fault]] = []
        self.more = 0

    @property
    def count(self) -> int:
        return len(self.first) + self.more

    def take(self, fault: Fault) -> None:
        if len(self.first) < FAULTS_LIMIT:
            self.first.append(fault)
        else:
            self.more += 1

    def add(self, place: _Place, rule: str, **parameters: object) -> None:
        if len(self.first) < FAULTS_LIMIT:
            self.first.append(Fault(field=place.path(), rule=rule, parameters=parameters))
        else:
            self.more += 1

    def add_type(self, place: _Place, kind: inspect.Type) -> None:
        names = (_JSON_TYPES.get(type(member), (STRING, str))[0] for member in _members(kind))
        self.add(place, "type", expected=" or ".join(dict.fromkeys(names)))


def convert(value: object, kind: type[T], *, checks: Mapping[str, FaultCheck] = NO_CHECKS) -> T:
    """Convert decoded JSON to the Struct `kind`; raises `InvalidInput` with every fault, by dotted path.

    Types are strict: "5" is no integer, true is no number; 5.0 is an integer, as JSON Schema has it.
    NaN and infinities, U+0000 and unpaired surrogates are refused everywhere, in values of any type too.

    A field's `Meta(extra={"fault": check})` names a rule of the domain: `check(value)` runs where the
    value keeps all other rules and is not null, and its `Fault` is reported as it is.
    So are `checks`, by field of `kind`: rules that are known only while the program runs.
    """
    faults = _Faults()
    checked = _checked(value, _type_of(kind), _Place(), faults)  # type: ignore[arg-type]  # mypy: a type[T] is hashable
    for name, check in checks.items():
        given = checked.get(name) if isinstance(checked, dict) else None
        # Of many faults not all are kept: some may be this field's.
        if given is None or faults.more or any(fault.field.partition(".")[0] == name for fault in faults.first):
            continue
        if (fault := check(given)) is not None:
            faults.take(fault)
    if faults.count:
        raise InvalidInput(*faults.first, more=faults.more)
    try:
        return msgspec.convert(checked, kind)
    except msgspec.ValidationError as error:
        # Only what a Struct checks in its own `__post_init__` is left to fail here.
        raise InvalidInput(Fault(field="", rule="invalid", parameters={"reason": str(error)})) from error


@lru_cache(maxsize=256)
def _type_of(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def _checked(  # noqa: C901, PLR0912 - one case a type
    value: Any, kind: inspect.Type, place: _Place, faults: _Faults
) -> Any:
    """Give `value`, its integral floats made integers where the type asks for that; add what is wrong to `faults`."""
    match kind:
        case inspect.Metadata():
            before = faults.count
            value = _checked(value, kind.type, place, faults)
            check: FaultCheck | None = (kind.extra or {}).get("fault")
            if check is not None and value is not None and faults.count == before:
                fault = check(value)
                if fault is not None:
                    faults.take(fault)
            return value
        case inspect.UnionType():
            return _union(value, kind, place, faults)
        case inspect.StructType():
            return _struct(value, kind, place, faults)
        case inspect.ListType():
            return _list(value, kind, place, faults)
        case inspect.DictType():
            return _dict(value, kind, place, faults)
        case inspect.StrType():
            _check_string(value, kind, place, faults)
            return value
        case inspect.IntType() | inspect.FloatType():
            return _number(value, kind, place, faults)
        case inspect.BoolType() | inspect.NoneType():
            if not _fits(value, kind):
                faults.add_type(place, kind)
            return value
        case inspect.LiteralType():
            if not any(value == choice and type(value) is type(choice) for choice in kind.values):
                faults.add(place, "choice", choices=", ".join(str(choice) for choice in kind.values))
            return value
        case inspect.AnyType():
            _check_plain(value, place, faults)
            return value
        case _:
            raise TypeError(f"{place.path() or 'value'}: a field of the type {kind!r} cannot be read from JSON")


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """Give the types that `kind` allows: several for a union, else one."""
    if isinstance(kind, inspect.Metadata):
        return _members(kind.type)
    if isinstance(kind, inspect.UnionType):
        return tuple(inner for member in kind.types for inner in _members(member))
    return (kind,)


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


def _union(value: Any, kind: inspect.UnionType, place: _Place, faults: _Faults) -> Any:
    for member in kind.types:
        if _fits(value, member):
            return _checked(value, member, place, faults)
    faults.add_type(place, kind)
    return value


def _struct(value: Any, kind: inspect.StructType, place: _Place, faults: _Faults) -> Any:
    if not isinstance(value, dict):
        faults.add_type(place, kind)
        return value
    checked: dict[str, Any] = {}
    for field in kind.fields:
        given = value.get(field.encode_name, UNSET)
        if given is not UNSET:
            checked[field.encode_name] = _checked(given, field.type, place.at(field.encode_name), faults)
        elif field.required:
            faults.add(place.at(field.encode_name), "required")
    if kind.forbid_unknown_fields:
        known = {field.encode_name for field in kind.fields}
        for key in value:
            if key not in known:
                faults.add(place.at(key), "unknown")
    return checked


def _list(value: Any, kind: inspect.ListType, place: _Place, faults: _Faults) -> Any:
    if not isinstance(value, list):
        faults.add_type(place, kind)
        return value
    if not _of_length(len(value), kind, place, faults, ("too_few", "too_many")):
        # The items of a list that is too long are not looked at: there may be millions of faults in it.
        return value
    return [_checked(item, kind.item_type, place.at(index), faults) for index, item in enumerate(value)]


def _dict(value: Any, kind: inspect.DictType, place: _Place, faults: _Faults) -> Any:
    if not isinstance(value, dict):
        faults.add_type(place, kind)
        return value
    if not _of_length(len(value), kind, place, faults, ("too_few", "too_many")):
        return value
    for key in value:
        _checked(key, kind.key_type, place.at(key), faults)
    return {key: _checked(item, kind.value_type, place.at(key), faults) for key, item in value.items()}


def _of_length(
    length: int,
    kind: inspect.ListType | inspect.DictType | inspect.StrType,
    place: _Place,
    faults: _Faults,
    rules: tuple[str, str],
) -> bool:
    if kind.min_length is not None and length < kind.min_length:
        faults.add(place, rules[0], limit=kind.min_length)
        return False
    if kind.max_length is not None and length > kind.max_length:
        faults.add(place, rules[1], limit=kind.max_length)
        return False
    return True


def _check_string(value: Any, kind: inspect.StrType, place: _Place, faults: _Faults) -> None:
    if not isinstance(value, str):
        faults.add_type(place, kind)
    elif (
        _of_length(len(value), kind, place, faults, ("too_short", "too_long"))
        and _readable(value, place, faults)
        and kind.pattern is not None
        and not re.search(kind.pattern, value)
    ):
        faults.add(place, "invalid", reason=f"it must match {kind.pattern}")


def _readable(text: str, place: _Place, faults: _Faults) -> bool:
    if (fault := unstorable(text, "")) is not None:
        faults.add(place, fault.rule, **fault.parameters)
        return False
    return True


def _number(value: Any, kind: inspect.IntType | inspect.FloatType, place: _Place, faults: _Faults) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        faults.add(place, "type", expected=FINITE)
        return value
    if not _fits(value, kind):
        faults.add_type(place, kind)
        return value
    _check_bounds(value, kind, place, faults)
    return int(value) if isinstance(kind, inspect.IntType) else value


def _check_bounds(value: float, kind: inspect.IntType | inspect.FloatType, place: _Place, faults: _Faults) -> None:
    if kind.ge is not None and value < kind.ge:
        faults.add(place, "too_small", limit=kind.ge)
    elif kind.le is not None and value > kind.le:
        faults.add(place, "too_large", limit=kind.le)
    elif reason := _unfit(value, kind):
        faults.add(place, "invalid", reason=reason)


def _unfit(value: float, kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.gt is not None and value <= kind.gt:
        return f"it must be more than {kind.gt}"
    if kind.lt is not None and value >= kind.lt:
        return f"it must be less than {kind.lt}"
    if kind.multiple_of is not None and value % kind.multiple_of != 0:
        return f"it must be a multiple of {kind.multiple_of}"
    if isinstance(kind, inspect.FloatType) and isinstance(value, int) and not _representable(value):
        return "the number is too large"
    return ""


def _representable(value: int) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _check_plain(value: Any, place: _Place, faults: _Faults) -> None:
    """Look through a value of any type for what no JSON text may hold; nesting costs no stack."""
    opened: list[Iterator[tuple[_Place, Any]]] = [iter(((place, value),))]
    while opened:
        for inner, item in opened[-1]:
            if isinstance(item, str):
                _readable(item, inner, faults)
            elif isinstance(item, float):
                if not math.isfinite(item):
                    faults.add(inner, "type", expected=FINITE)
            elif isinstance(item, list | dict):
                opened.append(_within(item, inner))
                break
        else:
            opened.pop()


def _within(value: list[Any] | dict[str, Any], place: _Place) -> Iterator[tuple[_Place, Any]]:
    """Give what a list or an object holds that has to be looked at: keys too."""
    pairs: Iterable[tuple[object, Any]]
    pairs = enumerate(value) if isinstance(value, list) else chain(zip(value, value, strict=True), value.items())
    return ((place.at(key), item) for key, item in pairs if isinstance(item, _LOOKED_AT))
