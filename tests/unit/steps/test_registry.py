"""What holds of every kind of step."""

from __future__ import annotations

import pytest

from evac.model.step_id import TOOL_ROLES
from evac.planning.bound import heads
from evac.planning.evacuation import board
from evac.steps.kind import StepKind
from evac.steps.registry import KINDS, PLANNED, STATED_KINDS, base_kinds, kind_of

EVERY = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@EVERY
def test_every_kind_has_its_words(kind: StepKind) -> None:
    assert kind.title
    assert kind.work
    assert kind.sentence.format(target="pay", where=" at south", many="3 x ", rung=" (isolate)")
    entry = kind.entry
    assert entry.kind
    assert entry.weight in ("main", "detail")
    assert entry.words.format(target="pay", where=" in south")


@EVERY
def test_every_kind_names_roles_that_an_estate_can_fill(kind: StepKind) -> None:
    assert set(kind.tools) <= set(TOOL_ROLES)
    assert tuple(sorted(kind.tools)) == kind.tools


@EVERY
def test_every_planned_kind_says_what_holds_before_after_and_how_to_go_back(kind: StepKind) -> None:
    if kind.is_planned and kind.target != "plan":
        assert kind.precheck
        assert kind.gate
        assert kind.undo


@EVERY
def test_a_kind_is_found_by_its_name_and_goes_by_one_that_an_estate_may_state(kind: StepKind) -> None:
    assert kind_of(kind.name) is kind
    assert not kind.is_planned or kind.like in STATED_KINDS


def test_names_are_all_different_and_an_unknown_one_is_an_error() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    with pytest.raises(KeyError):
        kind_of("fly")


def test_kernels_have_the_codes_of_the_registry() -> None:
    codes = {name: kind.planner_code for name, kind in PLANNED.items() if kind.planner_code >= 0}
    assert [codes[name] for name in board.KINDS] == list(range(len(board.KINDS)))
    bound = {name: kind.bound_code for name, kind in PLANNED.items() if kind.bound_code >= 0}
    assert [bound[name] for name in heads.KINDS] == list(range(len(heads.KINDS)))


@EVERY
def test_no_proof_counts_on_the_tools_of_a_kind_that_is_planned_as_another(kind: StepKind) -> None:
    """Even if it inherits the codes of the kind that it resembles."""
    if kind.planned_as:
        assert not kind.is_bounded
        assert kind.name not in (*board.KINDS, *heads.KINDS)
    assert kind.is_bounded == (kind.name in heads.KINDS)


def test_the_base_of_a_service_needs_a_check_at_least_and_more_by_what_was_lost() -> None:
    assert [k.name for k in base_kinds(starts=False, shifts=False, stores=False)] == ["verify"]
    every = base_kinds(starts=True, shifts=True, stores=True)
    assert [k.name for k in every] == ["verify", "start", "shift", "fence", "promote"]
