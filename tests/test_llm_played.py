"""A role that code plays: what the function gives becomes an answer, and what it raises a failure."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from planner.core.ledger import Rate
from planner.core.plan import Plan, Step
from planner.errors import ModelError, ToolError, UserError
from planner.llm.model import Ask, CallError, Completion, Message, Model, Priced
from planner.llm.played import played
from planner.roles import Asked, ChooserView, ExtractorView, PlannerView, ValidatorView, WriterView

VIEWS: dict[str, Asked] = {
    "planner": PlannerView(goal="Do it", callees=()),
    "writer": WriterView(task="sum up", text="long"),
    "extractor": ExtractorView(inputs="Ada, 36", fields={"name": "text", "age": "integer"}),
    "chooser": ChooserView(question="which?", options=("a", "b"), inputs="a"),
    "validator": ValidatorView(goal="Do it", criterion="It is short", outcome="short"),
}


class Person(BaseModel):
    f0: str = Field(alias="name")
    f1: int = Field(alias="age")


class Choice(BaseModel):
    option: Literal["a", "b"]


class Opinion(BaseModel):
    is_met: bool


def asking(role: str) -> Ask:
    return Ask(role=role, asked=VIEWS[role], messages=(Message(role="user", content="as a prompt says it"),))


def player(role: str, function: Any) -> Model:
    return played({role: function})[role]


def completed(role: str, function: Any) -> Completion:
    return asyncio.run(player(role, function).complete(asking(role)))


def typed(role: str, function: Any, shape: type[BaseModel]) -> BaseModel:
    answer, completions = asyncio.run(player(role, function).typed(asking(role), shape))
    assert len(completions) == 1
    return answer


def failed(role: str, function: Any, shape: type[BaseModel] | None = None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        typed(role, function, shape) if shape else completed(role, function)
    return caught.value


def test_a_function_gets_the_view_and_its_answer_is_kept_with_what_was_asked() -> None:
    seen: list[WriterView] = []

    async def write(view: WriterView) -> str:
        seen.append(view)
        return "short"

    completion = completed("writer", write)
    assert seen == [VIEWS["writer"]]
    assert (completion.text, completion.usage.input_tokens, completion.usage.cost_usd) == ("short", 0, 0.0)
    request = {"role": "writer", "asked": {"task": "sum up", "text": "long"}}
    assert completion.exchange == [{"request": request, "answer": "short"}]
    assert completion.usage.model.startswith("code/test_a_function_gets_the_view")


def test_a_function_may_be_plain_a_method_or_have_no_name() -> None:
    class Desk:
        def write(self, view: WriterView) -> str:
            return view.task

    assert completed("writer", Desk().write).text == "sum up"
    assert completed("writer", partial(lambda tail, view: view.text + tail, "!")).text == "long!"


def test_a_plan_is_taken_as_it_is_and_kept_as_json() -> None:
    plan = Plan(inputs={"to": "a"}, steps=(Step(id="s1", use="mail.send", args={"text": "[1]"}),), answer="$s1")
    completion = completed("planner", lambda _: plan)
    assert completion.plan is plan
    assert Plan.model_validate_json(completion.text) == plan
    assert completed("planner", lambda _: {"steps": []}).plan is None


def test_a_record_an_option_and_an_opinion_are_checked_like_a_models() -> None:
    person = typed("extractor", lambda _: {"name": "Ada", "age": 36}, Person)
    assert person == Person(name="Ada", age=36)
    assert typed("chooser", lambda _: "b", Choice) == Choice(option="b")
    assert typed("validator", lambda _: True, Opinion) == Opinion(is_met=True)


@pytest.mark.parametrize(
    ("role", "given", "shape", "told"),
    [
        ("planner", None, None, "gave `None` and not a `Plan`, an object or a text"),
        ("planner", {"steps": {1, 2}}, None, "gave what is no JSON"),
        ("writer", 5, None, "gave `5` and not a text"),
        ("writer", "\ud83d", None, "gave what is no JSON"),
        ("extractor", ["Ada"], Person, "and not an object"),
        ("extractor", {"name": "Ada"}, Person, "gave what does not fit (age: Field required)"),
        ("extractor", {"name": "Ada", "age": "36"}, Person, "age: Input should be a valid integer"),
        ("chooser", "c", Choice, "option: Input should be 'a' or 'b'"),
        ("validator", "yes", Opinion, "gave `'yes'` and not True or False"),
    ],
)
def test_what_is_no_answer_of_the_role_is_refused_with_what_was_expected(
    role: str, given: Any, shape: type[BaseModel] | None, told: str
) -> None:
    error = failed(role, lambda _: given, shape)
    assert (error.code, error.error_class) == ("M-142", "invalid")
    assert told in error.message


def test_what_the_function_raises_becomes_a_failure_that_names_it() -> None:
    async def plan(view: PlannerView) -> Plan:
        raise ZeroDivisionError("no way")

    error = failed("planner", plan)
    assert (error.code, error.error_class) == ("M-141", "failed")
    assert "role `planner`" in error.message
    assert error.message.endswith(".plan`, which raised ZeroDivisionError: no way")


def test_an_error_of_the_runtimes_own_keeps_its_class_and_one_of_models_stays_as_it_is() -> None:
    def missing(_: WriterView) -> str:
        raise ToolError("X-1", "not there", error_class="missing")

    def unreachable(_: WriterView) -> str:
        raise CallError("M-105", "no way there")

    assert failed("writer", missing).error_class == "missing"
    assert failed("writer", unreachable).code == "M-105"


def test_it_costs_nothing_and_has_nothing_to_let_go_of() -> None:
    model = player("writer", lambda _: "x")
    assert isinstance(model, Priced)
    assert asyncio.run(model.rate()) == Rate(input_usd=0.0, output_usd=0.0)
    asyncio.run(model.close())


@pytest.mark.parametrize(
    ("roles", "told"),
    [({"planer": print}, "there is no role `planer`"), ({"planner": "gpt"}, "`'gpt'`, which is no function")],
)
def test_what_is_no_role_or_no_function_is_refused_at_once(roles: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match="U-304") as caught:
        played(roles)
    assert told in caught.value.message
