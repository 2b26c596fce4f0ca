"""Perform the commands of `decide` and append what happened: the only place where effects happen.

Rules of the file:
- An event is appended before it counts: the state changes only through `_append`.
- A call's `StepStarted` is committed before the call is made, so a crash never hides that it may have happened.
- A call starts, and a person's answer counts, only while the run still wants it: the state may have moved on.
- Model exchanges are kept whole, as blobs; events carry their ids.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import is_
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

from planner import agents
from planner.core.catalog import Callee
from planner.core.commands import (
    AskHuman,
    AskPlanner,
    AskValidator,
    Call,
    Command,
    Probe,
    Record,
    ScheduleRetry,
    StartTimer,
)
from planner.core.decide import decide
from planner.core.events import (
    BlobId,
    CancelRequested,
    ContentKept,
    Event,
    Fault,
    HumanAnswered,
    MapResolved,
    PlannerFailed,
    Recorded,
    RetryScheduled,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    Usage,
)
from planner.core.labels import Json, Labelled
from planner.core.plan import StepPath, split_path
from planner.core.policy import attest
from planner.core.state import Run, evolve
from planner.core.values import View, answer
from planner.errors import ModelError, PlannerError, ToolError
from planner.journal import Journal, Lease
from planner.llm.model import Completion, Model
from planner.prompts import Prompt
from planner.tools import Toolbox, ToolContext, ToolInDoubt

GRACE_S = 5.0
"""How long calls under way may go on after a run was cancelled."""
RENEW_S = 10.0
"""How often the lease is renewed: a third of its life."""


@dataclass(frozen=True, slots=True)
class Card:
    """A question to a person about one call, with everything needed to answer it."""

    run_id: str
    path: StepPath
    question: Literal["approve", "happened"]
    reason: str
    callee: Callee
    arguments: Labelled


Answer: TypeAlias = Literal["yes", "no"] | None
Approver: TypeAlias = Callable[[Card], Awaitable[Answer]]
"""Answers a card; None leaves it open, and the run waits."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything beyond the core that an engine needs."""

    journal: Journal
    toolbox: Toolbox
    model: Callable[[str], Awaitable[Model]]
    """The model of a role; starting a local one may take seconds."""
    prompt: Callable[[str], Prompt]
    workspace: Path
    approver: Approver | None = None
    approver_name: str = "approver"
    secrets: Mapping[str, str] = field(default_factory=dict)
    observe: Callable[[Recorded], None] | None = None
    """Is told each event once it counts. What it raises stops the run, which can be resumed."""
    grace_s: float = GRACE_S
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


