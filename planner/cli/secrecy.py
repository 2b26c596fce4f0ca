"""What the command line must not show: the secrets of the assistant that its words mean."""

from __future__ import annotations

import os
from pathlib import Path

from planner import config
from planner.cli.options import Options
from planner.core.redaction import Redactor
from planner.errors import UserError


def redactor_of(options: Options) -> Redactor:
    """For the secrets that the assistant names; where it cannot be read, for the keys of model providers alone."""
    try:
        folder = config.find_assistant(options.assistant, here=Path.cwd()).folder
        secrets = config.load(folder, os.environ).secrets
    except UserError:  # whoever needs the assistant will say so
        secrets = config.Secrets()
    return secrets.redactor(os.environ)
