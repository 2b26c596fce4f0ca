"""The tools of a run by name, and the only way to call them.

Rules of the file:
- Arguments are validated before a call and the result after it; what is refused before a call has no effect.
- An unexpected exception is a failure of a tool that only reads, and leaves the effect of any other in doubt.
- Nobody waits for long for a tool that was told to stop: what it says later counts for nothing.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, Unpack

from pydantic import ValidationError

from planner.core.catalog import Callee, Catalogue, Parameter
from planner.core.labels import Json
from planner.errors import JournalError, PlannerError, ToolError, UserError
from planner.tools.declaration import Options, Tool, ToolContext, declared, registered
from planner.tools.folder import load
from planner.tools.threads import in_thread

R = TypeVar("R")
STOPPED_S = 1.0
"""How long a cancelled call may take to end: enough to close what it opened, and no person waits much longer."""


class ToolInDoubt(PlannerError):  # noqa: N818 (an outcome, as `StepInDoubt` is)
    """An effect was begun, and nobody knows whether it happened."""


@dataclass(frozen=True)
class Toolbox:
    """Tools by name."""

    tools: Mapping[str, Tool] = field(default_factory=dict)

    @classmethod
    def of(cls, *functions: Callable[..., object]) -> Toolbox:
        """The functions as tools called `<module>.<function>`. Raises `UserError` T-103 to T-108."""
        made = [registered(function) for function in functions]
        return cls().merged(*(cls({tool.callee.name: tool}) for tool in made))

    @classmethod
    def load(cls, folder: Path, *, only: Iterable[str] | None = None) -> Toolbox:
        """The tools of a folder, whose files it runs; `only` these names or patterns, such as `files.*`.

        Raises `UserError` T-101 to T-109.
        """
        patterns = ("*",) if only is None else tuple(only)
        areas = [pattern.partition(".")[0] for pattern in patterns]
        functions = load(folder, wanted=lambda stem: any(fnmatchcase(stem, area) for area in areas))
        box = cls.of(*functions)
        return box if only is None else _chosen(box, patterns)

    @property
    def catalogue(self) -> Catalogue:
        """The callees by name."""
        return {name: tool.callee for name, tool in self.tools.items()}

    def merged(self, *others: Toolbox) -> Toolbox:
        """These tools and the others'. Raises `UserError` T-104 if two have one name."""
        tools = dict(self.tools)
        for other in others:
            for name, tool in other.tools.items():
                if tools.setdefault(name, tool) is not tool:
                    hint = "Rename one, or leave one out."
                    raise UserError("T-104", f"two tools are called `{name}`", hint=hint)
        return Toolbox(MappingProxyType(tools))

    def check(self, callee: Callee) -> None:
        """Raises `ToolError` T-208 where a tool is another one by now than the one that was judged."""
        tool = self.tools.get(callee.name)
        if tool is not None and tool.callee.version != callee.version:
            what = f"`{callee.name}` is version {tool.callee.version} by now, and the run knows {callee.version}"
            hint = "Go on with the run anew, so that the call is judged again."
            raise ToolError("T-210", what, error_class="conflict", hint=hint)

    def declare(
        self,
        name: str,
        function: Callable[..., object],
        /,
        *,
        parameters: Sequence[Parameter] | Mapping[str, Json],
        result: str = "any",
        **declaration: Unpack[Options],
    ) -> Toolbox:
        """These tools and one more: a function that is called as `function(**arguments)` and needs no annotations.

        `parameters` are `Parameter` values or the JSON schema of the arguments; `result` is a type of the plan
        language; the rest is what `@tool` may say. Raises `UserError` T-103 to T-108.
        """
        tool = declared(name, function, declaration, parameters=parameters, result=result)
        return self.merged(Toolbox({name: tool}))

    async def call(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> Json:
        """The tool's result as JSON; a function that is not `async` runs in a thread of its own.

        Raises `ToolError` if it failed without effect, `ToolInDoubt` if nobody knows.
        """
        tool = self._tool(name)
        return await _performed(tool, tool.function, arguments, context, lambda result: _dumped(tool, result))

    async def probe(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> bool | None:
        """Whether an effect in doubt happened; None if the tool cannot tell."""
        tool = self._tool(name)
        if tool.probe is None:
            return None
        try:
            return await _performed(tool, tool.probe, arguments, context, _truth)
        except (ToolError, ToolInDoubt):
            return None

    async def undo(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> None:
        """Takes an effect back. Raises `ToolError` if that cannot be done, `ToolInDoubt` if nobody knows."""
        tool = self._tool(name)
        if tool.undo is None:
            raise ToolError("T-207", f"`{name}` cannot be undone", error_class="invalid")
        await _performed(tool, tool.undo, arguments, context, lambda _: None)

    def _tool(self, name: str) -> Tool:
        if name not in self.tools:
            near = tuple(difflib.get_close_matches(name, self.tools, n=3))
            raise ToolError("T-201", f"there is no tool `{name}`", error_class="missing", choices=near)
        return self.tools[name]


def _chosen(box: Toolbox, patterns: tuple[str, ...]) -> Toolbox:
    """The tools that match a pattern. Raises `UserError` T-109 for a pattern that matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in box.tools):
            near = tuple(difflib.get_close_matches(pattern, box.tools, n=3))
            hint = f"Did you mean {' or '.join(near)}?" if near else "Name tools as `file.function`."
            raise UserError("T-109", f"no tool is called `{pattern}`", hint=hint, choices=near)
    return Toolbox({n: t for n, t in box.tools.items() if any(fnmatchcase(n, pattern) for pattern in patterns)})


def _bound(
    tool: Tool, function: Callable[..., object], arguments: Mapping[str, Json], context: ToolContext
) -> dict[str, object]:
    """The validated arguments of a call. Raises `ToolError` T-202, T-203 or T-206."""
    name, parameters = tool.callee.name, tool.callee.parameters
    names = tuple(parameter.name for parameter in parameters)
    for unknown in arguments.keys() - set(names):
        what = f"`{name}` has no argument `{unknown}`; it has {', '.join(names) or 'none'}"
        raise ToolError("T-202", what, error_class="invalid", choices=names)
    given: dict[str, object] = {}
    taken = _taken(function)
    for parameter in parameters:
        value = arguments.get(parameter.name)
        if parameter.required and parameter.name not in arguments:
            what = f"`{name}` needs the argument `{parameter.name}` ({parameter.type})"
            raise ToolError("T-202", what, error_class="invalid", choices=names)
        is_left_out = value is None and not parameter.required
        if is_left_out and parameter.default is None and not _needs(taken.get(parameter.name)):
            continue
        given[parameter.name] = parameter.default if is_left_out else _validated(tool, parameter, value)
    if "context" in taken and "context" not in names:
        given["context"] = _scoped(tool.callee, context)
    return given


def _taken(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """The arguments that a function names."""
    try:
        return inspect.signature(function).parameters
    except ValueError:  # some that are built in do not say
        return {}


def _needs(taken: inspect.Parameter | None) -> bool:
    """Whether a function cannot be called without this argument."""
    return taken is not None and taken.default is taken.empty


def _validated(tool: Tool, parameter: Parameter, value: Json) -> object:
    try:
        return tool.arguments[parameter.name].validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        inside = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        shown = json.dumps(value, ensure_ascii=False)
        what = f"argument `{parameter.name}` of `{tool.callee.name}` is `{shown:.60}`"
        raise ToolError(
            "T-203",
            f"{what}, expected {parameter.type}: {f'{inside}: ' if inside else ''}{reason}",
            error_class="invalid",
            choices=parameter.choices,
        ) from error


def _scoped(callee: Callee, context: ToolContext) -> ToolContext:
    """The context with no other secrets than the declared ones."""
    for name in callee.declaration.secrets:
        if name not in context.secrets:
            what = f"`{callee.name}` needs the secret `{name}`, which is not set"
            raise ToolError("T-206", what, error_class="invalid", hint="Set it in the environment.")
    return replace(context, secrets={name: context.secrets[name] for name in callee.declaration.secrets})


async def _performed(
    tool: Tool,
    function: Callable[..., Any],
    arguments: Mapping[str, Json],
    context: ToolContext,
    finish: Callable[[object], R],
) -> R:
    given = _bound(tool, function, arguments, context)
    if _is_async(function):

        async def work() -> R:
            with _boundary(tool.callee):
                return finish(await function(**given))

        return await _stoppable(work())

    def run() -> R:
        with _boundary(tool.callee):
            return finish(function(**given))

    return await in_thread(run, name=tool.callee.name)


def _is_async(function: Callable[..., object]) -> bool:
    """Whether it is `async`, or an object whose call is."""
    call = getattr(function, "__call__", None)  # noqa: B004 - not whether it can be called, but how
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


async def _stoppable(work: Coroutine[Any, Any, R]) -> R:
    """What `work` gives; where the caller is cancelled and it does not end in time, it goes on by itself."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task], timeout=STOPPED_S)
        if not task.done() or task.cancelled():
            raise
        return task.result()


@contextmanager
def _boundary(callee: Callee) -> Iterator[None]:
    """Turns what a tool raises unexpectedly into a failure, or into doubt where it may have had an effect."""
    try:
        yield
    except (ToolError, ToolInDoubt, JournalError):
        raise
    except (Exception, SystemExit) as error:  # a tool that ends its own program does not end this one
        what = f"`{callee.name}` raised {type(error).__name__}: {error}"
        if callee.is_reading:
            raise ToolError("T-204", what, hint="This is a fault of the tool.") from error
        raise ToolInDoubt("T-205", what, hint="Look whether the effect happened.") from error


def _dumped(tool: Tool, result: object) -> Json:
    """The result as JSON. Raises `ValueError` if it is not what the tool declares, or is no JSON."""
    value: Json = tool.result.dump_python(tool.result.validate_python(result), mode="json")
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def _truth(result: object) -> bool | None:
    return result if isinstance(result, bool) else None
