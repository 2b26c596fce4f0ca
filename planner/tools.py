"""Tools: plain functions that a plan may call; declared, loaded from a folder, checked and called here.

Rules of the file:
- A declaration is data about a function, and is held against its signature when the function is registered.
- Arguments are validated before a call and results after it; what is wrong before a call has no effect.
- An unexpected exception of a tool that only reads is a failure; of any other tool it leaves the effect in doubt.
- Only sources are loaded, never a compiled file: consent to a folder covers what a person can read.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from string import Formatter
from types import CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any, Literal, TypedDict, TypeVar, Unpack, get_type_hints, overload

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from planner.coercion import (
    Date,
    Email,
    Expression,
    FilePath,
    FolderPath,
    Iban,
    Id,
    Number,
    Record,
    Shape,
    Span,
    Table,
    Url,
    shape,
)
from planner.core.catalog import READING, RESERVED, Callee, Catalogue, Declaration, Effect, Parameter
from planner.core.labels import Integrity, Json
from planner.errors import PlannerError, ToolError, UserError

__all__ = [
    "Date",
    "Email",
    "Expression",
    "FilePath",
    "FolderPath",
    "Iban",
    "Id",
    "Json",
    "Number",
    "Record",
    "Span",
    "Table",
    "Tool",
    "ToolContext",
    "ToolInDoubt",
    "Toolbox",
    "Url",
    "folder_hash",
    "tool",
]

F = TypeVar("F", bound=Callable[..., object])
_MARK = "__planner_tool__"


class ToolInDoubt(PlannerError):
    """An effect was begun, and nobody knows whether it happened."""


# what a tool is declared to be ----------------------------------------------------------------------------------


class Options(TypedDict, total=False):
    """What `@tool` may say; the fields of `Declaration` and `Callee`, in the words that people write.

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
    roles: tuple[str, ...]
    secrets: tuple[str, ...]
    timeout_s: float | None
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
        setattr(target, _MARK, options)
        return target

    return mark if function is None else mark(function)


@dataclass(frozen=True)
class ToolContext:
    """What a call may use besides its arguments; a tool gets it as its parameter `context`.

    `keep` stores earlier content durably before it returns (None: there was none); of two contents kept under
    one name the first stays. `kept` gives it back, and raises `KeyError` where nothing was kept. Both may be
    called from any thread. `key` is equal for all attempts of one step.
    """

    workspace: Path
    key: str
    keep: Callable[[str, bytes | None], None]
    kept: Callable[[str], bytes | None]
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tool:
    """A callee with the functions behind it."""

    callee: Callee
    function: Callable[..., object]
    probe: Callable[..., bool | None] | None
    undo: Callable[..., None] | None
    arguments: Mapping[str, TypeAdapter[Any]]
    result: TypeAdapter[Any]


# registration ---------------------------------------------------------------------------------------------------


class _Misfit(Exception):  # noqa: N818 (turned into a `UserError` that names the place)
    """What is wrong with a function as a tool, and what to do about it."""

    def __init__(self, code: str, what: str, hint: str) -> None:
        super().__init__(what)
        self.code, self.what, self.hint = code, what, hint


def _registered(function: Callable[..., object]) -> Tool:
    """The function as a tool. Raises `UserError` naming file, line and function if it cannot be one."""
    options: Options = getattr(function, _MARK, {})
    module = function.__module__.rpartition(".")[2].strip("_")
    name = options.get("name", f"{module}.{function.__name__.rstrip('_')}")
    try:
        return _tool(function, name, options)
    except _Misfit as error:
        code: CodeType = inspect.unwrap(function).__code__  # type: ignore[attr-defined]  # a function, by `tool`
        place = f"{code.co_filename}:{code.co_firstlineno}"
        raise UserError(error.code, f"tool `{name}` ({place}): {error.what}.", hint=error.hint) from error


def _tool(function: Callable[..., object], name: str, options: Options) -> Tool:
    _check_name(name)
    shapes, result, parameters = _signature(function)
    summary = options.get("summary") or inspect.cleandoc(function.__doc__ or "").partition("\n")[0].rstrip(
        "."
    )
    if not summary:
        raise _Misfit("T-106", "it has no docstring", "Say in one short line what it does: planners read it.")
    callee = Callee(
        name=name,
        summary=summary,
        parameters=parameters,
        result=result.word,
        declaration=_declaration(options, tuple(shapes)),
        converts=options.get("converts", False),
        keywords=options.get("keywords", ()),
    )
    return Tool(
        callee=callee.model_copy(update={"version": _version(function, callee)}),
        function=function,
        probe=options.get("probe"),
        undo=options.get("undo"),
        arguments={argument: _adapter(shape_.annotation) for argument, shape_ in shapes.items()},
        result=_adapter(get_type_hints(function, include_extras=True)["return"]),
    )


