"""Perform the commands of `decide` and append what happened: the only place where effects happen.

Rules of the file:
- The state changes only through the recorder: an event is appended before it counts.
- A call's `StepStarted` is committed before the call is made, so a crash never hides that it may have happened.
- A call starts, and a person's answer counts, only while the run still wants it: the state may have moved on.
- Others never write to a run: they ask, and what they asked for is appended here, or refused.
- Model exchanges are kept whole but for secrets, as blobs; events carry their ids.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import assert_never

from planner import agents, nesting
from planner.accounts import Hold, held
from planner.cards import answered, card_of, fitted
from planner.core import order
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
from planner.core.decide import judging_amount, planning_amount
from planner.core.events import (
    AnswerDropped,
    BlobId,
    CancelRequested,
    ContentKept,
    Event,
    HumanAnswered,
    PauseLifted,
    PauseRequested,
    PlannerFailed,
    PlanProposed,
    RetryScheduled,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepParked,
    StepProbed,
    StepSucceeded,
    TimerFired,
    Usage,
)
from planner.core.labels import Json
from planner.core.ledger import NOTHING
from planner.core.plan import StepPath, own_path, role_of
from planner.core.provenance import labelled
from planner.core.run import Run
from planner.core.setup import Criterion
from planner.core.state import callee_at
from planner.core.values import View, answer
from planner.errors import JournalError, ModelError, PlanError, ToolError
from planner.journal import Lease, Request
from planner.llm.model import Completion
from planner.outcomes import child_id, fault_of, is_up, late, reviewed, started, time_s, words
from planner.outside import Outside
from planner.recorder import (
    NO_JSON,
    Recorder,
    always,
    has_room,
    is_unfinished,
    may_be_cancelled,
    may_be_nudged,
    may_be_paused,
    never,
)
from planner.slots import CircuitOpenError
from planner.tools import ToolContext, ToolInDoubt

RENEW_S = 10.0
"""How often the lease is renewed: a third of its life."""
ILLEGAL = frozenset({NO_JSON, "J-203", "J-204"})
"""What a request is refused for: the journal cannot keep it, or the run is not in a state where it could happen."""


class Engine:
    """Drives one run under its lease until it finishes, or can only wait: for a person, an event or a time."""

    def __init__(self, outside: Outside, lease: Lease, run: Run) -> None:
        self._outside = outside
        self._lease = lease
        self._recorder = Recorder(outside, lease, run)
        self._append = self._recorder.append
        self._changed = self._recorder.changed
        self._tasks: dict[Command, asyncio.Task[None]] = {}
        self._parked: set[Command] = set()
        """Questions that nobody here can answer."""
        self._has_post = True
        """Whether a request may be there."""
        self._stops_at: float | None = None
        """When calls under way are stopped, by the loop's clock; None: never."""

    @property
    def _run(self) -> Run:
        return self._recorder.run

    async def drive(self, until: Callable[[Run], bool] | None = None) -> Run:
        """The run when it finished, when it can only wait, or when `until` holds.

        Raises `JournalError` if the lease is lost, and what an observer raises.
        """
        self._recorder.until = until or never
        beside = [asyncio.create_task(self._renew()), asyncio.create_task(self._listen())]
        for task in beside:
            task.add_done_callback(lambda _: self._changed.set())
        try:
            await self._take_requests()
            await self._append()  # what follows from the state that was found
            while not self._recorder.until(self._run):
                self._changed.clear()
                self._collect(beside)
                await self._take_requests()
                if self._run.finished is not None:
                    break
                self._start(self._recorder.wanted(self._run))
                if not any(map(self._is_busy, self._tasks)) and not self._has_post:
                    break
                await self._wait()
        finally:
            self._recorder.until = always  # what comes of stopping is for whoever goes on to decide
            await self._stop(*beside, *self._tasks.values())
            await self._recorder.settle()
        self._recorder.check()
        return self._run

    async def cancel(self, by: str) -> None:
        """Ask the run to stop; calls under way get some seconds, then count as in doubt."""
        await self._append(CancelRequested(by=by), provided=may_be_cancelled)

    async def pause(self, by: str) -> None:
        """Begin nothing new; what is under way ends."""
        event = PauseRequested(by=by)
        if await self._append(event, provided=may_be_paused):
            await self._pass_on(event)

    # requests of others

    async def _listen(self) -> None:
        while True:
            await self._outside.journal.wait_for_requests(self._run.id)
            self._has_post = True
            self._changed.set()
            await asyncio.sleep(0.05)  # they are taken by then, or the loop is busy appending

    async def _take_requests(self) -> None:
        """What others asked for becomes events of the run, or is refused with the reason."""
        if not self._has_post:
            return
        self._has_post = False
        for request in await self._outside.journal.requests(self._run.id):
            try:
                await self._append(self._fitted(request), request=request.id)
            except (JournalError, PlanError) as error:
                if isinstance(error, JournalError) and error.code not in ILLEGAL:
                    raise
                await self._outside.journal.refuse(self._lease, request.id, error.message)
            else:
                await self._pass_on(request.event)

    def _fitted(self, request: Request) -> Event:
        """The event; an answer as the question wants it. Raises `PlanError` if it is none."""
        event = request.event
        return fitted(card_of(self._run, event.path), event) if isinstance(event, HumanAnswered) else event

    async def _pass_on(self, event: Event) -> None:
        """A pause holds for the nested runs as well; once it is lifted, those that wait are gone on with."""
        nested = self._outside.nested
        if nested is None or not isinstance(event, PauseRequested | PauseLifted):
            return
        for path, child in nesting.under_way(self._run).items():
            if isinstance(event, PauseRequested):
                await nested.pause(child, by=self._run.id)
            else:
                await self._append(StepNudged(path=path, by=event.by), provided=partial(may_be_nudged, path=path))

    # the loop

    def _wanting(self, command: Command) -> Callable[[Run], bool]:
        """Whether the run wants the command; one decided on a state that has moved on may be wanted no more."""
        return lambda run: command in self._recorder.wanted(run)

    def _is_busy(self, command: Command) -> bool:
        """Whether it is worth staying for; a time that is far off is not."""
        if not isinstance(command, StartTimer):
            return True
        return (command.due - self._outside.clock()).total_seconds() <= self._outside.patience_s

    def _start(self, commands: Sequence[Command]) -> None:
        """Perform what is not being performed; a question that is no longer open is taken back."""
        self._parked.intersection_update(commands)
        for command, task in self._tasks.items():
            if isinstance(command, AskHuman | StartTimer) and command not in commands:
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
            await self._cancel_nested()
        calls = (c for c in self._tasks if isinstance(c, Call) and not self._is_nested(c))
        has_begun = any(role_of(command.path) == "call" for command in calls)
        try:
            async with asyncio.timeout_at(self._stops_at if has_begun else None):
                await self._changed.wait()
        except TimeoutError:
            await self._stop(*(t for c, t in self._tasks.items() if not self._is_nested(c)))

    def _is_nested(self, command: Command) -> bool:
        return isinstance(command, Call) and self._callee(command.path).kind == "plan"

    async def _cancel_nested(self) -> None:
        """A nested run under way is asked to stop as well, and takes back itself what it did."""
        for command in self._tasks:
            if isinstance(command, Call) and self._is_nested(command) and self._outside.nested is not None:
                await self._outside.nested.cancel(child_id(self._run, command.key), by=self._run.id)

    def _collect(self, beside: Sequence[asyncio.Task[None]]) -> None:
        """Forget the tasks that ended. A failure of the machinery itself is raised here."""
        self._recorder.check()
        for command, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[command]
                if not task.cancelled():
                    task.result()
        for task in filter(asyncio.Task.done, beside):
            task.result()

    async def _stop(self, *tasks: asyncio.Task[None]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._outside.journal.renew(self._lease)

    def _callee(self, path: StepPath) -> Callee:
        return self._run.started.setup.catalogue[callee_at(self._run, path)]

    async def _perform(self, command: Command) -> None:
        """Every effect of the runtime starts here."""
        match command:
            case AskPlanner():
                await self._ask_planner(command)
            case Call():
                await self._call(command)
            case Probe():
                probed = StepProbed(path=command.path, happened=await self._probe(command))
                await self._append(probed, provided=self._wanting(command))
            case AskHuman():
                await self._ask_human(command)
            case ScheduleRetry():
                jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads retries, hides nothing
                pause = timedelta(seconds=max(command.delay_s * jitter, command.least_s))
                due = self._outside.clock() + pause
                scheduled = RetryScheduled(path=command.path, attempt=command.attempt, due=due)
                await self._append(scheduled, provided=self._wanting(command))
            case StartTimer():
                await self._until(command.due)
                await self._append(TimerFired(path=command.path), provided=self._wanting(command))
            case AskValidator():
                await self._ask_validator(command)
            case Record():
                await self._append(command.event)
            case _:
                assert_never(command)

    async def _until(self, due: datetime) -> None:
        """Return when it is that time, also where the clock was set back meanwhile."""
        while (left_s := (due - self._outside.clock()).total_seconds()) > 0:  # noqa: ASYNC110 - no event tells the time
            await asyncio.sleep(left_s)

    # models

    async def _ask_planner(self, command: AskPlanner) -> None:
        key = f"planner/{command.revision}/{command.attempt}/{command.corrections}"
        async with held(self._outside, self._lease, key, planning_amount(self._run)) as hold:
            if hold.refused is not None:
                await self._append(hold.refused, provided=has_room)
                return
            hold.begin()
            try:
                model = await self._outside.model("planner")
                proposed, completion = await agents.propose(
                    self._run, command, model, self._outside.prompt("planner")
                )
            except ModelError as error:
                used = await self._kept(agents.tried(error))
                event: PlanProposed | PlannerFailed = PlannerFailed(
                    revision=command.revision, attempt=command.attempt, fault=fault_of(error), usage=used
                )
            else:
                used = await self._kept((completion,))
                event = proposed.model_copy(update={"usage": used[0]})
            hold.tell(used)
            await self._reply(event, command, used)

    async def _reply(self, event: Event, command: Command, used: tuple[Usage, ...]) -> None:
        """Append what models answered; where nobody waits for it any more, only what that used."""
        if not await self._append(event, provided=self._wanting(command)) and used:
            await self._append(AnswerDropped(usage=used), provided=is_unfinished)

    async def _ask_validator(self, command: AskValidator) -> None:
        assert self._run.plan is not None
        outcome = answer(View(self._run, self._run.plan)).value
        criteria = self._run.started.criteria
        opinions: dict[str, bool | None] = {c.id: True for c in criteria}  # rules have decided on the others
        usage: tuple[Usage, ...] = ()
        for criterion in (c for c in criteria if c.id in command.criteria):
            opinions[criterion.id], used = await self._opinion(criterion, outcome)
            usage += used
        await self._reply(reviewed(opinions, usage), command, usage)

    async def _opinion(self, criterion: Criterion, outcome: Json) -> tuple[bool | None, tuple[Usage, ...]]:
        """Whether a model holds that the criterion is met, None where it could not say; and what it used."""
        amount = judging_amount(self._run, outcome, (criterion.id,))
        async with held(self._outside, self._lease, f"validator/{criterion.id}", amount) as hold:
            if hold.refused is not None:
                return None, ()
            hold.begin()
            is_met = None
            try:
                model, prompt = await self._outside.model("validator"), self._outside.prompt("validator")
                is_met, completions = await agents.opine(
                    self._run.started.goal, criterion.text, outcome, model, prompt
                )
            except ModelError as error:
                completions = agents.tried(error)
            used = await self._kept(completions)
            hold.tell(used)
            return is_met, used

    async def _kept(self, completions: Sequence[Completion]) -> tuple[Usage, ...]:
        """The usage of each completion, its exchange stored."""
        blobs: list[BlobId] = []
        for completion in completions:
            body = json.dumps(self._outside.redactor.clean(completion.exchange), sort_keys=True).encode()
            blobs.append(await self._outside.journal.put_blob(self._run.id, body))
        return agents.usages(completions, blobs)

    # calls

    async def _call(self, command: Call) -> None:
        callee = self._callee(command.path)
        if callee.kind == "plan":  # what it calls takes places, and room on accounts, of its own
            await self._made(command, callee, Hold())
            return
        key, is_due = f"{command.key}/{command.attempt}", role_of(command.path) == "undo"
        async with held(self._outside, self._lease, key, command.held, is_due=is_due) as hold:
            if hold.refused is not None:
                await self._append(hold.refused, provided=has_room)
                return
            try:
                async with self._outside.slots.place(
                    run_id=self._run.id,
                    callee=callee.name,
                    keys=order.keys(callee, self._arguments(command.path)),
                    is_effect=not callee.is_reading,
                    limit=callee.declaration.concurrency,
                    priority=command.priority,
                ):
                    await self._made(command, callee, hold)
            except CircuitOpenError as error:
                failed = StepFailed(path=command.path, fault=fault_of(error), attempt=command.attempt)
                unmade = started(command).model_copy(update={"held": NOTHING})
                await self._append(unmade, failed, provided=self._wanting(command))

    async def _made(self, command: Call, callee: Callee, hold: Hold) -> None:
        """The call itself, from its intent to its outcome."""
        if not await self._append(started(command), provided=self._wanting(command)):
            return
        hold.begin()
        try:
            outcome = await self._outcome(command, callee)
        except asyncio.CancelledError:
            doubt = StepInDoubt(path=command.path, reason="stopped while under way")
            await self._append(StepParked(path=command.path) if callee.kind == "plan" else doubt)
            raise
        self._outside.slots.report(callee.name, ok=is_up(outcome))
        if isinstance(outcome, StepSucceeded | StepFailed):
            hold.tell(outcome.usage)
        await self._append(outcome)

    async def _outcome(self, command: Call, callee: Callee) -> StepSucceeded | StepFailed | StepInDoubt | StepParked:
        path, given = command.path, self._arguments(command.path)
        began, limit_s = self._outside.clock(), time_s(self._run, command, callee)
        try:
            if callee.kind == "plan":
                return await nesting.outcome(self._outside.nested, self._run, command, callee)
            async with asyncio.timeout(limit_s):
                if callee.kind == "agent":
                    role, play = agents.ROLES[callee.name]
                    model = await self._outside.model(role, cheaper=command.is_cheaper)
                    completed = await play(given, model, self._outside.prompt(role))
                else:
                    completed = agents.Answered(await self._tool(command, callee, given))
        except TimeoutError:
            return late(command, callee, limit_s)
        except ToolInDoubt as error:
            return StepInDoubt(path=path, reason=words(error))
        except (ToolError, ModelError) as error:
            usage = await self._kept(agents.tried(error))
            seconds = (self._outside.clock() - began).total_seconds()
            return StepFailed(path=path, fault=fault_of(error), attempt=command.attempt, usage=usage, seconds=seconds)
        usage = await self._kept(completed.completions)
        seconds = (self._outside.clock() - began).total_seconds()
        value = labelled(self._run, path, callee, completed.value)
        return StepSucceeded(path=path, value=value, usage=usage, seconds=seconds)

    async def _tool(self, command: Call, callee: Callee, arguments: Mapping[str, Json]) -> Json:
        """What a tool gives; nothing if it takes back what it did. Raises `ToolError` or `ToolInDoubt`."""
        self._outside.toolbox.check(callee)
        context = self._context(command.path, command.key)
        if role_of(command.path) == "undo":
            await self._outside.toolbox.undo(callee.name, arguments, context)
            return None
        return await self._outside.toolbox.call(callee.name, arguments, context)

    async def _probe(self, command: Probe) -> bool | None:
        """Whether the call happened; of one that takes back, whether the effect is gone."""
        try:
            context = self._context(command.path, self._run.step(own_path(command.path)).key)
            told = await self._outside.toolbox.probe(command.callee, self._arguments(command.path), context)
        except ToolError:
            return None
        return told if told is None or role_of(command.path) != "undo" else not told

    def _arguments(self, path: StepPath) -> Mapping[str, Json]:
        given = self._run.step(path).arguments
        return given.value if given is not None and isinstance(given.value, dict) else {}

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
        if (name := self._outside.redactor.text(name)) not in self._run.step(path).kept:
            journal = self._outside.journal
            blob = None if content is None else await journal.put_blob(self._run.id, content)
            await self._append(ContentKept(path=path, name=name, blob=blob))

    async def _content(self, path: StepPath, name: str) -> bytes | None:
        blob = self._run.step(path).kept[self._outside.redactor.text(name)]
        return None if blob is None else await self._outside.journal.get_blob(self._run.id, blob)

    # people

    async def _ask_human(self, command: AskHuman) -> None:
        card = card_of(self._run, command.path)
        decided = await self._outside.approver(card) if self._outside.approver else None
        if decided is None:
            self._parked.add(command)
            return
        try:
            events = answered(card, decided, by=self._outside.approver_name)
        except PlanError:  # it stays open, for whoever can answer it
            self._parked.add(command)
            return
        is_wanted = self._wanting(command)  # and they are these questions: the next plan may ask others there
        asked = {item.path: item.asked for item in card.items}
        if events:
            await self._append(
                *events, provided=lambda run: is_wanted(run) and all(run.step(p).asked == n for p, n in asked.items())
            )
        else:
            self._parked.add(command)
