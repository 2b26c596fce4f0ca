"""The roles that models, or code, play: a prompt, an output schema, a model, and what the role may call.

Rules of the file:
- What a planner may be told is decided in `planner_view`, and nowhere else.
- Writer, extractor and chooser see data and are quarantined: they call nothing, and what they give is untrusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import GenericAlias
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, create_model

from planner.core import finders, wire
from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.check import Problem
from planner.core.commands import AskPlanner
from planner.core.decide import PLAN_TOKENS, VERDICT_TOKENS, may_go_on
from planner.core.events import PlanProposed, Usage
from planner.core.goal import Named
from planner.core.labels import UNTRUSTED, Json, Label, join
from planner.core.plan import Step, StepId
from planner.core.run import Run, kept_steps
from planner.errors import ErrorClass, ModelError, ToolError
from planner.llm.faults import CUT_OFF, REFUSED, Cause
from planner.llm.model import AnswerError, Ask, Completion, Message, Model
from planner.prompts import Prompt
from planner.roles import ChooserView, ExtractorView, FailedStep, PlannerView, StepResult, ValidatorView, WriterView

STABLE_CALLEES = 40
"""Callees that a local model's prompt lists whole: about 1,000 tokens, 15 s to read once on two cores."""

SEEN = 4_000
"""Characters of each result that a planner sees where it may: a page, or a local model's reading for 15 s."""
WRITTEN, EXTRACTED, CHOSEN = 700, 500, 100
"""The most tokens that each agent's model writes for one call."""

_QUARANTINED = Declaration(effect="pure", resource=(), out="typed", on_doubt="idempotent")

AGENTS: Mapping[str, Callee] = {
    callee.name: callee
    for callee in (
        Callee(
            name="agent.writer",
            kind="agent",
            summary="Write, summarise, translate, rewrite or answer from a text",
            parameters=(
                Parameter(name="task", description="what to write"),
                Parameter(name="text", required=False, default="", description="the text to work on"),
            ),
            result="text",
            declaration=_QUARANTINED.model_copy(update={"out": "untrusted", "effect": "read", "max_tokens": WRITTEN}),
            keywords=("draft", "explain", "shorten", "email", "describe", "compare"),
        ),
        Callee(
            name="agent.extractor",
            kind="agent",
            summary="Copy facts such as name, date or price out of a text, as JSON",
            parameters=(
                Parameter(name="inputs", type="text", description="the text to look in"),
                Parameter(name="fields", type="any", description="names of the facts: `name, email, total`"),
                Parameter(name="task", required=False, default="", is_offered=False),
            ),
            result="record",
            declaration=_QUARANTINED.model_copy(update={"effect": "read", "max_tokens": EXTRACTED}),
            keywords=("extract", "json", "parse", "details"),
        ),
        Callee(
            name="agent.choose",
            kind="agent",
            summary="Choose the one option that fits a text",
            parameters=(
                Parameter(name="question"),
                Parameter(name="options", type="list[text]"),
                Parameter(name="inputs", type="text", description="the text to judge"),
            ),
            result="text",
            declaration=_QUARANTINED.model_copy(update={"effect": "read", "max_tokens": CHOSEN}),
            keywords=(
                "classify",
                "decide",
                "category",
                "sentiment",
                "label",
                "whether",
                "positive",
                "kind",
                "type",
                "or",
            ),
        ),
    )
}
"""The agents that every assistant has."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an agent gave, and the model answers that it took."""

    value: Json
    completions: tuple[Completion, ...] = ()


class AgentError(ToolError):
    """An agent gave nothing usable; `completions` says what that used."""

    def __init__(
        self, code: str, message: str, *, error_class: ErrorClass, completions: tuple[Completion, ...]
    ) -> None:
        super().__init__(code, message, error_class=error_class)
        self.completions = completions


# planner -----------------------------------------------------------------------------------------------------


def planner_view(run: Run, ask: AskPlanner) -> PlannerView:
    """Everything of a run that a planner may be told.

    The principal's words, what they name and whether it exists (a closed set of words), the catalogue, the plan's
    own earlier words, error classes, and problems made from the catalogue: never a value that a tool brought in.
    """
    return PlannerView(
        goal=run.started.goal,
        callees=tuple(_shown(run, ask)),
        named=tuple(item for item in run.started.named if item.found is not None),
        attachments=tuple(one.name for one in run.started.attachments),
        corrections=tuple(_corrections(run)),
        undoable=undoable(run),
        done=tuple(_finished(run)) if run.revision > 1 else (),
        failures=tuple(
            FailedStep(step=f.step.id, callee=f.step.use or "let", error_class=f.fault.error_class)
            for f in run.failures
        ),
        unmet=tuple(c.text for c in run.started.criteria if c.id in run.unmet),
        problems=ask.problems,
        may_go_on=may_go_on(run),
        results=tuple(result for result, _ in _results(run)),
        revision=ask.revision,
        attempt=ask.attempt,
    )


