"""A role that code of the caller's own plays: a `Model` whose answers are what a function gives."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from planner.core.events import Usage
from planner.core.ledger import Rate
from planner.core.plan import Plan
from planner.errors import ErrorClass, ModelError, PlannerError, UserError
from planner.llm.model import Ask, CallError, Completion, Model, Profile
from planner.roles import TAKEN

T = TypeVar("T", bound=BaseModel)


def played(roles: Mapping[str, object]) -> Mapping[str, Model]:
    """The functions as models, by role. Raises `UserError` U-304 for what is no role, or no function."""
    known = ", ".join(f"`{role}`" for role in TAKEN)
    players: dict[str, Model] = {}
    for role, function in roles.items():
        if role not in TAKEN:
            raise UserError("U-304", f"there is no role `{role}`", hint=f"The roles are {known}.", choices=(*TAKEN,))
        if not callable(function):
            what = f"role `{role}` is `{function!r:.60}`, which is no function"
            raise UserError("U-304", what, hint="Give an `async` function of one argument.")
        players[role] = Played(role, function)
    return players


class Played:
    """One role as its function plays it. It uses no tokens and costs nothing."""

    def __init__(self, role: str, function: Callable[..., Any]) -> None:
        self.name = f"code/{getattr(function, '__qualname__', type(function).__qualname__)}"
        self.profile = Profile(rendering="plain", can_judge=True)
        self._role = role
        self._function = function

    async def complete(self, ask: Ask) -> Completion:
        """What the function gives, as text. Raises `CallError` M-141 if it raised, M-142 if that is no answer."""
        completion, _ = await self._completed(ask)
        return completion

    async def typed(self, ask: Ask, response_model: type[T]) -> tuple[T, tuple[Completion, ...]]:
        """What the function gives as a `response_model`; it is not asked again where it does not fit."""
        completion, given = await self._completed(ask)
        fields = given if isinstance(given, Mapping) else dict.fromkeys(response_model.model_fields, given)
        try:
            return response_model.model_validate(fields, strict=True), (completion,)
        except ValidationError as error:
            parts = error.errors(include_url=False, include_input=False)
            where = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in parts[:3])
            raise self._misfit(f"what does not fit ({where})", completion) from error

    async def rate(self) -> Rate:
        """Nothing."""
        return Rate(input_usd=0.0, output_usd=0.0)

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _completed(self, ask: Ask) -> tuple[Completion, object]:
        """The answer for the record, and what was given."""
        given = await self._given(ask)
        types, words = TAKEN[self._role]
        if not isinstance(given, types):
            raise self._misfit(f"`{given!r:.60}` and not {words}")
        try:
            text = given if isinstance(given, str) else json.dumps(_plain(given), ensure_ascii=False, allow_nan=False)
            text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise self._misfit(f"what is no JSON ({error})") from error
        asked = ask.asked.model_dump(mode="json") if ask.asked is not None else None
        completion = Completion(
            text=text,
            plan=given if isinstance(given, Plan) else None,
            usage=Usage(cost_usd=0.0, model=self.name),
            exchange=[{"request": {"role": self._role, "asked": asked}, "answer": text}],
        )
        return completion, given

    async def _given(self, ask: Ask) -> object:
        """What the function gives. Raises `CallError` M-141 with the class of its error, or what models raise."""
        try:
            given = self._function(ask.asked)
            return await given if inspect.isawaitable(given) else given
        except ModelError:
            raise
        except (Exception, SystemExit) as error:  # code that ends its own program does not end this one
            kind: ErrorClass = error.error_class if isinstance(error, PlannerError) else "failed"
            what = f"role `{self._role}` is played by `{self.name}`, which raised {type(error).__name__}: {error}"
            raise CallError("M-141", what, hint="This is a fault of that function.", error_class=kind) from error

    def _misfit(self, given: str, *completions: Completion) -> CallError:
        what = f"role `{self._role}` is played by `{self.name}`, which gave {given}"
        hint = f"It must give {TAKEN[self._role][1]}."
        return CallError("M-142", what, hint=hint, error_class="invalid", completions=completions)


def _plain(given: object) -> object:
    """What was given, with plain types; a plan in its shortest form."""
    if isinstance(given, Plan):
        return given.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return dict(given) if isinstance(given, Mapping) else given
