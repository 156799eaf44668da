"""Commits that wait for a lost copy: who releases them, and that no run calls that done too early."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.engine.stores.guards import as_allowed
from evac.model.estate import NO_TIMEOUT_MS
from evac.model.scenario import lose
from evac.run.values import Left
from tests.unit.engine.messenger import CAREFUL, DATABASES, TRAFFIC, bound, confirming, estate


def test_a_loss_of_the_copy_that_confirms_commits_never_ends_as_if_nothing_was_left(tmp_path: Path) -> None:
    now = confirming(tmp_path, pangyo="primary", anyang="sync", ansan="async")
    waits = Left("messages", "unprotected")
    next_one = replace(CAREFUL, stores={"messages": replace(CAREFUL.stores["messages"], on_sync_loss="next")})
    for policy in (replace(CAREFUL, approvals=0), replace(CAREFUL, mode="act")):
        assert waits in bound(now, lose("anyang"), policy).spec.leaves
    by_itself = replace(next_one, mode="act")
    assert waits not in bound(now, lose("anyang"), by_itself).spec.leaves, (
        "a run of its own goes on without it"
    )
    assert waits not in bound(now, lose("ansan"), CAREFUL).spec.leaves


@pytest.mark.parametrize("timeout_ms", [None, NO_TIMEOUT_MS])
def test_commits_that_no_run_of_evac_releases_are_asked_of_a_person_and_never_called_done(
    tmp_path: Path, timeout_ms: int | None
) -> None:
    """They hang at the primary until somebody acts, as far as is known: a step that does nothing must not
    succeed.
    """
    now = confirming(tmp_path, pangyo="primary", anyang="sync", ansan="async")
    now = replace(now, stores=(replace(now.stores[0], sync_timeout_ms=timeout_ms),))
    next_one = replace(CAREFUL, stores={"messages": replace(CAREFUL.stores["messages"], on_sync_loss="next")})
    asked = replace(CAREFUL, approvals=0)
    for policy, asks in (
        (asked, True),
        (next_one, False),
        (replace(next_one, mode="act"), False),
        (as_allowed(replace(next_one, mode="act"), quorum=True), False),
        (as_allowed(replace(next_one, mode="hold"), quorum=False), False),
    ):
        found = bound(now, lose("anyang"), policy)
        (step,) = (one for one in found.spec.steps if one.kind == "unprotect")
        assert step.manual is asks
        (action,) = found.actions[step.id]
        assert action.parameters.get("without") == (None if asks else "anyang")
        assert (Left("messages", "unprotected") in found.spec.leaves) is asks
        protects = [one for one in found.spec.steps if one.kind == "protect"]
        assert bool(protects) is (not asks and policy.mode == "advise"), "else a run of its own does it"


@pytest.mark.parametrize(
    ("on_sync_loss", "ansan", "confirms"),
    [
        ("next", "async", ("dc-ansan",)),
        ("ask", "async", ("dc-ansan",)),
        ("async", "async", ()),
        ("next", "detached", ()),
    ],
)
def test_in_mode_advise_the_approved_run_itself_releases_the_commits(
    tmp_path: Path, on_sync_loss: Any, ansan: Any, confirms: tuple[str, ...]
) -> None:
    """No run of its own does it there, and a person who approved the plan is not sent to the database."""
    now = confirming(tmp_path, pangyo="primary", anyang="sync", ansan=ansan)
    now = replace(now, stores=(replace(now.stores[0], sync_timeout_ms=NO_TIMEOUT_MS),))
    stores = {"messages": replace(CAREFUL.stores["messages"], on_sync_loss=on_sync_loss)}
    found = bound(now, lose("anyang"), replace(CAREFUL, stores=stores))
    (step,) = (one for one in found.spec.steps if one.kind == "protect")
    (action,) = found.actions[step.id]
    assert (action.verb, action.at, action.parameters["candidate"]) == ("protect", "pangyo", "pangyo")
    assert action.parameters["synchronous"] == confirms
    assert (step.manual, step.data_set) == (False, "messages")
    assert (Left("messages", "unprotected") in found.spec.leaves) is (not confirms)
    (waits,) = (one for one in found.spec.steps if one.kind == "unprotect")
    assert not waits.manual


@pytest.mark.parametrize("mode", ["advise", "hold", "act"])
@pytest.mark.parametrize(
    ("endpoints", "sees"),
    [(DATABASES, True), (TRAFFIC, False), ("".join(DATABASES.splitlines(True)[1:]), False)],
)
def test_a_timeout_whose_end_nobody_sees_is_asked_of_a_person(
    tmp_path: Path, endpoints: str, sees: bool, mode: Any
) -> None:
    """Without an endpoint that shows the primary, no look would ever find that its commits go on."""
    now = confirming(tmp_path, pangyo="primary", anyang="sync", ansan="async")
    found = replace(now, endpoints=estate(tmp_path, endpoints).endpoints)
    found = replace(found, stores=(replace(now.stores[0], sync_timeout_ms=90_000),))
    run = bound(found, lose("anyang"), replace(CAREFUL, mode=mode))
    (step,) = (one for one in run.spec.steps if one.kind == "unprotect")
    (action,) = run.actions[step.id]
    assert (step.manual, action.parameters.get("without")) == ((False, "anyang") if sees else (True, None))