def prompted(view: PlannerView) -> dict[str, str]:
    """The view as the texts that a planner's prompt is made from."""
    failures = [f"step {f.step} ({f.callee}): {f.error_class}" for f in view.failures]
    return {
        "callees": wire.describe(view.callees),
        "goal": view.goal,
        "found": "\n".join(_existence(item) for item in view.named),
        "done": "; ".join(_done(step) for step in view.done),
        "failures": "; ".join(dict.fromkeys([*failures, *(f"not met: {text}" for text in view.unmet)])),
        "attachments": "\n".join(f"$attachments.{name}" for name in view.attachments),
        "corrections": "\n".join(view.corrections),
        "undoable": ", ".join(view.undoable),
        "problems": "\n".join(f"- {problem.message}" for problem in view.problems),
        "may_go_on": "yes" if view.may_go_on else "",
        "results": "\n\n".join(f"{one.step} ({one.callee}):\n{one.value}" for one in view.results),
    }


def seen_by_planner(run: Run) -> Label:
    """The label of all that `planner_view` holds. Only in the mode `open` is anything of it from outside."""
    return join((label for _, label in _results(run)), start=run.started.goal_label)


def _results(run: Run) -> Iterator[tuple[StepResult, Label]]:
    """What planners may see of data, with its labels: nothing but in the mode `open`."""
    if run.started.setup.policy.mode != "open":
        return
    for one in run.started.attachments:
        label = UNTRUSTED.from_source(f"attachment:{one.name}")
        yield StepResult(step=f"attachments.{one.name}", callee="attachment", value=_seen(one.text)), label
    for step in _finished(run):
        value = run.step(step.id).value
        if value is not None:
            result = StepResult(step=step.id, callee=step.use or "let", value=_seen(_plain(value.value)))
            yield result, value.overall()


def _seen(text: str) -> str:
    return text if len(text) <= SEEN else f"{text[:SEEN]}\n... ({len(text):,} characters in all)"


def undoable(run: Run) -> tuple[StepId, ...]:
    """The finished steps that a planner may take back: effects, once somebody corrected the run."""
    if not run.corrections:
        return ()
    catalogue = run.started.setup.catalogue
    called = [(step.id, catalogue.get(step.use or "")) for step in kept_steps(run)]
    return tuple(id_ for id_, callee in called if callee and not callee.is_reading and callee.declaration.undo)


def _corrections(run: Run) -> Iterator[str]:
    """What the principal said since, and which inputs are other ones now; of somebody else's only that they are."""
    for correction in run.corrections:
        if correction.text:
            yield correction.text
        for name, value in correction.inputs.items():
            is_own = correction.by == run.started.principal.name
            yield f"{name} is now {json.dumps(value, ensure_ascii=False)}" if is_own else f"{name} is another one now"


def _shown(run: Run, ask: AskPlanner) -> list[Callee]:
    """The callees that the prompt lists.

    Under a grammar, which offers the retrieved ones alone, a small catalogue is listed whole: then the prompt begins
    with the same text for every goal, and a local server has it in its cache.
    """
    everything = [callee for callee in run.started.setup.callees if run.started.setup.offers(callee)]
    if run.started.setup.rendering == "grammar" and len(everything) <= STABLE_CALLEES:
        return everything
    return [callee for callee in everything if callee.name in ask.callees]


def _existence(item: Named) -> str:
    word = {"file": "is a file", "folder": "is a folder", "absent": "does not exist yet"}
    return f"{item.text} {word[item.found or 'absent']}."


def _finished(run: Run) -> list[Step]:
    steps = run.plan.steps if run.plan else ()
    return [step for step in steps if run.step(step.id).status == "succeeded"]


def _done(step: Step) -> str:
    return f"{step.id} = {step.use or 'let'}({json.dumps(dict(step.args), ensure_ascii=False)})"


async def propose(run: Run, ask: AskPlanner, model: Model, prompt: Prompt) -> tuple[PlanProposed, Completion]:
    """A planner's answer to `ask`, read but not checked. Raises `ModelError`."""
    catalogue = {callee.name: callee for callee in run.started.setup.callees}
    offered = [catalogue[name] for name in ask.callees]
    view = planner_view(run, ask)
    completion = await model.complete(
        Ask(
            role="planner",
            asked=view,
            messages=_messages(prompt, **prompted(view)),
            answer_schema=wire.schema(
                run.started.setup.rendering,
                offered,
                run.started.named,
                undoable=view.undoable,
                may_go_on=view.may_go_on,
            ),
            max_tokens=PLAN_TOKENS,
            temperature=ask.temperature,
            seed=ask.attempt,
        )
    )
    read = completion.plan or wire.parse(completion.text, catalogue)
    problems: tuple[Problem, ...] = read if isinstance(read, tuple) else ()
    proposed = PlanProposed(
        revision=ask.revision,
        attempt=ask.attempt,
        plan=None if isinstance(read, tuple) else read,
        problems=problems,
        prompt_hash=prompt.hash,
        label=seen_by_planner(run),
    )
    return proposed, completion


