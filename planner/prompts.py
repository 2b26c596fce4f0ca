"""Prompts are templates in files: found, checked, hashed and rendered here.

A template is Jinja2 text. Its first line names its variables, and markers divide it into messages:

    {# variables: goal, callees #}
    --- system
    You plan with: {{ callees }}
    --- user
    {{ goal }}

Rules of the file:
- The file is divided before anything is put into it, so no value can begin a message of its own.
- A value is only ever text: it is not read as a template, and a template cannot reach Python through it.
- A template sees its own file alone; there is no include, so its hash covers all of it.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, cast

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from planner.errors import UserError

Role: TypeAlias = Literal["system", "user", "assistant"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VARIABLES = re.compile(r"\{#-?\s*variables:\s*(.*?)\s*-?#\}")
_MARKER = re.compile(r"--- (\w+)\s*")


class Message(NamedTuple):
    """One message to a model."""

    role: Role
    content: str


@dataclass(frozen=True)
class Prompt:
    """A template that compiled; `hash` is the SHA-256 of its source."""

    name: str
    path: Path
    hash: str
    variables: frozenset[str]
    sections: tuple[tuple[Role, int, Template], ...]
    """Role, line of the marker, and the template of what follows it."""

    def render(self, **variables: object) -> tuple[Message, ...]:
        """The messages with the variables put in. Raises `UserError` U-114 where that is impossible."""
        messages = []
        for role, line, template in self.sections:
            try:
                text = template.render(variables)
            except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
                where = _line(error, self.path) or line
                raise UserError(
                    "U-114",
                    f"{self.path}:{where}: {error}",
                    hint=f"The template was given {', '.join(sorted(variables)) or 'no variables'}.",
                ) from error
            # The section stands on the lines it has in the file, so errors tell the right ones.
            messages.append(Message(role, text[line:].strip()))
        return tuple(messages)


def load(name: str, folders: Sequence[Path]) -> Prompt:
    """The prompt of that name from the first of the assistants' folders that has one.

    Raises `UserError` U-111 if none has, U-112 for a file that is no template, U-113 for a wrong outline.
    """
    path = _find(name, folders)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("U-111", f"the prompt {path} cannot be read: {error}") from error
    first, *rest = source.split("\n")
    declared = _declared(first, path)
    environment = _environment()
    sections = []
    for role, line, text in _divided(rest, path):
        try:
            tree = environment.parse("\n" * line + text, filename=str(path))
            code = environment.compile(tree, filename=str(path))
        except TemplateSyntaxError as error:
            raise UserError("U-112", f"{path}:{error.lineno}: {error.message}") from error
        if others := list(meta.find_referenced_templates(tree)):
            raise _misshapen(path, line, f"this section takes in `{others[0]}`, but a prompt is one file")
        used = meta.find_undeclared_variables(tree) - environment.globals.keys()
        if undeclared := sorted(used - declared):
            raise _misshapen(path, 1, f"`{undeclared[0]}` is used in the file but not named in this line")
        sections.append((role, line, Template.from_code(environment, code, environment.globals)))
    return Prompt(
        name=name,
        path=path,
        hash=hashlib.sha256(source.encode()).hexdigest(),
        variables=declared,
        sections=tuple(sections),
    )


def _find(name: str, folders: Sequence[Path]) -> Path:
    if _NAME.fullmatch(name):
        for folder in folders:
            path = folder / "prompts" / f"{name}.md"
            if path.is_file():
                return path
    known = sorted({path.stem for folder in folders for path in (folder / "prompts").glob("*.md")})
    near = difflib.get_close_matches(name, known, n=1)
    where = " or ".join(str(folder / "prompts") for folder in folders)
    raise UserError(
        "U-111",
        f"there is no prompt `{name}` in {where}",
        hint=f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(known) or 'none'}.",
        error_class="missing",
    )


def _declared(line: str, path: Path) -> frozenset[str]:
    match = _VARIABLES.fullmatch(line.rstrip())
    if match is None:
        raise _misshapen(path, 1, "the first line must name the variables, as in {# variables: goal, callees #}")
    names = [name.strip() for name in match[1].split(",") if name.strip()]
    if wrong := next((name for name in names if not name.isidentifier()), None):
        raise _misshapen(path, 1, f"`{wrong}` is not a variable's name; names stand alone, between commas")
    return frozenset(names)


def _divided(lines: Sequence[str], path: Path) -> list[tuple[Role, int, str]]:
    """Role, line of the marker (the file's first line is 1) and text of each section."""
    sections: list[tuple[Role, int, list[str]]] = []
    for number, line in enumerate(lines, start=2):
        if marker := _MARKER.fullmatch(line):
            if marker[1] not in ("system", "user", "assistant"):
                raise _misshapen(path, number, f"`{line}` begins no section; roles are system, user, assistant")
            sections.append((cast("Role", marker[1]), number, []))
        elif sections:
            sections[-1][2].append(line)
        elif line.strip():
            raise _misshapen(path, number, "text stands before the first section; begin with `--- system`")
    if not sections:
        raise _misshapen(path, 1, "there is no section; begin one with a line such as `--- user`")
    return [(role, number, "\n".join(text)) for role, number, text in sections]


def _misshapen(path: Path, line: int, problem: str) -> UserError:
    return UserError("U-113", f"{path}:{line}: {problem}")


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # a model reads text, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _line(error: BaseException, path: Path) -> int | None:
    """The line of the template on which rendering failed: Jinja2 writes it into the traceback."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return lines[-1] if lines else None
