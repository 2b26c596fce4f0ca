"""What people ask of runs: to stop or pause, to take an answer, a correction, an event, or to go on.

Rules of the file:
- A run that some process drives is asked, and its owner takes it within moments. One that nobody drives is gone on
  with here, as `resume` does; with `--later` it is only left for whoever does that.
- What a run cannot take is refused before it is posted, as far as that can be seen from its record.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from planner.assistant import user_name
from planner.cards import Answer, Card, Edited, Endorsed, Said, answered, asked, card_of
from planner.cli import plans, terminal
from planner.cli.carrying import carry_on, check_assistant
from planner.cli.display import waits
from planner.cli.ending import answers, reversals
from planner.cli.exits import EXITS
from planner.cli.options import Options
from planner.cli.progress import use
from planner.cli.questions import certified, edited, shown
from planner.cli.records import Record, journal_of, record, summaries
from planner.cli.rows import question
from planner.cli.secrecy import redactor_of
from planner.cli.terminal import line
from planner.core.events import (
    CancelRequested,
    EventReceived,
    PauseLifted,
    PauseRequested,
    Question,
    Steered,
    UndoRequested,
)
from planner.core.labels import Json
from planner.core.plan import StepPath, map_path
from planner.core.run import Run
from planner.errors import JournalError, PlanError, UserError
from planner.journal import Request, Requestable
from planner.runner import TAKEN_S

POLL_S = 0.1
REVERSAL_S = 60.0
"""How long a cancelled run is watched while its owner takes back what it did."""


# ---- verbs -------------------------------------------------------------------------------------------------


def resume(options: Options) -> int:
    """Goes on with a run, and lifts a pause; a finished one gives its result again."""
    found = _record(options, options.words[0])
    if found.run.is_paused and found.run.finished is None:
        said = f"lifted the pause of {found.run.id}; the run goes on"
        return _ask(options, found, PauseLifted(by=user_name()), said=said)
    if options.is_later:
        raise _out_of_place(f"run {found.run.id} is not paused, so nothing is left for later", "Leave out `--later`.")
    if found.summary.is_live:
        hint = f"Follow it with `planner runs events {found.run.id} --follow`."
        raise _out_of_place(f"run {found.run.id} is under way in another process", hint)
    return carry_on(options, found)


def pause(options: Options) -> int:
    """Lets nothing new start in a run."""
    found = _record(options, options.words[0])
    run = _unfinished(found, "there is nothing to pause")
    if run.is_paused:
        raise _out_of_place(f"run {run.id} is paused already", f"It goes on with `planner runs resume {run.id}`.")
    said = f"paused {run.id}: what is under way ends first\n  to go on: planner runs resume {run.id}"
    code = _ask(options, found, PauseRequested(by=user_name()), said=said)
    return 0 if code == EXITS["paused"] else code


def cancel(options: Options) -> int:
    """Stops a run and takes back what it did."""
    found = _record(options, options.words[0])
    run = found.run
    if run.is_cancelled:
        raise _out_of_place(f"run {run.id} was cancelled already", f"Look: `planner runs show {run.id}`.")
    _unfinished(found, f"`planner runs undo {run.id}` takes back what it did")
    return _reversed(options, found, CancelRequested(by=user_name()), f"cancelled {run.id}")


def undo(options: Options) -> int:
    """Takes back what a finished run did."""
    found = _record(options, options.words[0])
    run = found.run
    if run.finished is None:
        hint = f"`planner runs cancel {run.id}` stops it, and takes back what it did."
        raise _out_of_place(f"run {run.id} has not ended, so it is cancelled rather than undone", hint)
    if run.is_cancelled:
        hint = f"What was taken back and what was left: `planner runs show {run.id}`."
        raise _out_of_place(f"what run {run.id} did was taken back already", hint)
    return _reversed(options, found, UndoRequested(by=user_name()), f"undoing {run.id}")


def steer(options: Options) -> int:
    """Corrects a run in words, with other inputs, or with a plan for the rest."""
    wanted, *words = options.words
    found = _record(options, wanted)
    run = _unfinished(found, "`planner runs fork` begins a new one with some of its events")
    inputs = dict(run.plan.inputs) if run.plan is not None else {}
    changes = plans.changed(options.changes or (), inputs)
    plan = plans.read(options.plan) if options.plan is not None else None
    text = " ".join(words).strip()
    if not (text or changes or plan):
        raise UserError("U-403", "no correction was given", hint="Give words, `--with name=value` or `--plan FILE`.")
    if run.is_cancelled:
        raise _out_of_place(f"run {run.id} is being cancelled", "Correct it by a new run.")
    if run.started.plan is not None and plan is None:
        _check_given(run, changes, inputs)
    event = Steered(by=user_name(), text=text, inputs=changes, plan=plan)
    return _ask(options, found, event, said=f"corrected {run.id}; the run goes on with it")


def _check_given(run: Run, changes: dict[str, Json], inputs: dict[str, Json]) -> None:
    """A run of a given plan has no planner that could understand words, or inputs that the plan has not."""
    if not changes:
        hint = "Give `--with name=value` or `--plan FILE`; words are for a planner."
        raise _out_of_place(f"run {run.id} has a plan of its own, and no planner", hint)
    unknown = sorted(changes.keys() - inputs.keys())
    if unknown:
        what = f"the plan of run {run.id} has no input `{unknown[0]}`"
        hint = f"It has {', '.join(inputs) or 'none'}."
        raise UserError("U-435", what, hint=hint, choices=tuple(inputs), error_class="missing")


def approve(options: Options) -> int:
    """Allows a call that the run asks for."""
    if options.changes and options.vouched:
        raise UserError(
            "U-403", "`--with` and `--vouch` do not go together", hint="A value you give is yours anyway."
        )
    if options.changes:
        return _decide(options, lambda card: Edited(edited(card, options.changes or ())), "approved with changes")
    if options.vouched:
        return _decide(options, lambda _: Endorsed(tuple(options.vouched or ())), "approved and vouched for")
    return _decide(options, lambda _: "yes", "approved")


def deny(options: Options) -> int:
    """Refuses a call that the run asks for."""
    return _decide(options, lambda _: "no", "denied")


def answer(options: Options) -> int:
    """Answers a question of any kind: a word for what a card offers, else a value."""
    wanted, *step, value = options.words
    found, card = _asking(options, wanted, step[0] if step else None)
    said = value.strip().lower() if card.answers else Said(value)
    if card.answers and said not in card.answers:
        words = " or ".join(f"`{word}`" for word in card.answers)
        what = f"the question at `{card.path}` of run {card.run_id} is answered by {words}, not `{value}`"
        raise PlanError("P-306", what, choices=card.answers)
    clean = redactor_of(options).clean
    events = tuple(map(clean, answered(card, said, by=user_name())))
    shown_as = terminal.excerpt(events[0].value if events[0].answer == "value" else events[0].answer, 60)
    return _ask(options, found, *events, said=f"answered {_at(found.run, card)} with {shown_as}; the run goes on")


def send(options: Options) -> int:
    """Tells runs that something happened for which they wait."""
    (name,) = options.words
    event = EventReceived(name=name, data=_data(options.data), by=user_name())
    if options.run is not None:
        targets = [_record(options, options.run)]
        _unfinished(targets[0], "it waits for nothing any more")
    else:
        targets = _waiting_for(options, event)
    codes = [_ask(options, one, event, said=f"told {one.run.id} of {line(name)}; the run goes on") for one in targets]
    return max(codes)


def wake(options: Options) -> int:
    """Goes on with every run that can: its process ended, its time has come, or something was asked of it."""
    codes: dict[str, int] = {}
    while due := [one for one in asyncio.run(_due(options)) if one.run.id not in codes]:
        for one in due:
            codes[one.run.id] = _woken(options, one)
    if not codes:
        terminal.say("nothing to go on with")
    return next((code for code in codes.values() if code not in {0, EXITS["waiting"]}), 0)


def _woken(options: Options, found: Record) -> int:
    """Goes on with one run, if its assistant is still the one that it began with."""
    run = found.run
    try:
        check_assistant(options, run)
    except UserError as error:
        terminal.say(f"left {run.id}: {line(error.message)}")
        return 0
    terminal.say(f"going on with {run.id}: {line(run.started.goal, 80)}")
    return carry_on(options, found, is_resumed=False)


async def _due(options: Options) -> list[Record]:
    async with journal_of(options) as journal:
        due = await journal.pending(datetime.now(UTC)) if journal is not None else ()
    return [await record(options, one.run_id) for one in due]


# ---- questions ---------------------------------------------------------------------------------------------


def _decide(options: Options, answer_of: Callable[[Card], Answer], done: str) -> int:
    found, card = _asking(options, options.words[0], *options.words[1:], only="approve")
    if not options.is_json:
        for text in (*shown(card), *certified(found.run, card)):
            terminal.say(text)
        terminal.say("")
    events = answered(card, answer_of(card), by=user_name())
    return _ask(options, found, *events, said=f"{done} {_at(found.run, card)}; the run goes on")


def _at(run: Run, card: Card) -> str:
    return f"{use(run, card.path)} at {card.path} of {run.id}"


def _asking(
    options: Options, wanted: str, path: StepPath | None = None, *, only: Question | None = None
) -> tuple[Record, Card]:
    """The run and the question that are meant: the one at `path`, else the only one.

    Raises `UserError` U-436 if there is none, U-437 if there are several.
    """
    found = _record(options, wanted)
    places = [(one, at) for one in _with_parts(options, found) for at in asked(one.run)]
    fitting = [(one, at) for one, at in places if path in {None, at} and _is_asked(one.run, at, only)]
    fitting = fitting or [(one, path) for one, at in places if path is not None and map_path(path) == at]
    if len(fitting) == 1:
        ((one, at),) = fitting
        return one, card_of(one.run, at)
    if not fitting:
        where = f" at `{path}`" if path is not None else ""
        what = (
            f"run {found.run.id} asks for no approval{where}" if only else f"run {found.run.id} asks nothing{where}"
        )
        hint = _others(places) or f"`planner runs show {found.run.id}` says what it waits for."
        raise UserError("U-436", what, hint=hint, error_class="conflict")
    what = f"run {found.run.id} asks {len(fitting)} questions: {', '.join(at for _, at in fitting)}"
    listed = "\n".join(_told(one.run, at) for one, at in fitting)
    raise UserError("U-437", what, hint=f"Name the step.\n{listed}", choices=tuple(at for _, at in fitting))


def _is_asked(run: Run, path: StepPath, only: Question | None) -> bool:
    return only is None or card_of(run, path).question == only


def _others(places: Sequence[tuple[Record, StepPath]]) -> str:
    """What is asked beside what was meant; nothing where nothing is."""
    return "It asks:\n" + "\n".join(_told(one.run, at) for one, at in places) if places else ""


def _told(run: Run, path: StepPath) -> str:
    first = card_of(run, path).item.path
    return f"{path} {use(run, path)} {question(run, first, run.at)}\n  {answers(run, path)[0]}"


def _with_parts(options: Options, found: Record) -> list[Record]:
    """The run, and the runs that are steps of it: who answers need not know which of them asks."""
    result = [found]
    for part in found.parts:
        if part.status in {"running", "waiting", "paused"}:
            result += _with_parts(options, _record(options, part.run_id))
    return result


# ---- events ------------------------------------------------------------------------------------------------


def _data(text: str | None) -> Json:
    if text is None:
        return None
    try:
        value: Json = json.loads(text)
    except ValueError as error:
        what = f"`--data {text:.60}` is no JSON: {error}"
        hint = """Write it as `--data '{"amount": 12}'`; a text stands in double quotes."""
        raise UserError("U-438", what, hint=hint) from error
    return value


def _waiting_for(options: Options, event: EventReceived) -> list[Record]:
    """The runs with a step that takes the event. Raises `UserError` U-439 if there is none."""
    open_ = [one for one in asyncio.run(summaries(options)) if one.status in {"waiting", "running", "paused"}]
    records = [_record(options, one.run_id) for one in open_]
    data = event.data if isinstance(event.data, dict) else {}
    found: list[Record] = []
    names: set[str] = set()
    for one in records:
        waited = [state.wanted for state in one.run.steps.values() if state.status == "waiting" and state.wanted]
        names |= {name for name, _ in waited}
        if any(name == event.name and all(data.get(k) == v for k, v in fields.items()) for name, fields in waited):
            found.append(one)
    if not found:
        hint = f"They wait for {', '.join(sorted(map(line, names)))}." if names else "No run waits for any event."
        such = " with such data" if event.name in names else ""
        what = f"no run waits for the event `{event.name}`{such}"
        raise UserError("U-439", what, hint=hint, choices=tuple(sorted(names)), error_class="missing")
    return found


# ---- asking ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request: whether a process drives the run, and the run as it stands now."""

    request: Request
    found: Record


