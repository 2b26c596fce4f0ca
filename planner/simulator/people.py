"""Those who are asked: people and probes, a planner, a judge. What they say depends on what is asked, not on when."""

from __future__ import annotations

from planner.core.commands import AskPlanner, AskValidator
from planner.core.correction import with_inputs
from planner.core.events import (
    Fault,
    HumanAnswered,
    PlannerFailed,
    PlanProposed,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
)
from planner.core.labels import Json
from planner.core.plan import OnError, Plan, Step, StepPath
from planner.core.run import Run
from planner.simulator.scenarios import Scenario
from planner.simulator.world import World

PERSON = "someone"


def probed(world: World, run: Run, path: StepPath) -> bool | None:
    """What a probe finds; some cannot tell."""
    is_blind = world.scenario.fate(path, "blind", of=5) == 0
    return None if is_blind else run.step(path).key in world.happened


def answered(world: World, run: Run, path: StepPath) -> HumanAnswered:
    """What a person says to the question at `path`; whether something happened they know."""
    state, scenario = run.step(path), world.scenario
    fate = scenario.fate(path, "says", of=6)
    match state.question:
        case "happened":
            word = "yes" if state.key in world.happened else "no"
        case "failed":
            others = ("skip", "skip") if scenario.is_calm else ("skip", "fail")
            word = "retry" if state.failures < fate else others[fate % 2]
        case "answer":
            word = "value"
        case _:
            is_fatal = scenario.is_calm and scenario.plan.at(path).on_error.then != "skip"
            word = "no" if fate == 0 and not is_fatal else "yes"
    value: Json = f"of {path}" if word == "value" else None
    fields = {"path": path, "answer": word, "by": PERSON, "value": value, "asked": state.asked}
    return HumanAnswered.model_validate(fields)


def proposed(scenario: Scenario, run: Run, command: AskPlanner) -> PlanProposed | PlannerFailed:
    """What a planner makes of the goal: at first its plan, later one that goes around what failed."""
    revision, attempt = command.revision, command.attempt
    fate = scenario.fate(revision, attempt, "plans", of=10)
    if fate == 0:
        fault = Fault(code="M-109", error_class="unavailable")
        return PlannerFailed(revision=revision, attempt=attempt, fault=fault)
    plan = scenario.plan if run.plan is None else _other(run, run.plan)
    for correction in run.corrections:
        plan = with_inputs(plan, correction.inputs)
    if fate == 1:  # a slip that the check finds
        plan = plan.model_copy(update={"answer": "${nothing}"})
    return PlanProposed(revision=revision, attempt=attempt, plan=plan)


def _other(run: Run, plan: Plan) -> Plan:
    """The plan with something else in the place of what failed, and one more step: never the same plan again."""
    failed = {failure.path.partition("[")[0] for failure in run.failures}
    steps = tuple(_instead(step, run.revision) if step.id in failed else step for step in plan.steps)
    more = Step(id=f"p{run.revision}", let=f"again {run.revision}")
    answer = plan.answer if isinstance(plan.answer, dict) else {}
    told: dict[str, Json] = {**answer, more.id: f"${{{more.id}}}"}
    return Plan(inputs=plan.inputs, steps=(*steps, more), answer=told)


def _instead(step: Step, revision: int) -> Step:
    args: dict[str, Json] = {"text": f"instead {revision}"}
    return Step(id=step.id, use="text.upper", args=args, on_error=OnError(then="skip"), budget=step.budget)


def shortened(run: Run) -> Plan | None:
    """The plan without its last step, as a person corrects it; None where there would be nothing left."""
    if run.plan is None or len(run.plan.steps) < 2 or not isinstance(run.plan.answer, dict):
        return None
    answer = {name: value for name, value in run.plan.answer.items() if name != run.plan.steps[-1].id}
    return Plan(inputs=run.plan.inputs, steps=run.plan.steps[:-1], answer=answer)


def judged(scenario: Scenario, run: Run, command: AskValidator) -> ReviewPassed | ReviewFailed | ReviewInconclusive:
    """What a judge makes of the outcome."""
    match scenario.fate(run.revision, "judges", of=4):
        case 0:
            return ReviewFailed(criteria=command.criteria)
        case 1:
            return ReviewInconclusive(criteria=command.criteria)
        case _:
            return ReviewPassed(criteria=command.criteria)
