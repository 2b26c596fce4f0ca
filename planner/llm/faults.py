"""What a provider's exception comes down to, and what to do about it.

Rules of the file:
- A fault is named by its cause, found along the chain of exceptions: litellm gives a missing recording, a
  refused connection and a provider's own error one and the same class.
- No secret enters a message, nor what looks like a key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import ClassVar, NamedTuple

from planner.core.redaction import Redactor
from planner.errors import ErrorClass
from planner.llm.model import Ask, CallError, CassetteMiss

LONGEST_WISH_S = 86_400.0
"""No wish to wait counts for more than a day: a provider that is wrong must not stop a run for good."""


class UnavailableError(CallError):
    """A fault that may pass by itself; `retry_after_s` is how long the provider asks to wait."""

    default_class: ClassVar[ErrorClass] = "unavailable"


class Cause(NamedTuple):
    """What went wrong between us and a model, and what to do about it."""

    code: str
    error_class: ErrorClass
    says: str
    hint: str


KEY = Cause("M-101", "denied", "rejects the key", "Set the provider's key, or choose another model.")
UNKNOWN = Cause("M-102", "missing", "is not known", "Check the name, `provider/model`, and the address.")
TOO_LONG = Cause("M-103", "limit", "cannot read that much", "Give it less, or choose a larger model.")
TOO_OFTEN = Cause("M-104", "unavailable", "is asked too often", "Wait, or ask for less in parallel.")
SLOW = Cause("M-105", "unavailable", "did not answer in time", "Try again, or raise the time limit.")
UNREACHABLE = Cause("M-106", "unavailable", "cannot be reached", "Is its server running, and the network up?")
BROKEN = Cause("M-107", "unavailable", "failed at its provider", "Try again later, or choose another model.")
REFUSED = Cause("M-108", "denied", "refuses to answer", "Ask differently, or choose another model.")
UNREADABLE = Cause("M-109", "failed", "sent no readable answer", "Try again, or choose another model.")
CUT_OFF = Cause("M-110", "limit", "was cut off by its token limit", "Ask for less, or raise `max_tokens`.")
WRONG = Cause("M-112", "invalid", "does not take the request", "Its settings may not fit this model.")
NO_CREDIT = Cause("M-113", "limit", "is out of credit", "Top up the account, or choose another model.")
NO_PACKAGE = Cause("M-114", "invalid", "needs a package that is not installed", "Install it, or choose another.")

BY_CLASS: Sequence[tuple[frozenset[str], Cause]] = (
    (frozenset({"TimeoutError", "TimeoutException", "Timeout"}), SLOW),
    (frozenset({"TransportError", "ConnectionError"}), UNREACHABLE),
    (frozenset({"ContextWindowExceededError"}), TOO_LONG),
    (frozenset({"ContentPolicyViolationError"}), REFUSED),
    (frozenset({"ImportError"}), NO_PACKAGE),
)
BY_TEXT: Sequence[tuple[re.Pattern[str], Cause]] = (
    (re.compile(r"missing (\w+ )?(credentials|api key)", re.IGNORECASE), KEY),
    (re.compile(r"llm provider not provided", re.IGNORECASE), UNKNOWN),
    (re.compile(r"insufficient_quota|credit balance", re.IGNORECASE), NO_CREDIT),
    (re.compile(r"context.(length|size|window)|prompt is too long", re.IGNORECASE), TOO_LONG),
    (re.compile(r"content_policy_violation|safety system", re.IGNORECASE), REFUSED),
)
BY_STATUS = {
    401: KEY,
    402: NO_CREDIT,
    403: KEY,
    404: UNKNOWN,
    408: SLOW,
    413: TOO_LONG,
    429: TOO_OFTEN,
    504: SLOW,
}
MISSES = frozenset({"CannotOverwriteExistingCassetteException", "UnhandledHTTPRequestError"})

_PREFIXES = re.compile(r"^(?:[\w.]*(?:Error|Exception|Timeout)\s*[:-]\s*)+")
_QUOTED = re.compile(r'"message":\s*"((?:[^"\\]|\\.)*)"')
_KEYLIKE = re.compile(
    r"(?i)\b(?:sk|pk|rk|gsk|xai|key)[-_][\w*.-]{6,}|AIza[\w-]{10,}|(?<=bearer )\S+|(?<=key=)[^&\s'\"]+"
)


def fault(error: BaseException, ask: Ask, *, name: str, redactor: Redactor) -> CallError:
    """The error to raise in place of `error`, which the model `name` or the way to it caused."""
    links = tuple(chain(error))
    if any(type(link).__name__ in MISSES for link in links):
        return CassetteMiss(
            f"the recording has no answer of model `{name}` to this request of role `{ask.role}`",
            ask=ask,
            hint="Record again, or undo what changed the request.",
        )
    cause = cause_of(links)
    said = redacted(_gist(links[-1 if cause is UNREACHABLE else 0]), redactor)[:300]
    message = f"model `{name}` {cause.says}" + (f": {said}" if said else "")
    if cause.error_class == "unavailable":
        return UnavailableError(cause.code, message, hint=cause.hint, retry_after_s=_retry_after_s(links))
    return CallError(cause.code, message, hint=cause.hint, error_class=cause.error_class)


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what led to it, the outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def cause_of(links: Sequence[BaseException]) -> Cause:
    """What a provider's exception, given as its chain, comes down to."""
    classes = {base.__name__ for link in links for base in type(link).__mro__}
    for names, cause in BY_CLASS:
        if names & classes:
            return cause
    text = "\n".join(map(str, links))
    for pattern, cause in BY_TEXT:
        if pattern.search(text):
            return cause
    status = _status(links)
    if status is None:
        return UNREADABLE
    return BY_STATUS.get(status, BROKEN if status >= 500 else WRONG)


def _status(links: Sequence[BaseException]) -> int | None:
    """The HTTP status that was really received, else litellm's own verdict on a request never sent."""
    for link in reversed(links):
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int) and not type(link).__module__.startswith("litellm"):
            return status
    verdict = getattr(links[0], "status_code", None)
    return verdict if isinstance(verdict, int) and 400 <= verdict < 500 else None


def _retry_after_s(links: Sequence[BaseException]) -> float | None:
    """The provider's wish in seconds, at most a day; it may be written as a number or as a date."""
    for link in links:
        headers = getattr(getattr(link, "response", None), "headers", None) or {}
        wish = headers.get("retry-after")
        if wish is not None:
            wanted_s = _seconds(str(wish))
            return min(max(0.0, wanted_s), LONGEST_WISH_S) if math.isfinite(wanted_s) else None
    return None


def _seconds(wish: str) -> float:
    """How many seconds a wish means, NaN where it means none."""
    try:
        return float(wish)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(wish) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return math.nan


def _gist(error: BaseException) -> str:
    """One line of what a provider said."""
    text = str(error)
    quoted = _QUOTED.search(text)
    return (quoted[1] if quoted else _PREFIXES.sub("", text).strip().split("\n", 1)[0]).rstrip(". ")


def redacted(text: str, redactor: Redactor) -> str:
    """`text` without secrets, and without anything that looks like a key."""
    return _KEYLIKE.sub("[key]", redactor.text(text))
