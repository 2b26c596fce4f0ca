"""Mend what a planner evidently meant; each repair is named in the certificate and journaled.

Rules of the file:
- No repair changes what an effect means. What cannot be mended for certain is left for `check` to report.
- A repair goes by types and by the goal's words, never by the name of a callee.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count

from planner.core import kinds
from planner.core.catalog import Callee, Catalogue, item_type
from planner.core.expr import expression_names, may_miss, names, reference
from planner.core.goal import Named, has_branches, speaks_of_adding, speaks_of_each
from planner.core.labels import Frozen, Json
from planner.core.plan import GIVEN, Plan, Step, StepId, every_step, own_names, reads, stand_in
from planner.core.revision import is_same_call, next_id, reading, with_names


class Repair(Frozen):
    """One change the checker made to a plan."""

    code: str
    message: str
    step: StepId | None = None


@dataclass(slots=True)
class _Draft:
    """A plan being mended: the steps so far with their types, and what was changed.

    `finished` are the kept steps that the plan has not asked for again yet; `order` has the steps that the plan is
    made of, in its own order; `taken` are the ids in use.
    """

    catalogue: Catalogue
    goal: str
    found: tuple[Named, ...]
    taken: set[StepId]
    is_given: bool = False
    finished: list[Step] = field(default_factory=list)
    order: list[StepId] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    types: dict[StepId, str] = field(default_factory=lambda: dict.fromkeys(GIVEN, "record"))
    lookups: dict[tuple[StepId, str], StepId] = field(default_factory=dict)
    answer: Json = None
    repairs: list[Repair] = field(default_factory=list)

    def add(self, step: Step) -> StepId:
        """Takes a step in; its id, or that of a finished step that did the same, for nothing is done twice."""
        same = next((old for old in self.finished if is_same_call(old, step)), None)
        if same is not None:
            self.finished.remove(same)
        else:
            self.steps.append(step)
            self.taken.add(step.id)
            self.types[step.id] = kinds.step_type(step, self.catalogue, self.types)
        self.order.append((same or step).id)
        return self.order[-1]

    def free_id(self, like: str) -> StepId:
        """An id for a step of the checker's own: this one, or one like it that no other step has."""
        stem = re.sub(r"[^a-z0-9_]+", "_", like.lower())
        ids = (f"{stem}_{n}" if n > 1 else stem for n in count(1))
        return next(id_ for id_ in ids if id_ not in self.taken)

    def note(self, code: str, message: str, step: StepId | None = None) -> None:
        self.repairs.append(Repair(code=code, message=message, step=step))

    def callee(self, step: Step) -> Callee | None:
        return self.catalogue.get(step.use) if step.use else None

    def has_effect(self, step: Step) -> bool:
        """Whether the step, or one that it holds, does more than look: it changes, asks, waits or hands over."""
        called = (self.callee(one) for held in every_step((step,)) for one in (held, stand_in(held)))
        return any(c is not None and (not c.is_reading or c.kind not in {"tool", "agent"}) for c in called)


def repaired(
    plan: Plan,
    catalogue: Catalogue,
    *,
    goal: str = "",
    found: tuple[Named, ...] = (),
    kept: tuple[Step, ...] = (),
    is_given: bool = False,
) -> tuple[Plan, tuple[Repair, ...]]:
    """The plan as it was evidently meant, after the finished steps in `kept`, and what was changed.

    To one that `is_given`, by a person, nothing is added, and nothing of it is left out.
    """
    taken = {step.id for step in (*kept, *plan.steps)}
    draft = _Draft(catalogue=catalogue, goal=goal, found=found, taken=taken, is_given=is_given)
    for step in kept:
        draft.add(step)
    draft.finished, draft.order = list(kept), []
    renamed: dict[StepId, StepId] = {}
    for step in plan.steps:
        moved = reading(step, renamed).model_copy(update={"id": next_id(draft.taken)}) if kept else step
        renamed[step.id] = draft.add(_mended(draft, moved))
    answer = f"${plan.steps[-1].id}" if kept and plan.steps and plan.answer is None else plan.answer
    draft.answer = _with_known_field(draft, with_names(answer, renamed), otherwise="None")
    if not is_given:
        _write_what_was_asked(draft)
        _answer_with_something(draft)
        _drop_unused(draft, {step.id for step in kept})
    mended = plan.model_copy(update={"steps": tuple(draft.steps), "answer": draft.answer})
    return mended, tuple(draft.repairs)


