"""Find e-mail addresses, URLs, IBANs, numbers and dates in text.

Rules of the file:
- Everything found is given, in order, repetitions included; what can be read in two ways is left out.
- Only RE2 touches the text, so the time is linear in its length whatever somebody wrote into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import re2

_EMAIL = re2.compile(r"[A-Za-z0-9][A-Za-z0-9._%+'-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}")
_URL = re2.compile(r"(?i)\bhttps?://[^\s<>\"'`{}|\\^]+")
_IBAN = re2.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_NUMBER = re2.compile(  # a space stands inside a number only before a decimal part: 1 234,50
    r"(?:\B[-+\x{2212}])?(?:[1-9]\d{0,2}(?: \d{3})+[.,]\d{1,2}\b"
    r"|\d(?:[\d.,'\x{2019}\x{a0}\x{2009}\x{202f}]*\d)?(?:[eE][-+]?\d{1,3}\b)?)"
    r"|(?:^|\s)[-+\x{2212}]?\.\d+"
)
_SPACES = re2.compile(r"[\s'\x{2019}\x{a0}\x{2009}\x{202f}]")
_ENGLISH = re2.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")  # 1,234.50
_EUROPEAN = re2.compile(r"[-+]?[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})")  # 1.234,50
_PLAIN = re2.compile(r"[-+]?\d*[.,]?\d+(?:[eE][-+]?\d+)?")
_DIGITS = re2.compile(r"[-+]?\d+")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = re2.compile(
    r"(?i)\b(?:(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:T|\b)"
    r"|(\d{1,2})([-/.]) ?(\d{1,2})[-/.] ?(\d{4})\b"
    rf"|(\d{{1,2}})(?:st|nd|rd|th|\.)?\s+(?:of\s+)?{_MONTH},?\s+(\d{{4}})\b"
    rf"|{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})\b)"
)


def emails(text: str) -> list[str]:
    """The e-mail addresses in a text."""
    return [*_EMAIL.findall(text)]


def urls(text: str) -> list[str]:
    """The `http` and `https` URLs in a text, without the punctuation of the sentence around them."""
    found = [url.rstrip(".,;:!?*_") for url in _URL.findall(text)]
    return [url if "(" in url else url.rstrip(")].,;:!?") for url in found]


def ibans(text: str) -> list[str]:
    """The account numbers in a text whose check digits are right, without spaces."""
    return [iban for match in _IBAN.findall(text) for iban in _valid_iban(match)]


def _valid_iban(candidate: str) -> list[str]:
    """The longest run of groups whose check digits are right (ISO 7064, MOD 97-10), if there is one."""
    groups = candidate.split(" ")
    for end in range(len(groups), 0, -1):
        iban = "".join(groups[:end])
        digits = "".join(str(int(character, 36)) for character in iban[4:] + iban[:4])
        if 15 <= len(iban) <= 34 and int(digits) % 97 == 1:
            return [iban]
    return []


def numbers(text: str) -> list[int | float]:
    """The numbers in a text: `1,234.50`, `1.234,50` and `1'234.5` alike; `1,234` is a thousand and more.

    A minus counts where no word ends before it. Raises `ValueError` for an integer of absurd length.
    """
    return [number for token in _NUMBER.findall(text) for number in _read_number(token)]


def _read_number(token: str) -> Iterator[int | float]:
    """The number a token writes; where it can be none (`31.12.2024`), its runs of digits."""
    bare = _SPACES.sub("", token).replace("\u2212", "-")
    if _ENGLISH.fullmatch(bare):
        bare = bare.replace(",", "")
    elif _EUROPEAN.fullmatch(bare):
        bare = bare.replace(".", "").replace(",", ".")
    elif _PLAIN.fullmatch(bare):
        bare = bare.replace(",", ".")
    else:
        yield from map(int, _DIGITS.findall(bare))
        return
    yield int(bare) if bare.lstrip("-+").isdigit() else float(bare)


def dates(text: str) -> list[str]:
    """The days in a text, as `2024-05-31`; `03/04/2024` is left out, for it could be April or March."""
    found = (_read_date(match.groups()) for match in _DATE.finditer(text))
    return [day.isoformat() for day in found if day]


def _read_date(groups: tuple[str | None, ...]) -> date | None:
    """The day that one match of `_DATE` writes; None where there is no such day, or two could be meant."""
    match groups:
        case (str(year), str(month), str(day), *_):
            readings = [(year, month, day)]
        case (_, _, _, str(first), ".", str(second), str(year), *_):
            readings = [(year, second, first)]
        case (_, _, _, str(first), str(), str(second), str(year), *_):
            readings = [(year, second, first), (year, first, second)]
        case (*_, str(day), str(name), str(year), None, None, None):
            readings = [(year, _month(name), day)]
        case _:
            name, day, year = map(str, groups[-3:])
            readings = [(year, _month(name), day)]
    found = {date_ for reading in readings if (date_ := _day(*map(int, reading)))}
    return found.pop() if len(found) == 1 else None


def _month(name: str) -> str:
    return str(_MONTHS.index(name[:3].lower()) + 1)


def _day(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None
