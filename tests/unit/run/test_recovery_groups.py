"""Whether stores that must return to one moment did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from evac.model.estate import RecoveryGroup
from evac.run.recovery_groups import AS_OF, labels_of, returned
from evac.run.view import RunView
from evac.views.documents import _group_row

AT = 1_795_597_200
"""2026-11-25 09:00:00 UTC."""
ORDERS = RecoveryGroup("orders", ("db", "mail"), 60_000)


def view(**restored: dict[str, Any] | None) -> RunView:
    """A run that restores these stores: evidence of each, None while it is not done."""
    labels = {"scenario": "loss of north", **labels_of([ORDERS], restored)}
    made = SimpleNamespace(
        spec=SimpleNamespace(labels=labels),
        steps=[SimpleNamespace(target=name, kind="restore") for name in restored],
        phases=["pending" if one is None else "succeeded" for one in restored.values()],
        evidence={i: one for i, one in enumerate(restored.values()) if one is not None},
    )
    return cast(RunView, made)


@pytest.mark.parametrize(
    ("restored", "state", "words"),
    [
        ({"db": {AS_OF: AT}, "mail": None}, "waiting", "orders: db, mail are not all restored yet"),
        ({"db": {AS_OF: AT}, "mail": {AS_OF: AT}}, "together", "are as of 2026-11-25 09:00:00 UTC"),
        ({"db": {AS_OF: AT + 60}, "mail": {AS_OF: AT}}, "together", "at most 1 min apart"),
        (
            {"db": {AS_OF: AT + 61}, "mail": {AS_OF: AT}},
            "apart",
            "1 min 01 s apart; up to 1 min is tolerated",
        ),
        ({"db": {AS_OF: AT}, "mail": {"attested_by": "kim"}}, "unknown", "unknown to which point in time"),
        ({"db": {AS_OF: AT}}, "apart", "the others are current"),
    ],
)
def test_a_group_is_together_only_when_all_of_it_is_at_one_moment(
    restored: dict[str, Any], state: str, words: str
) -> None:
    (one,) = returned(view(**restored))
    row = _group_row(one)
    assert (row.group, row.state) == ("orders", state)
    assert words in row.words


def test_a_run_that_restores_none_of_a_group_does_not_speak_of_it() -> None:
    assert labels_of([ORDERS], {"other"}) == {}
    assert returned(view(other={AS_OF: AT})) == ()
