"""Tools: plain functions that a plan may call; declared beside their code, loaded from a folder, called here."""

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
    Span,
    Table,
    Url,
)
from planner.core.catalog import Parameter
from planner.core.labels import Json
from planner.sandbox import interpreter
from planner.tools.declaration import Options, Tool, ToolContext, tool
from planner.tools.folder import folder_hash
from planner.tools.programs import sandboxed
from planner.tools.toolbox import Toolbox, ToolInDoubt

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
    "Options",
    "Parameter",
    "Record",
    "Span",
    "Table",
    "Tool",
    "ToolContext",
    "ToolInDoubt",
    "Toolbox",
    "Url",
    "folder_hash",
    "interpreter",
    "sandboxed",
    "tool",
]
