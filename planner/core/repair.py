"""Mend what a planner evidently meant; each repair is named in the certificate and journaled.

Rules of the file:
- No repair changes what an effect means. What cannot be mended for certain is left for `check` to report.
- A repair goes by types and by the goal's words, never by the name of a callee.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from planner.core import kinds
from planner.core.catalog import Callee, Catalogue, item_type
from planner.core.expr import names, reference
from planner.core.goal import Named, speaks_of_each
from planner.core.labels import Frozen, Json
from planner.core.plan import Plan, Step, StepId
from planner.core.revision import continued


class Repair(Frozen):
    """One change the checker made to a plan."""

    code: str
    message: str
    step: StepId | None = None


@dataclass(slots=True)
class _Draft:
    """A plan being mended: the steps so far with their types, and what was changed."""

    catalogue: Catalogue
    goal: str
    found: tuple[Named, ...]
    steps: list[Step] = field(default_factory=list)
    types: dict[StepId, str] = field(default_factory=lambda: {"inputs": "record"})
    answer: Json = None
    repairs: list[Repair] = field(default_factory=list)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.types[step.id] = kinds.step_type(step, self.catalogue, self.types)

    def note(self, code: str, message: str, step: StepId | None = None) -> None:
        self.repairs.append(Repair(code=code, message=message, step=step))

    def callee(self, step: Step) -> Callee | None:
        return self.catalogue.get(step.use) if step.use else None


def repaired(
    plan: Plan,
    catalogue: Catalogue,
    *,
    goal: str = "",
    found: tuple[Named, ...] = (),
    kept: tuple[Step, ...] = (),
) -> tuple[Plan, tuple[Repair, ...]]:
    """The plan as it was evidently meant, after the finished steps in `kept`, and what was changed."""
    draft = _Draft(catalogue=catalogue, goal=goal, found=found)
    steps, answer = continued(plan, kept) if kept else (plan.steps, plan.answer)
    draft.answer = answer
    frozen = {step.id for step in kept}
    for step in steps:
        if step.id in frozen:
            draft.add(step)
            continue
        named = _spelled(draft, _renamed(draft, step))
        for placed in _placed(draft, named):
            mapped = _mapped(draft, placed)
            mapped = _gathered(draft, mapped)
            args = {name: _with_known_field(draft, value) for name, value in mapped.args.items()}
            draft.add(_fitted(draft, mapped.model_copy(update={"args": args}) if args != mapped.args else mapped))
    draft.answer = _with_known_field(draft, draft.answer)
    _write_what_was_asked(draft)
    _answer_with_something(draft)
    _drop_unused(draft, frozen)
    mended = plan.model_copy(update={"steps": tuple(draft.steps), "answer": draft.answer})
    return mended, tuple(draft.repairs)


# names -------------------------------------------------------------------------------------------------------


def _renamed(draft: _Draft, step: Step) -> Step:
    """Callee and argument names as the catalogue spells them, where only one can be meant."""
    if step.use is None:
        return step
    if step.use not in draft.catalogue:
        wanted = step.use.casefold()
        near = [n for n in draft.catalogue if n.casefold() == wanted or n.casefold().endswith(f".{wanted}")]
        if len(near) == 1:
            draft.note("R-101", f"`{step.use}` is `{near[0]}`", step.id)
            step = step.model_copy(update={"use": near[0]})
    callee = draft.callee(step)
    if callee is None:
        return step
    valid = {p.name for p in callee.parameters}
    spelled = {name.casefold(): name for name in valid}
    args = {(k if k in valid else spelled.get(k.casefold(), k)): v for k, v in step.args.items()}
    unknown = [name for name in args if name not in valid]
    missing = [p.name for p in callee.parameters if p.required and p.name not in args]
    if len(unknown) == 1 and len(missing) == 1:
        args[missing[0]] = args.pop(unknown[0])
    if set(args) != set(step.args):
        draft.note("R-102", f"the arguments of `{callee.name}` are {', '.join(args)}", step.id)
        step = step.model_copy(update={"args": args})
    return step


def _spelled(draft: _Draft, step: Step) -> Step:
    """Paths and choices as the workspace and the catalogue spell them."""
    callee = draft.callee(step)
    if callee is None:
        return step
    args = dict(step.args)
    for parameter in callee.parameters:
        value = args.get(parameter.name)
        if not isinstance(value, str):
            continue
        words: tuple[str, ...] = parameter.choices
        if parameter.type in {"path", "folder"}:
            words = tuple(n.text for n in draft.found if n.kind in {"path", "folder"})
        same = [word for word in words if word.casefold() == value.strip().removeprefix("./").casefold()]
        if len(same) == 1 and same[0] != value:
            draft.note("R-103", f"`{value}` is spelled `{same[0]}`", step.id)
            args[parameter.name] = same[0]
    return step.model_copy(update={"args": args}) if args != dict(step.args) else step


# files and folders -------------------------------------------------------------------------------------------


def _placed(draft: _Draft, step: Step) -> Iterator[Step]:
    """A file given as a folder is a list of that one file; a folder given as a file is each file in it."""
    callee = draft.callee(step)
    kinds_of = {n.text: n.found for n in draft.found}
    for parameter in callee.parameters if callee and callee.is_reading and not step.is_map else ():
        value = step.args.get(parameter.name)
        if not isinstance(value, str):
            continue
        if callee and parameter.type == "folder" and callee.result == "list[path]" and kinds_of.get(value) == "file":
            draft.note("R-104", f"`{value}` is a file, not a folder", step.id)
            yield Step(id=step.id, let=[value])
            return
        lister = _lister(draft.catalogue)
        if parameter.type == "path" and kinds_of.get(value) == "folder" and lister is not None:
            draft.note("R-105", f"`{value}` is a folder: each file in it is meant", step.id)
            listing = Step(id=f"{step.id}_files", use=lister.name, args={lister.parameters[0].name: value})
            yield listing
            args = {**step.args, parameter.name: "$item"}
            yield step.model_copy(update={"for_each": f"${listing.id}", "args": args})
            return
    yield step


def _lister(catalogue: Catalogue) -> Callee | None:
    return next(
        (
            c
            for c in catalogue.values()
            if c.result == "list[path]" and [p.type for p in c.parameters][:1] == ["folder"]
        ),
        None,
    )


def _reader(catalogue: Catalogue) -> Callee | None:
    return next((c for c in catalogue.values() if c.converts and [p.type for p in c.parameters] == ["path"]), None)


def _writer(catalogue: Catalogue) -> Callee | None:
    """The callee that replaces a file's text."""
    return next(
        (
            c
            for c in catalogue.values()
            if c.declaration.effect == "write"
            and c.declaration.on_doubt == "idempotent"
            and [p.type for p in c.parameters] == ["path", "text"]
        ),
        None,
    )


