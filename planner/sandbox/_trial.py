"""Tries what a sandbox forbids: run as a script inside of one by `planner.sandbox.trials`, never imported.

Its arguments are a file that it may not read, a process that it may not reach, and the bytes that it may hold. It
tells in one line what it tried and, where that was possible, what it could do.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, PTRACE_TRACEME = 0x1000_0000, 0
MOST_FILES = 1_024


def main() -> None:
    """Tries everything."""
    file, process, held_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    link = Path("link")
    link.symlink_to(file)
    tried: dict[str, dict[str, Callable[[], object]]] = {
        "files": {
            "read a file outside": file.read_bytes,
            "follow a link to it": link.read_bytes,
            "write to it": lambda: file.write_bytes(b""),
            "remove it": file.unlink,
            "list its folder": lambda: list(file.parent.iterdir()),
            "change its attributes": lambda: _change(file),
        },
        "network": {
            f"make a socket of {family.name}": partial(socket.socket, family, socket.SOCK_DGRAM)
            for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK)
        },
        "processes": {
            "send a signal to its starter": lambda: os.kill(process, 0),
            "read the environment of its starter": Path(f"/proc/{process}/environ").read_bytes,
            "leave its session": os.setsid,
            "be traced": lambda: _asked(LIBC.ptrace(PTRACE_TRACEME, 0, None, None)),
        },
        "kernel": {"begin a namespace": lambda: _asked(LIBC.unshare(CLONE_NEWUSER))},
        "memory": {"hold twice its memory": lambda: bytearray(2 * held_bytes)},
        "environment": {"find what was not given to it": _found},
    }
    done = {name: [what for what, step in steps.items() if _is_possible(step)] for name, steps in tried.items()}
    print(json.dumps(done))  # noqa: T201


def _is_possible(step: Callable[[], object]) -> bool:
    with suppress(OSError, MemoryError):
        step()
        return True
    return False


def _change(file: Path) -> None:
    """Nothing if the mode of the file is changed; else an error. It is told that it was."""
    before = file.stat().st_mode
    file.chmod(0o600 if before & 0o400 == 0 else 0o000)
    if file.stat().st_mode == before:
        raise PermissionError


def _asked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _found() -> None:
    """Nothing if there is an open file or a variable too many; else an error."""
    if os.environ.keys() - {"HOME", "LANG", "LC_CTYPE", "PATH", "TMPDIR"}:
        return
    for number in range(3, MOST_FILES):
        with suppress(OSError):
            os.fstat(number)
            return
    raise PermissionError


if __name__ == "__main__":
    main()
