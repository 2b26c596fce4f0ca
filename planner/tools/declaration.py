"""What a function declares about itself as a tool, held against its signature.

Rules of the file:
- A declaration is data; a function that says nothing is taken for the worst.
- Whatever does not fit is a `UserError` that names file, line and function, and says what to write instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from string import Formatter
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack, get_type_hints, overload

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from planner.coercion import Shape, annotation_of, shape
from planner.core.catalog import ATOMS, RESERVED, Callee, Declaration, Effect, Parameter
from planner.core.labels import Integrity, Json
from planner.errors import UserError
from planner.tools.schemas import parameters as read_schema

F = TypeVar("F", bound=Callable[..., object])
MARK = "__planner_tool__"


class Options(TypedDict, total=False):
    """What `@tool` may say: the fields of `Declaration` and `Callee`, in the words that people write.

    An argument named in neither `control` nor `recipients` is payload. A tool that says no `effect` is taken
    for the worst: it executes, and every argument must be trusted.
    """

    name: str
    effect: Effect
    reversible: bool
    on_doubt: Literal["idempotent", "probe", "ask"]
    probe: Callable[..., bool | None]
    undo: Callable[..., None]
    resource: tuple[str, ...] | None
    control: Mapping[str, Literal["untrusted", "bounded", "trusted"]]
    recipients: tuple[str, ...]
    payload: tuple[str, ...]
    public_sink: bool
    span_ok: bool
    out: Literal["trusted", "bounded", "untrusted", "fields", "typed"]
    bounded_fields: tuple[str, ...]
    readers: frozenset[str] | None
    readers_from: tuple[str, ...]
    roles: tuple[str, ...]
    secrets: tuple[str, ...]
    timeout_s: float | None
    concurrency: int | None
    cost_usd: float | None
    summary: str
    keywords: tuple[str, ...]
    converts: bool


_OF_CALLEE = frozenset({"name", "summary", "keywords", "converts", "probe", "undo"})


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(**options: Unpack[Options]) -> Callable[[F], F]: ...
def tool(function: F | None = None, /, **options: Unpack[Options]) -> F | Callable[[F], F]:
    """Marks a function as a tool, bare or with a declaration; the function itself stays as it is."""

    def mark(target: F) -> F:
        setattr(target, MARK, options)
        return target

    return mark if function is None else mark(function)


@dataclass(frozen=True)
class ToolContext:
    """What a call may use besides its arguments; a tool gets it as its parameter `context`.

    `keep` stores earlier content durably before it returns (None: there was none); of two contents kept under
    one name the first stays. `kept` gives it back, and raises `KeyError` where nothing was kept. Both wait, so
    an `async` tool calls them in a thread. `key` is equal for all attempts of one step.
    """

    workspace: Path
    key: str
    keep: Callable[[str, bytes | None], None]
    kept: Callable[[str], bytes | None]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Tool:
    """A callee with the functions behind it, and what validates its arguments and its result."""

    callee: Callee
    function: Callable[..., object]
    probe: Callable[..., bool | None] | None
    undo: Callable[..., None] | None
    arguments: Mapping[str, TypeAdapter[Any]]
    result: TypeAdapter[Any]


class _MisfitError(Exception):
    """What is wrong with a function as a tool, and what to do about it."""

    def __init__(self, code: str, what: str, hint: str) -> None:
        super().__init__(what)
        self.code, self.what, self.hint = code, what, hint


def registered(function: Callable[..., object]) -> Tool:
    """The function as a tool called `<module>.<function>`. Raises `UserError` T-103 to T-108."""
    options: Options = getattr(function, MARK, Options())
    name = options.get("name") or _name_of(function)
    with _named(name, function):
        return _tool(function, name, options, _signature(function))


def declared(
    name: str,
    function: Callable[..., object],
    options: Options,
    *,
    parameters: Sequence[Parameter] | Mapping[str, Json],
    result: str,
) -> Tool:
    """A function as a tool of that name, whatever its annotations. Raises `UserError` T-103 to T-108."""
    with _named(name, function):
        return _tool(function, name, options, _told(parameters, result))


def _name_of(function: Callable[..., object]) -> str:
    """`<module>.<function>`, without the marks that keep names apart."""
    module = str(getattr(function, "__module__", ""))
    return f"{module.rpartition('.')[2].strip('_')}.{_own_name(function).rstrip('_')}"


def _own_name(function: Callable[..., object]) -> str:
    """What a function is called; what is none goes by its class."""
    return str(getattr(function, "__name__", type(function).__name__))


@contextmanager
def _named(name: str, function: Callable[..., object]) -> Iterator[None]:
    """Says which tool does not fit, and where its function stands."""
    try:
        yield
    except _MisfitError as error:
        code = getattr(inspect.unwrap(function), "__code__", None)
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
        raise UserError(error.code, f"tool `{name}`{place}: {error.what}", hint=error.hint) from error


class _Form(NamedTuple):
    """What a tool takes and gives: a shape for each argument, and the arguments as a catalogue shows them."""

    shapes: Mapping[str, Shape]
    result: Shape
    parameters: tuple[Parameter, ...]


def _tool(function: Callable[..., object], name: str, options: Options, form: _Form) -> Tool:
    _check_name(name)
    summary = options.get("summary") or inspect.cleandoc(function.__doc__ or "").partition("\n")[0].rstrip(".")
    if not summary:
        raise _MisfitError("T-106", "it has no docstring", "Say in one short line what it does.")
    callee = Callee(
        name=name,
        summary=summary,
        parameters=form.parameters,
        result=form.result.word,
        declaration=_declaration(options, tuple(form.shapes)),
        converts=options.get("converts", False),
        keywords=options.get("keywords", ()),
    )
    return Tool(
        callee=callee.model_copy(update={"version": _version(function, callee)}),
        function=function,
        probe=options.get("probe"),
        undo=options.get("undo"),
        arguments={argument: _adapter(found.annotation) for argument, found in form.shapes.items()},
        result=_adapter(form.result.annotation),
    )


def _check_name(name: str) -> None:
    namespace, _, function = name.partition(".")
    if not (namespace.isidentifier() and function.isidentifier()):
        raise _MisfitError("T-103", "its name is not `area.action`", "Rename the file or the function.")
    if namespace in RESERVED:
        taken = ", ".join(f"`{word}`" for word in sorted(RESERVED))
        raise _MisfitError("T-103", f"the namespace `{namespace}` is reserved", f"Rename it; taken are {taken}.")


# the signature ------------------------------------------------------------------------------------------------


def _signature(function: Callable[..., object]) -> _Form:
    """The form of a function by its annotations; its result is taken as it is, not brought into shape."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError) as error:
        hint = "Import what the annotations name at the top of the file, outside `if TYPE_CHECKING`."
        raise _MisfitError("T-105", f"its annotations cannot be read ({error})", hint) from error
    shapes: dict[str, Shape] = {}
    parameters: list[Parameter] = []
    described = _described(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "context" and hints.get("context") is ToolContext:
            continue
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise _MisfitError("T-105", f"`{parameter}` is no named argument", "Name every argument.")
        found = shapes[parameter.name] = _shape(parameter.name, hints)
        parameters.append(_parameter(parameter, found, described.get(parameter.name, "")))
    result = replace(_shape("return", hints), annotation=hints["return"])
    return _Form(shapes, result, tuple(parameters))


def _told(given: Sequence[Parameter] | Mapping[str, Json], result: str) -> _Form:
    """The form of a tool as somebody told it: `Parameter` values, or the JSON schema of its arguments."""
    parameters = read_schema(given) if isinstance(given, Mapping) else tuple(given)
    try:
        shapes = {p.name: shape(annotation_of(p.type, p.choices)) for p in parameters}
        return _Form(shapes, Shape(result, annotation_of(result)), parameters)
    except ValueError as error:
        raise _MisfitError("T-105", str(error), f"Write one of {', '.join(ATOMS)}, or `list[...]`.") from error


def _shape(name: str, hints: Mapping[str, Any]) -> Shape:
    what = "its result" if name == "return" else f"argument `{name}`"
    if name not in hints:
        raise _MisfitError("T-105", f"{what} has no annotation", "Annotate it, for example with `str`.")
    try:
        return shape(hints[name])
    except TypeError as error:
        hint = "Use str, int, float, bool, list[...], dict, Literal[...], a model, or a type of planner.tools."
        raise _MisfitError("T-105", f"the annotation of {what} cannot be used: {error}", hint) from error


def _parameter(parameter: inspect.Parameter, found: Shape, description: str) -> Parameter:
    is_required = parameter.default is parameter.empty
    try:
        return Parameter(
            name=parameter.name,
            type=found.word,
            required=is_required,
            default=None if is_required else parameter.default,
            description=description,
            choices=found.choices,
        )
    except ValidationError as error:
        what = f"the default of argument `{parameter.name}` is no JSON value"
        raise _MisfitError("T-105", what, "Use a plain default, or None.") from error


def _described(function: Callable[..., object]) -> dict[str, str]:
    """The lines `name: description` in the `Args` section of the docstring."""
    _, _, section = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:\n")
    pairs = (line.partition(":") for line in section.partition("\n\n")[0].splitlines())
    return {name.strip(): text.strip() for name, colon, text in pairs if colon}


def _adapter(annotation: object) -> TypeAdapter[Any]:
    form: Any = annotation
    try:
        return TypeAdapter(form)
    except PydanticUserError as error:
        raise _MisfitError("T-105", f"`{annotation}` cannot be validated", error.message) from error


def _version(function: Callable[..., object], callee: Callee) -> str:
    """A short hash that changes with the source or the declaration."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed into a console, or no function but something that can be called
        source = _own_name(function)
    return sha256(f"{source}\0{callee.model_dump_json()}".encode()).hexdigest()[:12]


# the declaration ----------------------------------------------------------------------------------------------


def _declaration(options: Options, arguments: tuple[str, ...]) -> Declaration:
    """The declaration that `options` make for a function with these arguments."""
    said = {key: value for key, value in options.items() if key not in _OF_CALLEE}
    if "effect" not in options:
        if said:
            raise _MisfitError("T-108", f"it says `{min(said)}`, but no `effect`", 'Say `effect="read"`, or so.')
        return Declaration(control=dict.fromkeys(arguments, Integrity.TRUSTED))
    is_seen = options["effect"] not in {"pure", "read"}  # the address that is fetched is told to somebody, too
    if is_seen and "control" not in options:
        hint = 'Say `control={"name": "trusted"}` for the arguments that decide what happens; perhaps none.'
        raise _MisfitError("T-107", "it has an effect, but does not say what controls it", hint)
    control = {name: Integrity[word.upper()] for name, word in options.get("control", {}).items()}
    recipients = options.get("recipients", ())
    rest = tuple(name for name in arguments if name not in {*control, *recipients})
    payload = options.get("payload", rest)
    _check_classes(arguments, (*control, *recipients, *payload))
    _check_known("resource", _placeholders(options.get("resource") or ()), arguments)
    _check_companions(options, arguments)
    if options["effect"] == "pure":
        said.setdefault("resource", ())
    undo = options.get("undo")
    said |= {"control": control, "payload": payload, "undo": undo and _own_name(undo)}
    try:
        return Declaration.model_validate({"reversible": undo is not None} | said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"`{first['loc'][0]}` is `{first['input']!r:.60}`"
        raise _MisfitError("T-108", what, f"{first['msg']}.") from error


def _check_classes(arguments: tuple[str, ...], classed: tuple[str, ...]) -> None:
    _check_known("control, recipients or payload", classed, arguments)
    for name in arguments:
        if classed.count(name) != 1:
            hint = "Name each argument in exactly one of control, recipients and payload."
            raise _MisfitError("T-107", f"argument `{name}` is in {classed.count(name)} classes", hint)


def _check_known(where: str, named: Iterable[str], arguments: tuple[str, ...]) -> None:
    for name in named:
        if name not in arguments:
            known = ", ".join(f"`{argument}`" for argument in arguments) or "none"
            raise _MisfitError("T-107", f"{where} names `{name}`", f"Its arguments are: {known}.")


def _placeholders(templates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for template in templates for _, name, _, _ in Formatter().parse(template) if name)


def _check_companions(options: Options, arguments: tuple[str, ...]) -> None:
    """What is said together must fit together: `probe`, `undo` and `bounded_fields`."""
    if ("probe" in options) != (options.get("on_doubt") == "probe"):
        hint = 'Say `on_doubt="probe", probe=function`.'
        raise _MisfitError("T-108", "`probe` and `on_doubt` do not agree", hint)
    if ("bounded_fields" in options) != (options.get("out") == "fields"):
        hint = 'Say `out="fields", bounded_fields=("name",)`.'
        raise _MisfitError("T-108", "`bounded_fields` and `out` do not agree", hint)
    for companion in filter(None, (options.get("probe"), options.get("undo"))):
        taken = inspect.signature(companion).parameters
        takes_all = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        if not takes_all and {*taken} - {"context"} != {*arguments}:
            hint = f"Give it the arguments {', '.join(arguments)}, and `context` if it needs that."
            raise _MisfitError("T-108", f"`{_own_name(companion)}` has other arguments than the tool", hint)
