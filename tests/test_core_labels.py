from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.labels import (
    BOUNDED,
    TRUSTED,
    UNTRUSTED,
    Integrity,
    Json,
    Label,
    Labelled,
    Path,
    descend,
    gather,
    join,
    leaves_of,
)

laws = settings(deadline=None)
NAMES = st.frozensets(st.sampled_from(["ann", "bob", "eve"]))
LABELS = st.builds(Label, integrity=st.sampled_from(Integrity), sources=NAMES, readers=st.none() | NAMES)
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.text("a*", max_size=2)
KEYS = st.sampled_from(["a", "b", "*", "0"])
VALUES = st.recursive(
    st.builds(Labelled, value=SCALARS, label=LABELS),
    lambda parts: (st.lists(parts, max_size=3) | st.dictionaries(KEYS, parts, max_size=3)).map(gather),
    max_leaves=8,
)


def at_most(low: Label, high: Label) -> bool:
    """Whether `low` claims nothing that `high` does not."""
    fewer_readers = high.readers is None or (low.readers is not None and low.readers <= high.readers)
    return low.integrity <= high.integrity and low.sources >= high.sources and fewer_readers


# labels


@laws
@given(LABELS, LABELS, LABELS)
def test_a_join_takes_the_least_of_both_whatever_the_order(a: Label, b: Label, c: Label) -> None:
    assert a.joined(b) == b.joined(a)
    assert a.joined(b).joined(c) == a.joined(b.joined(c))
    assert a.joined(a) == a
    assert a.joined(TRUSTED) == a
    assert at_most(a.joined(b), a)
    assert at_most(a.joined(b), b)


def test_a_join_has_the_least_integrity_all_sources_and_the_common_readers() -> None:
    mail = Label(integrity=Integrity.UNTRUSTED, sources=frozenset({"mail"}), readers=frozenset({"ann", "bob"}))
    file = Label(integrity=Integrity.BOUNDED, sources=frozenset({"file"}), readers=frozenset({"bob", "eve"}))
    assert mail.joined(file) == Label(
        integrity=Integrity.UNTRUSTED, sources=frozenset({"mail", "file"}), readers=frozenset({"bob"})
    )


def test_the_join_of_nothing_is_where_it_starts() -> None:
    assert join([]) == TRUSTED
    assert join([], start=BOUNDED) == BOUNDED
    assert join([BOUNDED, UNTRUSTED]) == UNTRUSTED


@laws
@given(LABELS, st.sampled_from(Integrity))
def test_a_cap_lowers_integrity_and_changes_nothing_else(label: Label, ceiling: Integrity) -> None:
    capped = label.capped(ceiling)
    assert capped.integrity == min(label.integrity, ceiling)
    assert (capped.sources, capped.readers) == (label.sources, label.readers)


@laws
@given(VALUES)
def test_labels_survive_json(value: Labelled) -> None:
    assert Labelled.model_validate_json(value.model_dump_json()) == value


def test_names_are_written_in_order_so_that_equal_labels_have_equal_json() -> None:
    label = Label(sources=frozenset("cab"), readers=frozenset("zy"))
    assert label.model_dump_json() == '{"integrity":2,"sources":["a","b","c"],"readers":["y","z"]}'
    assert TRUSTED.model_dump_json() == '{"integrity":2,"sources":[],"readers":null}'


def test_a_label_may_gain_a_source() -> None:
    assert UNTRUSTED.from_source("mail").from_source("web") == Label(
        integrity=Integrity.UNTRUSTED, sources=frozenset({"mail", "web"})
    )


# values


@laws
@given(st.dictionaries(KEYS, VALUES, min_size=1) | st.lists(VALUES, min_size=1))
def test_gathered_parts_keep_the_label_of_every_leaf(parts: dict[str, Labelled] | list[Labelled]) -> None:
    whole = gather(parts)
    places: list[tuple[str | int, Labelled]] = list(parts.items() if isinstance(parts, dict) else enumerate(parts))
    for key, part in places:
        assert whole.at((key,)).value == part.value
        assert leaves_of(whole.at((key,))) == leaves_of(part)


@laws
@given(VALUES)
def test_the_whole_is_worth_no_more_than_any_of_its_leaves(value: Labelled) -> None:
    for path, leaf, label in leaves_of(value):
        assert descend(value.value, path) == leaf
        assert at_most(value.overall(), label)


@laws
@given(VALUES, st.sampled_from(Integrity))
def test_a_capped_value_has_every_leaf_capped(value: Labelled, ceiling: Integrity) -> None:
    capped = [(path, leaf, label.capped(ceiling)) for path, leaf, label in leaves_of(value)]
    assert leaves_of(value.capped(ceiling)) == capped


def test_nothing_gathered_is_an_empty_trusted_value() -> None:
    assert gather({}) == Labelled(value={})
    assert gather([]) == Labelled(value=[])


def test_parts_of_one_label_are_gathered_under_that_label() -> None:
    parts = [Labelled(value=1, label=BOUNDED), Labelled(value=2, label=BOUNDED)]
    assert gather(parts) == Labelled(value=[1, 2], label=BOUNDED)


def test_of_two_patterns_for_one_leaf_the_last_holds() -> None:
    value = Labelled(value={"a": {"b": 1}}, leaves=((("a", "b"), BOUNDED), (("a",), UNTRUSTED)))
    assert value.at(("a", "b")).label == UNTRUSTED
    turned = value.model_copy(update={"leaves": value.leaves[::-1]})
    assert turned.at(("a", "b")).label == BOUNDED
    assert turned.at(("a",)).label == UNTRUSTED


def test_a_star_stands_for_every_index_of_a_list() -> None:
    value = Labelled(value=[{"id": 1}, {"id": 2, "text": "x"}], label=UNTRUSTED, leaves=((("*", "id"), BOUNDED),))
    assert [label for _, _, label in leaves_of(value)] == [BOUNDED, BOUNDED, UNTRUSTED]


def test_a_field_that_is_called_star_does_not_relabel_its_neighbours() -> None:
    value = gather({"a": Labelled(value=1, label=UNTRUSTED), "*": Labelled(value=2)})
    assert value.at(("a",)).label == UNTRUSTED
    assert value.at(("*",)).label == TRUSTED


@pytest.mark.parametrize("path", [("b",), ("a", 2), ("a", -1), ("a", "0"), (0,), ("a", 0, "x")])
def test_a_part_that_is_not_there_is_a_key_error(path: Path) -> None:
    value: Json = {"a": [1, 2]}
    with pytest.raises(KeyError):
        Labelled(value=value).at(path)


def test_integrity_is_ordered_from_outsiders_to_the_principal() -> None:
    order = [UNTRUSTED, BOUNDED, TRUSTED]
    assert all(low.integrity < high.integrity for low, high in pairwise(order))
