from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.labels import Json
from planner.errors import ToolError
from planner.tools import Toolbox, ToolContext

BOX = Toolbox.load(Path(__file__).parent.parent / "tools", only=["files.*"])


class Desk:
    """A workspace with what was kept for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept: dict[str, bytes | None] = {}
        self.context = ToolContext(root, "key", self.keep, lambda name: self.kept[name])

    def keep(self, name: str, content: bytes | None) -> None:
        self.kept.setdefault(name, content)

    def put(self, name: str, content: str | bytes = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def call(self, name: str, **arguments: Json) -> Any:
        return asyncio.run(BOX.call(f"files.{name}", arguments, self.context))

    def probe(self, name: str, **arguments: Json) -> bool | None:
        return asyncio.run(BOX.probe(f"files.{name}", arguments, self.context))

    def undo(self, name: str, **arguments: Json) -> None:
        asyncio.run(BOX.undo(f"files.{name}", arguments, self.context))

    def refused(self, name: str, **arguments: Json) -> ToolError:
        with pytest.raises(ToolError) as caught:
            self.call(name, **arguments)
        return caught.value

    def files(self) -> dict[str, bytes]:
        """Every file there is, hidden ones too."""
        paths = (path for path in self.root.rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    return Desk(tmp_path / "workspace")


# list


def test_list_gives_the_files_of_a_folder_sorted_without_folders_and_hidden_files(desk: Desk) -> None:
    for name in ("b.txt", "a.md", ".hidden", "docs/c.txt", "docs/.git/d.txt"):
        desk.put(name)
    assert desk.call("list") == ["a.md", "b.txt"]
    assert desk.call("list", folder="DOCS") == ["docs/c.txt"]


def test_list_matches_a_pattern_without_regard_to_case_and_looks_deeper_for_two_stars(desk: Desk) -> None:
    for name in ("a.txt", "B.TXT", "c.md", "docs/d.txt", "docs/deep/e.txt", ".x/f.txt"):
        desk.put(name)
    assert desk.call("list", pattern="*.txt") == ["B.TXT", "a.txt"]
    assert desk.call("list", pattern="**/*.txt") == ["B.TXT", "a.txt", "docs/d.txt", "docs/deep/e.txt"]
    assert desk.call("list", pattern="docs/*.txt") == ["docs/d.txt"]
    assert desk.call("list", folder="docs", pattern="**") == ["docs/d.txt", "docs/deep/e.txt"]
    assert desk.call("list", pattern="?.m[d]") == []
    assert desk.call("list", pattern="../*") == []


def test_list_leaves_out_links_special_files_and_names_of_two_lines(desk: Desk) -> None:
    desk.put("a.txt")
    desk.put("two\nlines.txt")
    (desk.root / "link.txt").symlink_to(desk.root.parent / "secret.txt")
    os.mkfifo(desk.root / "pipe.txt")
    assert desk.call("list") == ["a.txt"]


def test_a_hostile_pattern_takes_no_time(desk: Desk) -> None:
    desk.put("a" * 200)
    assert desk.call("list", pattern="*a" * 100 + "b") == []


# read


def test_read_gives_the_text_of_a_file(desk: Desk) -> None:
    desk.put("notes/a.txt", "é\r\nb")
    assert desk.call("read", path="notes/a.txt") == "é\r\nb"
    assert desk.call("read", path="./notes/../notes/a.txt") == "é\r\nb"
    assert desk.call("read", path=str(desk.root / "notes" / "a.txt")) == "é\r\nb"


def test_a_name_is_found_without_regard_to_case_if_only_one_fits(desk: Desk) -> None:
    desk.put("Notes/Été.TXT", "x")
    assert desk.call("read", path="notes/été.txt") == "x"
    desk.put("Notes/ÉTÉ.txt", "y")
    assert desk.call("read", path="Notes/ÉTÉ.txt") == "y"
    if len(desk.files()) == 2:  # a file system that tells them apart
        assert desk.refused("read", path="notes/été.txt").error_class == "missing"


def test_a_missing_file_is_refused_with_the_nearest_names(desk: Desk) -> None:
    desk.put("reports/report-2026.txt")
    desk.put("other.bin")
    error = desk.refused("read", path="report.txt")
    assert (error.code, error.error_class) == ("T-302", "missing")
    assert error.choices == ("reports/report-2026.txt",)
    assert "`reports/report-2026.txt`" in str(error)
    assert desk.refused("read", path="zzz").choices == ()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbfa", "a"),
        ("a€".encode("utf-16"), "a€"),
        (b"caf\xe9 5\x80", "café 5€"),
        (b"", ""),
    ],
)
def test_text_is_read_in_the_encoding_it_has(desk: Desk, content: bytes, text: str) -> None:
    desk.put("a.txt", content)
    assert desk.call("read", path="a.txt") == text


@pytest.mark.parametrize("content", [b"a\x00b", b"\xff\xfe\x00", b"\x81\x8d", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_text_is_refused(desk: Desk, content: bytes) -> None:
    desk.put("a.bin", content)
    assert desk.refused("read", path="a.bin").code == "T-304"


def test_a_file_that_is_too_large_is_refused_with_its_size(desk: Desk) -> None:
    desk.put("a.txt", b"x" * 5_000_001)
    error = desk.refused("read", path="a.txt")
    assert (error.code, error.error_class) == ("T-305", "limit")
    assert "5,000,001 bytes" in error.message


def test_a_folder_given_for_a_file_lists_its_files(desk: Desk) -> None:
    desk.put("docs/a.txt")
    for path in ("docs", "."):
        error = desk.refused("read", path=path)
        assert error.code == "T-303"
        assert error.choices == (("docs/a.txt",) if path == "docs" else ())


def test_a_file_given_for_a_folder_is_refused(desk: Desk) -> None:
    desk.put("docs/a.txt")
    assert desk.refused("list", folder="docs/a.txt").choices == ("docs",)
    assert desk.refused("list", folder="dcos").choices == ("docs",)
    assert desk.refused("read", path="a.txt/b.txt").error_class == "missing"


@pytest.mark.skipif(sys.platform == "darwin", reason="socket paths are too long there")
def test_pipes_sockets_and_devices_are_never_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(desk.root / "pipe")
    assert desk.refused("read", path="pipe").code == "T-303"
    monkeypatch.chdir(desk.root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert isinstance(desk.refused("read", path="socket"), ToolError)


# the way out


WAYS_OUT = ["../secret.txt", "notes/../../secret.txt", "/etc/hostname", "link.txt", "folder/secret.txt", "~/../../.."]


@pytest.fixture
def leaky(desk: Desk) -> Desk:
    desk.put("notes/a.txt", "a")
    (desk.root / "link.txt").symlink_to("../secret.txt")
    (desk.root / "folder").symlink_to(desk.root.parent)
    return desk


@pytest.mark.parametrize("way", WAYS_OUT)
def test_nothing_outside_the_workspace_is_touched(leaky: Desk, way: str) -> None:
    refusals = [
        leaky.refused("read", path=way),
        leaky.refused("write", path=way, text="x"),
        leaky.refused("append", path=way, text="x"),
        leaky.refused("move", source=way, target="b.txt"),
        leaky.refused("move", source="notes/a.txt", target=way),
        leaky.refused("list", folder=way),
        leaky.refused("search", text="secret", folder=way),
    ]
    assert {error.error_class for error in refusals} <= {"denied", "missing"}
    assert (leaky.root.parent / "secret.txt").read_text() == "secret"
    assert [path.name for path in leaky.root.parent.iterdir() if path.name != "workspace"] == ["secret.txt"]


def test_a_link_inside_the_workspace_is_followed_and_its_target_changed(desk: Desk) -> None:
    desk.put("real/a.txt", "old")
    (desk.root / "link").symlink_to("real")
    assert desk.call("read", path="link/a.txt") == "old"
    assert desk.call("write", path="link/a.txt", text="new") == "real/a.txt"
    assert (desk.root / "real" / "a.txt").read_text() == "new"
    assert (desk.root / "link").is_symlink()


def test_a_folder_swapped_for_a_link_after_its_name_was_resolved_leads_nowhere(desk: Desk) -> None:
    desk.put("notes/a.txt", "a")
    workspace = sys.modules[f"{BOX.tools['files.read'].function.__module__.rpartition('.')[0]}._workspace"]
    place = workspace.placed(desk.root, "notes/secret.txt")
    (desk.root / "notes").rename(desk.root / "old")
    (desk.root / "notes").symlink_to(desk.root.parent)
    for attempt in (workspace.read, workspace.remove, lambda r, p: workspace.replace(r, p, b"x")):
        with pytest.raises(ToolError) as caught:
            attempt(desk.root, place)
        assert caught.value.error_class == "conflict"
    assert (desk.root.parent / "secret.txt").read_text() == "secret"


def test_git_folders_are_not_changed(desk: Desk) -> None:
    desk.put(".git/config", "x")
    assert desk.refused("write", path=".git/hooks/pre-commit", text="x").error_class == "denied"
    assert desk.refused("move", source=".git/config", target="a").error_class == "denied"
    assert desk.call("write", path=".gitignore", text="x") == ".gitignore"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["..", ".", "", "notes", "link.txt", "folder", "secret.txt", "/", "a.txt"]), max_size=6)
)
def test_no_path_whatever_reads_the_secret(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    desk = Desk(tmp_path_factory.mktemp("root") / "workspace")
    desk.put("notes/a.txt", "a")
    (desk.root.parent / "secret.txt").write_text("secret")
    (desk.root / "folder").symlink_to(desk.root.parent)
    (desk.root / "link.txt").symlink_to("../secret.txt")
    try:
        assert desk.call("read", path="/".join(parts) or ".") == "a"
    except ToolError:
        return


# write and append


def test_write_creates_folders_and_keeps_what_was_there(desk: Desk) -> None:
    assert desk.call("write", path="a/b/c.txt", text="one\n") == "a/b/c.txt"
    assert desk.kept == {"a/b/c.txt": None}
    desk.kept.clear()
    desk.call("write", path="a/b/c.txt", text="two")
    assert desk.kept == {"a/b/c.txt": b"one\n"}
    assert desk.files() == {"a/b/c.txt": b"two"}


def test_values_are_written_as_natural_text(desk: Desk) -> None:
    desk.call("write", path="list.txt", text=["a", 1])
    desk.call("write", path="record.json", text={"a": [1]})
    assert desk.files() == {"list.txt": b"a\n1", "record.json": b'{"a":[1]}'}


def test_write_takes_a_new_name_as_it_is(desk: Desk) -> None:
    desk.put("readme.md", "x")
    assert desk.call("write", path="CHANGES.md", text="y") == "CHANGES.md"
    assert set(desk.files()) == {"readme.md", "CHANGES.md"}


def test_a_file_keeps_its_permissions_and_a_read_only_one_is_refused(desk: Desk) -> None:
    path = desk.put("run.sh", "x")
    path.chmod(0o750)
    desk.call("write", path="run.sh", text="y")
    assert path.stat().st_mode & 0o777 == 0o750
    path.chmod(0o444)
    error = desk.refused("write", path="run.sh", text="z")
    assert error.error_class == "denied"
    assert desk.files() == {"run.sh": b"y"}


@pytest.mark.parametrize("path", ["docs", ".", "docs/a.txt/b.txt", "x" * 300])
def test_a_write_that_cannot_be_leaves_no_trace(desk: Desk, path: str) -> None:
    desk.put("docs/a.txt", "a")
    before = desk.files()
    assert isinstance(desk.refused("write", path=path, text="x"), ToolError)
    assert isinstance(desk.refused("append", path=path, text="x"), ToolError)
    assert desk.files() == before


def test_a_file_too_large_to_keep_is_not_overwritten(desk: Desk) -> None:
    desk.put("big.txt", b"x" * 5_000_001)
    assert desk.refused("write", path="big.txt", text="x").error_class == "limit"
    assert desk.kept == {}


def test_a_write_for_which_there_is_no_room_leaves_everything_as_it_was(desk: Desk) -> None:
    desk.put("a.txt", "old")
    child = """
