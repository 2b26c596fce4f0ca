"""The process between the runtime and a program: run as a script by `planner.sandbox.linux`, never imported.

It takes its order from the file descriptor that its first argument names. It forks; the child gives up all that it
does not need, for good, and becomes the program. The parent, the supervisor, sees every process begin and end,
looks at what they use, ends them, and tells in one line how the program ended.

Rules of the file:
- The supervisor traces the program and all that it starts. A new process or thread stands still until it is counted,
  none can get away, and the kernel ends all of them if the supervisor is gone.
- They cannot leave their process group, so one signal reaches all of them and no new one can slip through.
- The supervisor ends when its lifeline closes: the runtime did not want it any more, or is gone.

Source: Linux, ptrace(2), signal-delivery and group stops under PTRACE_SEIZE.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

LOOK_S = 0.05
"""How often a program is looked at."""
SHARE = 20
"""Looking may take one part in so many of a core, however many processes the machine has."""

PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 36, 38, 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITIES = 64
CAPSET = {"x86_64": 126, "aarch64": 91}
SECCOMP = {"x86_64": 317, "aarch64": 277}
SECCOMP_SET_MODE_FILTER = 1
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF, PATH_BENEATH = 444, 445, 446, 1
PTRACE_CONT, PTRACE_SEIZE, PTRACE_LISTEN = 7, 0x4206, 0x4208
PTRACE_GETEVENTMSG, PTRACE_EVENT_EXEC, PTRACE_EVENT_STOP = 0x4201, 4, 128
BIRTHS = frozenset({1, 2, 3})  # PTRACE_EVENT_FORK, _VFORK, _CLONE
WITH_ALL_IT_STARTS = 0x10_001E  # PTRACE_O_TRACEFORK, _TRACEVFORK, _TRACECLONE, _TRACEEXEC, _EXITKILL
WALL = 0x4000_0000
STOPS = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
DEAD = frozenset({b"X", b"Z"})
ENDS = frozenset({os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED})

LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Carries out the order."""
    order: dict[str, Any] = json.loads(os.pread(int(sys.argv[1]), 1 << 30, 0))
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    watched, watch = os.pipe()
    failure, fail = os.pipe()
    child = os.fork()
    if not child:
        os.close(watch)
        _become(order, watched, fail)
    os.close(fail)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # they end when the last program that holds them does
        os.dup2(nowhere, stream)
    try:
        _done(_ptrace(PTRACE_SEIZE, child, WITH_ALL_IT_STARTS))
        os.write(watch, b"+")
        told = json.loads(os.read(failure, 4096) or "{}")  # closed when the child becomes the program
    except OSError as error:
        os.kill(child, signal.SIGKILL)
        told = _problem("supervise", error)
    if not told:
        told = _Supervisor(order, child).watched()
    os.write(order["report"], json.dumps(told).encode())


def _problem(step: str, error: OSError | ValueError) -> dict[str, Any]:
    """What could not be done, and why."""
    number = (isinstance(error, OSError) and error.errno) or errno.EINVAL
    return {"problem": {"step": step, "errno": number, "text": os.strerror(number)}}


# ---- the child: from here to the program -------------------------------------------------------------------


def _become(order: dict[str, Any], watched: int, fail: int) -> NoReturn:
    step = "prepare"
    try:
        if not os.read(watched, 1):
            os._exit(127)
        _detach(order, fail)
        step = "limits"
        _limit(order)
        step = "capabilities"
        _drop_capabilities(order["machine"])
        step = "landlock"
        _restrict_files(order)
        step = "seccomp"
        _restrict_calls(order)
        step = "start"
        os.execvpe(order["argv"][0], order["argv"], order["environ"])  # noqa: S606 - that is what it is for
    except (OSError, ValueError) as error:
        os.write(fail, json.dumps(_problem(step, error)).encode())
    os._exit(127)


def _detach(order: dict[str, Any], fail: int) -> None:
    """Nothing of the starter stays but the three streams: no session, file, signal or working folder."""
    os.setsid()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    os.closerange(3, fail)
    os.closerange(fail + 1, most if most != resource.RLIM_INFINITY else 1 << 20)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):  # those that the C library keeps for itself
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o077)
    os.chdir(order["cwd"])
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")  # if memory runs out, it is this program that goes


def _limit(order: dict[str, Any]) -> None:
    for name, wanted in order["rlimits"].items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]
        soft, hard = (limit if most == resource.RLIM_INFINITY else min(limit, most) for limit in wanted)
        resource.setrlimit(kind, (soft, hard))


def _drop_capabilities(machine: str) -> None:
    """Root is then a user like any other."""
    for capability in range(CAPABILITIES):
        _prctl(PR_CAPBSET_DROP, capability)  # refused to others, who have none to lose
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header, none = struct.pack("=Ii", 0x2008_0522, 0), bytes(24)
    _call(CAPSET[machine], header, none)
    _done(_prctl(PR_SET_NO_NEW_PRIVS, 1))


def _restrict_files(order: dict[str, Any]) -> None:
    attributes = bytes.fromhex(order["ruleset"])
    ruleset = _call(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    for path, rights in order["rules"]:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _call(LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
        os.close(place)
    _call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _restrict_calls(order: dict[str, Any]) -> None:
    code = bytes.fromhex(order["filter"])
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(kept))
    _call(SECCOMP[order["machine"]], SECCOMP_SET_MODE_FILTER, 0, program)


def _prctl(option: int, value: int) -> int:
    return int(LIBC.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))))


def _ptrace(request: int, pid: int, data: int) -> int:
    return int(LIBC.ptrace(request, pid, None, ctypes.c_void_p(data)))


def _call(number: int, *arguments: int | bytes) -> int:
    """What a system call gives. Raises `OSError`."""
    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _done(LIBC.syscall(ctypes.c_long(number), *words))


