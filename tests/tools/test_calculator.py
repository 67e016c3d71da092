"""The calculator: what models write is calculated, and nothing they could write costs anything."""

from __future__ import annotations

import math
import time

import pytest

from odysseus.tools import ToolError
from odysseus.tools.calculator import calculator

A_MOMENT_S = 1.0  # none of it takes a hundredth of that; without the limits, most take minutes


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("  2\n + 3 ", "5"),
        ("0.1 + 0.2", "0.3"),
        ("6 / 3", "2"),
        ("7 / 2", "3.5"),
        ("1 / 3", "0.333333333333333"),
        ("7 // 2", "3"),
        ("7.5 // 2", "3"),
        ("17 % 5", "2"),
        ("-7 % 3", "2"),
        ("2 ^ 10", "1024"),
        ("2 ** -1", "0.5"),
        ("-2 ^ 2", "-4"),
        ("2 ^ 3 ^ 2", "512"),
        ("0 * -1.5", "0"),
        ("+-+1", "-1"),
        ("1e3", "1000"),
        ("1e22", "1e+22"),
        ("1_000", "1000"),
        ("0xff", "255"),
        ("3 × 4 ÷ 6 − 1", "1"),  # noqa: RUF001
        ("2 · 3", "6"),
        ("π", "3.14159265358979"),
        ("2 * pi - tau", "0"),
        ("e", "2.71828182845905"),
        ("123456789123456789 * 987654321987654321", "121932631356500531347203169112635269"),
        ("246913578246913578 / 2", "123456789123456789"),
        ("2 ^ 900 / 2 ^ 899", "2"),
        ("2 ** 100", str(2**100)),
        ("10 ** 300", "1" + 300 * "0"),
        ("(-1) ** (10 ** 300)", "1"),
        ("sqrt(16)", "4"),
        ("cbrt(27)", "3"),
        ("abs(-3)", "3"),
        ("round(2.567, 2)", "2.57"),
        ("round(3.7)", "4"),
        ("round(1234, -2)", "1200"),
        ("min(3, 1, 2)", "1"),
        ("max(3, 1.5)", "3"),
        ("floor(-1.5)", "-2"),
        ("ceil(1.2)", "2"),
        ("sin(pi / 2)", "1"),
        ("cos(0)", "1"),
        ("tan(0)", "0"),
        ("asin(1) * 2 - pi", "0"),
        ("acos(1)", "0"),
        ("degrees(atan(1))", "45"),
        ("degrees(atan2(1, 1))", "45"),
        ("radians(180) - pi", "0"),
        ("hypot(3, 4)", "5"),
        ("ln(e)", "1"),
        ("log(e)", "1"),
        ("log(1000, 10)", "3"),
        ("log2(8)", "3"),
        ("log10(0.01)", "-2"),
        ("exp(0)", "1"),
        ("factorial(20)", str(math.factorial(20))),
        ("factorial(10 / 2)", "120"),
        ("comb(49, 6)", "13983816"),
        ("gcd(12, 18)", "6"),
        ("lcm(4, 6)", "12"),
        ("+".join(["1"] * 300), "300"),
        ("^".join(["1"] * 300), "1"),
    ],
)
async def test_calculates(expression: str, result: str) -> None:
    assert await calculator(expression) == result


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("9 ** 9 ** 9", "too large"),
        ("10 ** 301", "too large"),
        ("1" + 301 * "0", "too large"),
        ("-(10 ** 200) * 10 ** 200", "too large"),
        ("3 ** (10 ** 300)", "too large"),
        ("0.5 ** -(10 ** 300)", "too large"),
        ("10.0 ** 400", "too large"),
        ("10 ** 200 * 10.0 ** 200", "too large"),
        (" * ".join(["9 ** 99"] * 90), "too large"),
        ("1e999", "too large"),
        ("1e999 - 1e999", "too large"),
        ("exp(1000)", "too large"),
        ("floor(1e308)", "too large"),
        ("factorial(170)", "too large"),
        ("factorial(10 ** 9)", "factorial: needs a whole number up to 170"),
        ("factorial(2.5)", "factorial: needs a whole number"),
        ("factorial(-1)", "factorial:"),
        ("comb(10 ** 300, 10 ** 299)", "comb: needs a whole number up to 1000"),
        ("round(1, -10 ** 9)", "round: needs a whole number up to 300"),
        ("round(1.5, 10 ** 300)", "round: needs a whole number up to 300"),
        ("1 / 0", "division by zero"),
        ("1 // 0.0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("0.0 ** -1", "division by zero"),
        ("(-8) ** (1 / 3)", "isn't a real number"),
        ("sqrt(-1)", "sqrt:"),
        ("log(0)", "log:"),
        ("asin(2)", "asin:"),
        ("sin(1, 2)", "sin:"),
        ("sqrt()", "sqrt:"),
        ("min()", "min:"),
        ("gcd(1.5, 2)", "gcd:"),
        ("x + 1", "x can't be used like that; there are the constants pi, "),
        ("sqrt", "sqrt can't be used like that"),
        ("eval('1')", "eval can't be used like that"),
        ("__import__('os').system('true')", "only numbers"),
        ("(1).__class__", "only numbers"),
        ("(lambda: 1)()", "only numbers"),
        ("[1] * 9", "only numbers"),
        ("'a' * 9", "only numbers"),
        ("1j", "only numbers"),
        ("True + 1", "only numbers"),
        ("round(1.234, ndigits=2)", "round: give the arguments without"),
        ("max(*(1, 2))", "only numbers"),
        ("~1", "only numbers"),
        ("1 << 9", "only numbers"),
        ("1 if 1 else 2", "only numbers"),
        ("1 < 2", "only numbers"),
        ("(x := 1)", "only numbers"),
        ("2(3 + 4)", "only numbers"),
        ("1,000 + 1", "write 1000, not 1,000"),
        ("", "isn't an expression"),
        ("1 +", "isn't an expression"),
        ("5%", "isn't an expression"),
        ("sqrt 2", "isn't an expression"),
        ("import os", "isn't an expression"),
        ("1; 2", "isn't an expression"),
        ("1\0", "isn't an expression"),
        ("'\ud800'", "isn't an expression"),
        ("1" * 1001, "longer than 1000"),
        ("(" * 499 + "1" + ")" * 499, ""),  # the parser may call it nested, or no expression
        ("-" * 999 + "1", "nested too deeply"),
    ],
    ids=lambda text: ascii(text[:30]),
)
async def test_refuses_at_no_cost(expression: str, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ToolError) as refused:
        await calculator(expression)
    assert said in str(refused.value)
    assert time.monotonic() - begun < A_MOMENT_S
