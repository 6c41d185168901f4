"""Numbers that stay exact as long as they can, and what the calculator does with them.

Integers and fractions stay exact; roots, logarithms and angles are computed with 60 digits. Every number is bounded
before it is computed.
"""

import math
from collections.abc import Callable, Mapping
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    Underflow,
    localcontext,
)
from fractions import Fraction
from typing import Any, Final, NamedTuple, TypeAlias

from luxx.domain.errors import ToolRefused

Number: TypeAlias = int | Fraction | Decimal
"""`int` and `Fraction` are exact; a `Decimal` has been rounded."""

DIGITS: Final = 4_000
"""An integer, and a decimal's exponent, have at most so many digits; so has the text of a result."""
SHOWN_DIGITS: Final = 28
ANGLE: Final = 10**15

CONTEXT: Final = Context(
    prec=60,
    rounding=ROUND_HALF_EVEN,
    Emin=-DIGITS,
    Emax=DIGITS,
    traps=[InvalidOperation, DivisionByZero, Overflow, Underflow],
)
"""What is not exact is computed in this."""

_BITS: Final = (10**DIGITS - 1).bit_length()
_TINY: Final = Decimal(10) ** -50
_PI: Final = Decimal(
    "3.1415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170680"
)
_LONGEST_TERMINATING: Final = 100


