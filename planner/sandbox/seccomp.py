"""The filter of system calls, as a program for the kernel.

Rules of the file:
- It names what is refused. Calls newer than those that were looked at do not exist for a sandboxed program.
- A filter sees numbers only, so it cannot know who gets a signal. Where Landlock does not, nobody gets one.
- A refusal has the error that programs are prepared for: "not permitted", "not implemented", "not a terminal".

Sources: Linux, Documentation/userspace-api/seccomp_filter.rst and the tables of system calls of Linux 6.17.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

Number: TypeAlias = tuple[int | None, int | None]
"""Of a call on x86_64 and on aarch64; None: it has no such call."""

MACHINES: Mapping[str, int] = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
"""AUDIT_ARCH_*: by which of its languages a program speaks to the kernel."""
NEWEST = 469
"""file_setattr. New calls have one number on all machines."""
_X32 = 0x4000_0000

# what is refused ----------------------------------------------------------------------------------------------

NETWORK: Mapping[str, Number] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
}
OTHERS: Mapping[str, Number] = {  # processes: to look into them, to steer them
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}
KERNEL: Mapping[str, Number] = {  # views of the system of one's own, and much code that few programs need
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "unshare": (272, 97),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
}
LASTING: Mapping[str, Number] = {  # what would outlive the program, or escape its limits
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
WATCHING: Mapping[str, Number] = {  # names of files that others use
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}

# what seems to be otherwise than it is ------------------------------------------------------------------------

ABSENT: Mapping[str, Number] = {
    "clone3": (435, 435),  # its flags stand in memory, where a filter cannot look; programs then use `clone`
    "utime": (132, None),  # there is `utimensat`
    "utimes": (235, None),
    "futimesat": (261, None),
}
SETTLED: Mapping[str, Number] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
}
"""Modes and owners: Landlock would let them be changed anywhere, and programs that copy a file want to. They are told
that it is done, and nothing is. So with times (below)."""
ATTRIBUTES: Mapping[str, Number] = {
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "getxattrat": (464, 464),
    "listxattrat": (465, 465),
    "removexattrat": (466, 466),
    "file_getattr": (468, 468),
    "file_setattr": (469, 469),
}
"""Landlock would let them be read and changed anywhere; there are file systems without them."""

# what depends -------------------------------------------------------------------------------------------------

SIGNALS: Mapping[str, Number] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
"""Their first argument says who gets it; 0 is the caller's own process group."""
ON_ITSELF: Mapping[str, Number] = {
    "prlimit64": (302, 261),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
}
"""Allowed where the first argument is 0: the process that calls."""
_UTIMENSAT: Number = (280, 88)
_CLONE: Number = (56, 220)
_SOCKETPAIR: Number = (53, 199)
_FCNTL: Number = (72, 25)
_IOCTL: Number = (16, 29)
_AWAY = 0x7E02_0000 | 0x0080_0000  # CLONE_NEW*, CLONE_UNTRACED: into a namespace, or out of sight
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPES = 1, 1, 0xF
_FCNTLS = (*range(8), 36, 37, 38, 1030, 1032)
"""Copies, flags and locks of descriptors, sizes of pipes; not who is sent a signal when something arrives."""
_IOCTLS = (0x5401, 0x802C_542A, 0x5413, 0x540F, 0x541B, 0x5421, 0x5450, 0x5451)
"""Whether it is a terminal (TCGETS, TCGETS2, TIOCGWINSZ, TIOCGPGRP), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""

# the program --------------------------------------------------------------------------------------------------

_LOAD, _AND, _IS, _IS_OVER, _IS_FROM, _HAS, _ANSWER = 0x20, 0x54, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _END, _ERROR = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`


def program(machine: str, *, may_signal: bool) -> bytes:
    """The filter for a machine of `MACHINES`, as an array of `struct sock_filter`.

    With `may_signal` something else must see to it that signals reach no other programs.
    """
    column = list(MACHINES).index(machine)
    return b"".join(
        [
            _instruction(_LOAD, _ARCHITECTURE),
            *_unless(_IS, MACHINES[machine], _END),
            _instruction(_LOAD, _NUMBER),
            *_where(_IS_FROM, _X32, [_answer(_END)]),
            *_where(_IS_OVER, NEWEST, [_refusal(errno.ENOSYS)]),
            *(part for number, body in _rulings(column, may_signal=may_signal) for part in _where(_IS, number, body)),
            _answer(_ALLOW),
        ]
    )


def _rulings(column: int, *, may_signal: bool) -> Iterator[tuple[int, list[bytes]]]:
    """Calls by number with what is answered. A body ends with an answer, whichever way it goes."""
    not_permitted = _refusal(errno.EPERM)
    bodies: list[tuple[Iterable[Number], list[bytes]]] = [
        (NETWORK.values(), [not_permitted]),
        (OTHERS.values(), [not_permitted]),
        (KERNEL.values(), [not_permitted]),
        (LASTING.values(), [not_permitted]),
        (WATCHING.values(), [not_permitted]),
        (ABSENT.values(), [_refusal(errno.ENOSYS)]),
        (SETTLED.values(), [_refusal(0)]),
        (ATTRIBUTES.values(), [_refusal(errno.EOPNOTSUPP)]),
        (() if may_signal else SIGNALS.values(), _one_of(0, (0,), errno.EPERM)),
        (ON_ITSELF.values(), _one_of(0, (0,), errno.EPERM)),
        ([_FCNTL], _one_of(1, _FCNTLS, errno.EINVAL)),
        ([_IOCTL], _one_of(1, _IOCTLS, errno.ENOTTY)),
        ([_CLONE], [_argument(0), *_where(_HAS, _AWAY, [not_permitted]), _answer(_ALLOW)]),
        ([_SOCKETPAIR], _connected_pair()),
        ([_UTIMENSAT], _times()),
    ]
    for calls, body in bodies:
        yield from ((number, body) for call in calls if (number := call[column]) is not None)


def _connected_pair() -> list[bytes]:
    """Only what stays connected to its other end: datagrams may be sent to anybody."""
    refused = _ERROR | errno.EPERM
    return [
        _argument(0),
        *_unless(_IS, _AF_UNIX, refused),
        _argument(1),
        _instruction(_AND, _SOCK_TYPES),
        *_unless(_IS, _SOCK_STREAM, refused),
        _answer(_ALLOW),
    ]


def _times() -> list[bytes]:
    """Settled, but for a path without times: whoever asks that wants to know whether there is such a file."""
    settled, refused = _ERROR, _ERROR | errno.EPERM
    times, path, half = 2, 1, 4
    body = []
    for place, answer in ((times, settled), (path, refused)):
        for offset in (0, half):
            body += [_instruction(_LOAD, _ARGUMENTS + 8 * place + offset), *_unless(_IS, 0, answer)]
    return [*body, _answer(settled)]


def _one_of(place: int, allowed: Iterable[int], error: int) -> list[bytes]:
    """Allowed with one of these values as the argument at `place`."""
    tests = (part for value in allowed for part in _where(_IS, value, [_answer(_ALLOW)]))
    return [_argument(place), *tests, _refusal(error)]


def _where(test: int, value: int, body: list[bytes]) -> list[bytes]:
    return [struct.pack("=HBBI", test, 0, len(body), value), *body]


def _unless(test: int, value: int, answer: int) -> list[bytes]:
    return [struct.pack("=HBBI", test, 1, 0, value), _answer(answer)]


def _argument(place: int) -> bytes:
    """Loads the lower half of an argument, which is all that the kernel reads of those asked about here."""
    return _instruction(_LOAD, _ARGUMENTS + 8 * place)


def _refusal(error: int) -> bytes:
    return _answer(_ERROR | error)


def _answer(answer: int) -> bytes:
    return _instruction(_ANSWER, answer)


def _instruction(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)