def _ask(options: Options, found: Record, *events: Requestable, said: str) -> int:
    """Asks it of the run, and says what became of it; the exit code is 0, or that of the run gone on with here.

    Of several events the last is watched: they are taken in order.
    """
    run = found.run
    if not found.summary.is_live and not options.is_later:
        check_assistant(options, run)
    id_ = asyncio.run(_posted(options, run.id, events))
    taken = asyncio.run(_settled(options, run.id, id_))
    if taken.request.is_open and not options.is_later and not taken.found.summary.is_live:
        try:
            return carry_on(options, taken.found, said=said, request=taken.request, is_resumed=False)
        except JournalError as error:
            if error.code != "J-103":
                raise
        taken = asyncio.run(_settled(options, run.id, id_))  # somebody else was faster, and takes it
    if taken.request.problem is not None:
        raise UserError(
            "U-432",
            f"run {run.id} refused it: {taken.request.problem}",
            hint=f"`planner runs show {run.id}` says what it waits for.",
            error_class="conflict",
        )
    if not taken.request.is_open:
        return _say(options, taken, said)
    if options.is_later:
        return _say(
            options, taken, f"posted for {run.id}; it is taken by whoever goes on with the run: planner runs wake"
        )
    what = f"the process that drives run {run.id} has not taken it within {TAKEN_S:g} s"
    raise UserError("U-433", what, hint=f"It stays posted; look again with `planner runs show {run.id}`.")