# maps --------------------------------------------------------------------------------------------------------


def _mapped(draft: _Draft, step: Step) -> Step:
    """A map over what is a list, and over what is meant."""
    uses_item = step.as_ in names(dict(step.args))
    if not step.is_map:
        return _map_for_stray_item(draft, step) if uses_item and step.as_ not in draft.types else step
    listed = kinds.value_type(step.for_each, draft.types)
    args = {
        k: (f"${step.as_}" if v == step.for_each and _wants_item(draft, step, k) else v) for k, v in step.args.items()
    }
    if args != dict(step.args):
        draft.note("R-106", f"inside the map over `{step.for_each}` its item is meant", step.id)
        step, uses_item = step.model_copy(update={"args": args}), True
    if item_type(listed) is None and listed not in {"any", "text"}:
        draft.note("R-107", f"`{step.for_each}` is one {listed}, not a list", step.id)
        single = {k: (step.for_each if v == f"${step.as_}" else v) for k, v in step.args.items()}
        return step.model_copy(update={"for_each": None, "args": single})
    if listed == "text" and (not uses_item or _splits(draft, step)):
        draft.note("R-107", f"`{step.for_each}` is one text, not a list", step.id)
        whole = {k: (step.for_each if v == f"${step.as_}" else v) for k, v in step.args.items()}
        return step.model_copy(update={"for_each": None, "args": whole})
    return _zipped(draft, step)


def _splits(draft: _Draft, step: Step) -> bool:
    """Whether the callee makes a list of a text by itself."""
    callee = draft.callee(step)
    return callee is not None and callee.is_reading and callee.result == "list[text]"


def _wants_item(draft: _Draft, step: Step, name: str) -> bool:
    callee = draft.callee(step)
    parameter = callee.parameter(name) if callee else None
    return parameter is not None and item_type(parameter.type) is None


def _map_for_stray_item(draft: _Draft, step: Step) -> Step:
    """`$item` without a `for_each`: the newest list whose items fit."""
    callee = draft.callee(step)
    wanted = {p.type for p in callee.parameters if step.args.get(p.name) == f"${step.as_}"} if callee else set()
    lists = [id_ for id_, type_ in draft.types.items() if item_type(type_) is not None]
    fitting = [id_ for id_ in lists if item_type(draft.types[id_]) in wanted]
    chosen = (fitting or lists)[-1:]
    if not chosen:
        return step
    draft.note("R-108", f"`${step.as_}` is each item of `${chosen[0]}`", step.id)
    return step.model_copy(update={"for_each": f"${chosen[0]}"})


