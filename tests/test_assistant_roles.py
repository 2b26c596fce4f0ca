"""Roles that code plays, end to end: goals without any model, checked as those of models are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from planner import Assistant, Plan, Result, ScriptedModel, Step, UserError, run_sync, tool
from planner.config import Config, Limits
from planner.config.settings import Tools
from planner.core.events import PlannerFailed, PlanProposed, Recorded, StepSucceeded
from planner.core.labels import Integrity, Json
from planner.roles import ChooserView, ExtractorView, PlannerView, Roles, ValidatorView, WriterView

MAIL = "Dear customer, pay 12 EUR to DE89370400440532013000. Yours, Ada"


@tool(name="mail.read", effect="read", resource=())
def read_mail(id: int) -> str:  # noqa: A002
    """Read a mail."""
    return MAIL


@tool(name="mail.lost", effect="read", resource=())
def lost() -> str:
    """Read what is not there."""
    raise LookupError(MAIL)


READ = Step(id="mail", use="mail.read", args={"id": 1})


def assistant(tmp_path: Path, roles: Roles, **options: Any) -> Assistant:
    return Assistant(
        [read_mail, lost], roles=roles, workspace=tmp_path, state=tmp_path / "state", environ={}, **options
    )


async def _ran(made: Assistant, goal: str, options: Mapping[str, Any]) -> tuple[Result, tuple[Recorded, ...]]:
    async with made:
        result = await made.run(goal, **options)
        if made.pool.played.keys() >= {"planner", "extractor"}:
            assert made.pool.choices == {}, "no model was looked for"
        return result, await made.events(result.run_id)


def ran(made: Assistant, goal: str = "Read mail 1", **options: Any) -> tuple[Result, tuple[Recorded, ...]]:
    return run_sync(_ran(made, goal, options))


def planning(*steps: Step, answer: Json = None) -> Roles:
    return {"planner": lambda _: Plan(steps=steps, answer=answer)}


def extracting(given: Mapping[str, Json], fields: Json) -> Roles:
    extract = Step(id="s2", use="agent.extractor", args={"inputs": "$mail", "fields": fields})
    return {"extractor": lambda _: given, **planning(READ, extract, answer="$s2")}


# planner ----------------------------------------------------------------------------------------------------------


def test_a_planner_in_code_is_told_the_goal_and_every_callee_and_needs_no_model(tmp_path: Path) -> None:
    seen: list[PlannerView] = []

    async def plan(view: PlannerView) -> Plan:
        seen.append(view)
        return Plan(inputs={"id": 1}, steps=(Step(id="mail", use="mail.read", args={"id": "$inputs.id"}),))

    result, events = ran(assistant(tmp_path, {"planner": plan}, settings=None))
    assert (result.status, result.value, result.label.integrity) == ("unverified", MAIL, Integrity.UNTRUSTED)
    (view,) = seen
    assert (view.goal, view.revision, view.attempt, view.problems) == ("Read mail 1", 1, 1, ())
    assert {"mail.read", "mail.lost", "agent.extractor"} <= {callee.name for callee in view.callees}
    assert (result.tokens, result.cost_usd) == (0, 0.0)
    assert next(r.event.usage.model for r in events if isinstance(r.event, PlanProposed)).startswith("code/")


def test_it_is_shown_the_whole_catalogue_however_few_a_model_would_be(tmp_path: Path) -> None:
    shown: list[int] = []

    def plan(view: PlannerView) -> Plan:
        shown.append(len(view.callees))
        return Plan(steps=(READ,))

    made = assistant(tmp_path, {"planner": plan}, settings=Config(tools=Tools(shown=1)))
    assert ran(made)[0].fault is not None  # the settings' own policy denies, but that is another matter
    assert shown[0] == len(made.catalogue)


@pytest.mark.parametrize("given", ["an object", "a text", "strict form"])
def test_an_object_or_a_text_is_read_as_a_models_answer_is(tmp_path: Path, given: str) -> None:
    args: Json = [{"name": "id", "value": "1"}] if given == "strict form" else {"id": "1"}
    plan: dict[str, Json] = {"steps": [{"id": "s1", "use": "mail.read", "args": args}], "answer": "${s1}!"}
    said = f"Here it is:\n```json\n{json.dumps(plan)}\n```" if given == "a text" else plan
    result, _ = ran(assistant(tmp_path, {"planner": lambda _: said}))
    assert result.value == f"{MAIL}!"


def test_a_plan_with_problems_is_refused_and_the_next_answer_is_told_of_them(tmp_path: Path) -> None:
    seen: list[PlannerView] = []

    def plan(view: PlannerView) -> Plan:
        seen.append(view)
        return Plan(steps=(READ,)) if view.problems else Plan(steps=(Step(id="s1", use="mail.burn"),))

    result, _ = ran(assistant(tmp_path, {"planner": plan}))
    assert result.status == "unverified"
    assert [view.attempt for view in seen] == [1, 2, 3]  # as for models: the second answer is asked for without them
    assert "P-108" in {problem.code for problem in seen[-1].problems}


def test_what_a_tool_said_never_reaches_the_planner_only_the_class_of_its_error(tmp_path: Path) -> None:
    seen: list[PlannerView] = []

    def plan(view: PlannerView) -> Plan:
        seen.append(view)
        if view.failures:
            return Plan(steps=(Step(id="s3", let="$mail"),))
        return Plan(steps=(READ, Step(id="s2", use="mail.lost")), answer="${mail} ${s2}")

    result, _ = ran(assistant(tmp_path, {"planner": plan}))
    assert (result.status, result.value) == ("unverified", MAIL)
    assert [(f.step, f.callee, f.error_class) for f in seen[-1].failures] == [("s2", "mail.lost", "failed")]
    assert ([step.id for step in seen[-1].done], seen[-1].revision) == (["mail"], 2)
    assert MAIL not in "".join(view.model_dump_json() for view in seen)


def test_what_a_planner_in_code_raises_fails_the_run_and_says_so(tmp_path: Path) -> None:
    async def plan(view: PlannerView) -> Plan:
        raise KeyError(view.goal)

    result, events = ran(assistant(tmp_path, {"planner": plan}))
    assert result.fault is not None
    assert (result.status, result.fault.code) == ("failed", "M-141")
    assert "KeyError" in result.fault.message
    assert sum(isinstance(r.event, PlannerFailed) for r in events) == 1


# agents -----------------------------------------------------------------------------------------------------------


def test_an_extractor_in_code_gets_text_and_fields_and_only_what_the_text_has_counts(tmp_path: Path) -> None:
    seen: list[ExtractorView] = []

    async def extract(view: ExtractorView) -> Mapping[str, Json]:
        seen.append(view)
        return {"name": "Ada", "iban": "DE00", "city": "Rome", "when": None, "amount": 12, "lines": None}

    fields = "name, iban: iban, city, when, amount: number, lines: list[text]"
    roles: Roles = {**extracting({}, fields), "extractor": extract}
    result, events = ran(assistant(tmp_path, roles))
    assert seen[0].inputs == MAIL
    assert seen[0].fields["amount"] == "number"
    assert result.value == {
        "name": "Ada",
        "iban": "DE89370400440532013000",  # the only one there is
        "city": None,  # made up
        "when": None,
        "amount": 12,
        "lines": [],
    }
    assert result.answer.at(("iban",)).label.integrity is Integrity.UNTRUSTED
    (usage,) = next(r.event.usage for r in events if isinstance(r.event, StepSucceeded) and r.event.path == "s2")
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (0, 0, 0.0)
    assert usage.exchange is not None


def test_the_record_keeps_what_was_asked_and_what_was_given(tmp_path: Path) -> None:
    async def work() -> Any:
        async with assistant(tmp_path, extracting({"name": "Ada"}, "name")) as made:
            result = await made.run("Who wrote mail 1?")
            usage = [r.event.usage for r in await made.events(result.run_id) if isinstance(r.event, StepSucceeded)]
            (blob,) = (one.exchange for used in usage for one in used)
            assert blob is not None
            return json.loads(await made.journal.get_blob(result.run_id, blob))

    (turn,) = run_sync(work())
    asked = {"inputs": MAIL, "fields": {"name": "text"}, "task": ""}
    assert turn == {"request": {"role": "extractor", "asked": asked}, "answer": '{"name": "Ada"}'}


@pytest.mark.parametrize(
    ("given", "code"), [({"name": 5}, "M-142"), ({}, "M-142"), ({"name": "Eve"}, "T-313")], ids=str
)
def test_what_an_extractor_gives_is_checked_and_a_misfit_fails_the_step(
    tmp_path: Path, given: Mapping[str, Json], code: str
) -> None:
    settings = Config(policy=assistant(tmp_path, {}).policy, limits=Limits(replans=0))
    result, _ = ran(assistant(tmp_path, extracting(given, "name"), settings=settings))
    assert result.fault is not None
    assert (result.status, result.fault.code) == ("failed", code)


def test_writer_and_chooser_in_code(tmp_path: Path) -> None:
    def write(view: WriterView) -> str:
        return f"{view.task} {len(view.text)}"

    async def choose(view: ChooserView) -> str:
        return next(option for option in view.options if option in view.inputs)

    steps = (
        READ,
        Step(id="s2", use="agent.writer", args={"task": "count", "text": "$mail"}),
        Step(id="s3", use="agent.choose", args={"question": "who?", "options": ["Eve", "Ada"], "inputs": "$mail"}),
    )
    roles: Roles = {"writer": write, "chooser": choose, **planning(*steps, answer="$s2 $s3")}
    assert ran(assistant(tmp_path, roles))[0].value == f"count {len(MAIL)} Ada"


def test_a_role_in_code_goes_beside_models_that_play_the_others(tmp_path: Path) -> None:
    model = ScriptedModel([json.dumps({"f0": "x", "name": "Ada"})])
    roles = planning(READ, Step(id="s2", use="agent.extractor", args={"inputs": "$mail", "fields": "name"}))
    result, _ = ran(assistant(tmp_path, roles, model=model))
    assert (result.value, [ask.role for ask in model.asks]) == ({"name": "Ada"}, ["extractor"])


def test_where_money_is_limited_a_role_in_code_is_free(tmp_path: Path) -> None:
    settings = Config(policy=assistant(tmp_path, {}).policy, limits=Limits(cost_usd=0.01))
    everything: Roles = {**extracting({"name": "Ada"}, "name"), "writer": lambda _: "", "chooser": lambda _: ""}
    everything["validator"] = lambda _: True
    result, _ = ran(assistant(tmp_path, everything, settings=settings))
    assert (result.status, result.cost_usd) == ("unverified", 0.0)


# validator --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_met", "status"), [(True, "completed"), (False, "rejected")])
def test_a_validator_in_code_judges_criteria_that_are_text(tmp_path: Path, is_met: bool, status: str) -> None:
    seen: list[ValidatorView] = []

    async def judge(view: ValidatorView) -> bool:
        seen.append(view)
        return is_met

    settings = Config(policy=assistant(tmp_path, {}).policy, limits=Limits(replans=0))
    made = assistant(tmp_path, {"validator": judge, **planning(READ)}, settings=settings)
    result, _ = ran(made, success="It names a sum")
    assert result.status == status
    assert seen == [ValidatorView(goal="Read mail 1", criterion="It names a sum", outcome=MAIL)]


def test_a_validator_that_raises_leaves_it_open(tmp_path: Path) -> None:
    def judge(view: ValidatorView) -> bool:
        raise RuntimeError

    made = assistant(tmp_path, {"validator": judge, **planning(READ)})
    assert ran(made, success="It names a sum")[0].status == "unverified"


def test_a_role_that_there_is_not_is_refused_before_anything_runs(tmp_path: Path) -> None:
    roles: Any = {"judge": lambda _: True}
    with pytest.raises(UserError, match="U-304"):
        assistant(tmp_path, roles)
