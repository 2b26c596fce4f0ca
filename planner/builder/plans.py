"""The builder: calls, computed values, maps and blocks, written in Python and checked by its types.

Rules of the file:
- A step is made when a method is called, in the block that is open then.
- What a method gives poses as the step's value; it is a `Ref`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, Concatenate, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from pydantic import ValidationError

from planner.builder.draft import Draft, Scope
from planner.builder.refs import Ref, term_of
from planner.builder.terms import expression
from planner.core.labels import Json
from planner.core.plan import Plan, Step, StepId
from planner.errors import PlanError
from planner.tools.declaration import ToolContext

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_CONTEXT = cast("ToolContext", object())


class FallbackOptions(TypedDict, total=False):
    """What is called in the place of a step that failed; without `args` it gets those of the step."""

    use: str | Callable[..., object]
    args: Mapping[str, object]


class OnErrorOptions(TypedDict, total=False):
    """The fields of `on_error`."""

    retry: int
    then: Literal["fail", "skip", "ask", "fallback"]
    fallback: str | Callable[..., object] | FallbackOptions


class BudgetOptions(TypedDict, total=False):
    """The fields of `budget`."""

    cost_usd: float
    tokens: int
    calls: int
    seconds: float


class StepOptions(TypedDict, total=False):
    """What a step may say besides its call, in the words of the plan language.

    `if_` is a comparison of references, or made by `expr`; `after` names one step or several, by reference or id.
    """

    id: StepId
    if_: object
    after: object
    on_error: OnErrorOptions
    timeout_s: float
    priority: int
    budget: BudgetOptions
    note: str
    max_items: int
    on_item_error: Literal["fail", "drop"]


class PlanBuilder:
    """A plan as a program writes it; the keyword arguments are its inputs.

        flow = PlanBuilder(folder="reports")
        names = flow.call(list_files, folder=flow.input("folder"), pattern="*.txt")
        texts = flow.each(names, lambda name: flow.call(read, path=name))
        total = flow.let("sum(len(words(t)) for t in texts)", texts=texts)
        with flow.when(total > 100) as written:
            flow.step(note="for the archive").call(write, path="long.txt", text=f"{total} words")
        plan = flow.build(answer=f"{total} words")

    Raises `PlanError` for what no plan can say; whether the plan is a good one is for the check of a run to tell.
    """

    def __init__(self, /, **inputs: Json) -> None:
        self.options: StepOptions = {}
        self._draft = Draft()
        self._inputs = self._draft.ref("inputs")
        for name, value in inputs.items():
            self._draft.inputs[name] = self._draft.json(value, f"the input `{name}`", is_plain=True)

    # values

    def input(self, name: str, /) -> Any:  # noqa: ANN401 - poses as a value
        """The input of that name. Raises `PlanError` if there is none."""
        known = tuple(self._draft.inputs)
        if name not in known:
            hint = f"There are: {', '.join(known)}." if known else "Name it: `PlanBuilder(name=value)`."
            raise PlanError("P-204", f"there is no input `{name}`", hint=hint, choices=known)
        return self._inputs[name]

    def expr(self, source: str, /, **values: object) -> Any:  # noqa: ANN401 - poses as a value
        """An expression of the plan language; each name in it is one of `values`.

        Raises `PlanError` if it cannot be read, or if its names and `values` are not the same.
        """
        terms = {name: term_of(value, self._draft.marks) for name, value in values.items()}
        return Ref(expression(source, terms, self._draft.marks))

    @property
    def context(self) -> ToolContext:
        """Stands for the `context` of a tool that takes it behind other arguments; the runtime gives the real one."""
        return _CONTEXT

    # steps

    def step(self, **options: Unpack[StepOptions]) -> PlanBuilder:
        """The same builder, whose next steps have these options: `flow.step(id="total").call(...)`."""
        other = copy(self)
        other.options = {**self.options, **options}
        return other

    @overload
    def call(self, callee: str, /, **arguments: object) -> Any: ...  # noqa: ANN401 - its type is not known here
    @overload
    def call(
        self, callee: Callable[Concatenate[ToolContext, P], Awaitable[T]], /, *given: P.args, **arguments: P.kwargs
    ) -> T: ...
    @overload
    def call(
        self, callee: Callable[Concatenate[ToolContext, P], T], /, *given: P.args, **arguments: P.kwargs
    ) -> T: ...
    @overload
    def call(self, callee: Callable[P, Awaitable[T]], /, *given: P.args, **arguments: P.kwargs) -> T: ...
    @overload
    def call(self, callee: Callable[P, T], /, *given: P.args, **arguments: P.kwargs) -> T: ...
    def call(self, callee: str | Callable[..., object], /, *given: object, **arguments: object) -> Any:
        """What a tool gives for these arguments, or by name another callee, such as `agent.writer`.

        Raises `PlanError` for arguments that the function does not take, `UserError` if it cannot be a tool.
        """
        name, named = self._called(callee, given, arguments)
        args = {key: self._draft.json(value, f"argument `{key}` of `{name}`") for key, value in named.items()}
        return self._made({"use": name, "args": args})

    @overload
    def let(self, value: str, /, **values: object) -> Any: ...  # noqa: ANN401 - its type is not known here
    @overload
    def let(self, value: T, /) -> T: ...
    def let(self, value: object, /, **values: object) -> Any:
        """A value that is computed once: of an expression as for `expr`, or of references and what holds them."""
        computed = self.expr(value, **values) if isinstance(value, str) else value
        if computed is None:
            raise PlanError("P-404", "`let` cannot give null", hint="Write null where it is read.")
        return self._made({"let": self._draft.json(computed, "`let`")})

    @overload
    def each(self, items: Iterable[T], do: Callable[[T], R], /) -> list[R]: ...
    @overload
    def each(self, items: Iterable[T], do: Callable[[T, int], R], /) -> list[R]: ...
    def each(self, items: object, do: Callable[..., object], /) -> Any:
        """What `do` gives for each item, and its index if it takes two arguments; `do` is called once, to see what.

        One call without options that the map has too is a map over that call; anything else is a block. The item
        is called as the function's argument is.
        """
        draft = self._draft
        for_each = draft.json(items, "`each`")
        if for_each is None:
            raise PlanError("P-404", "`each` goes through null", hint="Give it a list, or what a call gave.")
        id_ = draft.new_id(self.options.get("id"))
        number, names = draft.number, _parameters(do)
        as_ = draft.item_name(names[0] if names else "item")
        own = self._fields(id_) | {"for_each": for_each, "as_": as_}
        scope = Scope(f"the map `{id_}`")
        with draft.inside(scope, id_):
            item = draft.ref(as_)
            result = do(item, draft.ref(f"{as_}_i")) if len(names) > 1 else do(item)
            body = self._body(scope, result, own)
        if scope.steps and "do" not in body:
            draft.give_back(scope.steps[0].id, number)
        return self._added(body | own)

    @contextmanager
    def when(self, condition: object, /) -> Iterator[Any]:
        """A block for the steps that are made in it; its target reads what the last of them gave."""
        draft = self._draft
        id_ = draft.new_id(self.options.get("id"))
        if "if_" in self.options:
            raise PlanError("P-405", f"block `{id_}` has two conditions", hint="Write `flow.when(a & b)`.")
        fields = self._fields(id_) | {"if_": draft.condition(condition, f"the condition of block `{id_}`")}
        scope, block = Scope(f"the block `{id_}`"), draft.ref(id_)
        with draft.inside(scope, id_):
            yield block
        self._added(fields | {"do": _filled(scope)})

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """The other branch of the block that stands right before it."""
        steps = self._draft.here.steps
        block = steps[-1] if steps else None
        if block is None or block.if_ is None or block.is_map or not block.is_block or block.else_:
            hint = "Write `with flow.otherwise():` right behind the block of `with flow.when(...):`."
            raise PlanError("P-405", "`otherwise` has no `when` before it", hint=hint)
        scope = Scope(f"the other branch of the block `{block.id}`")
        with self._draft.inside(scope, block.id):
            yield
        steps[-1] = block.model_copy(update={"else_": tuple(_filled(scope))})

    def build(self, *, answer: object = None) -> Plan:
        """The plan of all steps so far. Raises `PlanError` in a block, and for an answer that reads inside of one."""
        draft = self._draft
        if len(draft.scopes) > 1:
            raise PlanError("P-405", f"{draft.here.what} is still open", hint="Build the plan behind it.")
        fields = {"inputs": draft.inputs, "steps": draft.here.steps, "answer": draft.json(answer, "the answer")}
        return _valid(Plan, fields, "the plan")

    # what these share

    def _called(
        self, callee: str | Callable[..., object], given: tuple[object, ...], arguments: Mapping[str, object]
    ) -> tuple[str, Mapping[str, object]]:
        """The callee's name, and each argument under its own."""
        if isinstance(callee, str):
            if given:
                raise PlanError("P-407", f"`{callee}` is called without names", hint="Name each argument.")
            return self._draft.marks.plain(callee, "the name of a callee"), arguments
        found = self._draft.callee(callee)
        signature = inspect.signature(callee)
        taken = [parameter.name for parameter in found.parameters]
        kept = [parameter for name, parameter in signature.parameters.items() if name in taken]
        positional = [value for value in given if value is not _CONTEXT]
        named = {name: value for name, value in arguments.items() if value is not _CONTEXT}
        try:
            bound = signature.replace(parameters=kept).bind(*positional, **named)
        except TypeError as error:
            hint = f"It takes: {', '.join(taken) or 'nothing'}."
            raise PlanError("P-407", f"`{found.name}` is not called so: {error}", hint=hint) from None
        return found.name, bound.arguments

    def _fields(self, id_: StepId) -> dict[str, object]:
        """The options as fields of the step of that id."""
        draft, where = self._draft, f"step `{id_}`"
        fields: dict[str, object] = {**self.options, "id": id_}
        if "if_" in self.options:
            fields["if_"] = draft.condition(self.options["if_"], f"`if_` of {where}")
        if "after" in self.options:
            fields["after"] = draft.earlier(self.options["after"], f"`after` of {where}")
        if "on_error" in self.options:
            fields["on_error"] = self._on_error(self.options["on_error"], where)
        if "note" in self.options:
            fields["note"] = draft.marks.plain(self.options["note"], f"`note` of {where}")
        return fields

    def _on_error(self, said: OnErrorOptions, where: str) -> dict[str, object]:
        fields: dict[str, object] = {**said}
        if "fallback" in said:
            other = said["fallback"]
            given: FallbackOptions = {"use": other} if isinstance(other, str) or callable(other) else other
            use = given.get("use", "")
            fallback: dict[str, object] = {"use": use if isinstance(use, str) else self._draft.callee(use).name}
            if "args" in given:
                fallback["args"] = self._draft.json(given["args"], f"`fallback` of {where}")
            fields["fallback"] = fallback
        return fields

    def _body(self, scope: Scope, result: object, own: Mapping[str, object]) -> dict[str, object]:
        """What a map does for each item, as fields of its step; `own` are the fields that it has already."""
        if not scope.steps and result is None:
            hint = "Make a step in the function of `each`, or let it give a value."
            raise PlanError("P-405", f"{scope.what} does nothing", hint=hint)
        if not scope.steps:
            return {"let": self._draft.json(result, scope.what)}
        step, said = scope.steps[0], scope.steps[0].model_fields_set - {"id"}
        is_alone = len(scope.steps) == 1 and (result is None or _is_value_of(result, step, scope))
        is_plain = not (step.is_map or step.is_block or step.id in self._draft.explicit)
        if is_alone and is_plain and not said & own.keys():
            return {name: getattr(step, name) for name in said}
        answer = {} if result is None else {"answer": self._draft.json(result, f"the answer of {scope.what}")}
        return {"do": scope.steps, **answer}

    def _made(self, fields: Mapping[str, object]) -> Any:  # noqa: ANN401 - poses as a value
        return self._added({**self._fields(self._draft.new_id(self.options.get("id"))), **fields})

    def _added(self, fields: Mapping[str, object]) -> Any:  # noqa: ANN401 - poses as a value
        step = _valid(Step, fields, f"step `{fields['id']}`")
        self._draft.here.steps.append(step)
        return self._draft.ref(step.id)


M = TypeVar("M", Step, Plan)


def _valid(model: type[M], fields: Mapping[str, object], what: str) -> M:
    """The step or plan with these fields. Raises `PlanError` that names the first wrong one."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"{what}: `{place}` cannot be `{first['input']!r:.40}`: {first['msg']}"
        raise PlanError("P-103", message, hint="Correct that field.") from None


def _filled(scope: Scope) -> list[Step]:
    if not scope.steps:
        raise PlanError("P-405", f"{scope.what} is empty", hint="Make at least one step in it.")
    return scope.steps


def _parameters(function: Callable[..., object]) -> list[str]:
    """The names of what a function must be given by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some functions of Python's own say nothing of their parameters
        return []
    named = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return [
        parameter.name for parameter in parameters if parameter.kind in named and parameter.default is parameter.empty
    ]


def _is_value_of(result: object, step: Step, scope: Scope) -> bool:
    """Whether the result is exactly what the step of this scope gives."""
    return (
        isinstance(result, Ref)
        and result.__term__.source == step.id
        and result.__term__.reads == {scope.names[step.id]}
    )
