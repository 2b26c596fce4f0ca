"""Days: today, add, days_between. A day is written `YYYY-MM-DD`; other ways to write it are understood."""

from __future__ import annotations

import datetime as dt

from planner.errors import ToolError
from planner.tools import Date, tool


@tool(effect="read", resource=(), out="trusted", keywords=("now", "current", "date", "day"))
def today() -> Date:
    """Today's date (UTC)."""
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


@tool(effect="pure", keywords=("days", "later", "after", "before", "ago", "from", "deadline", "due", "plus", "minus"))
def add(date: Date, days: int) -> Date:
    """The date a number of days after a date."""
    try:
        return (dt.date.fromisoformat(date) + dt.timedelta(days=days)).isoformat()
    except OverflowError as error:
        what = f"{days} days from {date} is no year between 1 and 9999"
        raise ToolError("T-441", what, error_class="invalid") from error


@tool(effect="pure", keywords=("difference", "how", "many", "long", "until", "since", "interval", "elapsed"))
def days_between(start: Date, end: Date) -> int:
    """Count the days from one date to another."""
    return (dt.date.fromisoformat(end) - dt.date.fromisoformat(start)).days