import asyncio, resource, sys
from pathlib import Path
from planner.errors import ToolError
from planner.tools import Toolbox, ToolContext
box = Toolbox.load(Path(sys.argv[1]), only=["files.write"])
context = ToolContext(Path(sys.argv[2]), "key", lambda name, content: None, lambda name: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    asyncio.run(box.call("files.write", {"path": "a.txt", "text": "x" * 5000}, context))
except ToolError as error:
    print(error.error_class)
"""
    tools = Path(__file__).parent.parent / "tools"
    command = [sys.executable, "-c", child, str(tools), str(desk.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "limit"
    assert desk.files() == {"a.txt": b"old"}


def test_append_begins_a_line_of_its_own(desk: Desk) -> None:
    for text in ("one", "two\n", "three"):
        desk.call("append", path="log.txt", text=text)
    assert desk.files() == {"log.txt": b"one\ntwo\nthree"}
    assert desk.kept == {"log.txt": None}


def test_append_does_not_mix_encodings(desk: Desk) -> None:
    desk.put("old.txt", b"caf\xe9")
    assert desk.refused("append", path="old.txt", text="é").code == "T-304"
    assert desk.files() == {"old.txt": b"caf\xe9"}


def test_an_append_in_doubt_is_probed_by_what_was_kept(desk: Desk) -> None:
    desk.put("log.txt", "one")
    arguments: dict[str, Json] = {"path": "log.txt", "text": "two"}
    assert desk.probe("append", **arguments) is False
    desk.kept["log.txt"] = b"one"
    assert desk.probe("append", **arguments) is False
    desk.call("append", **arguments)
    assert desk.probe("append", **arguments) is True
    desk.put("log.txt", "somebody else")
    assert desk.probe("append", **arguments) is None


@pytest.mark.parametrize("name", ["write", "append"])
@pytest.mark.parametrize("earlier", [None, "before\n"])
def test_what_was_written_can_be_undone_unless_it_was_changed_since(
    desk: Desk, name: str, earlier: str | None
) -> None:
    if earlier is not None:
        desk.put("a.txt", earlier)
    before = desk.files()
    arguments: dict[str, Json] = {"path": "a.txt", "text": "new"}
    desk.undo(name, **arguments)  # nothing was begun
    assert desk.files() == before
    desk.call(name, **arguments)
    assert desk.files() != before
    desk.undo(name, **arguments)
    desk.undo(name, **arguments)
    assert desk.files() == before
    desk.call(name, **arguments)
    desk.put("a.txt", "changed")
    with pytest.raises(ToolError, match="changed after"):
        desk.undo(name, **arguments)
    assert desk.files() == {"a.txt": b"changed"}


# search


def test_search_finds_lines_in_all_text_files_below_a_folder(desk: Desk) -> None:
    desk.put("a.txt", "one\n  Needle here\n")
    desk.put("docs/b.md", "NEEDLE " + "x" * 1_000)
    desk.put("docs/c.bin", b"needle\x00")
    desk.put(".hidden", "needle")
    hits = desk.call("search", text="needle")
    assert [(hit["path"], hit["line"]) for hit in hits] == [("a.txt", 2), ("docs/b.md", 1)]
    assert hits[0]["text"] == "Needle here"
    assert len(hits[1]["text"]) == 300
    assert len(desk.call("search", text="needle", folder="docs")) == 1
    assert len(desk.call("search", text="needle", folder="A.txt")) == 1
    assert desk.call("search", text="haystack") == []


def test_a_search_for_nothing_or_for_too_much_is_refused(desk: Desk) -> None:
    desk.put("a.txt", "a\n" * 2_000)
    assert desk.refused("search", text=" ").error_class == "invalid"
    assert desk.refused("search", text="a").error_class == "limit"


# move


def test_move_renames_a_file_and_creates_folders(desk: Desk) -> None:
    desk.put("a.txt", "x")
    assert desk.probe("move", source="a.txt", target="done/b.txt") is False
    assert desk.call("move", source="A.TXT", target="done/b.txt") == "done/b.txt"
    assert desk.files() == {"done/b.txt": b"x"}
    assert desk.probe("move", source="a.txt", target="done/b.txt") is True
    assert desk.probe("move", source="a.txt", target="c.txt") is None
    desk.undo("move", source="a.txt", target="done/b.txt")
    assert desk.files() == {"a.txt": b"x"}


def test_move_never_overwrites_and_moves_no_folders(desk: Desk) -> None:
    desk.put("a.txt", "a")
    desk.put("b.txt", "b")
    desk.put("docs/c.txt", "c")
    before = desk.files()
    assert desk.refused("move", source="a.txt", target="b.txt").error_class == "conflict"
    assert desk.refused("move", source="a.txt", target="docs").choices == ("docs/a.txt",)
    assert desk.refused("move", source="docs", target="new").code == "T-303"
    assert desk.refused("move", source="none.txt", target="new").error_class == "missing"
    assert desk.files() == before


# the catalogue


def test_every_tool_is_summed_up_in_a_dozen_words_and_no_two_alike() -> None:
    catalogue = Toolbox.load(Path(__file__).parent.parent / "tools").catalogue
    summaries = [callee.summary for callee in catalogue.values()]
    assert all(len(summary.split()) <= 12 for summary in summaries)
    assert len(set(summaries)) == len(summaries)
    assert all(len(callee.parameters) <= 4 for callee in catalogue.values())


def test_every_effect_can_be_settled_when_in_doubt_and_undone() -> None:
    for callee in BOX.catalogue.values():
        declaration = callee.declaration
        if not callee.is_reading:
            assert declaration.reversible
            assert declaration.on_doubt in {"idempotent", "probe"}
            assert all(declaration.control.get(p.name) for p in callee.parameters if p.type == "path")
