"""What the tests of the core share: a catalogue, and runs made from events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.check import Certificate
from planner.core.events import Event, PlanAccepted, PlanProposed, Recorded, RunStarted
from planner.core.intrinsics import intrinsics
from planner.core.labels import Integrity
from planner.core.ledger import Budget
from planner.core.plan import Plan, Step
from planner.core.policy import Policy, Principal, Rule
from planner.core.run import Run
from planner.core.setup import Setup
from planner.core.state import fold

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
ALLOW = Policy(rules=(Rule(id="all", then="allow"),), version="v1")
PATH, FOLDER, TEXT = (
    Parameter(name="path", type="path"),
    Parameter(name="folder", type="folder"),
    Parameter(name="text"),
)
CALLEES = (
    Callee(
        name="files.read",
        summary="Read",
        parameters=(PATH,),
        declaration=Declaration(effect="read", resource=("file:{path}",)),
    ),
    Callee(
        name="files.list",
        summary="List",
        parameters=(FOLDER,),
        declaration=Declaration(effect="read", resource=("file:{folder}/**",)),
    ),
    Callee(
        name="files.write",
        summary="Write",
        parameters=(PATH, TEXT),
        declaration=Declaration(
            effect="write",
            on_doubt="idempotent",
            resource=("file:{path}",),
            control={"path": Integrity.BOUNDED},
            payload=("text",),
        ),
    ),
    Callee(
        name="files.append",
        summary="Append",
        parameters=(PATH, TEXT),
        declaration=Declaration(effect="write", on_doubt="probe", resource=("file:{path}",), payload=("text",)),
    ),
    Callee(
        name="files.wipe",
        summary="Empty",
        parameters=(FOLDER,),
        declaration=Declaration(effect="delete", on_doubt="idempotent", resource=("file:{folder}/**",)),
    ),
    Callee(
        name="mail.send",
        summary="Send",
        parameters=(Parameter(name="to", type="email"), TEXT),
        declaration=Declaration(effect="send", resource=("mail:{to}",), control={"to": Integrity.TRUSTED}),
    ),
    Callee(name="shell.run", summary="Run", parameters=(TEXT,)),
    Callee(name="text.upper", summary="Upper case", parameters=(TEXT,), declaration=Declaration(effect="pure")),
)
"""One callee of each sort: reads, an idempotent and a probed write, an unknown effect, a pure function."""
EVERY = (
    *CALLEES,
    *intrinsics(("user", "boss")).values(),
    Callee(
        name="store.put",
        summary="Put",
        parameters=(Parameter(name="name"), TEXT),
        declaration=Declaration(
            effect="write", on_doubt="idempotent", undo="store.remove", resource=("store:{name}",), reversible=True
        ),
    ),
    Callee(
        name="store.take",
        summary="Take",
        parameters=(Parameter(name="name"),),
        declaration=Declaration(effect="write", undo="store.give", resource=("store:{name}",), reversible=True),
    ),
    Callee(
        name="store.look",
        summary="Look",
        parameters=(Parameter(name="name"),),
        declaration=Declaration(effect="read", resource=("store:{name}",)),
    ),
    Callee(
        name="agent.writer",
        kind="agent",
        summary="Write",
        parameters=(Parameter(name="task"),),
        declaration=Declaration(effect="pure", max_tokens=100, out="untrusted"),
    ),
    Callee(
        name="web.fetch",
        summary="Fetch",
        parameters=(Parameter(name="url", type="url"),),
        declaration=Declaration(effect="fetch", cost_usd=0.5, resource=("url:{url}",), timeout_s=30),
    ),
)
"""These, what can be taken back, an agent, a priced call, and the callees of the language itself."""


@pytest.fixture(scope="session")
def callees() -> tuple[Callee, ...]:
    return CALLEES


@pytest.fixture(scope="session")
def every() -> tuple[Callee, ...]:
    return EVERY


@pytest.fixture(scope="session")
def journal() -> Callable[..., tuple[Recorded, ...]]:
    """Events one second apart, as the record of one run."""

    def made(*events: Event) -> tuple[Recorded, ...]:
        return tuple(
            Recorded(seq=n, run_id="r1", run_seq=n, at=BEGAN + timedelta(seconds=n - 1), event=event)
            for n, event in enumerate(events, start=1)
        )

    return made


@pytest.fixture(scope="session")
def given(journal: Callable[..., tuple[Recorded, ...]]) -> Callable[..., Run]:
    """The run that these events made."""

    def folded(*events: Event) -> Run:
        return fold(journal(*events))

    return folded


@pytest.fixture(scope="session")
def started() -> Callable[..., RunStarted]:
    """A goal accepted; what is said more goes into the setup, or into the event where that has such a field."""

    def made(goal: str = "Do it", **more: object) -> RunStarted:
        own = {name: more.pop(name) for name in ("plan", "criteria", "named", "principal") if name in more}
        setup = {"callees": CALLEES, "policy": ALLOW, "budget": Budget()} | more
        fields = {"goal": goal, "principal": Principal(), "setup": Setup.model_validate(setup)} | own
        return RunStarted.model_validate(fields)

    return made


@pytest.fixture(scope="session")
def accepted(started: Callable[..., RunStarted]) -> Callable[..., tuple[Event, ...]]:
    """A run whose plan has these steps and was accepted: a planner's, or with `is_given` one that came along."""

    def made(
        *steps: Step, answer: object = None, is_given: bool = False, inputs: object = None, **more: object
    ) -> tuple[Event, ...]:
        plan = Plan.model_validate({"steps": steps, "answer": answer, "inputs": inputs or {}})
        passed = PlanAccepted(revision=1, plan=plan, certificate=Certificate())
        if is_given:
            return started(plan=plan, **more), passed
        return started(**more), PlanProposed(revision=1, attempt=1, plan=plan), passed

    return made
