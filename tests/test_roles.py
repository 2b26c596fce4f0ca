"""What a role is asked, as a value: complete for code that plays it, short in the record."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
from pydantic import ValidationError

from planner.core.catalog import Callee, Parameter
from planner.llm.model import Ask, Message
from planner.roles import TAKEN, ExtractorView, PlannerView, Role, Roles

READ = Callee(name="mail.read", summary="Read a mail", parameters=(Parameter(name="id", type="id"),), result="text")


def test_a_planner_gets_callees_whole_and_the_record_keeps_a_line_of_each() -> None:
    view = PlannerView(goal="Read it", callees=(READ,))
    assert view.callees[0].parameter("id") == READ.parameters[0]
    assert view.model_dump(mode="json")["callees"] == ["mail.read(id) -> text: Read a mail"]


def test_a_view_cannot_be_changed() -> None:
    view = ExtractorView(inputs="a", fields={"name": "text"})
    with pytest.raises(ValidationError):
        setattr(view, "inputs", "b")  # noqa: B010 - a type checker refuses the other form


def test_every_role_says_what_it_gives() -> None:
    assert set(TAKEN) == set(get_args(Role)) == set(get_type_hints(Roles))


def test_what_is_asked_as_a_value_changes_neither_the_key_of_a_recording_nor_its_record() -> None:
    plain = Ask(role="planner", messages=(Message(role="user", content="plan"),))
    with_view = plain.model_copy(update={"asked": PlannerView(goal="Read it", callees=(READ,))})
    assert plain.key("m") == with_view.key("m")
    assert plain.model_dump() == with_view.model_dump()