def _done(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


# ---- the supervisor ----------------------------------------------------------------------------------------


class _Supervisor:
    """Watches the program and all that it started: its process group."""

    def __init__(self, order: dict[str, Any], group: int) -> None:
        self._group = group
        self._limits = order["limits"]
        self._lifeline = order["lifeline"]
        self._tasks = {group: group}
        """The threads that are alive, by number, each with its process."""
        self._began = time.monotonic()

    def watched(self) -> dict[str, Any]:
        """How the program ended, once nothing of it is left."""
        reached = self._reached()
        os.killpg(self._group, signal.SIGKILL)  # also what it left behind
        ended_by = os.waitstatus_to_exitcode(self._last())
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "exit_code": ended_by,
            "reached": "cpu" if reached is None and ended_by == -signal.SIGXCPU else reached,
            "wall_s": time.monotonic() - self._began,
            "cpu_s": used.ru_utime + used.ru_stime,
        }

    def _reached(self) -> str | None:
        """Waits until the program ends, or shall end; then the limit that it reached, if it was one.

        The program is not buried yet: as long as it lies there, its number is its own.
        """
        pause = _Pause(self._lifeline)
        look_at, end_at = self._began, self._began + self._limits["time_s"]
        while (now := time.monotonic()) < end_at:
            if now >= look_at:
                reached = self._used_up()
                if reached:
                    return reached
                look_at = now + max(LOOK_S, SHARE * (time.monotonic() - now))
            event = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | WALL)
            left_s = 0 if event else min(look_at, end_at) - time.monotonic()
            if pause.is_over(left_s) or (event and event.si_pid == self._group and event.si_code in ENDS):
                return None
            if event and not self._attended(event.si_pid):
                return "processes"
        return "time"

    def _attended(self, task: int) -> bool:
        """Sees to what happened to a process or thread; False if it is one too many, and then it never runs."""
        _, status = os.waitpid(task, WALL)
        if not os.WIFSTOPPED(status):
            self._tasks.pop(task, None)
            return True
        number, event = os.WSTOPSIG(status), status >> 16
        if event == PTRACE_EVENT_EXEC:  # the other threads are gone, and one of them without a word
            self._tasks = {other: process for other, process in self._tasks.items() if process != task}
        self._count(task)
        if event in BIRTHS:  # told by the parent, who may be heard many times before the child is
            self._count(_born(task))
        if not self._has_room():
            return False
        if event == PTRACE_EVENT_STOP and number in STOPS:
            _ptrace(PTRACE_LISTEN, task, 0)  # it stays stopped, as it was told to
        else:
            _ptrace(PTRACE_CONT, task, 0 if event else number)
        return True

    def _count(self, task: int) -> None:
        process = self._tasks.get(task) or _process(task)
        if process:
            self._tasks[task] = process

    def _has_room(self) -> bool:
        """Whether there are no more than there may be; some may have ended, and not been heard yet."""
        most = int(self._limits["processes"])
        if len(self._tasks) > most:
            states = {task: (_status(task) or [b"X"])[0] for task in self._tasks}
            self._tasks = {task: process for task, process in self._tasks.items() if states[task] not in DEAD}
        return len(self._tasks) <= most

    def _last(self) -> int:
        """Waits for the end of everything; how the program itself ended."""
        last = 0
        with suppress(ChildProcessError):
            while True:
                task, status = os.waitpid(-1, WALL)
                if os.WIFSTOPPED(status):  # it was about to begin
                    os.kill(task, signal.SIGKILL)
                elif task == self._group:
                    last = status
        return last

    def _used_up(self) -> str | None:
        """The limit that the program has reached, if there is one."""
        page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
        held: dict[int, int] = {}
        spent: dict[int, int] = {}
        for task, process in self._tasks.items():  # any thread knows what its process uses; the first may be gone
            fields = _status(task)
            if fields:
                held[process] = max(held.get(process, 0), int(fields[21]) * page)
                spent[process] = max(spent.get(process, 0), sum(map(int, fields[11:15])))
        dead = resource.getrusage(resource.RUSAGE_CHILDREN)
        if sum(held.values()) > self._limits["memory_bytes"]:
            return "memory"
        if sum(spent.values()) / tick + dead.ru_utime + dead.ru_stime > self._limits["cpu_s"]:
            return "cpu"
        return None


class _Pause:
    """Waits for something to happen to a child, or to the lifeline."""

    def __init__(self, lifeline: int) -> None:
        self._lifeline = lifeline
        self._woken, wake = os.pipe2(os.O_NONBLOCK)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll = select.poll()
        for file in (self._woken, lifeline):
            self._poll.register(file, select.POLLIN)

    def is_over(self, at_most_s: float) -> bool:
        """Whether the lifeline is closed, once something happened or the time has passed."""
        happened = dict(self._poll.poll(max(0.0, at_most_s) * 1000))
        if self._woken in happened:
            os.read(self._woken, 4096)
        return self._lifeline in happened


def _born(task: int) -> int:
    """The process or thread that this one has begun."""
    born = ctypes.c_ulong()
    _ptrace(PTRACE_GETEVENTMSG, task, ctypes.addressof(born))
    return born.value


def _process(task: int) -> int | None:
    """The process that a thread belongs to; None if it is gone."""
    with suppress(OSError), open(f"/proc/{task}/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))
    return None


def _status(task: int) -> list[bytes] | None:
    """The fields of /proc/TASK/stat from the third on, for the second may hold anything; None if it is gone."""
    with suppress(OSError), open(f"/proc/{task}/stat", "rb") as file:  # noqa: PTH123
        text = file.read()
        return text[text.rindex(b")") + 2 :].split()
    return None


if __name__ == "__main__":
    main()
