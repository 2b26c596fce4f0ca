"""The web: fetch."""

from __future__ import annotations

import asyncio

from planner.tools import Url, tool

from . import _html


@tool(
    effect="fetch",
    resource=(),
    control={"url": "bounded"},
    public_sink=True,
    keywords=("download", "website", "page", "internet", "http", "https", "link", "get", "open", "online", "site"),
)
async def fetch(url: Url) -> str:
    """Fetch the readable text of a web page."""
    from ._http import download

    page = await download(url)
    return await asyncio.to_thread(_text, page.content_type, page.text, page.url)


def _text(content_type: str, source: str, address: str) -> str:
    is_html = content_type in {"text/html", "application/xhtml+xml"}
    return _html.readable(source, address) if is_html else source
