"""A calculator: exact where numbers are rational, rounded to 28 digits where they cannot be.

0.1 + 0.2 is 0.3, and 1/3*3 is 1. It is a language of its own, with a parser of its own: nothing of Python can be
reached through it.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import DivisionByZero, InvalidOperation, Overflow, Underflow, localcontext
from fractions import Fraction
from typing import Any, Final, NamedTuple

from luxx.adapters.tools.jobs.mathematics import (
    CONSTANTS,
    CONTEXT,
    DIGITS,
    FUNCTIONS,
    OPERATORS,
    Number,
    bounded,
    factorial,
    power,
    shown,
)
from luxx.domain.errors import ToolRefused

DEPTH: Final = 100


def calculate(expression: str) -> dict[str, Any]:
    """Evaluate an expression; raises `ToolRefused` with what is wrong with it.

    Gives `value` (a JSON number; null where none can hold it), `text` (all digits) and `exact` (false
    where `text` is rounded).
    """
    with localcontext(CONTEXT):
        try:
            return shown(_Reader(expression).result())
        except (DivisionByZero, ZeroDivisionError):
            reason = "a division by zero"
        except Overflow:
            reason = f"a number with more than {DIGITS} digits"
        except Underflow:
            reason = f"a number smaller than 10 to the power of -{DIGITS}"
        except InvalidOperation:
            reason = "a step that has no real number as its result"
    raise ToolRefused(f"this contains {reason}")


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9.]*)|(?P<sign>\*\*|//|[-+*/%^!(),\[\]])|(?P<end>\Z)|(?P<other>.))",
    re.DOTALL | re.ASCII,
)
_SAME: Final = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "π": "pi", "√": "sqrt", "，": ","})


def _tokens(expression: str) -> Iterator[_Token]:
    # Full-width digits and brackets are what a Chinese or Japanese keyboard types.
    text = unicodedata.normalize("NFKC", expression.translate(_SAME)).translate(_SAME)
    place = 0
    while True:
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            return
        kind = match.lastgroup
        yield _Token(kind, match[kind], match.start(kind) + 1)
        if kind == "end":
            return
        place = match.end()


class _Reader:
    """A recursive descent over the tokens, computing as it goes. Precedence is Python's; `^` is a power."""

    def __init__(self, expression: str) -> None:
        self._tokens: Sequence[_Token] = tuple(_tokens(expression))
        self._next = 0
        self._depth = 0

    def result(self) -> Number:
        number = self._expression()
        token = self._peek()
        if token.text == ",":
            raise ToolRefused(f"at character {token.place}: write large numbers without commas, as in 1000000")
        if token.kind != "end":
            hint = "; write * to multiply" if token.kind in {"number", "name"} or token.text == "(" else ""
            raise ToolRefused(f"at character {token.place}: an operator is missing before {token.text!r}{hint}")
        return number

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _taken(self, *texts: str) -> str | None:
        token = self._peek()
        return self._take().text if token.kind == "sign" and token.text in texts else None

    def _expect(self, text: str) -> None:
        token = self._peek()
        if self._taken(text) is None:
            found = "the end" if token.kind == "end" else repr(token.text)
            raise ToolRefused(f"at character {token.place}: {text!r} was expected, not {found}")

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        """Count brackets, powers and lists within each other, each of which takes some of the stack."""
        self._depth += 1
        if self._depth > DEPTH:
            raise ToolRefused(f"this is nested more than {DEPTH} deep")
        yield
        self._depth -= 1

    def _expression(self) -> Number:
        with self._deeper():
            number = self._term()
            while operator := self._taken("+", "-"):
                number = bounded(OPERATORS[operator](number, self._term()))
        return number

    def _term(self) -> Number:
        number = self._signed()
        while operator := self._taken("*", "/", "//", "%"):
            number = bounded(OPERATORS[operator](number, self._signed()))
        return number

    def _signed(self) -> Number:
        negative = False
        while sign := self._taken("+", "-"):
            negative ^= sign == "-"
        number = self._raised()
        return -number if negative else number

    def _raised(self) -> Number:
        base = self._atom()
        while self._taken("!"):
            base = factorial(base)
        if self._taken("**", "^"):
            with self._deeper():
                base = bounded(power(base, self._signed()))
        return base

    def _atom(self) -> Number:
        token = self._take()
        if token.kind == "number":
            return _read_number(token)
        if token.kind == "name":
            return self._named(token)
        if token.text == "(":
            number = self._expression()
            self._expect(")")
            return number
        if token.kind == "end":
            raise ToolRefused("the expression ends where a number was expected" if self._next else "it is empty")
        raise ToolRefused(f"at character {token.place}: a number was expected, not {token.text!r}")

    def _named(self, token: _Token) -> Number:
        name = token.text.lower().removeprefix("math.")
        if name in CONSTANTS:
            return CONSTANTS[name]()
        function = FUNCTIONS.get(name)
        if function is None:
            near = difflib.get_close_matches(name, [*FUNCTIONS, *CONSTANTS], n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join((*FUNCTIONS, *CONSTANTS))}"
            raise ToolRefused(f"at character {token.place}: {token.text!r} is not known{hint}")
        self._expect("(")
        numbers = self._arguments(")")
        if len(numbers) < function.least or (function.most is not None and len(numbers) > function.most):
            raise ToolRefused(f"at character {token.place}: {name} was given {len(numbers)} numbers")
        return bounded(function.compute(*numbers))

    def _arguments(self, end: str) -> list[Number]:
        """Read what stands between brackets; a list among it counts as its items."""
        numbers: list[Number] = []
        if self._taken(end):
            return numbers
        while True:
            if self._taken("["):
                with self._deeper():
                    numbers += self._arguments("]")
            else:
                numbers.append(self._expression())
            if self._taken(end):
                return numbers
            self._expect(",")


def _read_number(token: _Token) -> Number:
    mantissa, _, exponent = token.text.replace("_", "").lower().partition("e")
    if len(mantissa) > DIGITS or len(exponent) > 6 or abs(int(exponent or 0)) > DIGITS:
        raise ToolRefused(f"at character {token.place}: a number has at most {DIGITS} digits")
    whole, _, decimals = mantissa.partition(".")
    number = Fraction(int(whole + decimals), 10 ** len(decimals)) * Fraction(10) ** int(exponent or 0)
    return bounded(number)
