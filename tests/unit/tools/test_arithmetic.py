"""`calculate`: right to the last digit, and never large."""

import math
import time
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from luxx.adapters.tools.calculate import calculate as calculate_tool
from luxx.adapters.tools.jobs.arithmetic import calculate
from luxx.adapters.tools.jobs.mathematics import FUNCTIONS
from luxx.domain.errors import ToolRefused


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3*3", "1"),
        ("2**100", "1267650600228229401496703205376"),
        ("2^10 + 1", "1025"),
        ("-2**2", "-4"),
        ("2**-1", "0.5"),
        ("2**3**2", "512"),
        ("7 // 2", "3"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("5 % 0.3", "0.2"),
        ("5! / 3!", "20"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(2.675, 2)", "2.68"),
        ("round(1234, -2)", "1200"),
        ("sqrt(1.44)", "1.2"),
        ("4**0.5", "2"),
        ("cbrt(-27)", "-3"),
        ("hypot(3, 4)", "5"),
        ("gcd(12, 18) + lcm(4, 6)", "18"),
        ("comb(52, 5)", "2598960"),
        ("perm(5, 2)", "20"),
        ("sum([1, 2, [3]]) + max(1, 2)", "8"),
        ("max(7) + min([0.5])", "7.5"),
        ("mean(0.1, 0.2)", "0.15"),
        ("median(3, 1, 2, 10)", "2.5"),
        ("floor(-2.5) + ceil(-2.5) + trunc(-2.5)", "-7"),
        ("1e3 + 1_000", "2000"),
        ("１＋２×３÷４", "2.5"),
        ("math.sqrt(9)", "3"),
        ("1.10", "1.1"),
        ("-0.05", "-0.05"),
        ("0**0", "1"),
    ],
)
def test_what_is_rational_is_exact(expression: str, text: str) -> None:
    result = calculate(expression)
    assert (result["text"], result["exact"]) == (text, True)
    assert Fraction(text) == Fraction(str(result["value"]))


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("1/3", "0.3333333333333333333333333333"),
        ("sqrt(2)", "1.414213562373095048801688724"),
        ("sqrt(2)**2", "2"),
        ("sin(pi/6)", "0.5"),
        ("sin(pi)", "0"),
        ("cos(pi/3)", "0.5"),
        ("tan(pi/4)", "1"),
        ("4*atan(1)", "3.141592653589793238462643383"),
        ("acos(-1)", "3.141592653589793238462643383"),
        ("atan2(1, -1)*4/3", "3.141592653589793238462643383"),
        ("ln(e)", "1"),
        ("log(8, 2)", "3"),
        ("log10(10**400)", "400"),
        ("exp(1)", "2.718281828459045235360287471"),
        ("degrees(pi) + radians(180) - pi", "180"),
        ("exp(1000)", "1.970071114017046993888879352e+434"),
        ("stdev(1, 2, 3, 4)", "1.290994448735805628393088467"),
        ("8**(1/3)", "2"),
        ("1.0001**10000", "2.718145926825224864037664675"),
    ],
)
def test_what_is_irrational_is_rounded_to_28_digits_and_says_so(expression: str, text: str) -> None:
    result = calculate(expression)
    assert (result["text"], result["exact"]) == (text, False)


@pytest.mark.parametrize("name", ["sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "exp"])
@given(number=st.floats(-20, 20))
def test_functions_agree_with_the_platform_s(name: str, number: float) -> None:
    expected = getattr(math, name)(number)
    found = float(Decimal(calculate(f"{name}({Decimal(number):f})")["text"]))
    assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)


@given(st.floats(-1, 1), st.floats(1e-300, 1e300))
def test_inverse_functions_agree_with_the_platform_s(inside: float, positive: float) -> None:
    for name, number in (("asin", inside), ("acos", inside), ("ln", positive), ("log2", positive), ("sqrt", positive)):
        expected = getattr(math, {"ln": "log"}.get(name, name))(number)
        found = float(Decimal(calculate(f"{name}({number!r})")["text"]))
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)


numbers = st.integers(-1000, 1000).map(lambda number: (f"({number})", Fraction(number))) | st.decimals(
    -100, 100, places=2
).map(lambda number: (f"({number})", Fraction(number)))


@given(st.recursive(numbers, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: joined(*t))))
def test_any_sum_product_and_quotient_is_that_of_fractions(pair: tuple[str, Fraction | None]) -> None:
    expression, expected = pair
    assume(expected is not None)
    assert expected is not None
    assume(max(abs(expected.numerator), expected.denominator) < 10**40)
    result = calculate(expression)
    if result["exact"]:
        assert Fraction(result["text"]) == expected
    else:
        assert abs(Fraction(Decimal(result["text"])) - expected) <= abs(expected) / 10**27