def _zipped(draft: _Draft, step: Step) -> Step:
    """Inside a map, a list made item by item from the same list means its item at the same place."""
    root = _root(draft, step.for_each)
    callee = draft.callee(step)
    if root is None or callee is None:
        return step
    args = dict(step.args)
    for name, value in step.args.items():
        target = reference(value)
        is_list = target is not None and not target[1] and item_type(draft.types.get(target[0], "any"))
        if target and is_list and _root(draft, value) == root and _wants_item(draft, step, name):
            args[name] = f"${{{target[0]}[{step.as_}_i]}}"
            draft.note("R-109", f"`{value}` has one entry per item: the one of this item is meant", step.id)
    return step.model_copy(update={"args": args})


def _gathered(draft: _Draft, step: Step) -> Step:
    """A map that would write one file over and over writes the items' texts together, once."""
    callee = draft.callee(step)
    own = {step.as_, f"{step.as_}_i"}
    if not step.is_map or callee is None or _writer(draft.catalogue) != callee:
        return step
    path, text = (p.name for p in callee.parameters)
    if own & names(step.args.get(path)) or not own & names(step.args.get(text)):
        return step
    gathered = step.model_copy(update={"id": f"{step.id}_text", "use": None, "args": {}, "let": step.args[text]})
    draft.note("R-116", f"all items go to one file, so `{step.id}` writes their texts together", step.id)
    draft.add(gathered)
    args = {**step.args, text: f"${gathered.id}"}
    return step.model_copy(update={"for_each": None, "if_": None, "args": args})


def _root(draft: _Draft, value: Json) -> StepId | None:
    """The list from which this list was made item by item, without leaving any out."""
    target = reference(value)
    if target is None or target[1]:
        return None
    step = next((s for s in draft.steps if s.id == target[0]), None)
    if step is None or not step.is_map:
        return target[0]
    return None if step.if_ else _root(draft, step.for_each)


# types -------------------------------------------------------------------------------------------------------


def _fitted(draft: _Draft, step: Step) -> Step:
    """Arguments of the wanted type: a map for a list, the text of a file for its path."""
    callee = draft.callee(step)
    if callee is None:
        return step
    local = dict(draft.types)
    if step.is_map:
        local[step.as_] = item_type(kinds.value_type(step.for_each, draft.types)) or "any"
        local[f"{step.as_}_i"] = "integer"
    reader = _reader(draft.catalogue)
    for parameter in callee.parameters:
        value = step.args.get(parameter.name)
        given = kinds.value_type(value, local)
        if given == "text" and _is_file(draft, value) and callee.is_reading:
            given = "path"
        match kinds.fit(parameter.type, given, callee):
            case "each" if not step.is_map and callee.is_reading:
                draft.note("R-110", f"`{callee.name}` takes one at a time: each item of `{value}`", step.id)
                args = {**step.args, parameter.name: f"${step.as_}"}
                step = step.model_copy(update={"for_each": value, "args": args})
                local[step.as_] = item_type(given) or "any"
            case "content" | "contents" if reader is not None and value is not None:
                step = _with_content(draft, step, parameter.name, reader)
            case _:
                continue
    return step


def _is_file(draft: _Draft, value: Json) -> bool:
    return any(n.text == value and n.kind == "path" and n.part != "target" for n in draft.found)


def _with_content(draft: _Draft, step: Step, name: str, reader: Callee) -> Step:
    """Read the file, or each file, that stands where its text is meant.

    Inside a map it is the file of the item. Of a list of files the texts are taken together, unless the goal speaks
    of each: then the step itself runs once per text.
    """
    value = step.args[name]
    is_list = item_type(kinds.value_type(value, draft.types)) is not None
    in_map = step.is_map and step.as_ in names(value)
    read_id = f"{step.id}_{name}"
    read: dict[str, Json] = {"id": read_id, "use": reader.name, "args": {reader.parameters[0].name: value}}
    if in_map:
        read |= {"for_each": step.for_each, "as": step.as_}
    elif is_list:
        read |= {"for_each": value, "args": {reader.parameters[0].name: "$item"}}
    draft.note("R-111", f"the text of `{value}` is meant, so it is read first", step.id)
    draft.add(Step.model_validate(read))
    text = f"${{{read_id}[{step.as_}_i]}}" if in_map else f"${read_id}"
    if is_list and not step.is_map and speaks_of_each(draft.goal):
        args = {**step.args, name: f"${step.as_}"}
        return step.model_copy(update={"for_each": text, "args": args})
    return step.model_copy(update={"args": {**step.args, name: text}})


