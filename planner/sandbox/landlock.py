"""Landlock: which files a process and its descendants may touch, as the kernel wants to be told.

Rules of the file:
- Whatever the kernel knows to forbid is forbidden; rules then allow by folder. So newer kernels forbid more.
- Landlock does not know modes, owners, times and attributes of files; `seccomp` sees to these.

Source: Linux, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import struct

NEEDED_ABI = 3
"""Linux 6.2: before it, whoever may read a file may also cut it short."""
SCOPED_ABI = 6
"""Linux 6.12: from it on, signals and sockets without a file do not leave."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, REFER = 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15

READING = EXECUTE | READ_FILE | READ_DIR
WRITING = (
    READING & ~EXECUTE
    | WRITE_FILE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_DIR
    | MAKE_REG
    | MAKE_FIFO
    | MAKE_SYM
    | REFER
    | TRUNCATE
)
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
"""The rights that a rule over something else than a folder may have."""

_CREATE_RULESET = 444  # on every architecture
_ASK_VERSION = 1


def abi() -> int:
    """The version of Landlock that this kernel enforces; 0 if there is none, or it was not switched on."""
    import ctypes

    try:
        syscall = ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return 0
    syscall.restype = ctypes.c_long
    found = syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    return max(0, int(found))


def ruleset(version: int) -> bytes:
    """A `struct landlock_ruleset_attr` that forbids all that this version of Landlock can forbid."""
    files = TRUNCATE << 1 if version < 5 else IOCTL_DEV << 1  # every right below this one
    tcp = 0b11  # bind, connect
    scopes = 0b11  # sockets without a file, and signals, of processes outside
    fields = [files - 1, *([tcp] if version >= 4 else []), *([scopes] if version >= SCOPED_ABI else [])]
    return struct.pack(f"={len(fields)}Q", *fields)
