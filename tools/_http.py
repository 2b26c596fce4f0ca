"""One page from the public web, and from nowhere else.

Rules of the file:
- A host is looked up once; all its addresses must be public; the connection goes to one of these and to no other,
  so a name that changes its address in between gains nothing. Redirects are followed by the same rules.
- Proxies and credentials of the environment are not used; no cookies are kept.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from planner.errors import ErrorClass, ToolError

MAX_BYTES = 2_000_000
MAX_REDIRECTS = 5
TIMEOUT_S = 20
PORTS = frozenset({80, 443})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
BUSY = frozenset({429, 503})
"""With these a server may say when to come back: RFC 6585 section 4, RFC 9110 section 10.2.3."""
LONGEST_REST_S = 86_400.0
"""A day; who asks for more is not believed, for a server must not be able to stop a run for good."""

Address: TypeAlias = IPv4Address | IPv6Address
Lookup: TypeAlias = Callable[[str, int], Awaitable[list[Address]]]
Allowed: TypeAlias = Callable[[Address, int], bool]

_GLOBAL = IPv6Network("2000::/3")  # the only block from which public addresses are given out (IANA)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_READABLE = re.compile(r"text/.+|application/(.+\+)?(json|xml)|application/(javascript|yaml|x-ndjson)")
_CLASSES: dict[int, ErrorClass] = {401: "denied", 403: "denied", 404: "missing", 410: "missing", 429: "unavailable"}


@dataclass(frozen=True)
class Page:
    """What a server answered, and where the redirects ended."""

    url: str
    content_type: str
    text: str


def is_public(address: Address, port: int) -> bool:
    """Whether an address is one of the public web: global, for the web, and not a way to one that is not."""
    if port not in PORTS or address.is_multicast:
        return False
    if isinstance(address, IPv4Address):
        return address.is_global
    inner = _inner(address)
    if inner is not None:
        return is_public(inner, port)
    return address.is_global and address in _GLOBAL


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one are handed on to, if there is one."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


async def look_up(host: str, port: int) -> list[Address]:
    """The addresses of a host, as the system knows them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(place[0]) for *_, place in found]


async def download(
    url: str, *, allowed: Allowed = is_public, lookup: Lookup = look_up, timeout_s: float = TIMEOUT_S
) -> Page:
    """The page at `url`. Raises `ToolError` T-501 to T-508."""
    address = _parsed(url)
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await _one(address, allowed, lookup)
                if isinstance(answer, Page):
                    return answer
                address = answer
    except TimeoutError as error:
        what = f"`{url}` did not answer within {timeout_s:g} s"
        raise ToolError("T-508", what, error_class="unavailable") from error
    except aiohttp.ClientError as error:
        raise ToolError("T-508", f"`{url}` cannot be fetched: {error}", error_class="unavailable") from error
    raise ToolError("T-507", f"`{url}` redirects more than {MAX_REDIRECTS} times")


def _parsed(url: str) -> URL:
    try:
        return URL(url)
    except ValueError as error:
        raise ToolError("T-501", f"`{url}` is no web address", error_class="invalid") from error


async def _one(url: URL, allowed: Allowed, lookup: Lookup) -> Page | URL:
    """The page, or where it redirects to."""
    addresses = await _checked(url, allowed, lookup)
    connector = aiohttp.TCPConnector(resolver=_Known(addresses), use_dns_cache=False, force_close=True)
    jar = aiohttp.DummyCookieJar()
    headers = {"User-Agent": "planner-runtime", "Accept": "text/html, text/*, application/json, application/xml"}
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=jar, headers=headers) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        if response.status in REDIRECTS and "Location" in response.headers:
            return url.join(_parsed(response.headers["Location"]))
        if response.status >= 400:
            error_class = _CLASSES.get(response.status, "unavailable" if response.status >= 500 else "failed")
            what = f"`{url}` answered {response.status} {response.reason}"
            wish = response.headers.get("Retry-After", "") if response.status in BUSY else ""
            raise ToolError("T-505", what, error_class=error_class, retry_after_s=rest_s(wish, datetime.now(UTC)))
        if not _READABLE.fullmatch(response.content_type):
            what = f"`{url}` is {response.content_type}, not text"
            raise ToolError("T-506", what, error_class="invalid", hint="Choose a page of text.")
        return Page(str(url), response.content_type, _text(await _content(response), response))


def rest_s(wish: str, now: datetime) -> float | None:
    """The seconds for which a server asks to be left alone, in its own words: a number, or a date; at most a day."""
    if re.fullmatch(r"[0-9]{1,12}", wish):
        return min(float(wish), LONGEST_REST_S)
    try:
        date = parsedate_to_datetime(wish)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(0.0, (date - now).total_seconds()), LONGEST_REST_S)


async def _checked(url: URL, allowed: Allowed, lookup: Lookup) -> list[Address]:
    """The addresses of the host, each of them allowed."""
    if url.scheme not in {"http", "https"} or not url.raw_host or not url.port:
        raise ToolError("T-501", f"`{url}` is no web address", error_class="invalid", hint="Use https://...")
    if url.user or url.password:
        raise ToolError("T-501", f"the address of `{url.host}` holds a password", error_class="invalid")
    try:
        addresses = await lookup(url.raw_host, url.port)
    except (OSError, UnicodeError) as error:
        what = f"there is no host `{url.host}`"
        raise ToolError("T-503", what, error_class="unavailable", hint="Check the name and the network.") from error
    for address in addresses:
        if not allowed(address, url.port):
            what = f"`{url.host}` is {address} port {url.port}, which is not the public web"
            hint = "Only public hosts on ports 80 and 443 are fetched."
            raise ToolError("T-502", what, error_class="denied", hint=hint)
    return addresses


class _Known(AbstractResolver):
    """Answers with addresses that are known already."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
            if family in {socket.AF_UNSPEC, socket.AF_INET if address.version == 4 else socket.AF_INET6}
        ]

    async def close(self) -> None:
        """Holds nothing."""


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, decompressed. Raises T-504 as soon as it is too large."""
    content = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        content += chunk
        if len(content) > MAX_BYTES:
            what = f"`{response.url}` is larger than {MAX_BYTES:,} bytes"
            raise ToolError("T-504", what, error_class="limit", hint="Choose a smaller page.")
    return bytes(content)


def _text(content: bytes, response: aiohttp.ClientResponse) -> str:
    """The body as text: in the encoding that the header or the page itself names, else UTF-8."""
    named = re.search(rb"(?i)<meta[^>]{0,200}charset=[\"']?([\w-]+)", content[:2048])
    encoding = response.charset or (named[1].decode() if named else "utf-8")
    try:
        return content.decode(encoding, errors="replace")
    except LookupError:
        return content.decode(errors="replace")
