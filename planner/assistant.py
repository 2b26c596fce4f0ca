"""An assistant: a folder, or tools and a model given in code, made into a thing with `.run()`.

Rules of the file:
- The composition root: here, and only here, the parts are put together.
- Nothing is global: two assistants in one process share nothing but the state folder, if both name the same.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from planner import config, prompts, reading, rehearsal
from planner.agents import AGENTS, ROLES
from planner.audit import Anchors
from planner.cards import Answer, Approver, Card, answered, card_of
from planner.core.catalog import Callee
from planner.core.events import (
    CancelRequested,
    PauseLifted,
    Recorded,
    RunResumed,
    RunStarted,
    Steered,
)
from planner.core.goal import named
from planner.core.intrinsics import RESEARCHER, intrinsics
from planner.core.labels import Json, Labelled
from planner.core.ledger import Budget, Rate
from planner.core.plan import MAX_STEPS, Plan, StepPath
from planner.core.policy import Policy, Principal
from planner.core.review import criteria
from planner.core.rules import Rule
from planner.core.run import Run
from planner.core.setup import Setup
from planner.core.state import fold
from planner.errors import UserError
from planner.goals import attached, goal_text, looked_up, plan_given
from planner.journal import Journal, Requestable, SqliteJournal
from planner.llm.model import Model
from planner.llm.played import played
from planner.llm.pool import Consent, Pool
from planner.outside import Delegation, Outside
from planner.prompts import Prompt
from planner.results import Result, result_of
from planner.roles import Roles
from planner.runner import Runner, forked
from planner.slots import LIMIT, Slots
from planner.telemetry import Telemetry
from planner.tools import Toolbox

T = TypeVar("T")
OnAsk = Literal["prompt", "wait", "deny"]

DEFAULT_POLICY = config.pinned(
    Policy(
        rules=(
            Rule(id="reading", then="allow", effect="pure"),
            Rule(id="reading", then="allow", effect="read"),
            Rule(id="workspace", then="allow", effect="write", callee="files.*"),
            Rule(id="delegating", then="allow", callee="plan.goal"),
            Rule(id="anything-else", then="ask"),
        )
    )
)
"""What holds where tools are given in code without a policy: look, write in the workspace, else ask."""


class Assistant:
    """Goals in, checked work out. Use as `async with`, or close it.

    `tools` are functions marked with `@tool`, or a `Toolbox`; `model` is a litellm name, `local`, or any `Model`;
    `roles` are the roles that functions play instead of a model; `approver` answers approval cards (without one, a
    run that needs a person waits). Files are read and written in `workspace` (default: the working directory); runs
    are kept in `state` (default: the user's state folder). Raises `UserError` for what cannot be.
    """

    def __init__(
        self,
        tools: Sequence[Callable[..., Any]] | Toolbox = (),
        *,
        model: str | Model | None = None,
        roles: Roles | None = None,
        approver: Approver | None = None,
        policy: Policy | None = None,
        workspace: Path | str | None = None,
        state: Path | str | None = None,
        settings: config.Config | None = None,
        folder: Path | None = None,
        on_ask: OnAsk = "wait",
        consent: Consent | None = None,
        progress: Callable[[int, int], None] | None = None,
        is_shared: bool = False,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.settings = settings or config.Config()
        self.toolbox = tools if isinstance(tools, Toolbox) else Toolbox.of(*tools)
        self.folder = folder or config.reference()
        self._content = config.content_hash(self.folder)  # of what was loaded, whatever becomes of the folder
        rules = policy or (self.settings.policy if settings else DEFAULT_POLICY)
        self.policy = rules if rules.version else config.pinned(rules)
        self.workspace = config.workspace_dir(Path(workspace) if workspace else None, here=Path.cwd())
        self._environ = dict(os.environ if environ is None else environ)
        self._state = config.state_dir(Path(state) if state else None, self._environ)
        self._approver = approver
        self._on_ask = on_ask
        self._journal: Journal | None = None
        self._clock = clock
        self._prompts: dict[str, Prompt] = {}
        self._redactor = self.settings.secrets.redactor(self._environ)
        self._telemetry = Telemetry.open(
            self.settings.telemetry, name=self.settings.assistant.name, redactor=self._redactor
        )
        of = {name: most for name, most in self.settings.limits.concurrency.items() if name != "total"}
        anchors = self.settings.audit.file
        self._anchors = Anchors(
            lambda: self.journal,
            Path(anchors).expanduser() if anchors else self._state / "anchors.jsonl",
            every=self.settings.audit.every,
        )
        self._slots = Slots(self.settings.limits.concurrency.get("total", LIMIT), of=of)
        self._runner = Runner(
            lambda: self.journal,
            self._outside,
            started=self._nested,
            resumed=self._resumed,
            telemetry=self._seen,
            clock=clock,
        )
        self.pool = Pool(
            self.settings.models,
            named=model,
            played=played(roles or {}),
            environ=self._environ,
            consent=consent,
            progress=progress,
            is_shared=is_shared,
        )

    @classmethod
    def open(cls, folder: Path | str | None = None, **options: Any) -> Self:  # noqa: ANN401 - those of __init__
        """The assistant in `folder` (default: the reference assistant), with the options of the constructor.

        Naming a folder is consent to load its code. Raises `UserError` if the folder is not an assistant's.
        """
        environ = options.get("environ") or os.environ
        reference = config.reference()
        place = Path(folder).resolve() if folder is not None else reference
        settings = config.load(place, environ)
        own = Toolbox.load(reference / "tools", only=settings.tools.builtin)
        if place != reference and (place / "tools").is_dir():
            own = own.merged(Toolbox.load(place / "tools"))
        return cls(own, settings=settings, folder=place, **options)

    @property
    def catalogue(self) -> dict[str, Callee]:
        """Everything a plan of this assistant may call, by name."""
        looking = {RESEARCHER.name: RESEARCHER} if self.policy.mode != "sealed" else {}
        return {**self.toolbox.catalogue, **AGENTS, **looking, **intrinsics(self.settings.people.roles)}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of models, connections and the journal, and send what telemetry is left."""
        await self.pool.close()
        await self._anchors.close()
        if self._journal is not None:
            await self._journal.close()
            self._journal = None
        if self._telemetry is not None:
            await asyncio.to_thread(self._telemetry.close)

    def _seen(self, recorded: Recorded) -> None:
        """Tells every event to those who always listen."""
        self._anchors.observe(recorded)
        if self._telemetry is not None:
            self._telemetry.observe(recorded)

    @property
    def journal(self) -> Journal:
        """The record of all runs in the state folder."""
        if self._journal is None:
            self._journal = SqliteJournal.open(self._state / "journal.db", redactor=self._redactor)
        return self._journal

    async def run(
        self,
        goal: str,
        *,
        as_: Principal | None = None,
        success: str | None = None,
        plan: Plan | Mapping[str, Json] | None = None,
        attachments: Mapping[str, str] | None = None,
        run_id: str | None = None,
        observe: Callable[[Recorded], None] | None = None,
    ) -> Result:
        """The outcome of `goal`. With `plan`, that plan runs and no planner is asked; `success` adds a criterion.

        `attachments` are texts by name that an outsider may have written: a plan reads them as `$attachments.name`.

        What the plan says counts as the principal's own words, so take none from somebody else. Raises `UserError`
        for a goal or plan that cannot be one, `ModelError` if there is no model, `JournalError`.
        """
        started = await self._started(goal, as_, success=success, plan=plan, attachments=attachments)
        return result_of(await self._runner.begin(started, run_id or new_run_id(), observe))

    async def plan(
        self,
        goal: str,
        *,
        as_: Principal | None = None,
        success: str | None = None,
        plan: Plan | Mapping[str, Json] | None = None,
        attachments: Mapping[str, str] | None = None,
        observe: Callable[[Recorded], None] | None = None,
    ) -> Run:
        """A run that has its accepted plan, and certificate, or has failed; nothing of the plan was done.

        `resume` carries the plan out. Raises what `run` raises.
        """
        started = await self._started(goal, as_, success=success, plan=plan, attachments=attachments)
        setup = started.setup.model_copy(update={"is_only_planned": True})
        only_planned = started.model_copy(update={"setup": setup})
        return await self._runner.begin(only_planned, new_run_id(), observe)

    async def rehearse(
        self,
        goal: str,
        *,
        as_: Principal | None = None,
        success: str | None = None,
        plan: Plan | Mapping[str, Json] | None = None,
        attachments: Mapping[str, str] | None = None,
        observe: Callable[[Recorded], None] | None = None,
    ) -> Result:
        """How the goal would go: a run of its own that looks where it must, and changes nothing.

        Raises what `run` raises.
        """
        started = await self._started(goal, as_, success=success, plan=plan, attachments=attachments)
        setup = started.setup.model_copy(update={"on_ask": "wait"})  # what is not done needs no approval
        run_id = rehearsal.rehearsal_id(new_run_id())
        run = await self._runner.begin(started.model_copy(update={"setup": setup}), run_id, observe)
        for _ in range(MAX_STEPS):
            if not (events := tuple(rehearsal.awaited(run))):
                break
            for event in events:
                await self.journal.post(run_id, event, at=run.at)
            run = await self._runner.go_on(run_id, observe)
        return result_of(run)

    async def stream(self, goal: str, **options: Any) -> AsyncGenerator[Recorded, None]:  # noqa: ANN401 - those of run
        """Every event of the run as it happens; the last is `RunFinished`, unless the run waits for a person."""
        queue: asyncio.Queue[Recorded | None] = asyncio.Queue()
        running = asyncio.create_task(self.run(goal, observe=queue.put_nowait, **options))
        running.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (recorded := await queue.get()) is not None:
                yield recorded
            await running
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def resume(self, run_id: str, *, observe: Callable[[Recorded], None] | None = None) -> Result:
        """Go on with a run where its journal ends; a pause is lifted. A finished run gives its result again.

        Raises `JournalError` if the run is unknown, live in another process, or its record damaged.
        """
        if fold(await self._runner.history(run_id)).is_paused:
            try:
                return await self.tell(run_id, PauseLifted(by=user_name()), observe=observe)
            except UserError as error:
                if error.code != "U-432":  # somebody else lifted it first
                    raise
        return result_of(await self._runner.go_on(run_id, observe))

    async def go_on(self, run_id: str, *, observe: Callable[[Recorded], None] | None = None) -> Result:
        """Go on with a run as far as it can, what was asked of it first; unlike `resume`, a pause stays.

        Raises what `resume` raises.
        """
        return result_of(await self._runner.go_on(run_id, observe))

    async def tell(
        self, run_id: str, event: Requestable, *, observe: Callable[[Recorded], None] | None = None
    ) -> Result:
        """Ask something of a run, whoever drives it: to stop or pause, to take an answer, a correction, an event.

        A run that nobody drives is gone on with here. Raises `UserError` U-432 if the run refuses it, U-433 if its
        owner does not take it; `JournalError`.
        """
        return result_of(await self._runner.tell(run_id, event, observe))

    async def cancel(self, run_id: str, *, by: str | None = None) -> Result | None:
        """Stop a run and take back what it did, as far as that can be; None while it is ending in this process."""
        by = by or user_name()
        if await self._runner.stop(run_id, by=by):
            return None
        return await self.tell(run_id, CancelRequested(by=by))

    async def fork(self, run_id: str, *, at: int, inputs: Mapping[str, Json] | None = None) -> str:
        """The id of a new run that begins with the events of another one up to `at`, with other `inputs` if given.

        `resume` goes on with it. Raises `JournalError` J-121 to J-123 if the run cannot be forked there.
        """
        fork_id = fork_id_of(run_id)
        correction = Steered(by=user_name(), inputs=inputs) if inputs else None
        now = self._clock()
        await forked(self.journal, run_id, at, fork_id=fork_id, now=now, correction=correction)
        return fork_id

    async def wake(self, *, observe: Callable[[Recorded], None] | None = None) -> tuple[Result, ...]:
        """Go on with every run that can: its process ended, its time has come, or something was asked of it."""
        return tuple(result_of(run) for run in await self._runner.wake(observe))

    # reading a run; each raises `JournalError` if the run is unknown, or its record damaged

    async def events(self, run_id: str) -> tuple[Recorded, ...]:
        """Everything that happened in a run so far."""
        return await self._runner.history(run_id)

    async def decisions(self, run_id: str) -> tuple[reading.Decision, ...]:
        """What was decided about each call, in order: when the plan was checked, before each call, and by people."""
        return reading.decisions(await self.events(run_id))

    async def values(self, run_id: str) -> Mapping[StepPath, Labelled]:
        """What each finished step gave, with the label of every leaf."""
        return reading.values(fold(await self.events(run_id)))

    async def cards(self, run_id: str) -> tuple[Card, ...]:
        """The questions of a run that are open."""
        return reading.cards(fold(await self.events(run_id)))

    async def answer(self, run_id: str, path: StepPath, said: Answer, *, by: str | None = None) -> Result:
        """Answer the open question at `path` as an approver would, and go on.

        `by` is who says so, by default whom this process runs for. Raises `PlanError` P-304 to P-307 if it is no
        answer, and what `tell` raises.
        """
        run = fold(await self.events(run_id))
        events = answered(card_of(run, path), said, by=by or user_name())
        for event in events[:-1]:  # of a map: all at once, for nothing of it begins before
            await self.journal.post(run_id, event, at=self._clock())
        return await self.tell(run_id, events[-1]) if events else result_of(run)

    def _outside(self, run: Run, observe: Callable[[Recorded], None]) -> Outside:
        limits, tenant = self.settings.limits, run.started.principal.tenant
        shared = {f"tenant:{tenant}": limits.tenant_day, "all": limits.day}
        outside = Outside(
            journal=self.journal,
            toolbox=self.toolbox,
            model=self.pool.of,
            prompt=self._prompt,
            workspace=Path(run.started.setup.workspace),
            nested=self._runner,
            approver=self._approver,
            approver_name=run.started.principal.name if self._approver else "approver",
            secrets={k: v.get_secret_value() for k, v in self.settings.secrets.values(self._environ).items()},
            redactor=self._redactor,
            accounts={name: budget for name, budget in shared.items() if budget != Budget()},
            slots=self._slots,
            observe=observe,
            clock=self._clock,
        )
        return rehearsal.outside(outside, run) if rehearsal.is_rehearsal(run.id) else outside

    def _prompt(self, name: str) -> Prompt:
        if name not in self._prompts:
            self._prompts[name] = prompts.load(name, list(dict.fromkeys([self.folder, config.reference()])))
        return self._prompts[name]

    async def _started(
        self,
        goal: str,
        as_: Principal | None,
        *,
        success: str | None,
        plan: Plan | Mapping[str, Json] | None,
        attachments: Mapping[str, str] | None = None,
    ) -> RunStarted:
        """The run's first event, which pins everything the run depends on."""
        text, plan = self._redactor.text(goal_text(goal)), plan_given(plan)
        limits = self.settings.limits
        planner = await self.pool.of("planner") if plan is None else None
        found = tuple(looked_up(item, self.workspace) for item in named(text))
        wanted = criteria(text, found, success)
        is_judged = any(criterion.kind == "text" for criterion in wanted)
        setup = Setup(
            callees=tuple(self.catalogue.values()),
            always=self.settings.tools.always,
            policy=self.policy,
            budget=limits.budget(),
            agents=limits.agents,
            rates=await self._rates() if limits.is_priced else {},
            shortage=limits.short,
            max_same_calls=limits.same_call,
            max_replans=limits.replans,
            model=planner.name if planner else "",
            rendering=planner.profile.rendering if planner else "plain",
            can_judge=is_judged and (await self.pool.of("validator")).profile.can_judge,
            assistant_hash=self._content,
            offered_callees=len(self.catalogue) if "planner" in self.pool.played else self.settings.tools.shown,
            on_ask=self._on_ask,
            workspace=str(self.workspace),
        )
        return RunStarted(
            goal=text,
            principal=self.settings.people.principal(as_, otherwise=user_name()),
            setup=setup,
            named=found,
            criteria=wanted,
            plan=plan,
            attachments=attached(attachments or {}),
        )

    async def _nested(self, delegation: Delegation) -> RunStarted:
        """The first event of a run that is a step of another one, as far as it is this assistant's."""
        about = delegation.about
        return await self._started(delegation.goal, Principal(), success=None, plan=None, attachments=about)

    def _resumed(self, run: Run, owner: str) -> RunResumed:
        """What is another by now than what the run's calls were judged by."""
        setup, now = run.started.setup, self.catalogue
        policy = self.policy
        if run.started.parent is not None:  # what its planner may see was settled when it was delegated
            policy = policy.model_copy(update={"mode": setup.policy.mode})
        newer = tuple(now[one.name] for one in setup.callees if one.name in now and now[one.name] != one)
        return RunResumed(
            owner=owner,
            policy=policy if policy != setup.policy else None,
            callees=newer,
            assistant_hash=self._content if self._content != setup.assistant_hash else None,
        )

    async def _rates(self) -> Mapping[str, Rate]:
        """What each role's model costs, by the name under which it is called."""
        roles = {"planner": "planner", "validator": "validator", **{name: role for name, (role, _) in ROLES.items()}}
        rates = await self.pool.rates(dict.fromkeys(roles.values()))
        return {name: rates[role] for name, role in roles.items()}


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """The result of async work from ordinary code: `run_sync(assistant.run("..."))`.

    Raises `UserError` inside a running event loop: there, `await` it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    work.close()
    raise UserError("U-301", "`run_sync` was called inside a running event loop", hint="Use `await` there.")


def new_run_id() -> str:
    """A run id that sorts by time to the second: `20261120-132500-9f3c1a`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def fork_id_of(run_id: str) -> str:
    """The id of a run that begins with events of another one; that of a rehearsal is a rehearsal too."""
    return rehearsal.rehearsal_id(new_run_id()) if rehearsal.is_rehearsal(run_id) else new_run_id()


def user_name() -> str:
    """Who this process runs for."""
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "user"
