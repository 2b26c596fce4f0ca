"""Every error the runtime raises on purpose, named by whose fault it is.

PlannerError                  never raised itself
├── UserError       U-...     a goal, an option, a folder or a setting is wrong
├── PlanError       P-...     a plan cannot mean what it says
├── PolicyError     A-...     a rule, a person or a budget said no
├── ToolError       T-...     a tool could not do its work
├── ModelError      M-...     a model or the way to it failed
└── JournalError    J-...     the record of runs refused or is damaged

A code is stable: it may be searched for, and scripts may match it. `error_class` is the part that rules and
planners may read: a word from a fixed list, never text that a tool or a model wrote.
"""

from __future__ import annotations

from typing import ClassVar, Literal

ErrorClass = Literal[
    "invalid",  # the caller gave something that can never work
    "missing",  # a named thing does not exist
    "denied",  # a rule or a person said no
    "conflict",  # somebody else holds or changed the thing
    "unavailable",  # the outside is down or silent; trying again may help
    "limit",  # a size, time or money limit was reached
    "failed",  # anything else
]


class PlannerError(Exception):
    """Carries a stable `code`, an `error_class`, what to do next (`hint`), and valid `choices` if there are any.

    `retry_after_s` is how long the other side asked to be left alone, if it said so.
    """

    default_class: ClassVar[ErrorClass] = "failed"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        error_class: ErrorClass | None = None,
        choices: tuple[str, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        if type(self) is PlannerError:
            raise TypeError("raise one of the subclasses: the class names whose fault it is")
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.choices = choices
        self.retry_after_s = retry_after_s
        self.error_class: ErrorClass = error_class or self.default_class

    def __str__(self) -> str:
        told = f"[{self.code}] {self.message}"
        return f"{told}. {self.hint}" if self.hint else told


class UserError(PlannerError):
    """A goal, an option, a folder or a setting is wrong."""

    default_class: ClassVar[ErrorClass] = "invalid"


class PlanError(PlannerError):
    """A plan or an expression cannot mean what it says."""

    default_class: ClassVar[ErrorClass] = "invalid"


class PolicyError(PlannerError):
    """A rule, a person or a budget said no."""

    default_class: ClassVar[ErrorClass] = "denied"


class ToolError(PlannerError):
    """A tool could not do its work; raised by tools, with no effect left behind."""


class ModelError(PlannerError):
    """A model or the way to it failed."""

    default_class: ClassVar[ErrorClass] = "unavailable"


class JournalError(PlannerError):
    """The record of runs refused a change or is damaged."""

    default_class: ClassVar[ErrorClass] = "conflict"