def _with_known_field(draft: _Draft, value: Json) -> Json:
    """A reference to a field that nobody can know before the run: if it is not there, its fact is looked up.

    The columns of a file are data, which a planner does not see; so it may call `city` a `name`. An agent that
    calls nothing looks the fact up in the record, and only when the field is really missing.
    """
    target = reference(value)
    finder = next((c for c in draft.catalogue.values() if _is_finder(c)), None)
    if target is None or finder is None or len(target[1]) != 1 or not isinstance(target[1][0], str):
        return value
    id_, field_ = target[0], target[1][0]
    source = next((s for s in draft.steps if s.id == id_), None)
    callee = draft.callee(source) if source else None
    if callee is None or callee.result != "record" or draft.types[id_] != "record" or _is_finder(callee):
        return value
    lookup = f"{id_}_{field_}".lower()
    if lookup not in draft.types:
        draft.note("R-115", f"if `${id_}` has no field `{field_}`, the fact is looked up in it", lookup)
        args: dict[str, Json] = {"inputs": f"${id_}", "fields": field_, "task": draft.goal.replace("$", "$$")}
        condition = f"'{field_}' not in {id_}"
        draft.add(Step.model_validate({"id": lookup, "use": finder.name, "if": condition, "args": args}))
    return f"${{{id_}.{field_} ?? {lookup}.{field_} ?? None}}"


def _is_finder(callee: Callee) -> bool:
    """Whether it copies named facts out of what it is given."""
    return callee.kind == "agent" and callee.result == "record" and callee.parameter("fields") is not None


# what the goal asks for ---------------------------------------------------------------------------------------


def _write_what_was_asked(draft: _Draft) -> None:
    """The final write that the goal names and the plan forgot."""
    writer = _writer(draft.catalogue)
    targets = [n.text for n in draft.found if n.is_written]
    value = _outcome(draft)
    if writer is None or value is None or len(targets) != 1:
        return
    for step in draft.steps:
        callee = draft.callee(step)
        if callee is not None and not callee.is_reading:
            return
    path, text = (p.name for p in writer.parameters)
    number = len(draft.steps) + 1
    while f"s{number}" in draft.types:
        number += 1
    draft.note("R-112", f"the goal asks for `{targets[0]}`, so the outcome is written there", f"s{number}")
    draft.add(Step(id=f"s{number}", use=writer.name, args={path: targets[0], text: value}))


def _outcome(draft: _Draft) -> Json:
    """What the plan is for: its answer if that reads a step, else the last value that was computed."""
    if names(draft.answer):
        return draft.answer
    for step in reversed(draft.steps):
        callee = draft.callee(step)
        if callee is None or callee.is_reading:
            return f"${step.id}"
    return None


def _answer_with_something(draft: _Draft) -> None:
    """An answer that reads nothing, after a last step that only computes, was meant to give its value.

    So was one with a number that the goal does not have: a planner has not seen any data to take it from.
    """
    if not draft.steps or names(draft.answer):
        return
    said = {n.text for n in draft.found if n.kind == "number"}
    is_made_up = not said.issuperset(re.findall(r"\d+(?:\.\d+)?", str(draft.answer or "")))
    callee = draft.callee(draft.steps[-1])
    value = _outcome(draft) if callee is not None and not callee.is_reading else f"${draft.steps[-1].id}"
    if value is None or (callee is not None and not callee.is_reading and not is_made_up):
        return
    if draft.answer is not None:
        draft.note("R-113", f"the answer is `{value}`")
    draft.answer = value


def _drop_unused(draft: _Draft, frozen: set[StepId]) -> None:
    """A step that only looks, is read by nobody and uses nothing that the goal names, is left out."""
    for step in reversed(list(draft.steps)):
        callee = draft.callee(step)
        if step.id in frozen or (callee is not None and not callee.is_reading) or _is_read(draft, step.id):
            continue
        if not any(_is_about(step, item) for item in draft.found):
            draft.note("R-114", f"nothing reads `{step.id}`, so it is left out", step.id)
            draft.steps.remove(step)


def _is_about(step: Step, item: Named) -> bool:
    """Whether the step uses this path, or says these words or this number."""
    texts = [str(value) for value in step.args.values()]
    if item.kind in {"quote", "number"}:
        return any(item.text in text for text in texts)
    return any(text.strip("/") == item.text for text in texts)


def _is_read(draft: _Draft, id_: StepId) -> bool:
    if id_ in names(draft.answer):
        return True
    return any(
        id_ in names([dict(s.args), s.let, s.for_each, f"${{{s.if_}}}" if s.if_ else None]) or id_ in s.after
        for s in draft.steps
    )
