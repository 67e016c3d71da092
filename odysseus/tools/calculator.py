"""The calculator: exact arithmetic for a model, which is bad at it.

The expression comes from a model that may read hostile text, so nothing is evaluated but what is listed here, and no
step may get large: a bound on every value also bounds the cost of the next step.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from odysseus.tools import ToolError

__all__ = ["calculator"]

_LENGTH = 1000
_LARGEST = 10**300  # less than the largest float, so that an int always fits into one

_SPELLINGS = str.maketrans({"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})  # noqa: RUF001  # as models write

_Number = int | float


async def calculator(
    expression: Annotated[str, Field(description="for example (1 + 2.5) * sqrt(2) / 3 ^ 2; angles are in radians")],
) -> str:
    """Calculate an arithmetic expression exactly. Use it for any arithmetic beyond the trivial.

    Knows + - * / // % (the remainder) ^ or **, parentheses, pi, e, tau, sqrt, cbrt, abs, round, min, max, floor, ceil,
    exp, ln, log(x, base), log2, log10, sin, cos, tan, asin, acos, atan, atan2, hypot, degrees, radians, factorial,
    comb, gcd and lcm.
    """
    if len(expression) > _LENGTH:
        raise ToolError(f"the expression is longer than {_LENGTH} characters; calculate it in parts")
    spelled = " ".join(expression.translate(_SPELLINGS).split())
    try:
        return _shown(_value(ast.parse(spelled, mode="eval").body))
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError(f"a result is too large; the limit is 10^{len(str(_LARGEST)) - 1}") from error
    except (RecursionError, MemoryError) as error:  # the parser's own limits among them
        raise ToolError("the expression is nested too deeply; calculate it in parts") from error
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL or half a surrogate pair
        raise ToolError("that isn't an expression; write for example 2 * (3 + 4), and 5% as 0.05") from error


def _value(node: ast.expr) -> _Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _SIGNS:
            return _SIGNS[type(sign)](_value(operand))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _bounded(_OPERATIONS[type(operation)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=named) if name in _FUNCTIONS:
            if named:
                raise ToolError(f"{name}: give the arguments without their names")
            return _called(name, [_value(argument) for argument in arguments])
        case ast.Call(func=ast.Name(id=name)) | ast.Name(id=name):
            known = f"the constants {', '.join(_CONSTANTS)} and, called as in sqrt(2), {', '.join(_FUNCTIONS)}"
            raise ToolError(f"{name} can't be used like that; there are {known}")
        case ast.Tuple():
            raise ToolError("commas only separate arguments; write 1000, not 1,000")
    raise ToolError("only numbers, + - * / // % ^, parentheses and functions such as sqrt(2) can be calculated")


def _called(name: str, arguments: list[_Number]) -> _Number:
    try:
        return _bounded(_FUNCTIONS[name](*arguments))
    except (TypeError, ValueError) as error:  # the wrong number of arguments, or sqrt(-1)
        raise ToolError(f"{name}: {error}") from error


def _bounded(value: _Number | complex) -> _Number:
    if isinstance(value, complex):
        raise ToolError("the result isn't a real number")
    if not abs(value) <= _LARGEST:  # nor is nan
        raise OverflowError
    return value


def _shown(value: _Number) -> str:
    if isinstance(value, int):
        return str(value)
    return format(value + 0.0, ".15g")  # 15 digits turn 0.30000000000000004 into 0.3, and + 0.0 makes -0.0 a 0


def _divided(left: _Number, right: _Number) -> _Number:
    if isinstance(left, int) and isinstance(right, int) and left % right == 0:
        return left // right
    return left / right


def _power(base: _Number, exponent: _Number) -> _Number | complex:
    if isinstance(base, int) and isinstance(exponent, int):
        least_bits = (abs(base).bit_length() - 1) * exponent  # of the result
        if least_bits > _LARGEST.bit_length():
            raise OverflowError
    result: _Number | complex = base**exponent
    return result


def _whole(number: _Number, largest: int) -> int:
    """Return *number* as an int. Raises `ValueError` if it is not whole, or further from 0 than *largest*."""
    if number != int(number) or abs(number) > largest:
        raise ValueError(f"needs a whole number up to {largest}")
    return int(number)


def _rounded(number: _Number, digits: _Number = 0) -> _Number:
    places = _whole(digits, 300)  # round(1, -10**9) would calculate 10**10**9
    return round(number, places) if places > 0 else int(round(number, places))


_CONSTANTS: Mapping[str, float] = {"pi": math.pi, "π": math.pi, "e": math.e, "tau": math.tau}

_SIGNS: Mapping[type[ast.unaryop], Callable[[_Number], _Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}

_OPERATIONS: Mapping[type[ast.operator], Callable[[Any, Any], _Number | complex]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divided,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}

_FUNCTIONS: Mapping[str, Callable[..., _Number]] = {
    "sqrt": math.sqrt,
    "cbrt": math.cbrt,
    "abs": abs,
    "round": _rounded,
    "min": lambda *numbers: min(numbers),
    "max": lambda *numbers: max(numbers),
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "ln": math.log,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "atan2": math.atan2,
    "hypot": math.hypot,
    "degrees": math.degrees,
    "radians": math.radians,
    "factorial": lambda number: math.factorial(_whole(number, 170)),
    "comb": lambda number, chosen: math.comb(_whole(number, 1000), _whole(chosen, 1000)),
    "gcd": math.gcd,
    "lcm": math.lcm,
}
