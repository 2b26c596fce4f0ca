import array
import asyncio
import json
import math
import os
import random
import resource
import signal
import stat
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from planner.errors import ModelError
from planner.llm import local, weights
from planner.llm.local import Endpoint, private_server, shared_server, status, stop

YES_OR_NO = (
    '%llguidance {}\nstart: %json {"x-guidance": {"whitespace_flexible": false}, "type": "object",'
    ' "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false}'
)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def string(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def many(key: str, kind: int, items: list[bytes]) -> bytes:
    return text(key) + struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


def tiny_model(path: Path) -> Path:
    """A real model of 70 kB that llama.cpp loads in no time: one layer, random weights, a byte a token."""
    width = 32
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    tokens = [chr(b if b in shown else 256 + hidden.index(b)) for b in range(256)] + ["th", "<end>"]
    facts = [
        string("general.architecture", "llama"),
        number("llama.context_length", 512),
        number("llama.embedding_length", width),
        number("llama.block_count", 1),
        number("llama.feed_forward_length", width),
        number("llama.attention.head_count", 1),
        text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5),
        string("tokenizer.ggml.model", "gpt2"),
        string("tokenizer.ggml.pre", "gpt-2"),
        many("tokenizer.ggml.tokens", 8, [text(token) for token in tokens]),
        many("tokenizer.ggml.token_type", 5, [struct.pack("<i", 1 + 2 * (t == "<end>")) for t in tokens]),
        many("tokenizer.ggml.merges", 8, [text("t h")]),
        number("tokenizer.ggml.eos_token_id", 257),
        string("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ]
    square, line = (width, width), (width,)
    shapes = {"token_embd": (width, len(tokens)), "output_norm": line}
    shapes |= {f"blk.0.{name}": line for name in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.attn_{name}": square for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{name}": square for name in ("gate", "up", "down")}
    index, data, dice = b"", b"", random.Random(0)
    for name, shape in shapes.items():
        index += text(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += array.array("f", [dice.uniform(-1, 1) for _ in range(math.prod(shape))]).tobytes()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(facts)) + b"".join(facts) + index
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "runtime"
    yield folder
    asyncio.run(stop(runtime=folder))


def chat(endpoint: Endpoint, content: str = "hi", *, key: str | None = None, **more: object) -> Any:
    request = urllib.request.Request(
        f"{endpoint.api_base}/chat/completions",
        json.dumps({"messages": [{"role": "user", "content": content}], "temperature": 0, **more}).encode(),
        {"Authorization": f"Bearer {key or endpoint.api_key}", "Content-Type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as answer:
        return json.load(answer)


def ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return ps("-o", "stat=", "-p", str(pid)).strip()[:1] not in ("", "Z")


def until(is_so: Callable[[], bool], *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"waited {seconds} s for nothing"
        time.sleep(0.02)


ELSEWHERE = """
import asyncio, sys
from pathlib import Path
from planner.llm.local import private_server, shared_server
async def shared(path, runtime):
    print((await shared_server(path, runtime=runtime)).model_dump_json(), flush=True)
async def private(path, runtime):
    async with private_server(path, runtime=runtime) as endpoint:
        print(endpoint.model_dump_json(), flush=True)
        await asyncio.sleep(60)
asyncio.run({"shared": shared, "private": private}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3])))
"""


@asynccontextmanager
async def elsewhere(
    kind: str, path: Path, runtime: Path, *, memory_bytes: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that uses a server."""
    root = str(Path(__file__).parent.parent)

    def limit() -> None:
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ELSEWHERE, kind, str(path), str(runtime)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
        preexec_fn=limit,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(process: asyncio.subprocess.Process) -> Endpoint:
    assert process.stdout
    return Endpoint.model_validate_json(await process.stdout.readline())


def test_a_private_server_writes_what_a_grammar_allows(model: Path, runtime: Path) -> None:
    async def go() -> None:
        async with private_server(model, runtime=runtime) as endpoint:
            assert endpoint.api_base.startswith("http://127.0.0.1:")
            answer = await asyncio.to_thread(chat, endpoint, grammar=YES_OR_NO)
            assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"ok"}
            assert answer["model"] == endpoint.alias == "tiny"

    asyncio.run(go())


def test_a_server_serves_only_whoever_has_its_key(model: Path, runtime: Path) -> None:
    async def go() -> None:
        async with private_server(model, runtime=runtime) as endpoint:
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                await asyncio.to_thread(chat, endpoint, key="guessed")
            refused.value.close()
            assert endpoint.api_key not in repr(endpoint)
            shown = await asyncio.to_thread(ps, "eww", "-p", str(endpoint.pid))  # arguments and environment
            assert "_child.py" in shown
            assert endpoint.api_key not in shown

    asyncio.run(go())


def test_a_private_server_ends_with_its_block_and_leaves_nothing(model: Path, runtime: Path) -> None:
    async def go() -> int:
        async with private_server(model, runtime=runtime) as endpoint:
            assert is_running(endpoint.pid)
            return endpoint.pid

    pid = asyncio.run(go())
    assert not is_running(pid)
    assert list(runtime.iterdir()) == []


def test_a_private_server_ends_when_its_owner_is_killed(model: Path, runtime: Path) -> None:
    async def go() -> int:
        async with elsewhere("private", model, runtime) as owner:
            endpoint = await told(owner)
            assert is_running(endpoint.pid)
            owner.send_signal(signal.SIGKILL)
            return endpoint.pid

    pid = asyncio.run(go())
    until(lambda: not is_running(pid))


def test_a_shared_server_outlives_its_starter_and_serves_the_next(model: Path, runtime: Path) -> None:
    async def go() -> None:
        async with elsewhere("shared", model, runtime) as starter:
            first = await told(starter)
            assert await starter.wait() == 0
        second = await shared_server(model, runtime=runtime)
        assert second == first
        assert await status(runtime=runtime) == (first,)
        assert (await asyncio.to_thread(chat, second, grammar=YES_OR_NO))["model"] == "tiny"

    asyncio.run(go())
    (record,) = runtime.glob("*.json")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


def test_starters_at_once_get_one_server(model: Path, runtime: Path) -> None:
    async def go() -> set[int]:
        async with elsewhere("shared", model, runtime) as one, elsewhere("shared", model, runtime) as two:
            mine = await shared_server(model, runtime=runtime)
            return {mine.pid, (await told(one)).pid, (await told(two)).pid}

    assert len(asyncio.run(go())) == 1


def test_files_of_one_name_are_two_models(model: Path, runtime: Path) -> None:
    (model.parent / "other").mkdir()
    other = tiny_model(model.parent / "other" / model.name)

    async def go() -> None:
        one = await shared_server(model, runtime=runtime)
        two = await shared_server(other, runtime=runtime)
        assert one.pid != two.pid
        assert one.alias == two.alias

    asyncio.run(go())


def test_a_dead_shared_server_is_replaced(model: Path, runtime: Path) -> None:
    async def go() -> None:
        first = await shared_server(model, runtime=runtime)
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: not is_running(first.pid))
        assert await status(runtime=runtime) == ()
        second = await shared_server(model, runtime=runtime)
        assert second.pid != first.pid
        assert await status(runtime=runtime) == (second,)

    asyncio.run(go())


def test_stopping_ends_the_shared_servers_and_names_them(model: Path, runtime: Path) -> None:
    async def go() -> None:
        endpoint = await shared_server(model, runtime=runtime)
        assert await stop(runtime=runtime) == (endpoint,)
        until(lambda: not is_running(endpoint.pid))
        assert await status(runtime=runtime) == ()
        assert await stop(runtime=runtime) == ()

    asyncio.run(go())


def test_a_shared_server_leaves_when_it_has_been_idle(model: Path, runtime: Path) -> None:
    async def used(endpoint: Endpoint, turn: int) -> None:
        """Work keeps it, and so does asking for its address."""
        if turn < 5:
            await asyncio.to_thread(chat, endpoint, max_tokens=4)
        else:
            assert await shared_server(model, runtime=runtime) == endpoint

    async def is_kept(idle_s: float) -> bool:
        """Whether a server that is used all the time stays; False if a busy machine left it idle for too long."""
        endpoint = await shared_server(model, runtime=runtime, idle_s=idle_s)
        last = next_ = time.monotonic()
        for turn in range(10):
            await asyncio.sleep(idle_s / 3)
            last, next_ = next_, time.monotonic()
            try:
                await used(endpoint, turn)
            except (AssertionError, OSError):
                assert time.monotonic() - last > 0.8 * idle_s, "it left while it was used"
                await stop(runtime=runtime)
                return False
        until(lambda: not is_running(endpoint.pid))
        return True

    assert any(asyncio.run(is_kept(idle_s)) for idle_s in (1.5, 6.0, 24.0))
    assert list(runtime.glob("*.json")) == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (b"", "it is not a GGUF file"),
        (b"PK\x03\x04", "it is not a GGUF file"),
        (b"GGUF" + bytes(100), "llama.cpp says"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_unreadable_weights_are_named_with_the_reason(
    tmp_path: Path, runtime: Path, content: bytes | None, complaint: str, shared: bool
) -> None:
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)

    async def go() -> None:
        if shared:
            await shared_server(path, runtime=runtime)
        else:
            async with private_server(path, runtime=runtime):
                pytest.fail("it serves")

    with pytest.raises(ModelError, match=rf"M-303.*broken.gguf.*{complaint}"):
        asyncio.run(go())
    assert list(runtime.glob("*.json")) == []


def test_a_private_server_that_is_not_ready_in_time_is_ended(
    model: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "READY_S", 0.01)

    async def go() -> None:
        async with private_server(model, runtime=runtime):
            pytest.fail("it serves")

    with pytest.raises(ModelError, match=r"M-306.*`tiny`"):
        asyncio.run(go())
    processes = [line.split(maxsplit=1) for line in ps("-eo", "ppid=,args=").splitlines()]
    assert not [args for parent, args in processes if int(parent) == os.getpid() and "_child.py" in args]


def test_a_shared_server_that_is_ready_too_late_serves_the_next(
    model: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(local, "READY_S", 0.01)
        with pytest.raises(ModelError, match=r"M-306"):
            asyncio.run(shared_server(model, runtime=runtime))
    until(lambda: bool(asyncio.run(status(runtime=runtime))))
    (late,) = asyncio.run(status(runtime=runtime))
    assert asyncio.run(shared_server(model, runtime=runtime)) == late


def test_without_llama_cpp_the_error_says_what_to_install(
    model: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelError, match=r"M-301.*pip install xllamacpp"):
        asyncio.run(shared_server(model, runtime=runtime))


@pytest.mark.parametrize(
    ("code", "log", "expected"),
    [
        (-signal.SIGILL, "", "M-302"),
        (128 + signal.SIGILL, "", "M-302"),
        (-signal.SIGKILL, "", "M-304"),
        (1, "unable to allocate: failed to allocate buffer of size 9\nfailed to load model", "M-304"),
        (1, "failed to load model", "M-303"),
        (1, "something else", "M-305"),
    ],
)
def test_a_death_at_the_start_is_explained_by_exit_code_and_log(
    model: Path, tmp_path: Path, code: int, log: str, expected: str
) -> None:
    file = tmp_path / "log"
    file.write_text(log)
    assert local._died(model, code=code, log=file).code == expected


def test_a_folder_that_others_may_write_to_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ModelError, match=r"M-307.*0700"):
        asyncio.run(shared_server(model, runtime=folder))


def test_the_runtime_folder_is_the_sessions_or_else_a_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert local.default_runtime() == Path("/run/user/7/planner")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert local.default_runtime().name == f"planner-{os.getuid()}"


def test_threads_are_at_most_the_processors_that_may_be_used() -> None:
    assert 1 <= local._cores() <= (os.cpu_count() or 1)


@pytest.fixture
def real() -> Path:
    named = os.environ.get("PLANNER_TEST_WEIGHTS")
    path = Path(named) if named else weights.find(weights.known()[0].alias)
    if not path:
        pytest.skip("the weights of the local model are not here: `planner models pull`")
    return path


@pytest.mark.live
def test_the_default_model_answers_and_reuses_the_prefix_of_an_earlier_prompt(real: Path, runtime: Path) -> None:
    async def go() -> None:
        async with private_server(real, runtime=runtime) as endpoint:
            rules = "Is the statement about numbers true? Answer as JSON. " * 4
            for question in ("Two is even.", "Three is even."):
                answer = await asyncio.to_thread(chat, endpoint, rules + question, grammar=YES_OR_NO)
                assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"ok"}
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 40

    asyncio.run(go())


@pytest.mark.live
def test_the_default_model_is_stopped_even_while_it_reads_a_long_prompt(real: Path, runtime: Path) -> None:
    async def go() -> None:
        endpoint = await shared_server(real, runtime=runtime)
        reading = asyncio.create_task(asyncio.to_thread(chat, endpoint, "word " * 4000))
        await asyncio.sleep(1)
        assert await status(runtime=runtime) == (endpoint,)
        assert await stop(runtime=runtime) == (endpoint,)
        until(lambda: not is_running(endpoint.pid))
        with pytest.raises((OSError, HTTPException)):
            await reading

    asyncio.run(go())


@pytest.mark.live
def test_too_little_memory_for_the_default_model_is_said_so(real: Path, runtime: Path) -> None:
    async def go() -> str:
        async with elsewhere("private", real, runtime, memory_bytes=1_500_000_000) as owner:
            _, complaint = await owner.communicate()
            return complaint.decode()

    assert "M-304" in asyncio.run(go())
