from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.circuit import (
    FAILURES,
    FIRST_REST_S,
    LONGEST_REST_S,
    TRIAL_S,
    Circuit,
    after,
    begun,
    permits,
    tells,
)
from planner.errors import ErrorClass


def failed(times: int, *, at: float = 0.0, circuit: Circuit | None = None) -> Circuit:
    circuit = circuit or Circuit()
    for _ in range(times):
        circuit = after(begun(circuit), at, ok=False)
    return circuit


OPEN = failed(FAILURES, at=100.0)
TRYING = begun(OPEN)


def test_a_circuit_opens_after_the_fifth_failure_in_a_row() -> None:
    assert permits(failed(FAILURES - 1), 0.0) is True
    assert permits(failed(FAILURES), 0.0) == FIRST_REST_S
    interrupted = after(failed(FAILURES - 1), 0.0, ok=True)
    assert permits(failed(FAILURES - 1, circuit=interrupted), 0.0) is True


def test_an_outcome_that_says_nothing_neither_counts_nor_ends_a_row() -> None:
    almost = failed(FAILURES - 1)
    assert after(almost, 0.0, ok=None) == almost
    assert permits(failed(1, circuit=after(almost, 0.0, ok=None)), 0.0) is not True


def test_an_open_circuit_says_how_long_it_rests_and_then_lets_one_call_through() -> None:
    assert permits(OPEN, 100.0) == FIRST_REST_S
    assert permits(OPEN, 110.0) == FIRST_REST_S - 10
    assert permits(OPEN, 100.0 + FIRST_REST_S) is True
    assert permits(TRYING, 100.0 + FIRST_REST_S) == TRIAL_S


def test_a_trial_that_succeeds_closes_the_circuit_and_forgets_everything() -> None:
    assert after(TRYING, 140.0, ok=True) == Circuit()


def test_a_trial_that_fails_opens_it_for_twice_as_long_but_never_longer_than_ten_minutes() -> None:
    circuit, now, rests = OPEN, 100.0, [OPEN.rest_s]
    for _ in range(6):
        now += circuit.rest_s
        circuit = after(begun(circuit), now, ok=False)
        assert permits(circuit, now) == circuit.rest_s
        rests.append(circuit.rest_s)
    assert rests == [30.0, 60.0, 120.0, 240.0, 480.0, LONGEST_REST_S, LONGEST_REST_S]


def test_a_trial_that_says_nothing_leaves_its_turn_to_the_next() -> None:
    assert permits(after(TRYING, 130.0, ok=None), 130.0) is True


def test_a_late_failure_from_before_does_not_prolong_the_rest() -> None:
    assert after(OPEN, 120.0, ok=False) == OPEN


@pytest.mark.parametrize("error_class", get_args(ErrorClass))
def test_only_what_cannot_be_reached_counts_against_a_callee(error_class: ErrorClass) -> None:
    assert tells(error_class) is (False if error_class == "unavailable" else None)
    assert tells(None) is True


# laws

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["call", "fails", "succeeds", "says nothing", "wait"]), st.floats(0.0, 700.0)),
    max_size=60,
)
OUTCOMES = {"fails": False, "succeeds": True, "says nothing": None}


@given(ACTIONS)
def test_however_calls_end_there_is_one_trial_at_a_time_and_none_while_it_rests(
    actions: list[tuple[str, float]],
) -> None:
    circuit, now, trials = Circuit(), 0.0, 0
    for action, seconds in actions:
        if action == "wait":
            now += seconds
        elif action == "call":
            permitted = permits(circuit, now)
            if permitted is True:
                trials += circuit.opened_at is not None
                circuit = begun(circuit)
            else:
                assert 0 < permitted <= LONGEST_REST_S
            is_resting = circuit.opened_at is not None and now < circuit.opened_at + circuit.rest_s
            assert not (is_resting and permitted is True)
        else:
            ok = OUTCOMES[action]
            circuit, trials = after(circuit, now, ok=ok), 0
            if ok:
                assert circuit == Circuit()
                assert permits(circuit, now) is True
        assert trials <= 1
        assert circuit.is_trying == bool(trials)


@given(ACTIONS)
def test_after_enough_time_every_circuit_lets_a_call_through_again(actions: list[tuple[str, float]]) -> None:
    circuit, now = Circuit(), 0.0
    for action, seconds in actions:
        now += seconds
        if action in OUTCOMES:
            circuit = after(circuit, now, ok=OUTCOMES[action])
        elif permits(circuit, now) is True:
            circuit = begun(circuit)
    assert permits(after(circuit, now, ok=None), now + LONGEST_REST_S) is True