def _mended(draft: _Draft, step: Step) -> Step:
    mapped = _mapped(draft, _spelled(draft, _renamed(draft, step)))
    placed = _gathered(draft, _placed(draft, mapped))
    args = {name: _with_known_field(draft, value) for name, value in placed.args.items()}
    return _fitted(draft, placed.model_copy(update={"args": args}) if args != placed.args else placed)


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
    args: dict[str, Json] = {}
    for given, value in step.args.items():
        meant = spelled.get(given.casefold(), given)
        args[given if given in valid or meant in {*step.args, *args} else meant] = value
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


def _placed(draft: _Draft, step: Step) -> Step:
    """A file given as a folder is a list of that one file; a folder given as a file is each file in it."""
    callee = draft.callee(step)
    if callee is None or not callee.is_reading or step.is_map:
        return step
    kinds_of = {n.text: n.found for n in draft.found}
    for parameter in callee.parameters:
        value = step.args.get(parameter.name)
        found = kinds_of.get(value) if isinstance(value, str) else None
        if parameter.type == "folder" and callee.result == "list[path]" and found == "file":
            draft.note("R-104", f"`{value}` is a file, not a folder", step.id)
            return step.model_copy(update={"use": None, "args": {}, "let": [value]})
        lister = kinds.lister(draft.catalogue)
        if parameter.type == "path" and found == "folder" and lister is not None:
            draft.note("R-105", f"`{value}` is a folder: each file in it is meant", step.id)
            id_ = draft.free_id(f"{step.id}_files")
            folder = {lister.parameters[0].name: value}
            listing = Step.model_validate({"id": id_, "use": lister.name, "if": step.if_, "args": folder})
            args = {**step.args, parameter.name: f"${step.as_}"}
            return step.model_copy(update={"for_each": f"${draft.add(listing)}", "args": args})
    return step


# maps --------------------------------------------------------------------------------------------------------


def _mapped(draft: _Draft, step: Step) -> Step:
    """A map over what is a list, and over what is meant."""
    step = step if step.is_map else _map_for_stray_item(draft, step)
    if not step.is_map:
        return step
    if not own_names(step) & names(dict(step.args)):
        args = {k: (f"${step.as_}" if _is_own_list(draft, step, k) else v) for k, v in step.args.items()}
        if args != dict(step.args):
            draft.note("R-106", f"inside the map over `{step.for_each}` its item is meant", step.id)
            step = step.model_copy(update={"args": args})
    listed = kinds.value_type(step.for_each, draft.types)
    is_text = listed == "text" and (not _uses_item(step) or _splits(draft, step))
    single = _single(step)
    if (is_text or not (item_type(listed) or listed in {"any", "text"})) and not own_names(step) & reads(single):
        draft.note("R-107", f"`{step.for_each}` is one {listed}, not a list", step.id)
        return single
    return _zipped(draft, step)


def _is_own_list(draft: _Draft, step: Step, name: str) -> bool:
    return step.args[name] == step.for_each and _wants_item(draft, step, name)


def _uses_item(step: Step) -> bool:
    return bool(own_names(step) & reads(step.model_copy(update={"for_each": None})))


def _single(step: Step) -> Step:
    """The step done once, with the whole in the item's place."""
    args = {k: (step.for_each if v == f"${step.as_}" else v) for k, v in step.args.items()}
    let = step.for_each if step.let == f"${step.as_}" else step.let
    return step.model_copy(update={"for_each": None, "args": args, "let": let})


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
    if step.as_ not in names(dict(step.args)) or step.as_ in draft.types:
        return step
    callee = draft.callee(step)
    wanted = {p.type for p in callee.parameters if step.args.get(p.name) == f"${step.as_}"} if callee else set()
    rank = {id_: place for place, id_ in enumerate(draft.order)}
    known = draft.types.keys() - {finished.id for finished in draft.finished}
    lists = [id_ for id_, type_ in draft.types.items() if id_ in known and item_type(type_) is not None]
    lists.sort(key=lambda id_: rank.get(id_, -1))
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
        is_list = target and value != step.for_each and item_type(kinds.value_type(value, draft.types))
        if target and is_list and _root(draft, value) == root and _wants_item(draft, step, name):
            args[name] = f"${{{target[0]}[{step.as_}_i]}}"
            draft.note("R-109", f"`{value}` has one entry per item: the one of this item is meant", step.id)
    return step.model_copy(update={"args": args})