def _check_name(name: str) -> None:
    namespace, _, function = name.partition(".")
    if not (namespace.isidentifier() and function.isidentifier()):
        raise _Misfit(
            "T-103", "its name is not of the form `area.action`", "Rename the file or the function."
        )
    if namespace in RESERVED:
        taken = ", ".join(f"`{word}`" for word in sorted(RESERVED))
        raise _Misfit("T-103", f"the namespace `{namespace}` is reserved", f"Choose another than {taken}.")


def _signature(function: Callable[..., object]) -> tuple[dict[str, Shape], Shape, tuple[Parameter, ...]]:
    """The shapes of the arguments and of the result, and the arguments as a catalogue shows them."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError) as error:
        hint = "Import what the annotations name at the top of the file, outside `if TYPE_CHECKING`."
        raise _Misfit("T-105", f"its annotations cannot be read ({error})", hint) from error
    shapes: dict[str, Shape] = {}
    parameters: list[Parameter] = []
    described = _described(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "context" and hints.get("context") is ToolContext:
            continue
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise _Misfit("T-105", f"`{parameter}` is no named argument", "Name every argument.")
        found = shapes[parameter.name] = _shape(parameter.name, hints)
        parameters.append(_parameter(parameter, found, described.get(parameter.name, "")))
    return shapes, _shape("return", hints), tuple(parameters)


def _shape(name: str, hints: Mapping[str, Any]) -> Shape:
    what = "its result" if name == "return" else f"argument `{name}`"
    if name not in hints:
        raise _Misfit("T-105", f"{what} has no annotation", "Annotate it, for example with `str`.")
    try:
        return shape(hints[name])
    except TypeError as error:
        hint = (
            "Use str, int, float, bool, list[...], dict, Literal[...], a model, or a type of planner.tools."
        )
        raise _Misfit("T-105", f"the annotation of {what} cannot be used: {error}", hint) from error


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
        raise _Misfit("T-105", what, "Use a plain default, or None.") from error


def _described(function: Callable[..., object]) -> dict[str, str]:
    """The lines `name: description` of the docstring, which stand in its `Args` section."""
    _, _, section = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:\n")
    pairs = (line.partition(":") for line in section.partition("\n\n")[0].splitlines())
    return {name.strip(): text.strip() for name, colon, text in pairs if colon}


def _declaration(options: Options, arguments: tuple[str, ...]) -> Declaration:
    """The declaration that `options` make. Raises `_Misfit` where it does not fit the arguments."""
    said = {key: value for key, value in options.items() if key not in _OF_CALLEE}
    if "effect" not in said:
        if said:
            hint = 'Say `effect="read"`, or whatever it does.'
            raise _Misfit("T-108", f"it says `{min(said)}`, but not its `effect`", hint)
        return Declaration(control=dict.fromkeys(arguments, Integrity.TRUSTED))
    if said["effect"] not in READING and "control" not in said:
        hint = (
            'Say `control={"argument": "trusted"}` for each argument that decides what happens; perhaps none.'
        )
        raise _Misfit("T-107", "it has an effect, but does not say what controls it", hint)
    control = {name: Integrity[word.upper()] for name, word in options.get("control", {}).items()}
    recipients = options.get("recipients", ())
    rest = tuple(name for name in arguments if name not in {*control, *recipients})
    payload = options.get("payload", rest)
    _check_classes(arguments, (*control, *recipients, *payload))
    _check_names("resource", _placeholders(options.get("resource") or ()), arguments)
    _check_doubt(options)
    if said["effect"] == "pure":
        said.setdefault("resource", ())
    said.setdefault("reversible", "undo" in options)
    if undo := options.get("undo"):
        said["undo"] = undo.__name__
    return Declaration.model_validate(said | {"control": control, "payload": payload})


def _check_classes(arguments: tuple[str, ...], classed: tuple[str, ...]) -> None:
    _check_names("control, recipients or payload", classed, arguments)
    for name in arguments:
        if classed.count(name) != 1:
            hint = "Name each argument in exactly one of control, recipients and payload."
            raise _Misfit("T-107", f"argument `{name}` is in {classed.count(name)} classes", hint)


def _check_names(where: str, named: Iterable[str], arguments: tuple[str, ...]) -> None:
    for name in named:
        if name not in arguments:
            known = ", ".join(f"`{argument}`" for argument in arguments) or "none"
            raise _Misfit("T-107", f"{where} names `{name}`", f"Its arguments are: {known}.")


def _placeholders(templates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for template in templates for _, name, _, _ in Formatter().parse(template) if name)


def _check_doubt(options: Options) -> None:
    if ("probe" in options) != (options.get("on_doubt") == "probe"):
        hint = 'Say `on_doubt="probe", probe=function`.'
        raise _Misfit("T-108", "`probe` and `on_doubt` do not agree", hint)


def _adapter(annotation: Any) -> TypeAdapter[Any]:  # noqa: ANN401 (an annotation may be any object)
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        raise _Misfit(
            "T-105", f"`{annotation}` cannot be validated", str(error).partition("\n")[0]
        ) from error


def _version(function: Callable[..., object], callee: Callee) -> str:
    """A short hash that changes with the source or the declaration."""
    try:
        source = inspect.getsource(function)
    except OSError:  # typed into a console
        source = str(inspect.signature(function))
    return sha256(f"{source}\0{callee.model_dump_json()}".encode()).hexdigest()[:12]


# loading --------------------------------------------------------------------------------------------------------


class _FromSource(SourceFileLoader):
    """Compiles the source each time: a compiled file beside it may hold anything."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def folder_hash(folder: Path) -> str:
    """The hash of all Python sources below `folder`: their names and contents."""
    digest = sha256()
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _package(folder: Path) -> str:
    """The name of a package made of the folder as it is now, so an edited folder is another package."""
    name = f"_planner_{sha256(f'{folder}{folder_hash(folder)}'.encode()).hexdigest()[:12]}_tools"
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[name] = module_from_spec(spec)
        for place in {folder, *(file.parent for file in folder.rglob("*.py"))}:
            sys.path_importer_cache[str(place)] = FileFinder(str(place), (_FromSource, [".py"]))
    return name


