"""Arithmetic: calculate."""

from __future__ import annotations

from planner.core.expr import evaluate
from planner.errors import PlanError, ToolError
from planner.tools import Expression, Number, tool

_SIGNS = str.maketrans({"\u00d7": "*", "÷": "/", "\u2212": "-", "^": "**", "=": None})  # as people write them
_DIGITS = 15  # what a float is good for; 0.17 * 2450 gives 416.50000000000006


@tool(
    effect="pure",
    keywords=(
        "percent",
        "number",
        "much",
        "compute",
        "add",
        "subtract",
        "multiply",
        "divide",
        "plus",
        "minus",
        "times",
        "sum",
    ),
)
def calculate(expression: Expression) -> Number:
    """Calculate an arithmetic expression, such as (3 + 4) * 2."""
    try:
        result = evaluate(expression.translate(_SIGNS), {}).value
    except PlanError as error:
        what = f"`{expression:.60}` cannot be calculated: {error.message}"
        raise ToolError("T-431", what, error_class="invalid", hint=error.hint) from error
    if isinstance(result, bool) or not isinstance(result, int | float):
        raise ToolError("T-431", f"`{expression:.60}` gives no number", error_class="invalid")
    return result if isinstance(result, int) else float(f"{result:.{_DIGITS}g}")