def joined(
    left: tuple[str, Fraction | None], sign: str, right: tuple[str, Fraction | None]
) -> tuple[str, Fraction | None]:
    text = f"({left[0]} {sign} {right[0]})"
    if left[1] is None or right[1] is None or (sign == "/" and right[1] == 0):
        return text, None
    compute = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}[sign]
    return text, compute(left[1], right[1])


@given(st.text(max_size=30) | st.text("0123456789.+-*/^%!()[], episqrtumx", max_size=40))
def test_any_text_is_computed_or_refused(expression: str) -> None:
    with suppress(ToolRefused):
        assert len(calculate(expression)["text"]) <= 4_100


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1/0", "a division by zero"),
        ("1 % 0", "a division by zero"),
        ("0**-1", "a division by zero"),
        ("", "it is empty"),
        ("1 +", "ends where a number was expected"),
        ("2(3)", r"at character 2: .* write \* to multiply"),
        ("1,000 + 5", "without commas"),
        ("sqr(2)", "did you mean sqrt"),
        ("x + 1", "'x' is not known"),
        ("max()", "max was given 0 numbers"),
        ("sqrt(-1)", "no real square root"),
        ("(-8)**0.3", "no real number"),
        ("log(0)", "only positive numbers"),
        ("asin(2)", "from -1 to 1"),
        ("factorial(2.5)", "2.5 is no integer"),
        ("1 == 1", "an operator is missing before '='"),
        ("(1", r"'\)' was expected"),
        ("tan(pi/2)", "no value"),
        ("exp(-100000)", "smaller than"),
    ],
)
def test_what_cannot_be_computed_is_explained(expression: str, reason: str) -> None:
    with pytest.raises(ToolRefused, match=reason):
        calculate(expression)


def test_a_value_that_no_json_number_holds_is_null() -> None:
    assert calculate("1e-400")["value"] is None
    assert calculate("10**400/3")["value"] is None
    assert calculate("10**400")["value"] == 10**400


def test_rounding_is_remembered_through_integers() -> None:
    assert calculate("floor(exp(1000))")["exact"] is False


def test_every_function_is_named_in_the_tool_s_description() -> None:
    assert isinstance(calculate_tool.description, str)
    words = set(calculate_tool.description.replace(",", " ").replace(".", " ").split())
    assert set(FUNCTIONS) <= words


BOMBS = [
    "9**9**9",
    "9**9**9**9",
    "2**(10**300)",
    "factorial(10**6)",
    "factorial(factorial(1000))",
    "((((10**4000)**4000)**4000)**4000)",
    "comb(10**3999, 10**3)",
    "perm(10**3000, 10**3)",
    "lcm(" + ",".join(f"10**3999+{n}" for n in range(200)) + ")",
    "*".join(["factorial(1400)"] * 300),
    "sum(" + ",".join(f"1/{n}" for n in range(1, 600)) + ")",
    "product(" + ",".join(f"1.0000{n}**9999" for n in range(10, 200)) + ")",
    "(" * 4000,
    "-" * 4000,
    "[" * 4000,
    "sum(" + "[" * 3000,
    "1+" * 1999 + "1",
    "2**" * 1300 + "2",
    "1!" + "!" * 3000,
    "3!!!!!!",
    "1e999999999",
    "9" * 4000,
    "sin(" * 500 + "1" + ")" * 500,
    "exp(exp(exp(exp(10))))",
    "gcd(" + ",".join(["10**3900"] * 300) + ")",
    "1/3" + "/3" * 1900,
    "(1/3)**(10**3000)",
    "1.1**1e300",
    "sqrt(" * 90 + "2" + ")" * 90,
    "round(exp(9000), -1000)",
    "atan(1e-3999)",
    "sin(10**15)",
    "hypot(" + ",".join(["1e1999"] * 300) + ")",
    "tanh(1e3999)",
    "variance(" + ",".join(f"{n}/7" for n in range(500)) + ")",
]


@pytest.mark.parametrize("expression", BOMBS, ids=lambda text: text[:20])
def test_no_expression_takes_long(expression: str) -> None:
    started = time.process_time()
    try:
        result = calculate(expression)
    except (ToolRefused, RecursionError):
        result = {"text": ""}
    assert time.process_time() - started < 1
    assert len(result["text"]) <= 4_100