def _say(options: Options, taken: Taken, said: str) -> int:
    run = taken.found.run
    if options.is_json:
        kind = "RequestPosted" if taken.request.is_open else "RequestTaken"
        told: dict[str, Json] = {"type": kind, "run_id": run.id, "request": taken.request.event.type}
        terminal.put_json({**told, "run_seq": taken.request.run_seq, "status": run.status, **waits(run)})
    else:
        terminal.put(said)
    return 0


async def _posted(options: Options, run_id: str, events: Sequence[Requestable]) -> int:
    """The number of the last request."""
    async with journal_of(options) as journal:
        assert journal is not None, "a run was found in it"
        return [await journal.post(run_id, event, at=datetime.now(UTC)) for event in events][-1]


async def _settled(options: Options, run_id: str, id_: int) -> Taken:
    """The request, once the run's owner has said what becomes of it, or nobody drives the run."""
    async with journal_of(options) as journal:
        assert journal is not None, "a run was found in it"
        until = asyncio.get_running_loop().time() + TAKEN_S
        while (request := await journal.request(id_)).is_open and asyncio.get_running_loop().time() < until:
            if options.is_later or not (await record(options, run_id)).summary.is_live:
                break
            await asyncio.sleep(POLL_S)
        return Taken(request, await record(options, run_id))


