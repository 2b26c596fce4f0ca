"""Laws of the builder: plans survive YAML, data stays data, and expressions mean what they mean in Python."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import Plan
from planner.builder import PlanBuilder
from planner.core.expr import evaluate, expression_problems, problems, resolve
from planner.core.labels import Labelled
from planner.core.plan import Step, every_step, own_names, reads

laws = settings(max_examples=80, deadline=None, derandomize="CI" in os.environ)

TEXTS = st.text(max_size=8) | st.sampled_from(["$s1", "${s1}", "$$", "$", "{", "$inputs.x", "a\nb", '"', "\\", "\b"])
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
CONSTANTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


# plans -------------------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What can be read at some place: what steps gave, and inputs and items."""

    steps: tuple[Any, ...]
    others: tuple[Any, ...]


class Author:
    """Writes random steps, which read whatever can be read where they stand."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw
        self.flow = PlanBuilder(x=draw(CONSTANTS), **{"the y": draw(CONSTANTS)})
        self.made = 0

    def plan(self) -> Plan:
        known = self.steps(Known((), (self.flow.input("x"), self.flow.input("the y"))), depth=3)
        return self.flow.build(answer=self.value(known))

    def pick(self, *choices: Any) -> Any:
        return choices[self.draw(st.integers(0, len(choices) - 1))]  # `sampled_from` would compare them

    def ref(self, known: Known) -> Any:
        return self.pick(*known.steps, *known.others)

    def value(self, known: Known) -> Any:
        ref, other, constant = self.ref(known), self.ref(known), self.draw(CONSTANTS)
        key, index = self.draw(TEXTS), self.draw(st.integers(-2, 2))
        return self.pick(
            *(ref, ref[key], ref[index].name, ref + other, ~(ref > constant) & other, f"{ref}{key}{other}"),
            *(constant, [ref, constant], {key: other}, ref[1:index], f"{ref:>3}"),
            self.flow.expr("[x, y, x.y] ?? z", x=ref + other, y=constant, z=f"{key}{ref}"),
        )

    def steps(self, known: Known, *, depth: int) -> Known:
        for _ in range(self.draw(st.integers(1, 3))):
            known = Known((*known.steps, self.step(known, depth)), known.others)
        return known

    def step(self, known: Known, depth: int) -> Any:
        options = self.options(known)
        flow = self.flow.step(**options)
        match self.pick("call", "call", "let", "each", "when") if depth else "call":
            case "call":
                return flow.call("a.b", **{f"x{n}": self.value(known) for n in range(self.pick(0, 1, 2))})
            case "let":
                return flow.let([self.value(known)])
            case "each":
                return flow.each([self.value(known)], self.pick(self.one, self.none, self.many)(known, depth))
            case _:
                options.pop("if_", None)
                return self.branches(self.flow.step(**options), known, depth)

    def options(self, known: Known) -> Any:
        self.made += 1
        name = f"step_{self.made}"
        every: Mapping[str, Callable[[], Any]] = {
            "id": lambda: name,
            "if_": lambda: self.ref(known) == self.value(known),
            "after": lambda: known.steps,
            "on_error": lambda: {"retry": 2, "fallback": {"use": "b.c", "args": {"x": self.value(known)}}},
            "timeout_s": lambda: 1.5,
            "priority": lambda: -3,
            "budget": lambda: {"calls": 3, "cost_usd": 0.1},
            "note": lambda: self.draw(TEXTS),
            "max_items": lambda: 7,
            "on_item_error": lambda: "drop",
        }
        return {name: make() for name, make in every.items() if self.draw(st.integers(0, 5)) == 5}

    def one(self, known: Known, _: int) -> Callable[..., Any]:
        def do(x: Any) -> Any:
            inside = Known(known.steps, (*known.others, x))
            return self.flow.step(**self.options(inside)).call("a.b", x=self.value(inside))

        return do

    def none(self, known: Known, _: int) -> Callable[..., Any]:
        return lambda x, n: [self.value(Known(known.steps, (*known.others, x, n)))]

    def many(self, known: Known, depth: int) -> Callable[..., Any]:
        def do(item: Any, n: Any) -> Any:
            inside = self.steps(Known(known.steps, (*known.others, item, n)), depth=depth - 1)
            return self.pick(None, inside.steps[-1], self.value(inside))

        return do

    def branches(self, flow: PlanBuilder, known: Known, depth: int) -> Any:
        with flow.when(self.ref(known)) as block:
            self.steps(known, depth=depth - 1)
        if self.pick(True, False):
            with self.flow.otherwise():
                self.steps(known, depth=depth - 1)
        return block


@st.composite
def plans(draw: Callable[..., Any]) -> Plan:
    return Author(draw).plan()


@laws
@given(plans())
def test_a_built_plan_is_the_plan_of_its_own_yaml(plan: Plan) -> None:
    text = yaml.safe_dump(plan.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    assert Plan.model_validate(yaml.safe_load(text)) == plan


@laws
@given(plans())
def test_a_built_plan_reads_only_what_stands_before_and_can_be_read(plan: Plan) -> None:
    steps = list(every_step(plan.steps))
    assert len({step.id for step in steps}) == len(steps)
    for step in steps:
        texts = [step.let, step.for_each, step.answer, *step.args.values()]
        assert not [flaw for text in texts for flaw in problems(text)]
        assert step.if_ is None or not expression_problems(step.if_)
    check_order(plan.steps, frozenset({"inputs"}))


def check_order(steps: tuple[Step, ...], known: frozenset[str]) -> None:
    """Every step reads what is known before it, and every block what is known around it."""
    for step in steps:
        assert reads(step) | set(step.after) <= known
        for branch in (step.do, step.else_):
            check_order(branch, known | own_names(step))
        known |= {step.id}


# data --------------------------------------------------------------------------------------------------------


@laws
@given(CONSTANTS, CONSTANTS)
def test_a_constant_means_itself_as_an_argument_and_in_an_expression(value: Any, key: Any) -> None:
    flow = PlanBuilder()
    flow.call("a.b", x=value)
    flow.let("[x, y]", x=value, y=key)
    first, second = flow.build().steps
    assert resolve(first.args["x"], {}).value == value
    assert resolve(second.let, {}).value == [value, key]


@laws
@given(st.lists(TEXTS, min_size=2, max_size=4), TEXTS)
def test_text_around_a_reference_stays_as_it_is(pieces: list[str], value: str) -> None:
    flow = PlanBuilder()
    ref = flow.call("a.b")
    flow.let("x", x=(text := f"{ref}".join(pieces)))
    flow.call("a.b", x=text)
    scope = {"s1": Labelled(value=value)}
    _, let, call = flow.build().steps
    assert resolve(call.args["x"], scope).value == value.join(pieces)
    assert resolve(let.let, scope).value == value.join(pieces)


# expressions -------------------------------------------------------------------------------------------------

OPERATORS: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "and": (operator.and_, lambda a, b: a and b),
    "or": (operator.or_, lambda a, b: a or b),
    "not": (operator.invert, operator.not_),
    **{
        name: (getattr(operator, name),) * 2
        for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "abs", "eq", "ne", "lt", "le", "gt", "ge")
    },
}
"""What a program writes over references, and what that means for numbers."""
UNARY = {"not", "neg", "abs"}


def trees() -> st.SearchStrategy[Any]:
    """A number, the name of one, or an operator with its operands."""
    return st.recursive(
        st.integers(-3, 3) | st.sampled_from(["a", "b"]),
        lambda inner: (
            st.tuples(st.sampled_from(sorted(UNARY)), inner)
            | st.tuples(st.sampled_from(sorted(OPERATORS.keys() - UNARY)), inner, inner)
        ),
        max_leaves=8,
    )


def computed(tree: Any, leaf: Callable[[Any], Any], way: int) -> Any:
    match tree:
        case (name, *operands):
            return OPERATORS[name][way](*(computed(operand, leaf, way) for operand in operands))
        case _:
            return leaf(tree)


@settings(laws, max_examples=400)
@given(trees(), st.integers(-3, 3), st.integers(-3, 3))
def test_an_expression_over_references_means_what_it_means_over_numbers(tree: Any, a: int, b: int) -> None:
    numbers = {"a": a, "b": b}
    try:
        expected = computed(tree, lambda leaf: numbers.get(leaf, leaf), 1)
    except ZeroDivisionError:
        return
    flow = PlanBuilder()
    refs = {name: flow.step(id=name).call("x.y") for name in numbers}
    made = computed(tree, lambda leaf: refs[leaf] if leaf in refs else flow.expr("n", n=leaf), 0)
    flow.step(if_=made).call("x.y")
    source = flow.build().steps[-1].if_
    assert source is not None
    assert evaluate(source, {name: Labelled(value=number) for name, number in numbers.items()}).value == expected