def _module(package: str, file: Path) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{file.stem}")
    except (Exception, SystemExit) as error:
        raise UserError(
            "T-102",
            f"`{_place(error, file)}` could not be loaded: {type(error).__name__}: {error}",
            hint="Correct the file, or move it out of the tools folder.",
        ) from error


def _place(error: BaseException, file: Path) -> str:
    """The line of the tools folder at which loading failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [
        frame for frame in traceback.extract_tb(error.__traceback__) if str(file.parent) in frame.filename
    ]
    return f"{lines[-1].filename}:{lines[-1].lineno}" if lines else str(file)


# calling --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toolbox:
    """Tools by name, and the only way to call them."""

    tools: Mapping[str, Tool] = field(default_factory=dict)

    @classmethod
    def of(cls, *functions: Callable[..., object]) -> Toolbox:
        """The functions as tools called `<module>.<function>`. Raises `UserError` T-103 to T-108."""
        return cls().merged(*(cls({made.callee.name: made}) for made in map(_registered, functions)))

    @classmethod
    def load(cls, folder: Path, *, only: Iterable[str] | None = None) -> Toolbox:
        """The tools defined in `folder/[!_]*.py`; runs these files. `only`: names or patterns such as `files.*`.

        Raises `UserError` T-101 to T-109.
        """
        root = folder.resolve()
        if not root.is_dir():
            raise UserError(
                "T-101", f"`{folder}` is not a folder", hint="Name the folder that holds the tools."
            )
        patterns = ("*.*",) if only is None else tuple(only)
        package = _package(root)
        functions: list[FunctionType] = []
        for file in sorted(root.glob("[!_.]*.py")):
            if any(fnmatchcase(file.stem, pattern.partition(".")[0]) for pattern in patterns):
                functions += _marked(_module(package, file))
        return cls.of(*functions)._only(patterns, is_chosen=only is not None)

    def _only(self, patterns: tuple[str, ...], *, is_chosen: bool) -> Toolbox:
        for pattern in patterns if is_chosen else ():
            if not any(fnmatchcase(name, pattern) for name in self.tools):
                near = tuple(difflib.get_close_matches(pattern, self.tools, n=3))
                hint = f"Did you mean {' or '.join(near)}?" if near else "See `planner tools list`."
                raise UserError("T-109", f"no tool is called `{pattern}`", hint=hint, choices=near)
        kept = {n: t for n, t in self.tools.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
        return Toolbox(MappingProxyType(kept))

    @property
    def catalogue(self) -> Catalogue:
        """The callees by name."""
        return {name: made.callee for name, made in self.tools.items()}

    def merged(self, *others: Toolbox) -> Toolbox:
        """These tools and the others'. Raises `UserError` T-104 if two have one name."""
        tools = dict(self.tools)
        for other in others:
            for name, made in other.tools.items():
                if tools.setdefault(name, made) is not made:
                    hint = "Rename one, or leave one out."
                    raise UserError("T-104", f"two tools are called `{name}`", hint=hint, choices=(name,))
        return Toolbox(MappingProxyType(tools))

    async def call(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> Json:
        """The tool's result as JSON; functions that are not `async` run in a thread.

        Raises `ToolError` if it failed without effect, `ToolInDoubt` if nobody knows.
        """
        made = self._tool(name)
        return await _performed(made, made.function, _bound(made, made.function, arguments, context), _dumped)

    async def probe(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> bool | None:
        """Whether an effect in doubt happened; None if the tool cannot tell."""
        made = self._tool(name)
        if made.probe is None:
            return None
        try:
            given = _bound(made, made.probe, arguments, context)
            happened = await _performed(made, made.probe, given, lambda _, result: result)
        except (ToolError, ToolInDoubt):
            return None
        return happened if isinstance(happened, bool) else None

    async def undo(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> None:
        """Takes the effect back. Raises `ToolError` if that cannot be done, `ToolInDoubt` if nobody knows."""
        made = self._tool(name)
        if made.undo is None:
            raise ToolError("T-207", f"`{name}` cannot be undone", error_class="invalid")
        given = _bound(made, made.undo, arguments, context)
        await _performed(made, made.undo, given, lambda _, result: result)

    def _tool(self, name: str) -> Tool:
        if name not in self.tools:
            near = tuple(difflib.get_close_matches(name, self.tools, n=3))
            raise ToolError("T-201", f"there is no tool `{name}`", error_class="missing", choices=near)
        return self.tools[name]


def _marked(module: ModuleType) -> list[FunctionType]:
    """The functions that are marked as tools and defined in this module, each once."""
    functions = [f for f in vars(module).values() if isinstance(f, FunctionType) and hasattr(f, _MARK)]
    return list(dict.fromkeys(f for f in functions if f.__module__ == module.__name__))


def _bound(
    made: Tool, function: Callable[..., object], arguments: Mapping[str, Json], context: ToolContext
) -> dict[str, object]:
    """The validated arguments of a call. Raises `ToolError` T-202, T-203 or T-206; nothing has happened then."""
    name, parameters = made.callee.name, made.callee.parameters
    names = tuple(parameter.name for parameter in parameters)
    for unknown in arguments.keys() - set(names):
        what = f"`{name}` has no argument `{unknown}`; it has {', '.join(names) or 'none'}"
        raise ToolError("T-202", what, error_class="invalid", choices=names)
    given: dict[str, object] = {}
    for parameter in parameters:
        value = arguments.get(parameter.name)
        if parameter.name in arguments and (parameter.required or value is not None):
            given[parameter.name] = _validated(made, parameter, value)
        elif parameter.required:
            what = f"`{name}` needs its argument `{parameter.name}` ({parameter.type})"
            raise ToolError("T-202", what, error_class="invalid", choices=names)
    if "context" in inspect.signature(function).parameters:
        given["context"] = _scoped(made, context)
    return given


def _validated(made: Tool, parameter: Parameter, value: Json) -> object:
    try:
        return made.arguments[parameter.name].validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        inside = ".".join(str(part) for part in first["loc"])
        reason = f"{inside}: {first['msg']}" if inside else first["msg"]
        shown = json.dumps(value, ensure_ascii=False)
        raise ToolError(
            "T-203",
            f"argument `{parameter.name}` of `{made.callee.name}` is `{shown:.60}`, expected {parameter.type}: "
            f"{reason.removeprefix('Value error, ')}",
            error_class="invalid",
            choices=parameter.choices,
        ) from error


def _scoped(made: Tool, context: ToolContext) -> ToolContext:
    """The context with no other secrets than the declared ones."""
    for secret in made.callee.declaration.secrets:
        if secret not in context.secrets:
            what = f"`{made.callee.name}` needs the secret `{secret}`, which is not set"
            raise ToolError("T-206", what, error_class="invalid", hint="Set it in the environment.")
    wanted = made.callee.declaration.secrets
    return replace(context, secrets={name: context.secrets[name] for name in wanted})


async def _performed(
    made: Tool,
    function: Callable[..., Any],
    given: Mapping[str, object],
    finish: Callable[[Tool, object], Json],
) -> Json:
    if inspect.iscoroutinefunction(function):
        with _boundary(made.callee):
            return finish(made, await function(**given))

    def run() -> Json:
        with _boundary(made.callee):
            return finish(made, function(**given))

    return await asyncio.to_thread(run)


@contextmanager
def _boundary(callee: Callee) -> Iterator[None]:
    """Turns what a tool raises unexpectedly into `ToolError`, or `ToolInDoubt` where it may have had an effect."""
    try:
        yield
    except (ToolError, ToolInDoubt):
        raise
    except Exception as error:
        what = f"`{callee.name}` raised {type(error).__name__}: {error}"
        if callee.is_reading:
            raise ToolError("T-204", what, hint="This is a fault of the tool.") from error
        raise ToolInDoubt("T-205", what, hint="Whether the effect happened is unknown.") from error


def _dumped(made: Tool, result: object) -> Json:
    """The result as JSON. Raises `ValueError` if it is not what the tool declares, or no JSON at all."""
    value: Json = made.result.dump_python(made.result.validate_python(result), mode="json")
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value
