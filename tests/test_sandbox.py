"""Attempts to get out of the sandbox, each made for real, and what must still be possible within."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from planner.errors import ToolError
from planner.sandbox import Limits, Ran, Sandbox, interpreter, probe

ROOT = Path(__file__).resolve().parents[1]
SECRET = "sesame"
PATIENT = Limits(time_s=300, cpu_s=120)
"""Nothing here is to end by the clock: the machine may be busy."""


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    found = probe()
    if found.sandbox is None:
        pytest.skip(f"no sandbox: {found.reason}")
    return found.sandbox


def run(sandbox: Sandbox, argv: Sequence[str], limits: Limits = PATIENT, **options: Any) -> Ran:
    return asyncio.run(sandbox.run(argv, limits=limits, **options))


def python(sandbox: Sandbox, program: str, *arguments: str, **options: Any) -> Ran:
    return run(sandbox, [str(interpreter()), "-I", "-S", "-c", textwrap.dedent(program), *arguments], **options)


# ---- what is outside ---------------------------------------------------------------------------------------


@dataclass
class Outside:
    """Things that a sandboxed program must not reach, and how to see that it did not."""

    folder: Path
    victim: subprocess.Popen[bytes]
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket
    before: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return {
            "secret": str(self.folder / "secret.txt"),
            "folder": str(self.folder),
            "workspace": str(self.folder / "workspace"),
            "unix": self.unix.getsockname().decode(),
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "victim": self.victim.pid,
            "starter": os.getpid(),
            "group": os.getpgrp(),
        }

    def seen(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file with its mode, its time and its content."""
        found = {}
        for path in [self.folder, *sorted(self.folder.rglob("*"))]:
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            time_ns = status.st_mtime_ns
            found[str(path)] = (status.st_mode, time_ns, content)
        return found

    def is_reached(self) -> str:
        """What became of it; nothing if it is as it was."""
        if self.victim.poll() is not None:
            return "the other process ended"
        if os.getpriority(os.PRIO_PROCESS, self.victim.pid) != 0:
            return "the other process has another priority"
        for door in (self.tcp, self.unix):
            try:
                door.accept()
            except BlockingIOError:
                continue
            return f"somebody came to {door}"
        try:
            return f"somebody sent {self.udp.recv(100)!r}"
        except BlockingIOError:
            return "" if self.seen() == self.before else "the files have changed"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.txt").write_text(SECRET)
    (folder / "workspace" / ".git" / "hooks").mkdir(parents=True)
    (folder / "workspace" / "notes.txt").write_text("notes")
    (folder / "workspace" / "way").symlink_to(folder / "secret.txt")
    sleep = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with (
        subprocess.Popen(sleep, env={"PASSWORD": SECRET}) as victim,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind("\0planner-test-" + os.urandom(8).hex())
        unix.listen()
        for door in (tcp, udp, unix):
            door.setblocking(False)
        made = Outside(folder, victim, tcp, udp, unix)
        made.before = made.seen()
        yield made
        victim.kill()


# ---- ways out ----------------------------------------------------------------------------------------------

PREPARED = """\
import ctypes, ctypes.util, errno, fcntl, json, os, resource, signal, socket, struct, sys
from pathlib import Path
given = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
arm = os.uname().machine == "aarch64"
def call(name, *arguments):
    number = {"ptrace": (101, 117), "process_vm_readv": (310, 270), "unshare": (272, 97), "setns": (308, 268),
        "mount": (165, 40), "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241),
        "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "tkill": (200, 130), "tgkill": (234, 131),
        "shmget": (29, 194), "mq_open": (240, 180), "clone": (56, 220), "clone3": (435, 435),
        "personality": (135, 92), "open_tree": (428, 428), "inotify_init1": (294, 26), "pidfd_getfd": (438, 438),
        "unknown": (470, 470), "move_pages": (279, 239), "process_madvise": (440, 440),
        "name_to_handle_at": (303, 264), "far": (100_000, 100_000)}[name][arm]
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
def escape():
"""
JUDGED = """
try:
    escape()
except (OSError, ValueError) as error:
    print("refused", error)
else:
    print("ESCAPED")
"""
SILENT = frozenset(
    {"change a mode", "change a mode by descriptor", "change times", "change an owner", "end everybody"}
)
"""Answered as if done; that nothing is done can be seen outside."""

FILES = {
    "read a file": 'Path(given["secret"]).read_text()',
    "read it on a way round": 'Path("../../../../../../../.." + given["secret"]).read_text()',
    "read it by a link": 'os.symlink(given["secret"], "link"); Path("link").read_text()',
    "read it by a link that lay there": 'Path(given["workspace"], "way").read_text()',
    "read it by a hard link": 'os.link(given["secret"], "hard"); Path("hard").read_text()',
    "read it by the root of the process": 'Path("/proc/self/root" + given["secret"]).read_text()',
    "read it by a mapping": 'import mmap; mmap.mmap(os.open(given["secret"], os.O_RDONLY), 0, prot=mmap.PROT_READ)',
    "read the passwords": 'Path("/etc/passwd").read_text()',
    "list a folder": 'os.listdir(given["folder"])',
    "list the temporary folder": "os.listdir(os.path.dirname(os.getcwd()))",
    "write a file": 'Path(given["secret"]).write_text("x")',
    "write it by a link": 'os.symlink(given["secret"], "link"); Path("link").write_text("x")',
    "add to a file": 'os.write(os.open(given["secret"], os.O_WRONLY | os.O_APPEND), b"x")',
    "cut a file short": 'os.truncate(given["secret"], 0)',
    "cut a readable file short": 'os.open(given["workspace"] + "/notes.txt", os.O_RDONLY | os.O_TRUNC)',
    "make a file": 'Path(given["folder"], "new").touch()',
    "make a folder": 'os.mkdir(given["folder"] + "/new")',
    "make a link": 'os.symlink("/", given["folder"] + "/new")',
    "remove a file": 'os.unlink(given["secret"])',
    "move a file away": 'os.rename(given["secret"], "mine")',
    "move a file there": 'Path("mine").touch(); os.rename("mine", given["folder"] + "/mine")',
    "write in what may be read": 'Path(given["workspace"], "notes.txt").write_text("x")',
    "leave a hook": 'Path(given["workspace"], ".git/hooks/pre-commit").write_text("x")',
    "change a mode": 'os.chmod(given["workspace"] + "/notes.txt", 0o777)',
    "change a mode by descriptor": 'os.fchmod(os.open(given["workspace"] + "/notes.txt", os.O_RDONLY), 0o777)',
    "change times": 'os.utime(given["workspace"] + "/notes.txt", (0, 0))',
    "change an owner": 'os.chown(given["workspace"] + "/notes.txt", os.getuid(), os.getgid())',
    "change an attribute": 'os.setxattr(given["workspace"] + "/notes.txt", "user.x", b"x")',
    "change a flag": 'fcntl.ioctl(os.open(given["workspace"] + "/notes.txt", os.O_RDONLY), 0x40086602, bytes(8))',
    "hold a lease": 'fcntl.fcntl(os.open(given["workspace"] + "/notes.txt", os.O_RDONLY), 1024, fcntl.F_RDLCK)',
    "watch a folder": 'call("inotify_init1", 0)',
    "take a handle": 'call("name_to_handle_at", -100, given["secret"].encode(), bytes(200), bytes(8), 0)',
    "open a terminal": 'os.open("/dev/tty", os.O_RDWR)',
    "make a device": 'os.mknod("null", 0o600 | 0o020000, os.makedev(1, 3))',
    "use another root": 'os.chroot(".")',
    "mount": 'os.mkdir("m"); call("mount", given["folder"].encode(), b"m", None, 4096, None)',
    "clone a mount": 'call("open_tree", -100, given["folder"].encode(), 1)',
    "start a program of its own": 'import shutil; shutil.copyfile("/bin/true", "mine"); os.execv("mine", ["mine"])',
}
NETWORK = {
    "reach a server": 'socket.create_connection(("127.0.0.1", given["tcp"]))',
    "reach one by IPv6": 'socket.create_connection(("::ffff:127.0.0.1", given["tcp"]))',
    "send a datagram": 'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", given["udp"]))',
    "reach a socket of the machine": "socket.socket(socket.AF_UNIX).connect(given['unix'])",
    "send from a pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].connect(given['unix'])",
    "send from a connected pair": "socket.socketpair()[0].sendto(b'x', given['unix'])",
    "be a server": 'socket.create_server(("127.0.0.1", 0))',
    "ask the kernel": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "send packets": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "look a name up": 'socket.getaddrinfo("example.org", 80)',
    "queue a socket": 'call("io_uring_setup", 4, bytes(120))',
}
PROCESSES = {
    "end another process": 'os.kill(given["victim"], signal.SIGKILL)',
    "end its starter": 'os.kill(given["starter"], signal.SIGTERM)',
    "end its supervisor": "os.kill(os.getppid(), signal.SIGKILL)",
    "end everybody": "os.kill(-1, signal.SIGKILL)",
    "end another group": 'os.killpg(given["group"], signal.SIGTERM)',
    "end a thread": 'call("tkill", given["victim"], 9)',
    "end a thread of a process": 'call("tgkill", given["victim"], given["victim"], 9)',
    "end it by descriptor": 'signal.pidfd_send_signal(os.pidfd_open(given["victim"]), signal.SIGKILL)',
    "have it sent a signal": 'r, w = os.pipe(); fcntl.fcntl(r, 8, given["victim"])',
    "have a socket send it": 'fcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack("i", given["victim"]))',
    "choose that signal": "r, w = os.pipe(); fcntl.fcntl(r, 10, signal.SIGKILL)",
    "limit another process": 'resource.prlimit(given["victim"], resource.RLIMIT_CPU, (1, 1))',
    "slow another process": 'os.setpriority(os.PRIO_PROCESS, given["victim"], 19)',
    "bind another process": 'os.sched_setaffinity(given["victim"], {0})',
    "trace another process": 'call("ptrace", 16, given["victim"], 0, 0)',
    "read its memory": 'call("process_vm_readv", given["victim"], bytes(16), 1, bytes(16), 1, 0)',
    "read its memory by file": 'open(f"/proc/{given[\'victim\']}/mem", "rb")',
    "read its environment": "Path(f\"/proc/{given['victim']}/environ\").read_bytes()",
    "read its command": "Path(f\"/proc/{given['victim']}/cmdline\").read_bytes()",
    "take its files": 'call("pidfd_getfd", os.pidfd_open(given["victim"]), 1, 0)',
    "open its files": "os.open(f\"/proc/{given['starter']}/fd/1\", os.O_WRONLY)",
    "list processes": 'os.listdir("/proc")',
    "move its memory": 'call("move_pages", given["victim"], 0, None, None, None, 0)',
    "leave its session": "os.setsid()",
    "leave its group": "os.setpgid(0, 0)",
    "raise its limits": "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)",
    "become root": "os.setuid(1 if os.getuid() == 0 else 0)",
}
KERNEL = {
    "begin a namespace": 'call("unshare", 0x10000000)',
    "begin one with a child": 'call("clone", 0x10000000 | 17, 0, 0, 0, 0)',
    "begin one the new way": 'call("clone3", bytes(88), 88)',
    "enter a namespace": 'call("setns", os.pidfd_open(given["starter"]), 0x20000)',
    "use the keyring": 'call("keyctl", 0, -3, 0)',
    "load a program": 'call("bpf", 0, bytes(64), 64)',
    "count events": 'call("perf_event_open", bytes(128), 0, -1, -1, 0)',
    "handle faults": 'call("userfaultfd", 1)',
    "be of another personality": 'call("personality", 0x40000)',
    "share memory": 'call("shmget", 0, 4096, 0o1600)',
    "keep memory as a file": 'os.memfd_create("x")',
    "keep a queue": 'call("mq_open", b"x", 0o102, 0o600, None)',
    "use a call that is too new": 'call("unknown")',
    "use a call that there is not": 'call("far")',
}
ATTEMPTS = {**FILES, **NETWORK, **PROCESSES, **KERNEL}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_there_is_no_way_out(attempt: str, sandbox: Sandbox, outside: Outside) -> None:
    facts = json.dumps(outside.facts()).encode()
    program = f"{PREPARED}    {ATTEMPTS[attempt]}\n{JUDGED}"
    ran = python(sandbox, program, stdin=facts, reads=[outside.folder / "workspace"])
    expected = "ESCAPED" if attempt in SILENT else "refused"
    assert ran.stdout.decode().split(" ")[0].strip() == expected, ran
    assert outside.is_reached() == ""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the language of older processors is there only")
def test_the_kernel_cannot_be_asked_in_another_language(sandbox: Sandbox) -> None:
    program = """
        import ctypes, mmap
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # getpid, as a program of 32 bits asks for it
        print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
    """
    ran = python(sandbox, program)
    assert (ran.exit_code, ran.stdout) == (-31, b"")  # SIGSYS


def test_nothing_of_the_starter_is_inherited(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", SECRET)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    program = """
        import json, os, signal
        def is_open(number):
            try:
                os.fstat(number)
            except OSError:
                return False
            return True
        print(json.dumps({
            "files": [n for n in range(3000) if is_open(n)],
            "environ": dict(os.environ),
            "place": os.getcwd(),
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "leads": os.getsid(0) == os.getpid(),
            "umask": os.umask(0),
        }))
    """
    try:
        told = json.loads(python(sandbox, program, environ={"GREETING": "hello"}).stdout)
    finally:
        os.close(reading)
        os.close(writing)
    home = told["place"]
    assert told == {
        "files": [0, 1, 2],
        "environ": {
            "GREETING": "hello",
            "HOME": home,
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "TMPDIR": home,
        },
        "place": home,
        "blocked": [],
        "leads": True,
        "umask": 0o077,
    }
    assert not Path(home).exists()


# ---- what must be possible ---------------------------------------------------------------------------------


def test_a_program_reads_its_input_and_tells_its_output_its_errors_and_how_it_ended(sandbox: Sandbox) -> None:
    large = os.urandom(400_000)
    echoed = run(sandbox, ["cat"], stdin=large)
    assert (echoed.stdout, echoed.stderr, echoed.exit_code, echoed.reached) == (large, b"", 0, None)
    failed = run(sandbox, ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (failed.stdout, failed.stderr, failed.exit_code, failed.reached) == (b"out\n", b"err\n", 7, None)
    assert run(sandbox, ["sh", "-c", "kill -9 $$"]).exit_code == -9


def test_a_program_may_keep_files_in_its_scratch_folder_and_in_what_it_was_given(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "read.txt").write_text("read")
    program = """
        import os, shutil, subprocess, sys, tempfile
        from pathlib import Path
        subprocess.run(["touch", "new", "new"], check=True)
        subprocess.run(["cp", "-a", "new", "newer"], check=True)
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x")
        os.makedirs("a/b")
        shutil.copy(sys.argv[1], "a/b/copy")
        Path("a/b/touched").touch()
        assert os.path.exists("a/b/touched")
        os.symlink("copy", "a/b/link")
        os.rename("a", "c")
        shutil.copytree("c", sys.argv[2] + "/tree")
        print(open("c/b/link").read())
    """
    read = tmp_path / "read.txt"
    ran = python(sandbox, program, str(read), str(kept), reads=[read], writes=[kept])
    assert (ran.stdout, ran.stderr) == (b"read\n", b"")
    assert (kept / "tree" / "b" / "copy").read_text() == "read"


def test_programs_may_start_and_end_programs_of_their_own(sandbox: Sandbox) -> None:
    program = """
        import asyncio, os, signal, subprocess, sys, threading
        child = subprocess.Popen(["sleep", "1000"])
        child.terminate()
        print(child.wait())
        os.kill(0, 0)
        results = []
        threads = [threading.Thread(target=results.append, args=(n,)) for n in range(10)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(len(results))
        async def told():
            process = await asyncio.create_subprocess_exec("echo", "hello", stdout=-1)
            return (await process.communicate())[0]
        print(asyncio.run(told()))
        signal.raise_signal(signal.SIGCHLD)
        sys.stdout.flush()
        os.abort()
    """
    ran = python(sandbox, program)
    assert ran.stdout == b"-15\n10\nb'hello\\n'\n", ran.stderr
    assert ran.exit_code == -6
    piped = run(sandbox, ["sh", "-c", "for i in 3 1 2; do echo $i | cat; done | sort | tr -d '\\n'"])
    assert (piped.stdout, piped.stderr) == (b"123", b"")


def test_the_standard_library_works(sandbox: Sandbox) -> None:
    program = """
        import ctypes, csv, datetime, decimal, hashlib, json, re, secrets, sqlite3, ssl, statistics, uuid, zoneinfo
        database = sqlite3.connect("numbers.db")
        database.execute("create table numbers (n)")
        database.commit()
        print(hashlib.sha256(b"").hexdigest()[:8], uuid.uuid4().version, secrets.randbits(1) in (0, 1))
    """
    ran = python(sandbox, program)
    assert (ran.stdout, ran.stderr) == (b"e3b0c442 4 True\n", b"")


@pytest.mark.parametrize(
    ("argv", "error_class"),
    [
        (["no-such-program"], "missing"),
        (["/no/such/program"], "missing"),
        (["/etc/passwd"], "denied"),
        (["echo", "a\0b"], "failed"),
        (["echo", "\ud800"], "failed"),
    ],
)
def test_a_program_that_cannot_be_started_is_told(sandbox: Sandbox, argv: list[str], error_class: str) -> None:
    with pytest.raises(ToolError) as caught:
        run(sandbox, argv)
    assert (caught.value.code, caught.value.error_class) == ("T-603", error_class)


def test_a_sandbox_that_cannot_be_set_up_runs_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    for options in ({"reads": [tmp_path / "gone"]}, {"cwd": tmp_path / "gone"}):
        with pytest.raises(ToolError) as caught:
            run(sandbox, ["echo"], **options)
        assert (caught.value.code, caught.value.error_class) == ("T-602", "unavailable")