def shown(number: Number) -> dict[str, Any]:
    """Give a result: its `value` as JSON, its `text`, and whether that is `exact`."""
    if isinstance(number, int):
        return {"value": number, "text": str(number), "exact": True}
    if isinstance(number, Fraction) and (places := _places(number.denominator)) is not None:
        scaled = number.numerator * (10**places // number.denominator)
        digits = str(abs(scaled)).rjust(places + 1, "0")
        text = f"{'-' if scaled < 0 else ''}{digits[:-places]}.{digits[-places:]}"
        return {"value": _float(number), "text": text, "exact": True}
    rounded = CONTEXT.copy()
    rounded.prec = SHOWN_DIGITS
    short = rounded.plus(_decimal(number)).normalize(rounded)
    plain = -7 <= short.adjusted() < SHOWN_DIGITS
    return {"value": _float(short), "text": f"{short:f}" if plain else str(short).lower(), "exact": False}


def _places(denominator: int) -> int | None:
    """Tell how many decimal places a fraction has; None where there is no end to them, or none near."""
    for places in range(1, _LONGEST_TERMINATING + 1):
        if 10**places % denominator == 0:
            return places
    return None


def _float(number: Fraction | Decimal) -> float | None:
    try:
        value = float(number)
    except OverflowError:
        return None
    return value if math.isfinite(value) and (value != 0) == (number != 0) else None


# --- operators ---------------------------------------------------------------------------------------


def _decimal(number: Number) -> Decimal:
    if isinstance(number, Fraction):
        return Decimal(number.numerator) / Decimal(number.denominator)
    return +Decimal(number)


def bounded(number: Number) -> Number:
    """Refuse integers that are too large, and give up exactness where a fraction's parts are."""
    if isinstance(number, Fraction):
        if number.denominator == 1:
            return bounded(number.numerator)
        if max(number.numerator.bit_length(), number.denominator.bit_length()) > _BITS:
            return _decimal(number)
    elif isinstance(number, int) and number.bit_length() > _BITS:
        raise Overflow
    return number


def _both(left: Number, right: Number) -> tuple[Any, Any]:
    """Bring two numbers to one kind: a rounded one makes the other rounded."""
    if isinstance(left, Decimal) or isinstance(right, Decimal):
        return _decimal(left), _decimal(right)
    return Fraction(left), Fraction(right)


def power(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, int) and not isinstance(base, Decimal):
        if base == 0 and exponent < 0:
            raise DivisionByZero
        fraction = Fraction(base)
        bits = max(abs(fraction.numerator).bit_length(), fraction.denominator.bit_length()) - 1
        if bits * abs(exponent) <= _BITS:
            return fraction ** (exponent if abs(base) != 1 else exponent % 2)
        if isinstance(base, int) and exponent > 0:
            told = f"{base}**{exponent}" if max(bits, exponent.bit_length()) < 64 else "this power"
            raise ToolRefused(f"{told} has more than {DIGITS} digits")
    if exponent == Fraction(1, 2):
        return _sqrt(base)
    if base == 0 and exponent > 0:
        return 0
    return _decimal(base) ** _decimal(exponent)


def _floor(number: Number) -> Number:
    if isinstance(number, Decimal):
        # Beyond its digits a rounded number is an integer already, and not an exact one.
        return number if number.adjusted() >= CONTEXT.prec else math.floor(Fraction(number))
    return math.floor(number)


def _divided(left: Number, right: Number) -> Number:
    first, second = _both(left, right)
    quotient: Number = first / second
    return quotient


def _remainder(left: Number, right: Number) -> Number:
    if right == 0:
        raise DivisionByZero
    first, second = _both(left, right)
    rest: Number = Fraction(first) % Fraction(second)
    return _decimal(rest) if isinstance(first, Decimal) else rest


def _floor_divided(left: Number, right: Number) -> Number:
    if right == 0:
        raise DivisionByZero
    first, second = _both(left, right)
    return Fraction(first) // Fraction(second)


# --- functions ---------------------------------------------------------------------------------------


def _integer(number: Number) -> int:
    if isinstance(number, int):
        return number
    raise ToolRefused(f"{shown(number)['text']} is no integer, but this function needs one")


def _natural(number: Number, most: int) -> int:
    value = _integer(number)
    if not 0 <= value <= most:
        raise ToolRefused(f"this function needs an integer from 0 to {most}")
    return value


def _sqrt(number: Number) -> Number:
    if number < 0:
        raise ToolRefused("a negative number has no real square root")
    if not isinstance(number, Decimal):
        fraction = Fraction(number)
        root = Fraction(math.isqrt(fraction.numerator), math.isqrt(fraction.denominator))
        if root * root == fraction:
            return root
    return _decimal(number).sqrt()


def _cbrt(number: Number) -> Number:
    if number < 0:
        return -_cbrt(-number)
    if number == 0:
        return 0
    root = _decimal(number) ** (Decimal(1) / 3)
    nearest = root.to_integral_value()
    return int(nearest) if nearest**3 == _decimal(number) and isinstance(number, int) else root


def factorial(number: Number) -> Number:
    return math.factorial(_natural(number, 1_450))


def _choices(function: Callable[[int, int], int]) -> Callable[[Number, Number], Number]:
    def counted(total: Number, taken: Number) -> Number:
        size, part = _natural(total, 10**DIGITS), _natural(taken, 20_000)
        if function is math.comb:
            part = min(part, max(size - part, 0)) if size >= part else part
        if part * size.bit_length() > 20 * _BITS:
            raise Overflow
        return function(size, part)

    return counted


def _round(number: Number, places: Number = 0) -> Number:
    """Round half away from zero, as is taught in school."""
    digits = _integer(places)
    if abs(digits) > DIGITS // 4:
        raise ToolRefused(f"round can keep at most {DIGITS // 4} places")
    if isinstance(number, int) and digits >= 0:
        return number
    scale = Fraction(10) ** digits
    scaled = abs(Fraction(number)) * scale
    whole = math.floor(scaled + Fraction(1, 2))
    rounded = Fraction(whole if number >= 0 else -whole) / scale
    return _decimal(rounded).normalize() if isinstance(number, Decimal) else rounded


def _log(number: Number, base: Number | None = None) -> Number:
    value = _decimal(number)
    if value <= 0:
        raise ToolRefused("only positive numbers have a logarithm")
    if base is None:
        return value.ln()
    if base <= 0 or base == 1:
        raise ToolRefused("the base of a logarithm is positive and not 1")
    if base == 10:
        return value.log10()
    return value.ln() / _decimal(base).ln()


def _exp(number: Number) -> Number:
    return 1 if number == 0 else _decimal(number).exp()


def _circle(number: Number) -> tuple[Decimal, Decimal]:
    """Give sine and cosine of an angle in radians."""
    angle = _decimal(number)
    if abs(angle) > ANGLE:
        raise ToolRefused(f"angles are computed up to {ANGLE} radians")
    with localcontext(CONTEXT) as context:
        context.prec = 90
        quarters = (angle / (_PI / 2)).to_integral_value()
        rest = angle - quarters * _PI / 2
        # What is left of a multiple of pi is the rounding of pi itself.
        if quarters and abs(rest) < _TINY:
            rest = Decimal(0)
        sine, cosine = _series(rest, 1), _series(rest, 0)
        turned = int(quarters) % 4
        pairs = ((sine, cosine), (cosine, -sine), (-sine, -cosine), (-cosine, sine))
    return pairs[turned]


def _series(angle: Decimal, first: int) -> Decimal:
    """Sum the power series of sine (`first` 1) or cosine (`first` 0)."""
    term = angle if first else Decimal(1)
    total, place = term, first
    while term and term.adjusted() > -80:
        term = -term * angle * angle / ((place + 1) * (place + 2))
        total += term
        place += 2
    return total


def _sin(number: Number) -> Number:
    return 0 if number == 0 else +_circle(number)[0]


def _cos(number: Number) -> Number:
    return 1 if number == 0 else +_circle(number)[1]


def _tan(number: Number) -> Number:
    sine, cosine = _circle(number)
    if cosine == 0:
        raise ToolRefused("the tangent has no value at this angle")
    return sine / cosine


def _atan(number: Number) -> Number:
    value = _decimal(number)
    if value == 0:
        return 0
    if abs(value) > 1:
        return (_PI / 2).copy_sign(value) - _decimal(_atan(1 / value))
    # Halving the angle three times makes the series short.
    for _ in range(3):
        value = value / (1 + (1 + value * value).sqrt())
    total, power, place = value, value, 1
    while power and power.adjusted() > -70:
        power = -power * value * value
        place += 2
        total += power / place
    return total * 8


def _asin(number: Number) -> Number:
    value = _decimal(number)
    if abs(value) > 1:
        raise ToolRefused("the arcsine needs a number from -1 to 1")
    if abs(value) == 1:
        return (_PI / 2).copy_sign(value)
    return _atan(value / (1 - value * value).sqrt())


def _acos(number: Number) -> Number:
    return 0 if number == 1 else +(_PI / 2) - _decimal(_asin(number))


def _atan2(opposite: Number, adjacent: Number) -> Number:
    y, x = _decimal(opposite), _decimal(adjacent)
    if x == 0:
        return 0 if y == 0 else (_PI / 2).copy_sign(y)
    angle = _decimal(_atan(y / x))
    if x > 0:
        return angle
    return angle - _PI if y < 0 else angle + _PI


def _hyperbolic(sign: int) -> Callable[[Number], Number]:
    def computed(number: Number) -> Number:
        grown = _decimal(number).exp()
        return (grown + sign / grown) / 2

    return computed


def _tanh(number: Number) -> Number:
    value = _decimal(number)
    if abs(value) > 200:
        return Decimal(1).copy_sign(value)
    squared = (2 * value).exp()
    return (squared - 1) / (squared + 1)


def _sum(*numbers: Number) -> Number:
    total: Number = 0
    for number in numbers:
        first, second = _both(total, number)
        total = bounded(first + second)
    return total


def _product(*numbers: Number) -> Number:
    total: Number = 1
    for number in numbers:
        first, second = _both(total, number)
        total = bounded(first * second)
    return total


def _mean(*numbers: Number) -> Number:
    return _divided(_sum(*numbers), len(numbers))


def _median(*numbers: Number) -> Number:
    ordered = sorted(numbers)
    return _mean(*ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1])