def _gathered(draft: _Draft, step: Step) -> Step:
    """A map that would write one file over and over writes the items' texts together, once."""
    callee = draft.callee(step)
    own = own_names(step)
    if not own or callee is None or kinds.writer(draft.catalogue) != callee:
        return step
    path, text = (p.name for p in callee.parameters)
    if own & names(step.args.get(path)) or not own & names(step.args.get(text)):
        return step
    is_filter = step.if_ is not None and bool(own & expression_names(step.if_))
    gathered = step.model_copy(
        update={
            "id": draft.free_id(f"{step.id}_text"),
            "use": None,
            "args": {},
            "let": step.args[text],
            "if_": step.if_ if is_filter else None,
        }
    )
    draft.note("R-116", f"all items go to one file, so `{step.id}` writes their texts together", step.id)
    args = {**step.args, text: f"${draft.add(gathered)}"}
    return step.model_copy(update={"for_each": None, "if_": None if is_filter else step.if_, "args": args})


def _root(draft: _Draft, value: Json) -> StepId | None:
    """The list from which this list was made item by item, without leaving any out."""
    target = reference(value)
    for step in reversed(draft.steps):
        if target == (step.id, ()) and step.is_map:
            target = None if step.if_ else reference(step.for_each)
    return target[0] if target and not target[1] else None


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
    reader = kinds.reader(draft.catalogue)
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
            case "content" | "contents" if reader is not None:
                is_one = kinds.fit(parameter.type, "list[text]", callee) != "fits"
                step = _with_content(draft, step, parameter.name, is_one=is_one, reader=reader)
            case _:
                continue
    return _zipped(draft, step) if step.is_map else step


def _is_file(draft: _Draft, value: Json) -> bool:
    return any(
        n.text == value and n.kind == "path" and n.part != "target" and (n.found != "absent" or n.is_absent_source)
        for n in draft.found
    )


def _with_content(draft: _Draft, step: Step, name: str, *, is_one: bool, reader: Callee) -> Step:
    """Read the file, or each file, that stands where its text is meant.

    Inside a map it is the file of the item. Of a list of files the texts are taken together, unless the goal speaks
    of each or the argument `is_one` value: then the step itself runs once per text.
    """
    value = step.args[name]
    is_list = item_type(kinds.value_type(value, draft.types)) is not None
    in_map = step.is_map and step.as_ in names(value)
    path = reader.parameters[0].name
    id_ = draft.free_id(f"{step.id}_{name}")
    read: dict[str, Json] = {"id": id_, "use": reader.name, "args": {path: value}}
    if in_map:
        read |= {"for_each": step.for_each, "as": step.as_}
    elif is_list:
        read |= {"for_each": value, "args": {path: "$item"}}
    if step.if_ is not None and not own_names(step) & expression_names(step.if_):
        read["if"] = step.if_
    draft.note("R-111", f"the text of `{value}` is meant, so it is read first", step.id)
    id_ = draft.add(Step.model_validate(read))
    text = f"${{{id_}[{step.as_}_i]}}" if in_map else f"${id_}"
    if is_list and not step.is_map and (is_one or speaks_of_each(draft.goal)):
        args = {**step.args, name: f"${step.as_}"}
        return step.model_copy(update={"for_each": text, "args": args})
    return step.model_copy(update={"args": {**step.args, name: text}})