def _messages(prompt: Prompt, **variables: object) -> tuple[Message, ...]:
    return tuple(Message(role=m.role, content=m.content) for m in prompt.render(**variables))


# writer, extractor, chooser ----------------------------------------------------------------------------------


async def write(arguments: Mapping[str, Json], model: Model, prompt: Prompt) -> Answered:
    """A text made from `task` and `text`.

    Raises `AgentError` if it is empty, `AnswerError` if it was cut off or refused, `ModelError`.
    """
    view = WriterView(task=_plain(arguments["task"]), text=_plain(arguments.get("text", "")))
    messages = _messages(prompt, task=view.task, text=view.text)
    completion = await model.complete(Ask(role="writer", asked=view, messages=messages, max_tokens=WRITTEN))
    cause = _UNUSABLE.get(completion.finish)
    if cause is not None:
        what = f"model `{model.name}` {cause.says}"
        raise AnswerError(cause.code, what, hint=cause.hint, error_class=cause.error_class, completions=(completion,))
    text = _sound(completion.text).strip()
    if not text:
        what = "`agent.writer` gave an empty text"
        raise AgentError("T-312", what, error_class="failed", completions=(completion,))
    return Answered(text, (completion,))


_UNUSABLE: Mapping[str, Cause] = {"refused": REFUSED, "length": CUT_OFF}
"""How a text may end that is not the one that was asked for."""