def _reversed(options: Options, found: Record, event: CancelRequested | UndoRequested, said: str) -> int:
    """Asks for what the run did to be taken back; 0 if nothing of it was left, else as of a failed run."""
    code = _ask(options, found, event, said=said)
    if options.is_later:
        return code
    last = asyncio.run(_ended(options, found.run.id))
    if last.run.finished is None:
        terminal.say(f"  it is still taking back what it did: planner runs show {last.run.id}")
        return EXITS["waiting"]
    if found.summary.is_live and not options.is_json:
        for text in reversals(last.run):
            terminal.say(text)
    return EXITS["failed"] if last.run.finished.left else 0


async def _ended(options: Options, run_id: str) -> Record:
    """The run once it has ended, or nobody drives it."""
    until = asyncio.get_running_loop().time() + REVERSAL_S
    while True:
        found = await record(options, run_id)
        is_over = found.run.finished is not None or not found.summary.is_live
        if is_over or asyncio.get_running_loop().time() > until:
            return found
        await asyncio.sleep(POLL_S)


# ---- checks ------------------------------------------------------------------------------------------------


def _record(options: Options, wanted: str) -> Record:
    return asyncio.run(record(options, wanted))


def _unfinished(found: Record, otherwise: str) -> Run:
    """The run. Raises `UserError` U-434 if it has ended."""
    run = found.run
    if run.finished is not None:
        raise _out_of_place(f"run {run.id} has ended as {run.status.replace('_', ' ')}", f"{_capital(otherwise)}.")
    return run


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _out_of_place(what: str, hint: str) -> UserError:
    return UserError("U-434", what, hint=hint, error_class="conflict")
