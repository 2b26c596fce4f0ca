"""Programs that can do no more than they were given."""

from planner.sandbox.contract import LIMITS, Limits, Ran, Reached, Sandbox
from planner.sandbox.linux import interpreter
from planner.sandbox.trials import Probe, probe

__all__ = ["LIMITS", "Limits", "Probe", "Ran", "Reached", "Sandbox", "interpreter", "probe"]
