"""The world that calls change: it outlives every process, and knows what truly happened.

Rules of the file:
- Whether a call fails, waits or is refused is the world's own fate of that path, whatever the course of the run.
- A breach that only the world can see (an effect twice, one too many for a budget) is raised where it happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from planner.core.attest import attest
from planner.core.catalog import Callee
from planner.core.commands import Call
from planner.core.events import Fault, StepFailed, StepParked, StepSucceeded, Usage
from planner.core.labels import Json, Labelled
from planner.core.ledger import NOTHING, Amount, Budget
from planner.core.plan import StepPath, own_path, role_of
from planner.simulator.laws import BrokenLawError
from planner.simulator.scenarios import PLACES, Scenario

Outcome: TypeAlias = StepSucceeded | StepFailed | StepParked
Entries: TypeAlias = tuple[tuple[str, str], ...]
"""What lies in a box: the key of the call that put it there, and the text."""
ALL = frozenset({"*"})
"""What a call touches that may touch anything."""
REVERSIBLE = frozenset({"box.put", "box.add", "box.stamp", "plan.goal"})
LONGEST = 60
"""Characters of what is read: texts that read each other would double with every step."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that happened, or a halt that lasted, at its place in the order of all that did."""

    path: StepPath
    key: str
    callee: str
    revision: int
    touches: frozenset[str]
    is_change: bool
    begins: int
    ends: int