def _with_known_field(draft: _Draft, value: Json, *, otherwise: str = "") -> Json:
    """A reference to a field that nobody can know before the run: if it is not there, its fact is looked up.

    The columns of a file are data, which a planner does not see; so it may call `city` a `name`. An agent that
    calls nothing looks the fact up in the record, and only when the field is really missing. What reads the record
    without a default is still skipped with it, unless the value is `otherwise` known.
    """
    target = None if draft.is_given else reference(value)
    finder = next((c for c in draft.catalogue.values() if kinds.is_finder(c)), None)
    if target is None or finder is None or len(target[1]) != 1 or not isinstance(target[1][0], str):
        return value
    id_, field_ = target[0], target[1][0]
    source = next((s for s in draft.steps if s.id == id_), None)
    callee = draft.callee(source) if source else None
    if callee is None or callee.result != "record" or draft.types[id_] != "record" or kinds.is_finder(callee):
        return value
    known = draft.lookups.get((id_, field_))
    if known is None:
        args: dict[str, Json] = {"inputs": f"${id_}", "fields": field_, "task": draft.goal.replace("$", "$$")}
        free, condition = draft.free_id(f"{id_}_{field_}"), f"{field_!r} not in {id_}"
        lookup = Step.model_validate({"id": free, "use": finder.name, "if": condition, "args": args})
        draft.note("R-115", f"if `${id_}` has no field `{field_}`, the fact is looked up in it", lookup.id)
        known = draft.lookups[id_, field_] = draft.add(lookup)
    part = f".{field_}" if re.fullmatch(r"[^\W\d]\w*", field_) else f"[{field_!r}]"
    return f"${{{id_}{part} ?? {known}{part} ?? {otherwise or id_ + part}}}"


# what the goal asks for ---------------------------------------------------------------------------------------


def _write_what_was_asked(draft: _Draft) -> None:
    """The final write that the goal names and the plan forgot, unless more or less than that might be wanted."""
    writer = kinds.writer(draft.catalogue)
    targets = [n for n in draft.found if n.is_written]
    value = _outcome(draft)
    if writer is None or value is None or len(targets) != 1 or any(map(draft.has_effect, draft.steps)):
        return
    if has_branches(draft.goal) and " if " not in str(value) and not _hangs_on_condition(draft, value):
        return  # the goal wants it in one case only, and the plan knows no cases
    if speaks_of_adding(draft.goal) and targets[0].found == "file":
        return  # what the file holds would be lost
    path, text = (p.name for p in writer.parameters)
    write = Step(id=next_id(draft.taken), use=writer.name, args={path: targets[0].text, text: value})
    draft.note("R-112", f"the goal asks for `{targets[0].text}`, so the outcome is written there", write.id)
    draft.add(write)


def _hangs_on_condition(draft: _Draft, value: Json) -> bool:
    """Whether there is no such value where some condition of the plan is false."""
    needed = names(value) - may_miss(value)
    for step in reversed(draft.steps):
        if step.id in needed:
            if step.if_ is not None:
                return True
            inputs: Json = [dict(step.args), step.let, step.for_each]
            needed |= names(inputs) - may_miss(inputs)
    return False


def _outcome(draft: _Draft) -> Json:
    """What the plan is for: its answer if that reads a step, else the last value that was computed."""
    if names(draft.answer):
        return draft.answer
    computed = {step.id for step in draft.steps if not draft.has_effect(step)}
    last = next((id_ for id_ in reversed(draft.order) if id_ in computed), None)
    return None if last is None else f"${last}"


def _answer_with_something(draft: _Draft) -> None:
    """An answer that reads nothing, after a last step that only computes, was meant to give its value.

    So was one with a number that the goal does not have: a planner has not seen any data to take it from.
    """
    if not draft.order or draft.answer is None or names(draft.answer):
        return
    is_made_up = not _numbers(draft.goal) >= _numbers(str(draft.answer))
    value = _outcome(draft)
    if value is None or (value != f"${draft.order[-1]}" and not is_made_up):
        return
    draft.note("R-113", f"the answer is `{value}`")
    draft.answer = value


def _numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in re.findall(r"\d+(?:[.,]\d+)*", text)}


def _drop_unused(draft: _Draft, needed: set[StepId]) -> None:
    """A step that only looks, is read by nobody and uses nothing that the goal names, is left out."""
    if draft.answer is None:
        needed = needed | set(draft.order[-1:])
    for step in reversed(list(draft.steps)):
        if step.id in needed or draft.has_effect(step) or _is_read(draft, step.id):
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
    return id_ in names(draft.answer) or any(id_ in reads(s) or id_ in s.after for s in draft.steps)
