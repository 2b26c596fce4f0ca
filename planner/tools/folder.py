"""A folder of Python files as a package: `load` runs them and gives the functions that they mark as tools.

Rules of the file:
- Only sources are loaded, never compiled files: consent to a folder covers what a person can read.
- The package is named after the folder's place and content. Two folders never collide, relative imports work,
  and an edited folder is another package.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from hashlib import sha256
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from planner.errors import UserError
from planner.tools.declaration import MARK


class _SourceLoader(SourceFileLoader):
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


def load(folder: Path, *, wanted: Callable[[str], bool]) -> list[FunctionType]:
    """The functions marked as tools in those `folder/[!_]*.py` whose stem is wanted; runs these files.

    Raises `UserError` T-101 for what is no folder, T-102 for a file that cannot be loaded.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise UserError("T-101", f"`{folder}` is not a folder", hint="Name the folder that holds the tools.")
    package = _package(root)
    files = [file for file in sorted(root.glob("[!_.]*.py")) if wanted(file.stem)]
    return [function for file in files for function in _marked(_module(package, file))]


def _package(folder: Path) -> str:
    name = f"_planner_{sha256(f'{folder}{folder_hash(folder)}'.encode()).hexdigest()[:12]}_tools"
    if name not in sys.modules:
        for place in {folder, *(file.parent for file in folder.rglob("*.py"))}:
            sys.path_importer_cache[str(place)] = FileFinder(str(place), (_SourceLoader, [".py"]))
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[name] = module_from_spec(spec)
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
    """The last line of the folder that ran before the error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{f.filename}:{f.lineno}" for f in frames if Path(f.filename).is_relative_to(file.parent)]
    return places[-1] if places else str(file)


def _marked(module: ModuleType) -> list[FunctionType]:
    """The functions that are marked as tools and defined in this module, each once."""
    functions = [f for f in vars(module).values() if isinstance(f, FunctionType) and hasattr(f, MARK)]
    return list(dict.fromkeys(f for f in functions if f.__module__ == module.__name__))