@dataclass(slots=True)
class World:
    """Boxes, what calls do to them, and a record of it."""

    scenario: Scenario
    boxes: dict[str, Entries] = field(default_factory=lambda: dict.fromkeys(PLACES, ()))
    lasting: list[str] = field(default_factory=list)
    """The paths of mails, notes and commands: what nothing takes back."""
    deeds: list[Deed] = field(default_factory=list)
    standing: dict[str, Deed] = field(default_factory=dict)
    """The effects that were not taken back, by key."""
    happened: set[str] = field(default_factory=set)
    """The keys of all that happened."""
    reversed: list[StepPath] = field(default_factory=list)
    """The paths of the calls that were taken back."""
    tried: set[str] = field(default_factory=set)
    """The keys of the calls that were begun."""
    settled: dict[str, int] = field(default_factory=dict)
    """How often the process learned that a call failed or can only wait, by key."""
    kept: dict[str, Entries] = field(default_factory=dict)
    """What was there before, by blob."""
    used: dict[str, Amount] = field(default_factory=dict)
    """What was truly used, by the name of the budget."""
    nested: dict[str, int] = field(default_factory=dict)
    """The calls of nested runs, by key."""
    ended: set[str] = field(default_factory=set)
    """The keys of which the process knows an outcome, with what was used."""
    confirmed: set[str] = field(default_factory=set)
    """The keys that the journal knows to have succeeded."""

    def perform(self, command: Call, callee: Callee, given: Labelled, *, revision: int) -> Outcome:
        """Makes the call and gives its outcome."""
        path, key = command.path, command.key
        usage = self._usage(callee, command)
        calls = self._nested(command) if callee.kind == "plan" else 0
        if callee.kind != "plan" or key not in self.happened:
            self._use(command, callee, usage, calls)
        parking = self.scenario.fate(path, "parks", of=3) if callee.kind == "plan" else 0
        fault = self._fault(path, key, after=parking)
        if fault is not None and callee.kind != "plan":
            return StepFailed(path=path, fault=fault, attempt=command.attempt, usage=usage)
        arguments = given.value if isinstance(given.value, dict) else {}
        self._require_first(path, key, callee)
        value = self._change(callee.name, arguments, path, key)
        self._record(path, key, callee, arguments, revision)
        if self.settled.get(key, 0) < parking:
            return StepParked(path=path)
        if fault is not None:
            return StepFailed(path=path, fault=fault, attempt=command.attempt, usage=usage, calls=calls)
        return StepSucceeded(path=path, value=attest(callee, given, value, path=path), usage=usage, calls=calls)

    def take_back(self, command: Call, callee: Callee, kept: Mapping[str, str | None]) -> Outcome:
        """Takes an effect back, unless that fails."""
        path, key = command.path, command.key
        fault = self._fault(path, key)
        if fault is not None:
            return StepFailed(path=path, fault=fault, attempt=command.attempt)
        self._require_first(path, key, callee)
        own = key.removesuffix("-undo")
        deed = self.standing.get(own)
        self.happened.add(key)
        if deed is not None:
            self._require_last(deed)
            del self.standing[own]
            self.reversed.append(own_path(path))
        for box, blob in kept.items():
            self.boxes[box] = self.kept[blob or ""]
        if not kept:
            for box, entries in self.boxes.items():
                self.boxes[box] = tuple(entry for entry in entries if entry[0] != own)
        calls = 0 if own in self.ended else self.nested.get(own, 0)
        return StepSucceeded(path=path, value=Labelled(), calls=calls)

    def keeps(self, callee: Callee, given: Labelled) -> tuple[str, str] | None:
        """The box that a call is about to overwrite, and the blob that holds what is in it."""
        if callee.name != "box.put" or not isinstance(given.value, dict):
            return None
        box = str(given.value["at"]).casefold()
        entries = self.boxes.get(box, ())
        blob = "+".join(key for key, _ in entries)
        self.kept[blob] = entries
        return box, blob

    def learned(self, outcome: Outcome, key: str) -> None:
        """The process knows the outcome: what fails or waits only so often gets on."""
        if not isinstance(outcome, StepParked):
            self.ended.add(key)
        if not isinstance(outcome, StepSucceeded):
            self.settled[key] = self.settled.get(key, 0) + 1

    def halted(self, path: StepPath, callee: str, *, revision: int, begins: int) -> None:
        """An approval or a wait is over."""
        self.deeds.append(Deed(path, "", callee, revision, ALL, True, begins, len(self.deeds)))

    def told(self) -> tuple[dict[str, list[str]], list[StepPath]]:
        """What lies in the boxes, in order, and what was done for good."""
        boxes = {box: [text for _, text in entries] for box, entries in self.boxes.items() if entries}
        return boxes, sorted(self.lasting)

    def is_seen_again(self) -> bool:
        """Whether something was looked at anew for a later plan, and so perhaps otherwise than in order."""
        looks = {(deed.path, deed.key) for deed in self.deeds if not deed.is_change and deed.touches}
        return len(looks) > len({path for path, _ in looks})

    # fates

    def _fault(self, path: StepPath, key: str, *, after: int = 0) -> Fault | None:
        """The call's failure, as long as it has not failed often enough; a nested goal parks `after` times first.

        What happened already, and is made again since nobody knows, may fail from then on.
        """
        fate = self.scenario.fate(path, "fails", of=20)
        if self.scenario.is_sound or (self.scenario.is_calm and role_of(path) == "fallback"):
            return None
        if key in self.happened and not self.scenario.is_calm and fate >= 10:
            return Fault(code="T-1", error_class="unavailable")
        times = {0: 1, 1: 1, 2: 2, 3: 3, 4: 9}.get(fate, 0)
        if times == 0 or self.settled.get(key, 0) >= times + after:
            return None
        return Fault(code="T-1", error_class="invalid" if fate == 1 else "unavailable")

    def _usage(self, callee: Callee, command: Call) -> tuple[Usage, ...]:
        tokens = callee.declaration.max_tokens
        if callee.kind != "agent" or not tokens:
            return ()
        read = max(0, command.held.tokens - tokens)
        return (Usage(input_tokens=read, output_tokens=tokens, cost_usd=(read + 2 * tokens) / 1e6),)

    def _nested(self, command: Call) -> int:
        """What the nested run makes in all: it keeps to what it was given when it began."""
        wanted, most = self.scenario.fate(command.path, "calls", of=4), command.limits.calls
        return self.nested.setdefault(command.key, wanted if most is None else min(wanted, most))

    # effects

    def _change(self, callee: str, given: Mapping[str, Json], path: StepPath, key: str) -> Json:
        box, text = str(given.get("at", "")).casefold(), str(given.get("text", ""))
        entry = (key, text[:LONGEST])
        match callee:
            case "box.read":
                return self._seen(box)
            case "box.list":
                return " ".join(self._seen(name) for name in sorted(self.boxes))[:LONGEST]
            case "text.upper":
                return text.upper()
            case "web.get" | "agent.writer":
                return f"of {text}"[:LONGEST]
            case "box.put":
                self.boxes[box] = (entry,)
            case "box.add" | "box.stamp":
                self.boxes[box] = (*self.boxes.get(box, ()), entry)
            case "plan.goal":
                if key not in self.standing:
                    self.boxes["a"] = (*self.boxes["a"], (key, "reached"))
                return "reached"
            case _:
                self.lasting.append(path)
        return None

    def _seen(self, box: str) -> str:
        return " ".join(text for _, text in self.boxes.get(box, ()))[:LONGEST]

    def _record(self, path: StepPath, key: str, callee: Callee, given: Mapping[str, Json], revision: int) -> None:
        at = len(self.deeds)
        touches = _touched(callee.name, given)
        deed = Deed(path, key, callee.name, revision, touches, not callee.is_reading, at, at)
        self.deeds.append(deed)
        self.happened.add(key)
        if deed.is_change:
            self.standing[key] = deed

    def _require_first(self, path: StepPath, key: str, callee: Callee) -> None:
        is_repeatable = callee.is_reading or callee.declaration.on_doubt == "idempotent"
        if not is_repeatable and key in self.happened:
            raise BrokenLawError("an effect happens once", f"`{path}` happens again")

    def _require_last(self, deed: Deed) -> None:
        """What came later to the same box is taken back first."""
        for other in self.standing.values():
            is_later = other.begins > deed.begins and meets(other.touches, deed.touches)
            is_known = other.key in self.confirmed and f"{other.key}-undo" not in self.tried
            if is_later and is_known and other.callee in REVERSIBLE:
                what = f"`{deed.path}` is taken back while the later `{other.path}` stands"
                raise BrokenLawError("effects are taken back in reverse order", what)

    # budgets

    def _use(self, command: Call, callee: Callee, usage: tuple[Usage, ...], calls: int) -> None:
        cost_usd = (callee.declaration.cost_usd or 0.0) + sum(one.cost_usd or 0.0 for one in usage)
        tokens = sum(one.input_tokens + one.output_tokens for one in usage)
        amount = Amount(cost_usd=cost_usd, tokens=tokens, calls=1 + calls)
        for name, budget in self._budgets(command.path, callee.name):
            used = self.used[name] = self.used.get(name, NOTHING).plus(amount)
            if _exceeds(used, budget):
                what = f"`{command.path}` makes {used!r} of {name or 'the run'}, but the limit is {budget!r}"
                raise BrokenLawError("budgets hold", what)

    def _budgets(self, path: StepPath, callee: str) -> list[tuple[str, Budget]]:
        setup, plan = self.scenario.setup, self.scenario.plan
        found = [("", setup.budget)]
        if callee in setup.agents:
            found.append((callee, setup.agents[callee]))
        for part in own_path(path).split("/"):
            step = plan.step(part.partition("[")[0])
            if step is not None and step.budget is not None:
                found.append((step.id, step.budget))
        return found


def _touched(callee: str, given: Mapping[str, Json]) -> frozenset[str]:
    match callee:
        case "text.upper" | "web.get" | "agent.writer":
            return frozenset()
        case "mail.send":
            return frozenset({f"mail {given.get('at')}"})
        case "box.list":
            return frozenset(PLACES)
        case "shell.run" | "plan.goal":
            return ALL
        case _:
            return frozenset({str(given.get("at", "")).casefold()})


def meets(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two deeds touch the same thing."""
    if not a or not b:
        return False
    return a is ALL or b is ALL or not a.isdisjoint(b)


def _exceeds(used: Amount, budget: Budget) -> bool:
    return (
        (budget.calls is not None and used.calls > budget.calls)
        or (budget.tokens is not None and used.tokens > budget.tokens)
        or (budget.cost_usd is not None and (used.cost_usd or 0.0) > budget.cost_usd + 1e-9)
    )
