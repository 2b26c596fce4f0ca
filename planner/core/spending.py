"""Which of the wanted calls the budgets have room for.

Rules of the file:
- Calls are looked at in their order; what the first ones may use at most is taken from what the next ones find.
- No room beside what is under way means: wait, for it may use less. No room at all means: the limit is reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.core.commands import Call, Command, Record
from planner.core.events import Fault, StepFailed
from planner.core.ledger import NOTHING, UNLIMITED, Amount, refusal
from planner.core.plan import StepPath
from planner.core.run import Run, StepState
from planner.core.state import account, accounts_of, held_in, holds


@dataclass(frozen=True, slots=True)
class Affordable:
    """The commands that there is room for, and why there is none for one of the others, ever."""

    commands: tuple[Command, ...]
    over: str | None = None
    is_waiting: bool = False
    """Whether a call waits for what others hold."""


def affordable(run: Run, wanted: Sequence[Command]) -> Affordable:
    """What of `wanted` can be done within the budgets of the run, its agents and its steps."""
    held = holds(run)
    sums: dict[str, Amount] = {}
    commands: list[Command] = []
    over: str | None = None
    is_waiting = False
    for command in wanted:
        if not isinstance(command, Call):
            commands.append(command)
            continue
        if run.refused:
            over = over or run.refused
            continue
        refused = next(_refusals(run, command, held, sums), None)
        if refused is None:
            commands.append(command)
            _hold(run, command, held, sums)
            continue
        account, reason, is_final = refused
        if not is_final:
            is_waiting = True
        elif account.startswith("step:") and not _is_doubtful(run.step(command.path)):
            fault = Fault(code="A-109", error_class="limit", message=f"{account.partition(':')[2]}: {reason}")
            commands.append(Record(StepFailed(path=command.path, fault=fault)))
        else:
            over = over or (f"{account}: {reason}" if account else reason)
    return Affordable(tuple(commands), over, is_waiting)


def _is_doubtful(state: StepState) -> bool:
    """Whether the call may have happened already, so that it cannot just fail."""
    return state.status in {"interrupted", "in_doubt"} or state.question == "happened"


def _besides(run: Run, name: str, path: StepPath, held: Mapping[StepPath, Amount], sums: dict[str, Amount]) -> Amount:
    """What of `held` counts towards the account besides the call at `path`; kept in `sums`, for each call asks."""
    if path in held:
        return held_in(run, name, {other: amount for other, amount in held.items() if other != path})
    if name not in sums:
        sums[name] = held_in(run, name, held)
    return sums[name]


def _hold(run: Run, command: Call, held: dict[StepPath, Amount], sums: dict[str, Amount]) -> None:
    """Adds what the call may use to what is held, and to its sums."""
    if command.path in held:
        sums.clear()
    for name in {"", *accounts_of(run, command.path)} & sums.keys():
        sums[name] = sums[name].plus(command.held)
    held[command.path] = command.held


def _refusals(
    run: Run, command: Call, held: Mapping[StepPath, Amount], sums: dict[str, Amount]
) -> Iterator[tuple[str, str, bool]]:
    """The accounts without room for the call, why, and whether that stays so when nothing is under way."""
    is_nested = run.started.setup.catalogue[command.callee].kind == "plan"
    goes_on = is_nested and run.step(command.path).held is not NOTHING  # it was given its room when it began
    wanted = NOTHING if goes_on else command.held
    for name in ("", *accounts_of(run, command.path)):
        budget, spent = account(run, name)
        reason = (
            None
            if budget == UNLIMITED
            else refusal(budget, spent, _besides(run, name, command.path, held, sums), wanted)
        )
        if reason is not None:
            yield name, reason, refusal(budget, spent, NOTHING, wanted) is not None