def _variance(*numbers: Number) -> Number:
    mean = _mean(*numbers)
    squares = (power(_sum(number, -mean), 2) for number in numbers)
    return _divided(_sum(*squares), len(numbers) - 1)


class Function(NamedTuple):
    """A function, and how many numbers it takes; `most` None is any number."""

    compute: Callable[..., Number]
    least: int
    most: int | None


FUNCTIONS: Final[Mapping[str, Function]] = {
    "abs": Function(abs, 1, 1),
    "acos": Function(_acos, 1, 1),
    "asin": Function(_asin, 1, 1),
    "atan": Function(_atan, 1, 1),
    "atan2": Function(_atan2, 2, 2),
    "cbrt": Function(_cbrt, 1, 1),
    "ceil": Function(lambda number: -_floor(-number), 1, 1),
    "comb": Function(_choices(math.comb), 2, 2),
    "cos": Function(_cos, 1, 1),
    "cosh": Function(_hyperbolic(1), 1, 1),
    "degrees": Function(lambda number: _decimal(number) * 180 / _PI, 1, 1),
    "exp": Function(_exp, 1, 1),
    "factorial": Function(factorial, 1, 1),
    "floor": Function(_floor, 1, 1),
    "gcd": Function(lambda *numbers: math.gcd(*map(_integer, numbers)), 1, None),
    "hypot": Function(lambda *numbers: _sqrt(_sum(*(power(number, 2) for number in numbers))), 1, None),
    "lcm": Function(lambda *numbers: math.lcm(*map(_integer, numbers)), 1, 100),
    "ln": Function(_log, 1, 1),
    "log": Function(_log, 1, 2),
    "log10": Function(lambda number: _log(number, 10), 1, 1),
    "log2": Function(lambda number: _log(number, 2), 1, 1),
    "max": Function(lambda *numbers: max(numbers), 1, None),
    "mean": Function(_mean, 1, None),
    "median": Function(_median, 1, None),
    "min": Function(lambda *numbers: min(numbers), 1, None),
    "mod": Function(_remainder, 2, 2),
    "perm": Function(_choices(math.perm), 2, 2),
    "pow": Function(power, 2, 2),
    "product": Function(_product, 1, None),
    "radians": Function(lambda number: _decimal(number) * _PI / 180, 1, 1),
    "round": Function(_round, 1, 2),
    "sin": Function(_sin, 1, 1),
    "sinh": Function(_hyperbolic(-1), 1, 1),
    "sqrt": Function(_sqrt, 1, 1),
    "stdev": Function(lambda *numbers: _sqrt(_variance(*numbers)), 2, None),
    "sum": Function(_sum, 1, None),
    "tan": Function(_tan, 1, 1),
    "tanh": Function(_tanh, 1, 1),
    "trunc": Function(lambda number: _floor(number) if number >= 0 else -_floor(-number), 1, 1),
    "variance": Function(_variance, 2, None),
}

CONSTANTS: Final[Mapping[str, Callable[[], Decimal]]] = {
    "pi": lambda: +_PI,
    "e": lambda: Decimal(1).exp(),
    "tau": lambda: 2 * _PI,
}
"""Computed when asked for, with the precision of then."""

OPERATORS: Final[Mapping[str, Callable[..., Number]]] = {
    "+": _sum,
    "-": lambda left, right: _sum(left, -right),
    "*": _product,
    "/": _divided,
    "//": _floor_divided,
    "%": _remainder,
}
