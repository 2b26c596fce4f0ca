"""Secrets are found in every form that they usually take, and nothing else is touched."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from html import escape
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner.core.events import Event, PlanProposed, StepSucceeded, TimerFired
from planner.core.labels import UNTRUSTED, Json, Label, Labelled
from planner.core.plan import Plan
from planner.core.redaction import LEAST, NO_SECRETS, Redactor, conceals

VALUE = 'hunter"22/ü+x'
ONE = Redactor.of({"SHOP_KEY": VALUE})
MARK = "[secret SHOP_KEY]"

FORMS = {
    "plain": VALUE,
    "json": json.dumps(VALUE)[1:-1],
    "json as it is": json.dumps(VALUE, ensure_ascii=False)[1:-1],
    "url": quote(VALUE, safe=""),
    "url, lower case": "hunter%2222%2f%c3%bc%2bx",
    "form": quote_plus(VALUE),
    "html": escape(VALUE),
    "hex": VALUE.encode().hex(),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 of a url": base64.urlsafe_b64encode(VALUE.encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_secret_is_found_in_each_of_its_forms(form: str) -> None:
    assert ONE.text(f"a {form} b") == f"a {MARK} b"
    assert ONE.text(form * 2) == MARK * 2
    assert ONE.clean(form) == MARK


@given(before=st.binary(max_size=8), after=st.binary(max_size=8))
def test_a_secret_that_was_encoded_together_with_other_things_is_found(before: bytes, after: bytes) -> None:
    said = base64.b64encode(before + VALUE.encode() + after).decode()
    assert MARK in ONE.text(said)
    decoded = base64.b64decode(ONE.text(said).replace(MARK, "A" * len(said))[: len(said) // 4 * 4], validate=False)
    assert VALUE.encode() not in decoded


def test_each_line_of_a_private_key_is_known_by_itself_but_not_its_frame() -> None:
    lines = [
        "-----BEGIN PRIVATE KEY-----",
        "MIIEvQIBADANBgkqhkiG9w0B",
        "AQEFAASCBKcwggSjAgEAAoIB",
        "-----END PRIVATE KEY-----",
    ]
    key = Redactor.of({"PEM": "\n".join(lines)})
    assert key.text(f"> {lines[1]}\n> {lines[2]}") == "> [secret PEM]\n> [secret PEM]"
    assert key.text("\n".join(lines)) == "[secret PEM]"
    assert key.text(lines[0]) == lines[0]


def test_of_a_secret_that_begins_with_another_the_longer_one_is_named() -> None:
    both = Redactor.of({"SHORT": "abcdef", "LONG": "abcdef-ghi"})
    assert both.text("abcdef-ghi abcdef-gh") == "[secret LONG] [secret SHORT]-gh"


def test_short_values_are_left_alone_and_blanks_around_a_value_do_not_count() -> None:
    assert Redactor.of({"PIN": "x" * (LEAST - 1), "NONE": ""}) is NO_SECRETS
    assert Redactor.of({"PIN": f" {'x' * LEAST}\n"}).text("a xxxxxx") == "a [secret PIN]"


def test_a_secret_that_is_part_of_its_own_mark_ends_as_one_mark() -> None:
    odd = Redactor.of({"A": "secret"})
    assert odd.text(odd.text("a secret")) == "a [secret A]"


def test_what_cannot_be_encoded_is_looked_for_all_the_same() -> None:
    odd = Redactor.of({"RAW": "h\udcffunter22"})
    assert odd.clean(["h\udcffunter22", "\udcff"]) == ["[secret RAW]", "\udcff"]


def test_no_representation_shows_a_secret() -> None:
    assert repr(ONE) == "Redactor()"


# values and events --------------------------------------------------------------------------------------------------


def test_keys_leaves_and_labels_of_a_value_are_cleaned_alike() -> None:
    value: Json = {VALUE: {"deep": [f"Bearer {VALUE}", 1, None, True]}, "other": "x"}
    label = Label(sources=frozenset({f"s {VALUE}"}))
    whole = Labelled(value=value, leaves=(((VALUE, "deep", 0), UNTRUSTED), (("other",), label)))
    event = ONE.clean(StepSucceeded(path="s1", value=whole))
    assert event.value.value == {MARK: {"deep": [f"Bearer {MARK}", 1, None, True]}, "other": "x"}
    assert event.value.at((MARK, "deep", 0)).label == UNTRUSTED
    assert event.value.at(("other",)).label.sources == {f"s {MARK}"}


@pytest.mark.parametrize("number", [27_182_818, 2718281.5])
def test_a_number_that_is_a_secret_is_taken_out_of_values_but_not_out_of_counts(number: float) -> None:
    pin = Redactor.of({"PIN": str(number)})
    event = StepSucceeded(path="s1", value=Labelled(value=[number, {"a": number}, number + 1]), seconds=number)
    cleaned = pin.clean(event)
    assert cleaned.value.value == ["[secret PIN]", {"a": "[secret PIN]"}, number + 1]
    assert cleaned.seconds == number
    assert pin.clean(StepSucceeded(path="s1", value=Labelled(value=number))).value.value == "[secret PIN]"


def test_words_of_the_language_stay_and_names_stay_names() -> None:
    odd = Redactor.of({"MODE": "StepSucceeded", "OTHER": "hunter22", "THIRD": "fallback"})
    step = {"id": "s_hunter22", "use": "a.b", "args": {"x": "hunter22"}, "on_error": {"then": "fallback web.x"}}
    event = odd.clean(PlanProposed(revision=1, attempt=1, plan=Plan.model_validate({"steps": [step]})))
    assert event.plan is not None
    (cleaned,) = event.plan.steps
    assert (cleaned.id, cleaned.args) == ("s_secret_other", {"x": "[secret OTHER]"})
    assert (cleaned.on_error.then, PlanProposed.model_validate_json(event.model_dump_json())) == ("fallback", event)
    assert odd.clean(StepSucceeded(path="s1", value=Labelled())).type == "StepSucceeded"


def test_where_there_is_nothing_to_take_out_the_same_value_comes_back() -> None:
    event: Event = TimerFired(path="s1")
    said: Json = {"at": "x"}
    assert ONE.clean(event) is event
    assert ONE.clean(said) is said
    at = datetime(2026, 12, 1, tzinfo=UTC)
    assert ONE.clean({"at": at, VALUE: at}) == {"at": at, MARK: at}


TEXTS = st.text(alphabet='hunter22"\\/ü+ \n', max_size=30)
JSON = st.recursive(
    TEXTS | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON, secret=st.text(alphabet='hunter2"\\/ü+ \n', min_size=LEAST, max_size=9), where=TEXTS)
def test_no_secret_is_left_and_a_second_time_changes_nothing(value: Json, secret: str, where: str) -> None:
    secret = secret.strip()
    assume(len(secret) >= LEAST)
    one = Redactor.of({"X": secret})
    cleaned = one.clean([value, {f"{where}{secret}": f"{secret}{where}"}])
    assert json.dumps(secret)[1:-1] not in json.dumps(cleaned)
    assert one.clean(cleaned) == cleaned


@given(form=st.text(st.characters(exclude_categories=["Cs"]), min_size=LEAST))
def test_a_secret_of_any_characters_is_found_in_json(form: str) -> None:
    assume(len(form.strip()) >= LEAST)
    assert Redactor.of({"X": form}).clean([form.strip()]) == ["[secret X]"]


@given(value=JSON, secret=st.text(alphabet="hunter2ü", min_size=LEAST, max_size=9))
def test_what_was_cleaned_conceals_what_it_was_made_of(value: Json, secret: str) -> None:
    one = Redactor.of({"X": secret})
    whole: Json = [value, {secret: f"a{secret}b"}]
    cleaned = one.clean(whole)
    assert conceals(cleaned, whole)
    assert not conceals(cleaned, [whole])
    assert not conceals(cleaned, [value, {secret: f"b{secret}a"}])


def test_a_mark_conceals_a_number_and_nothing_else_that_is_no_text() -> None:
    assert conceals("[secret X]", 271_828)
    assert not conceals("[secret X]", None)
    assert not conceals("a [secret X]", 271_828)
    assert not conceals({"a": "[secret X]"}, {"b": "hunter22"})
    assert conceals(1, 1)


# cost ---------------------------------------------------------------------------------------------------------------


def test_an_event_costs_nothing_without_secrets_and_little_with_some() -> None:
    event = StepSucceeded(path="s1", value=Labelled(value={"text": "x" * 400}))
    costs = {}
    for count in (0, 1, 5):
        redactor = Redactor.of({f"K{n}": f"sk-{n}-aBcDeFgHiJkLmNoP" for n in range(count)})
        rounds = []
        for _ in range(20):
            began = time.process_time()
            for _ in range(200):
                redactor.clean(event)
            rounds.append((time.process_time() - began) / 200 * 1e6)
        costs[count] = min(rounds)
    print({count: f"{cost:.1f} us an event" for count, cost in costs.items()})
    assert costs[0] < 20
    assert costs[5] < 500