class Engine:
    """Drives one run under its lease until it finishes or waits for a person."""

    def __init__(self, outside: Outside, lease: Lease, run: Run) -> None:
        self._outside = outside
        self._lease = lease
        self._run = run
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._tasks: dict[Command, asyncio.Task[None]] = {}
        self._parked: set[Command] = set()
        """Questions that nobody here can answer."""
        self._stops_at: float | None = None
        """When calls under way are stopped, by the loop's clock; None: never."""

    async def drive(self, until: Callable[[Run], bool] | None = None) -> Run:
        """The run when it finished, when it can only wait, or when `until` holds.

        Raises `JournalError` if the lease is lost.
        """
        renewing = asyncio.create_task(self._renew())
        renewing.add_done_callback(lambda _: self._changed.set())
        try:
            while self._run.finished is None and not (until is not None and until(self._run)):
                self._changed.clear()
                self._collect(renewing)
                seen = self._run
                commands = decide(seen)
                events = [command.event for command in commands if isinstance(command, Record)]
                if events:
                    await self._append(*events, provided=partial(is_, seen))
                    continue
                self._start(commands)
                if not self._tasks:
                    break
                await self._wait()
            return self._run
        finally:
            await self._stop(renewing, *self._tasks.values())
            async with self._turn:  # an append under way goes on to its end
                pass

    async def cancel(self, by: str) -> None:
        """Ask the run to stop; calls under way get some seconds, then count as in doubt."""
        await self._append(CancelRequested(by=by), provided=_may_be_cancelled)

    def _start(self, commands: Sequence[Command]) -> None:
        """Perform what is not being performed; a question that is no longer open is taken back."""
        self._parked.intersection_update(commands)
        for command, task in self._tasks.items():
            if isinstance(command, AskHuman) and command not in commands:
                task.cancel()
        for command in commands:
            if command not in self._tasks and command not in self._parked:
                task = asyncio.create_task(self._perform(command))
                self._tasks[command] = task
                task.add_done_callback(lambda _: self._changed.set())

    async def _wait(self) -> None:
        """Until something changed, or what a cancelled run has under way has had its time."""
        if self._run.is_cancelled and self._stops_at is None:
            self._stops_at = asyncio.get_running_loop().time() + self._outside.grace_s
        try:
            async with asyncio.timeout_at(self._stops_at):
                await self._changed.wait()
        except TimeoutError:
            await self._stop(*self._tasks.values())

    def _collect(self, renewing: asyncio.Task[None]) -> None:
        """Forget the tasks that ended. A failure of the machinery itself is raised here."""
        for command, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[command]
                if not task.cancelled():
                    task.result()
        if renewing.done():
            renewing.result()

    async def _stop(self, *tasks: asyncio.Task[None]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._outside.journal.renew(self._lease)

    async def _append(self, *events: Event, provided: Callable[[Run], bool] | None = None) -> bool:
        """Append and evolve; False if the state moved on and `provided` no longer holds, so nothing was appended.

        A task that is cancelled here leaves the append to end by itself: the state never lags behind the journal.
        """
        return await asyncio.shield(self._appended(events, provided))

    async def _appended(self, events: Sequence[Event], provided: Callable[[Run], bool] | None) -> bool:
        async with self._turn:
            if provided is not None and not provided(self._run):
                return False
            at = self._outside.clock()
            trial = self._run
            for event in events:  # an illegal event is refused here, before it can reach the journal
                trial = evolve(trial, Recorded(seq=0, run_id=trial.id, run_seq=trial.run_seq + 1, at=at, event=event))
            durable = any(self._is_vital(event) for event in events)
            journal, before = self._outside.journal, self._run.run_seq
            recorded = await journal.append(self._lease, before, events, at=at, durable=durable)
            for one in recorded:
                self._run = evolve(self._run, one)
            self._changed.set()
            for one in recorded:
                if self._outside.observe is not None:
                    self._outside.observe(one)
        return True

    def _is_vital(self, event: Event) -> bool:
        """Whether losing the event in a power cut could repeat or lose an effect; those of reads could not."""
        match event:
            case StepResolved() | MapResolved() | StepSkipped():
                return False
            case StepStarted() | StepSucceeded() | StepFailed():
                callee = self._callee(event.path)
                return callee is not None and not callee.is_reading
            case _:
                return True

    def _callee(self, path: StepPath) -> Callee | None:
        plan = self._run.plan
        step = plan.step(split_path(path)[0]) if plan else None
        callees = self._run.started.setup.callees
        return next((c for c in callees if step is not None and c.name == step.use), None)

    async def _perform(self, command: Command) -> None:
        """Every effect of the runtime starts here."""
        match command:
            case AskPlanner():
                await self._ask_planner(command)
            case Call():
                await self._call(command)
            case Probe():
                probed = StepProbed(path=command.path, happened=await self._probe(command))
                await self._append(probed, provided=_wanting(command))
            case AskHuman():
                await self._ask_human(command)
            case ScheduleRetry():
                jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads retries, hides nothing
                due = self._outside.clock() + timedelta(seconds=command.delay_s * jitter)
                await self._append(RetryScheduled(path=command.path, attempt=command.attempt, due=due))
            case StartTimer():
                await asyncio.sleep(max(0.0, (command.due - self._outside.clock()).total_seconds()))
                await self._append(TimerFired(path=command.path))
            case AskValidator():
                await self._ask_validator(command)
            case Record():
                await self._append(command.event)
            case _:
                assert_never(command)

    # models

    async def _ask_planner(self, command: AskPlanner) -> None:
        try:
            model = await self._outside.model("planner")
            prompt = self._outside.prompt("planner")
            proposed, completion = await agents.propose(self._run, command, model, prompt)
            (usage,) = await self._kept((completion,))
            await self._append(proposed.model_copy(update={"usage": usage}))
        except ModelError as error:
            used = await self._kept(agents.tried(error))
            failed = PlannerFailed(
                revision=command.revision, attempt=command.attempt, fault=_fault(error), usage=used
            )
            await self._append(failed)

    async def _ask_validator(self, command: AskValidator) -> None:
        assert self._run.plan is not None
        outcome = answer(View(self._run, self._run.plan)).value
        goal, criteria = self._run.started.goal, self._run.started.criteria
        unmet: list[str] = []
        unknown: list[str] = []
        completions: list[Completion] = []
        for criterion in (c for c in criteria if c.id in command.criteria):
            try:
                model = await self._outside.model("validator")
                prompt = self._outside.prompt("validator")
                is_met, used = await agents.opine(goal, criterion.text, outcome, model, prompt)
            except ModelError as error:
                used = agents.tried(error)
                unknown.append(criterion.id)
            else:
                unmet.extend([] if is_met else [criterion.id])
            completions.extend(used)
        usage = await self._kept(completions)
        if unmet:
            await self._append(ReviewFailed(criteria=tuple(unmet), usage=usage))
        elif unknown:
            await self._append(ReviewInconclusive(criteria=tuple(unknown), usage=usage))
        else:
            await self._append(ReviewPassed(criteria=tuple(c.id for c in criteria), usage=usage))

    async def _kept(self, completions: Sequence[Completion]) -> tuple[Usage, ...]:
        """The usage of each completion, its exchange stored."""
        blobs: list[BlobId] = []
        for completion in completions:
            body = json.dumps(completion.exchange, sort_keys=True).encode()
            blobs.append(await self._outside.journal.put_blob(self._run.id, body))
        return agents.usages(completions, blobs)

    # calls

    async def _call(self, command: Call) -> None:
        started = StepStarted(path=command.path, attempt=command.attempt, key=command.key)
        if not await self._append(started, provided=_wanting(command)):
            return
        try:
            outcome = await self._outcome(command)
        except asyncio.CancelledError:
            await self._append(StepInDoubt(path=command.path, reason="stopped while under way"))
            raise
        await self._append(outcome)

    async def _outcome(self, command: Call) -> StepSucceeded | StepFailed | StepInDoubt:
        path = command.path
        callee = self._callee(path)
        assert callee is not None
        given = self._run.step(path).arguments or Labelled(value={})
        arguments = given.value if isinstance(given.value, dict) else {}
        began = self._outside.clock()
        try:
            answered = await self._answer(callee, arguments, path, command.key)
        except ToolInDoubt as error:
            return StepInDoubt(path=path, reason=_words(error))
        except (ToolError, ModelError) as error:
            usage = await self._kept(agents.tried(error))
            seconds = (self._outside.clock() - began).total_seconds()
            return StepFailed(path=path, fault=_fault(error), attempt=command.attempt, usage=usage, seconds=seconds)
        usage = await self._kept(answered.completions)
        seconds = (self._outside.clock() - began).total_seconds()
        value = attest(callee, given, answered.value)
        return StepSucceeded(path=path, value=value, usage=usage, seconds=seconds)

    async def _answer(
        self, callee: Callee, arguments: Mapping[str, Json], path: StepPath, key: str
    ) -> agents.Answered:
        if callee.kind == "agent":
            role, play = agents.ROLES[callee.name]
            return await play(arguments, await self._outside.model(role), self._outside.prompt(role))
        limit_s = callee.declaration.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                value = await self._outside.toolbox.call(callee.name, arguments, self._context(path, key))
        except TimeoutError as error:
            late = f"`{callee.name}` did not end within {limit_s} s"
            if callee.is_reading:
                raise ToolError("T-298", late, error_class="unavailable") from error
            raise ToolInDoubt("T-298", late) from error
        return agents.Answered(value)

    async def _probe(self, command: Probe) -> bool | None:
        state = self._run.step(command.path)
        given = state.arguments.value if state.arguments is not None else {}
        arguments = given if isinstance(given, dict) else {}
        try:
            context = self._context(command.path, state.key)
            return await self._outside.toolbox.probe(command.callee, arguments, context)
        except ToolError:
            return None

    def _context(self, path: StepPath, key: str) -> ToolContext:
        """What a tool may use; `keep` and `kept` are called from the tool's own thread."""
        loop = asyncio.get_running_loop()
        return ToolContext(
            workspace=self._outside.workspace,
            key=key,
            keep=lambda name, content: asyncio.run_coroutine_threadsafe(
                self._keep(path, name, content), loop
            ).result(),
            kept=lambda name: asyncio.run_coroutine_threadsafe(self._content(path, name), loop).result(),
            secrets=self._outside.secrets,
        )

    async def _keep(self, path: StepPath, name: str, content: bytes | None) -> None:
        if name not in self._run.step(path).kept:
            journal = self._outside.journal
            blob = None if content is None else await journal.put_blob(self._run.id, content)
            await self._append(ContentKept(path=path, name=name, blob=blob))

    async def _content(self, path: StepPath, name: str) -> bytes | None:
        blob = self._run.step(path).kept[name]
        return None if blob is None else await self._outside.journal.get_blob(self._run.id, blob)

    # people

    async def _ask_human(self, command: AskHuman) -> None:
        state, revision = self._run.step(command.path), self._run.revision
        callee = self._callee(command.path)
        assert callee is not None
        assert state.question is not None
        card = Card(
            run_id=self._run.id,
            path=command.path,
            question=state.question,
            reason=state.reason,
            callee=callee,
            arguments=state.arguments or Labelled(value={}),
        )
        decided = await self._outside.approver(card) if self._outside.approver else None
        if decided is None:
            self._parked.add(command)
        else:
            answered = HumanAnswered(path=command.path, answer=decided, by=self._outside.approver_name)
            is_wanted = _wanting(command)  # and by this plan: the next one may ask about another call of that path
            await self._append(answered, provided=lambda run: run.revision == revision and is_wanted(run))


def _wanting(command: Command) -> Callable[[Run], bool]:
    """Whether a run wants the command; one decided on a state that has moved on since may be wanted no more."""
    return lambda run: command in decide(run)


def _may_be_cancelled(run: Run) -> bool:
    return run.finished is None and not run.is_cancelled


def _fault(error: PlannerError) -> Fault:
    return Fault(code=error.code, error_class=error.error_class, message=_words(error.message), choices=error.choices)


def _words(said: object) -> str:
    """What an error says, as text that the journal can hold: the name of a file may be no valid Unicode."""
    return str(said).encode(errors="replace").decode()
