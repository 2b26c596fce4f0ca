"""Where an assistant, its state and its workspace are.

Rules of the file:
- The environment and the working directory are arguments, so a test or an embedder can give its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import platformdirs

from planner.core.labels import Frozen
from planner.errors import UserError

FILE = "planner.toml"


class Located(Frozen):
    """An assistant's folder and how it was found."""

    folder: Path
    how: Literal["named", "here", "reference"]

    @property
    def needs_consent(self) -> bool:
        """Whether a person must agree before its code is loaded: being in a folder is not asking for it."""
        return self.how == "here"


def find_assistant(named: Path | None, *, here: Path) -> Located:
    """The assistant that was named, else the one in the working directory, else the reference one.

    No parent of the working directory is looked at. Raises `UserError` U-105 if the named folder is none.
    """
    if named is not None:
        folder = named.expanduser().resolve()
        if not (folder / FILE).is_file():
            raise UserError(
                "U-105",
                f"{folder} is not an assistant: it has no {FILE}",
                hint="Name the folder that holds the file, or make one with `planner init`.",
                error_class="missing",
            )
        return Located(folder=folder, how="named")
    if (here / FILE).is_file() and here.resolve() != reference():
        return Located(folder=here.resolve(), how="here")
    return Located(folder=reference(), how="reference")


def reference() -> Path:
    """The folder of the reference assistant: inside an installed package, or the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    bundled = package / "_assistant"
    return bundled if bundled.is_dir() else package.parent


def state_dir(named: Path | None, environ: Mapping[str, str]) -> Path:
    """Where runs and consents are kept: as named, else `PLANNER_STATE`, else the user's state directory."""
    chosen = named or environ.get("PLANNER_STATE")
    return Path(chosen or platformdirs.user_state_path("planner", appauthor=False)).expanduser().resolve()


def workspace_dir(named: Path | None, *, here: Path) -> Path:
    """The folder whose files tools may touch: as named, else the working directory. U-106 if it is none."""
    folder = (named or here).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(
            "U-106",
            f"the workspace {folder} is not a folder",
            hint="Make it, or name another one with `--workspace`.",
            error_class="missing",
        )
    return folder