def _sound(text: str) -> str:
    """The text with halves of characters, which no journal and no file can hold, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


async def extract(arguments: Mapping[str, Json], model: Model, prompt: Prompt) -> Answered:
    """A record of the wanted fields, null where the inputs do not have them.

    Raises `AgentError` `missing` if none of them is there: nothing is made up. Values of the kinds `span`, `email`,
    `url`, `iban` and `id`, and plain text, count only if they occur verbatim in the inputs.
    """
    fields = _fields(arguments["fields"])
    inputs = _plain(arguments["inputs"])
    view = ExtractorView(inputs=inputs, fields=fields, task=_plain(arguments.get("task", "")))
    messages = _messages(prompt, fields=", ".join(fields), inputs=inputs, task=view.task)
    ask = Ask(role="extractor", asked=view, messages=messages, max_tokens=EXTRACTED)
    answer, completions = await model.typed(ask, _record_of(fields))
    record: dict[str, Json] = {
        name: _only(name, kind, inputs) or _verbatim(getattr(answer, f"f{i}"), inputs)
        for i, (name, kind) in enumerate(fields.items())
    }
    if all(value in (None, [], "") for value in record.values()):
        what = f"the text has no {' or '.join(fields)}"
        raise AgentError("T-313", what, error_class="missing", completions=completions)
    return Answered(record, completions)


UNKNOWN = "unknown"
"""What a model writes for a fact that is not there: a small one that may write null does so far too often."""

_PYTHON_TYPES: Mapping[str, Any] = {
    "number": FiniteFloat,
    "float": FiniteFloat,
    "integer": int,
    "int": int,
    "boolean": bool,
    "bool": bool,
}


def _fields(given: Json) -> dict[str, str]:
    """Names with types: of `name, total: number`, `{"total": "number"}`, or a list of those; text if none is said."""
    if isinstance(given, dict):
        pairs = [(str(name), str(kind) if isinstance(kind, str) else "text") for name, kind in given.items()]
    else:
        words = given if isinstance(given, list) else re.split(r"[,;\n]", str(given))
        pairs = []
        for word in words:
            said = f"{word.get('name', '')}: {word.get('type', 'text')}" if isinstance(word, dict) else str(word)
            name, _, kind = said.partition(":")
            pairs.append((name.strip(" \"'`*-{}[]"), kind.strip(" \"'`{}") or "text"))
    fields = {name: kind for name, kind in pairs if name}
    if not fields:
        raise ToolError(
            "T-311", f"`fields` names no field: `{given}`", hint="Write `name, email`.", error_class="invalid"
        )
    return fields


def _record_of(fields: Mapping[str, str]) -> type[BaseModel]:
    """A response model whose fields carry the wanted names on the wire, whatever characters they have."""
    made: dict[str, Any] = {}
    for index, (name, kind) in enumerate(fields.items()):
        item = re.fullmatch(r"list\[(\w+)\]", kind)
        one = _PYTHON_TYPES.get(item[1] if item else kind, str)
        python: Any = GenericAlias(list, (one,)) if item else one
        absent: Json = [] if item else UNKNOWN
        either = python if item or one is str else one | Literal["unknown"]
        made[f"f{index}"] = (Annotated[either, BeforeValidator(partial(_present, absent))], Field(alias=name))
    return create_model("Record", **made)


def _present(absent: Json, value: object) -> object:
    """The value; where there is none, what stands for that."""
    return absent if value is None else value


_FINDERS: Mapping[str, Callable[[str], list[str]]] = {
    "email": finders.emails,
    "url": finders.urls,
    "iban": finders.ibans,
}


def _only(name: str, kind: str, inputs: str) -> Json:
    """The one address, link or account number of the inputs, if a field of that kind can only mean it."""
    find = _FINDERS.get(kind) or _FINDERS.get(re.sub(r"[^a-z]", "", name.lower()))
    found = list(dict.fromkeys(find(inputs))) if find is not None and not kind.startswith("list[") else []
    return found[0] if len(found) == 1 else None


def _verbatim(value: Json, inputs: str) -> Json:
    """The value if the inputs really have it; a number or truth value is taken as read."""
    if isinstance(value, list):
        return [item for item in value if _verbatim(item, inputs) is not None]
    if not isinstance(value, str):
        return value
    text = value.strip()
    is_there = bool(text) and text != UNKNOWN and _squeezed(text) in _squeezed(inputs)
    return text if is_there else None


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).casefold()


class _Choice(BaseModel):
    option: str


async def choose(arguments: Mapping[str, Json], model: Model, prompt: Prompt) -> Answered:
    """One of `options`, as the options spell it. Raises `ToolError` for fewer than two options, `ModelError`."""
    raw = arguments["options"]
    options = [_plain(o).strip() for o in (raw if isinstance(raw, list) else re.split(r"[,;\n]", str(raw)))]
    options = list(dict.fromkeys(option for option in options if option))
    if len(options) < 2:
        raise ToolError("T-314", f"`agent.choose` needs at least two options, not `{raw}`", error_class="invalid")
    chosen: Any = Literal[tuple(options)]
    shape = create_model("Choice", __base__=_Choice, option=(chosen, ...))
    view = ChooserView(
        question=_plain(arguments["question"]), options=tuple(options), inputs=_plain(arguments["inputs"])
    )
    messages = _messages(prompt, question=view.question, options=", ".join(options), text=view.inputs)
    ask = Ask(role="chooser", asked=view, messages=messages, max_tokens=CHOSEN)
    answer, completions = await model.typed(ask, shape)
    return Answered(answer.option, completions)


Role = Callable[[Mapping[str, Json], Model, Prompt], Awaitable[Answered]]
ROLES: Mapping[str, tuple[str, Role]] = {
    "agent.writer": ("writer", write),
    "agent.extractor": ("extractor", extract),
    "agent.choose": ("chooser", choose),
}
"""Callee name -> prompt (and model role), and the function that plays the role."""


def _plain(value: Json) -> str:
    """A value as text that a model reads: lists of scalars by line, records as JSON."""
    match value:
        case str():
            return value
        case None:
            return ""
        case list() if all(isinstance(item, str | int | float) for item in value):
            return "\n\n".join(str(item) for item in value)
        case _:
            return json.dumps(value, ensure_ascii=False)


# validator ---------------------------------------------------------------------------------------------------


class _Opinion(BaseModel):
    is_met: bool


async def opine(
    goal: str, criterion: str, outcome: Json, model: Model, prompt: Prompt
) -> tuple[bool, Sequence[Completion]]:
    """Whether an able model holds that the outcome meets the criterion. Raises `ModelError`."""
    view = ValidatorView(goal=goal, criterion=criterion, outcome=outcome)
    messages = _messages(prompt, goal=goal, criterion=criterion, outcome=_plain(outcome))
    ask = Ask(role="validator", asked=view, messages=messages, max_tokens=VERDICT_TOKENS)
    opinion, completions = await model.typed(ask, _Opinion)
    return opinion.is_met, completions


def usages(completions: Sequence[Completion], blobs: Sequence[str]) -> tuple[Usage, ...]:
    """What each completion used, with the blob that keeps its exchange."""
    return tuple(
        completion.usage.model_copy(update={"exchange": blob})
        for completion, blob in zip(completions, blobs, strict=True)
    )


def tried(error: ModelError | ToolError) -> tuple[Completion, ...]:
    """The completions that a failed agent or model call used up."""
    found = getattr(error, "completions", ())
    return tuple(found)
