from __future__ import annotations

import asyncio
import gzip
import importlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import ToolError
from planner.tools import Toolbox, ToolContext

BOX = Toolbox.load(Path(__file__).parent.parent / "tools", only=["web.*"])
PACKAGE = BOX.tools["web.fetch"].function.__module__.rpartition(".")[0]
HTTP: Any = importlib.import_module(f"{PACKAGE}._http")
HTML: Any = importlib.import_module(f"{PACKAGE}._html")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def fetch(url: str) -> Any:
    context = ToolContext(Path(), "key", lambda _name, _content: None, lambda _name: None)
    return asyncio.run(BOX.call("web.fetch", {"url": url}, context))


def anywhere(_address: object, _port: int) -> bool:
    return True


async def serving(handler: Handler) -> tuple[web.ServerRunner, int]:
    """A server on loopback that answers every request with `handler`, and its port."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]


def visit(handler: Handler, path: str = "/", **options: Any) -> Any:
    """The page that a server on loopback answers with, where every address is allowed unless told."""

    async def both() -> Any:
        runner, port = await serving(handler)
        try:
            return await HTTP.download(f"http://127.0.0.1:{port}{path}", **{"allowed": anywhere, **options})
        finally:
            await runner.cleanup()

    return asyncio.run(both())


def refused(handler: Handler, path: str = "/", **options: Any) -> ToolError:
    with pytest.raises(ToolError) as caught:
        visit(handler, path, **options)
    return caught.value


def answering(text: str | None = None, **options: Any) -> Handler:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=text, **options)

    return handler


# where it goes


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
        "2001:db8::1",
    ],
)
def test_an_address_that_is_not_of_the_public_web_is_refused(address: str) -> None:
    assert not HTTP.is_public(ip_address(address), 443)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_a_public_address_is_allowed_on_the_ports_of_the_web_only(address: str) -> None:
    assert HTTP.is_public(ip_address(address), 443)
    assert HTTP.is_public(ip_address(address), 80)
    assert not HTTP.is_public(ip_address(address), 22)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "https://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
def test_the_tool_refuses_this_machine_and_its_network(url: str) -> None:
    with pytest.raises(ToolError) as caught:
        fetch(url)
    assert caught.value.code in {"T-502", "T-503"}


def test_a_refused_server_never_sees_a_connection() -> None:
    seen: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        return web.Response()

    assert refused(handler, allowed=HTTP.is_public).error_class == "denied"
    assert seen == []


@pytest.mark.parametrize("location", ["http://169.254.169.254/", "http://localhost:1/", "//10.0.0.1/x"])
def test_a_redirect_to_a_private_address_is_refused(location: str) -> None:
    def first_only(address: object, _port: int) -> bool:
        return address == IPv4Address("127.0.0.1") and _port != 1

    error = refused(answering(status=302, headers={"Location": location}), allowed=first_only)
    assert (error.code, error.error_class) == ("T-502", "denied")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "javascript:alert(1)", "http://[broken", "ftp://x.org/"])
def test_a_redirect_to_something_else_than_the_web_is_refused(location: str) -> None:
    assert refused(answering(status=307, headers={"Location": location})).code == "T-501"


def test_a_host_with_one_private_address_among_public_ones_is_refused() -> None:
    async def lookup(_host: str, _port: int) -> list[Any]:
        return [IPv4Address("1.1.1.1"), IPv6Address("::1")]

    with pytest.raises(ToolError, match="T-502"):
        asyncio.run(HTTP.download("http://example.org/", lookup=lookup))


def test_a_name_is_looked_up_once_and_the_connection_goes_to_what_was_checked() -> None:
    looked: list[str] = []

    async def lookup(host: str, _port: int) -> list[Any]:
        looked.append(host)
        return [ip_address("127.0.0.1" if len(looked) == 1 else "127.0.0.99")]

    async def both() -> Any:
        runner, port = await serving(answering("here"))
        try:
            return await HTTP.download(f"http://rebinding.example:{port}/", allowed=anywhere, lookup=lookup)
        finally:
            await runner.cleanup()

    assert asyncio.run(both()).text == "here"
    assert looked == ["rebinding.example"]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert visit(answering("direct")).text == "direct"


@pytest.mark.parametrize("url", ["http://user:secret@example.org/", "http://example.org:99999/", "http://:80/"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ToolError) as caught:
        fetch(url)
    assert caught.value.error_class == "invalid"
    assert "secret" not in caught.value.message


# what it answers


def test_redirects_are_followed_five_times_at_most() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        left = int(request.path.strip("/"))
        return web.Response(status=301, headers={"Location": f"/{left - 1}"}) if left else web.Response(text="end")

    page = visit(handler, "/5")
    assert page.text == "end"
    assert page.url.endswith("/0")
    assert refused(handler, "/6").code == "T-507"


@pytest.mark.parametrize(
    ("status", "error_class"),
    [(404, "missing"), (403, "denied"), (429, "unavailable"), (503, "unavailable"), (418, "failed")],
)
def test_an_error_of_the_server_has_a_class(status: int, error_class: str) -> None:
    error = refused(answering(status=status))
    assert (error.code, error.error_class) == ("T-505", error_class)


@pytest.mark.parametrize(
    ("status", "wish", "rest_s"),
    [
        (429, "120", 120),
        (503, "0", 0),
        (503, "999999", 86_400),
        (429, "Wed, 21 Oct 2015 07:28:00 GMT", 0),
        (429, "Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        (429, "-5", None),
        (429, "soon", None),
        (503, "9" * 5_000, None),
        (503, "Mon, 99999999999999999999 Jan 2020 00:00:00 GMT", None),
        (500, "120", None),
        (404, "120", None),
    ],
)
def test_a_busy_server_may_say_when_to_come_back_within_a_day(status: int, wish: str, rest_s: float | None) -> None:
    assert refused(answering(status=status, headers={"Retry-After": wish})).retry_after_s == rest_s


def test_a_busy_server_may_say_so_by_a_date_or_not_at_all() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    rest_s = refused(answering(status=503, headers={"Retry-After": date})).retry_after_s
    assert rest_s is not None
    assert 60 < rest_s <= 90
    assert refused(answering(status=503)).retry_after_s is None


@given(st.text(alphabet='0123456789 ,:+-()"GMTMonJanUTC', max_size=40) | st.text())
def test_whatever_a_server_says_is_a_time_within_a_day_or_nothing(wish: str) -> None:
    rest_s = HTTP.rest_s(wish, datetime(2026, 3, 1, tzinfo=UTC))
    assert rest_s is None or 0 <= rest_s <= 86_400


def test_a_page_too_large_is_refused_also_when_it_is_compressed() -> None:
    assert refused(answering("x" * 2_000_001)).error_class == "limit"
    bomb = gzip.compress(b"x" * 50_000_000)
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
    assert refused(answering(body=bomb, headers=headers)).code == "T-504"
    small = gzip.compress(b"klein")
    assert visit(answering(body=small, headers=headers)).text == "klein"


@pytest.mark.parametrize("kind", ["image/png", "application/pdf", "application/octet-stream"])
def test_what_is_no_text_is_refused(kind: str) -> None:
    assert refused(answering(body=b"x", content_type=kind)).code == "T-506"


@pytest.mark.parametrize("kind", ["application/json", "application/atom+xml", "text/csv", "application/xml"])
def test_text_of_other_kinds_is_given_as_it_is(kind: str) -> None:
    assert visit(answering("<a>1</a>", content_type=kind)).text == "<a>1</a>"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("é".encode(), "text/plain"),
        ("é".encode("latin-1"), "text/plain; charset=iso-8859-1"),
        ("é".encode(), "text/plain; charset=no-such"),
        (b'<meta charset="iso-8859-1">' + "é".encode("latin-1"), "text/html"),
    ],
)
def test_the_encoding_is_what_the_header_or_the_page_says(body: bytes, content_type: str) -> None:
    page = visit(answering(body=body, headers={"Content-Type": content_type}))
    assert page.text.endswith("é")


def test_a_server_that_does_not_answer_or_breaks_off_is_unavailable() -> None:
    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return web.Response()

    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport
        request.transport.close()
        return web.Response()

    errors = [refused(silent, timeout_s=0.1), refused(broken)]
    with pytest.raises(ToolError) as caught:
        asyncio.run(HTTP.download("http://127.0.0.1:1/", allowed=anywhere))
    assert {(error.code, error.error_class) for error in [*errors, caught.value]} == {("T-508", "unavailable")}


def test_a_host_that_does_not_exist_is_unavailable() -> None:
    async def lookup(_host: str, _port: int) -> list[Any]:
        raise OSError("no such name")

    with pytest.raises(ToolError, match="T-503"):
        asyncio.run(HTTP.download("http://no-such-host.example/", lookup=lookup))


def test_pages_are_made_readable_and_other_text_is_left_alone() -> None:
    text = importlib.import_module(f"{PACKAGE}.web")._text
    source = "<p>Hi &amp; bye</p>"
    assert text("text/html", source, "https://example.org/") == "Hi & bye"
    assert text("text/plain", source, "https://example.org/") == source


# pages as text


PAGE = """<!DOCTYPE html><html><head><title>The &eacute; title</title><style>p { x: "<p>" }</style>
<script>if (a < b) document.write("<p>no</p>")</script></head>
<body><h1>Head   line</h1><p>First <b>bold</b> and
<a href="/next?a=1&amp;b=2" title="a > b">a link</a>.</p><!-- <p>no</p> -->
<ul><li>one</li><li>two <a href="#top">top</a> <a href="mailto:a@b.c">mail</a></li></ul><svg/>
<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>
3 < 4 &#8364; &#99999999999; <a href='https://x.org/'>https://x.org/</a><a href="http://[x">bad</a></body></html>"""


def test_a_page_is_read_by_blocks_with_links_and_cells() -> None:
    assert HTML.readable(PAGE, "https://example.org/a/").split("\n") == [
        "The é title",
        "",
        "Head line",
        "",
        "First bold and a link (https://example.org/next?a=1&b=2).",
        "",
        "one",
        "",
        "two top mail",
        "",
        "A\tB",
        "",
        "1\t2",
        "",
        "3 < 4 € \ufffd https://x.org/bad",
    ]


@pytest.mark.parametrize(
    "unit",
    ["<!--", "<![", "</", "<a", "<script>", "<svg", "<svg/>", "<!", '<a x="', "<a '", "<a a=", "&#", "<", "a<b"],
)
def test_a_hostile_page_takes_time_linear_in_its_size(unit: str) -> None:
    source = unit * (500_000 // len(unit))
    began = time.process_time()
    HTML.readable(source, "https://example.org/")
    assert time.process_time() - began < 3
