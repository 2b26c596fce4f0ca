from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.catalog import (
    ATOMS,
    READING,
    Callee,
    Declaration,
    Parameter,
    is_type,
    item_type,
    retrieve,
    signature,
)
from planner.core.labels import Integrity

READ = Callee(name="files.read", summary="Read a file", keywords=("open",))
MEAN = Callee(name="table.mean", summary="Average of a column", parameters=(Parameter(name="column"),))
SEND = Callee(name="mail.send", summary="Deliver a letter", parameters=(Parameter(name="to", description="address"),))
ZIP = Callee(name="zip.pack", summary="Compress folders")
CATALOGUE = {callee.name: callee for callee in (READ, MEAN, SEND, ZIP)}


# types


@pytest.mark.parametrize(
    ("type_", "item"),
    [
        ("list[path]", "path"),
        ("list[list[text]]", "list[text]"),
        ("table", "record"),
        ("text", None),
        ("list[", None),
    ],
)
def test_a_list_has_items_of_its_type_and_a_table_has_records(type_: str, item: str | None) -> None:
    assert item_type(type_) == item


def test_a_type_is_an_atom_or_a_list_of_a_type() -> None:
    assert all(is_type(atom) and is_type(f"list[list[{atom}]]") for atom in ATOMS)
    assert not any(is_type(word) for word in ("string", "list", "list[]", "list[string]", "table[text]"))


# callees


def test_what_is_not_declared_is_read_with_the_most_care() -> None:
    declared = Declaration()
    assert declared.effect == "execute"
    assert declared.resource is None
    assert declared.on_doubt == "ask"
    assert declared.out == "untrusted"
    assert not declared.reversible


def test_only_what_changes_nothing_may_be_repeated() -> None:
    reading = {effect for effect in ("pure", "read", "fetch", "write", "send", "spend", "execute") if _reads(effect)}
    assert reading == READING


def _reads(effect: str) -> bool:
    return Callee(name="x.y", summary="", declaration=Declaration.model_validate({"effect": effect})).is_reading


def test_a_parameter_is_found_by_its_name() -> None:
    assert MEAN.parameter("column") == MEAN.parameters[0]
    assert MEAN.parameter("row") is None


def test_a_signature_is_one_line_with_optional_arguments_marked() -> None:
    parameters = (Parameter(name="path"), Parameter(name="lines", required=False))
    callee = READ.model_copy(update={"parameters": parameters, "result": "text"})
    assert signature(callee) == "files.read(path, lines?) -> text: Read a file"


def test_a_callee_survives_json() -> None:
    declared = Declaration(control={"column": Integrity.BOUNDED}, readers=frozenset({"ann"}), resource=())
    callee = MEAN.model_copy(update={"declaration": declared})
    assert Callee.model_validate_json(callee.model_dump_json()) == callee


# retrieval


@pytest.mark.parametrize(
    ("goal", "best"),
    [
        ("Averages by columns, please", "table.mean"),
        ("what is the address?", "mail.send"),
        ("Compressing the folder", "zip.pack"),
        ("OPEN it", "files.read"),
    ],
)
def test_the_callee_whose_words_the_goal_uses_is_offered_first(goal: str, best: str) -> None:
    assert retrieve(goal, CATALOGUE, limit=1) == (best,)
    assert retrieve(goal, CATALOGUE, limit=9, only_matching=True) == (best,)


def test_what_is_always_offered_comes_first_and_counts() -> None:
    assert retrieve("average", CATALOGUE, limit=2, always=["zip.pack"]) == ("zip.pack", "table.mean")
    assert retrieve("average", CATALOGUE, limit=1, always=["zip.pack", "files.read"]) == ("files.read", "zip.pack")


def test_a_catalogue_with_room_for_all_is_offered_as_it_is() -> None:
    assert retrieve("average", CATALOGUE, limit=4) == tuple(CATALOGUE)


def test_a_goal_that_matches_nothing_gets_the_first_callees() -> None:
    assert retrieve("zzz", CATALOGUE, limit=2) == ("files.read", "table.mean")
    assert retrieve("zzz", CATALOGUE, limit=2, only_matching=True) == ("files.read", "table.mean")


@pytest.mark.parametrize("only_matching", [True, False])
def test_an_empty_catalogue_offers_nothing(only_matching: bool) -> None:
    assert retrieve("average", {}, limit=3, only_matching=only_matching) == ()


@given(
    goal=st.text(st.sampled_from("averg column mailst"), max_size=20),
    shown=st.dictionaries(st.sampled_from(list(CATALOGUE)), st.none()),
    limit=st.integers(0, 5),
    always=st.lists(st.sampled_from(list(CATALOGUE)), max_size=3),
    only_matching=st.booleans(),
)
def test_an_offer_holds_known_callees_once_within_the_limit(
    goal: str, shown: Mapping[str, None], limit: int, always: list[str], only_matching: bool
) -> None:
    catalogue = {name: CATALOGUE[name] for name in shown}
    offered = retrieve(goal, catalogue, limit=limit, always=always, only_matching=only_matching)
    present = [name for name in catalogue if name in always]
    assert len(offered) == len(set(offered)) <= max(limit, len(present))
    assert list(offered[: len(present)]) == present
    assert set(offered) <= set(catalogue)
    assert offered or not catalogue or not limit
