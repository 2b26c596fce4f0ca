"""The journal of one run, and the laws that each of its events must keep."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from planner.core.catalog import Callee
from planner.core.commands import Command, Record
from planner.core.decide import decide
from planner.core.events import (
    Event,
    EventReceived,
    HumanAsked,
    PlanAccepted,
    Recorded,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    WaitEnded,
    WaitStarted,
)
from planner.core.plan import StepPath, own_path, role_of
from planner.core.run import Run, is_undecided
from planner.core.state import callee_at, evolve, fold
from planner.errors import JournalError
from planner.simulator.laws import BrokenLawError
from planner.simulator.world import World

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
MOST_EVENTS = 700
"""More than any of these runs takes with all that may come in between: beyond it a run does not end."""


class Journal:
    """Events in order, with the run after each; it outlives every process, as the world does."""

    def __init__(self, world: World, *begin: Event) -> None:
        self.world = world
        self.now = BEGAN
        self.history: list[Recorded] = []
        self.states: list[Run] = []
        self.known: dict[str, str] = {}
        """What the journal says of each key: started, succeeded, in doubt, skipped, or the code of its failure."""
        self.unread: dict[int, EventReceived] = {}
        """The events that no wait has taken."""
        self._halts: dict[StepPath, tuple[int, int]] = {}
        """The approvals and waits that are not over: their revision, and after how many deeds they began."""
        self._wanted: tuple[Command, ...] | None = None
        for event in begin:
            self.append(event)

    @property
    def run(self) -> Run:
        """The run as it is now."""
        return self.states[-1]

    def wanted(self) -> tuple[Command, ...]:
        """What the core wants done now."""
        if self._wanted is None:
            self._wanted = decide(self.run)
        return self._wanted

    def records(self) -> list[Event]:
        """The events that follow from the rules alone."""
        return [command.event for command in self.wanted() if isinstance(command, Record)]

    def callee(self, path: StepPath) -> Callee:
        """What is called at `path`."""
        return self.run.started.setup.catalogue[callee_at(self.run, path)]

    def append(self, event: Event) -> None:
        """The event counts; that it is legal is a law."""
        refused = self.offer(event)
        if refused is not None:
            raise BrokenLawError("a decision is legal", f"`{event.type}` is refused: {refused.message}")

    def offer(self, event: Event) -> JournalError | None:
        """The event counts, unless the core refuses it."""
        place = len(self.history) + 1
        recorded = Recorded(seq=place, run_id="r1", run_seq=place, at=self.now, event=event)
        before = self.states[-1] if self.states else None
        try:
            run = evolve(before, recorded)
        except JournalError as error:
            return error
        self.history.append(recorded)
        self.states.append(run)
        self._wanted = None
        if place > MOST_EVENTS:
            raise BrokenLawError("a run ends", f"it has more than {MOST_EVENTS} events")
        if before is not None:
            self._watch(before, event)
        return None

    def is_unread(self, name: str) -> bool:
        """Whether an event of that name came that no wait has taken, and that any wait for it would."""
        return any(event.name == name and event.data == {"id": 1, "name": name} for event in self.unread.values())

    def require_fold(self) -> None:
        """What the next process reads is what this one knew."""
        if fold(self.history) != self.run:
            what = f"at event {self.run.run_seq} the fold of the journal differs from the state"
            raise BrokenLawError("the journal alone gives the state", what)

    def require_taken(self) -> None:
        """A step that waits for an event that came has it by the time nothing else follows from the rules.

        Not in a run that begins nothing more, for its waits are over.
        """
        run = self.run
        is_closed = run.is_paused or run.is_cancelled or run.is_corrected or run.undoing or run.refused
        if not self.unread or is_closed or run.phase != "executing" or self.records():
            return
        if any(state.status == "failed" for state in run.steps.values()):
            return
        path = next(self._overlooked(), None)
        if path is not None:
            raise BrokenLawError("an event that came is taken", f"`{path}` waits for what came")

    def _overlooked(self) -> Iterator[StepPath]:
        for path, state in self.run.steps.items():
            if state.status == "waiting" and state.wanted is not None:
                name, fields = state.wanted
                for event in self.unread.values():
                    data = event.data if isinstance(event.data, dict) else {}
                    if event.name == name and all(data.get(key) == value for key, value in fields.items()):
                        yield path

    # the laws that one event may break

    def _watch(self, before: Run, event: Event) -> None:
        match event:
            case StepStarted():
                self._watch_start(before, event)
            case StepSucceeded(path=path):
                key = before.step(path).key
                if key and key not in self.world.happened:
                    raise BrokenLawError("what is journaled as succeeded happened", f"`{path}` did not happen")
                self._end(path, key, "succeeded")
            case StepFailed(path=path):
                is_doubtful = is_undecided(self.run.step(path))
                self._end(path, before.step(path).key, "in doubt" if is_doubtful else event.fault.code)
            case StepSkipped(path=path):
                self._end(path, before.step(path).key, "in doubt" if before.step(path).is_unsure else "skipped")
            case HumanAsked() | WaitStarted() | PlanAccepted():
                self._watch_halt(event)
            case EventReceived():
                self.unread[self.run.run_seq] = event
            case WaitEnded(received=received):
                del self.unread[received]
            case _:
                pass

    def _watch_halt(self, event: HumanAsked | WaitStarted | PlanAccepted) -> None:
        """An approval or a wait begins, or is no part of the next plan; a question before a call is none."""
        if isinstance(event, PlanAccepted):
            self._halts = {path: since for path, since in self._halts.items() if path in self.run.steps}
        elif self.callee(event.path).kind in {"gate", "wait"}:
            self._halts[event.path] = self.run.revision, len(self.world.deeds)

    def _watch_start(self, before: Run, event: StepStarted) -> None:
        limit_s = before.started.setup.budget.seconds
        if self.known.get(event.key) == "succeeded":
            raise BrokenLawError("a finished call is not made again", f"`{event.path}` begins again")
        self.known[event.key] = "started"
        if before.is_paused:
            raise BrokenLawError("a pause holds", f"`{event.path}` begins while the run is paused")
        if role_of(event.path) == "undo":
            return
        if limit_s is not None and before.spent.seconds >= limit_s:
            raise BrokenLawError("budgets hold", f"`{event.path}` begins after {before.spent.seconds} seconds")
        self._watch_repeated(before, event)

    def _watch_repeated(self, before: Run, event: StepStarted) -> None:
        """What may have happened is neither made again under another key, nor does another call stand in for it."""
        own = own_path(event.path)
        for key, deed in self.world.standing.items():
            is_same = deed.path == own and key != event.key and deed.callee != "plan.goal"
            if is_same and (own != event.path or self._is_repeated(before, event, key)):
                raise BrokenLawError("an effect happens once", f"`{event.path}` begins, but `{own}` happened")

    def _is_repeated(self, before: Run, event: StepStarted, key: str) -> bool:
        """Whether the same call is made again, and not because a correction made it stale, which is told."""
        if any(remainder.path == event.path for remainder in before.left):
            return False
        first = next(run.step(event.path) for run in self.states if run.step(event.path).key == key)
        return self.known[key] == "in doubt" and first.arguments == before.step(event.path).arguments

    def _end(self, path: StepPath, key: str, known: str) -> None:
        if key:
            self.known[key] = known
            self.world.confirmed |= {key} if known == "succeeded" else set()
        for inner in [halt for halt in self._halts if halt.startswith(f"{path}/")]:
            del self._halts[inner]  # its block ended without it
        if path in self._halts:
            revision, begins = self._halts.pop(path)
            self.world.halted(path, self.callee(path).name, revision=revision, begins=begins)
