"""A typed way to write plans in Python; it makes exactly the `Plan` that YAML would."""

from planner.builder.plans import BudgetOptions, FallbackOptions, OnErrorOptions, PlanBuilder, StepOptions
from planner.builder.refs import Ref

__all__ = ["BudgetOptions", "FallbackOptions", "OnErrorOptions", "PlanBuilder", "Ref", "StepOptions"]
