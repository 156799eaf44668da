"""Stores that return to a moment: what is asked, what the plan says, and what a run is bound to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evac.app.planner.plans import Question, make_plan, scenario_of
from evac.app.situations import facts_now
from evac.backup.evidence import Evidence
from evac.derive import situation
from evac.engine.runs.binding import bind
from evac.engine.stores.sightings import again, losses_of
from evac.estate.codecs.plan import decode, encode
from evac.estate.loading import load
from evac.model.backup import BackupEvent, ProofRecord
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.model.scenario import Scenario
from evac.store.port import MemoryStore
from evac.verify import check
from evac.views.plan_text import plan_text

ESTATE = """evac: 1
name: data
sites: {north: {}, south: {}}
pools: {n: {site: north, cpu: 9 cores, memory: 9 GiB}, s: {site: south, cpu: 9 cores, memory: 9 GiB}}
services:
  web: {tier: 0, people: 9, replicas: {n: 1}, demand: {cpu: 1 cores, memory: 1 GiB}, start: 1 s,
        needs: [{store: db}, {store: mail}]}
stores:
  db: {engine: postgresql, rpo: 10 s, fence: 1 s, promote: 1 s,
       members: [{at: north, mode: primary}, {at: south, mode: sync, lag: 0 s}],
       backups: [{at: south, size: 1 GiB, age: 1 h, restore: 1 Gbit/s, endpoint: copies}]}
  mail: {engine: postgresql, rpo: 2 h, fence: 1 s, promote: 1 s, members: [{at: north, mode: primary}],
         backups: [{at: south, size: 1 GiB, age: 1 h, restore: 1 Gbit/s}]}
  kept: {engine: postgresql, members: [{at: south, mode: primary}]}
  bare: {engine: postgresql, fence: 1 s, members: [{at: north, mode: primary}]}
  vote: {engine: etcd, fence: 1 s, promote: 1 s, quorum: true,
         members: [{at: north, mode: primary}, {at: south, mode: sync, votes: 2}],
         backups: [{at: south, size: 1 GiB, age: 1 h, restore: 1 Gbit/s}]}
recovery_groups: {orders: {stores: [db, mail], tolerance: 1 min}}
endpoints:
  copies: {for: db, at: south, driver: restic,
           settings: {repository: /backups/db, password: "env:P", place: /srv/db}}
"""
NOW_S = 1_795_600_000
"""2026-11-25 09:46:40 UTC."""
MOMENT = "2026-11-25T09:00:00Z"
MOMENT_S = NOW_S - 2_800


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    folder: Path = tmp_path_factory.mktemp("estate")
    (folder / "estate.yaml").write_text(ESTATE)
    return load(folder)


def asked(estate: Estate, *moments: str, lose: str = "north") -> Scenario:
    return scenario_of(estate, Question(lose=(lose,), moments=moments), NOW_S)


def test_a_group_returns_to_one_moment_though_a_live_copy_is_left(estate: Estate) -> None:
    scenario = asked(estate, f"orders={MOMENT}")
    assert scenario.moments == (("db", MOMENT_S), ("mail", MOMENT_S))
    made = make_plan(estate, scenario, budget_ms=0).plan
    stores = {store.store: store for store in made.stores}
    for name in ("db", "mail"):
        assert (stores[name].restored, stores[name].loss_ms) == (True, 2_800_000)
    assert made.waivers == ("db",), "a moment beyond the rpo is agreed to by name"
    assert check(estate, made).violations == ()
    assert decode(encode(made)).scenario == scenario
    words = plan_text(made, "sha256:0", 120, False, "")
    for name in ("db", "mail"):
        lost = "everything written after that is lost (46 min 40 s)"
        assert f"{name} returns to 2026-11-25 09:00:00 UTC: {lost}" in words
    free = RunPolicy(stores={"mail": StorePolicy("mail", async_promotion="allow", most_lost_ms=7_200_000)})
    found = bind(estate, made, free, run="r", incident="i", digest="d")
    steps = {step.target: step for step in found.spec.steps if step.kind == "restore"}
    for name, step in steps.items():
        gate = f"restoring {name} to 2026-11-25 09:00:00 UTC loses everything written after it"
        assert step.gate == gate, "a person agrees, whatever policy allows"
    assert found.spec.labels["group:orders"] == '[60000,["db","mail"]]', "whatever becomes of the estate"
    (action,) = found.actions[steps["db"].id]
    assert (action.driver, action.parameters["until"]) == ("restic", MOMENT_S)
    assert steps["mail"].words.endswith("at south, as of 2026-11-25 09:00:00 UTC")
    assert found.spec.envelope.most_lost_ms == 2_800_000
    loss = losses_of(estate, made, {}, NOW_S * 1_000)["db"]
    assert loss.words == "2800 s: everything written after the requested point in time"
    assert again(loss, None, NOW_S * 1_000).words == loss.words


@pytest.mark.parametrize(
    ("moments", "lose", "words"),
    [
        (("nothing=" + MOMENT,), "north", "no such store or recovery group: 'nothing'"),
        (("db",), "north", "is not a time"),
        (("mail=2026-11-25T09:00:00",), "north", "has no time zone"),
        (("orders=2026-11-25T09:46:41Z",), "north", "is in the future"),
        ((f"db={MOMENT}",), "north", "db, mail must be restored to the same point in time"),
        ((f"orders={MOMENT}", "mail=2026-11-25T08:00:00Z"), "north", "mail is given two moments"),
        ((f"db={MOMENT}", "mail=2026-11-25T08:00:00Z"), "north", "they form recovery group orders"),
        ((f"kept={MOMENT}",), "north", "kept keeps its primary"),
        ((f"bare={MOMENT}",), "north", "no backup of bare is left"),
        ((f"orders={MOMENT}",), "south", "db keeps its primary"),
        ((f"vote={MOMENT}",), "north", "keep a majority"),
    ],
)
def test_what_cannot_return_to_a_moment_is_refused_at_once(
    estate: Estate, moments: tuple[str, ...], lose: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        make_plan(estate, asked(estate, *moments, lose=lose), budget_ms=0)


def test_members_of_a_group_may_be_as_far_apart_as_it_tolerates(estate: Estate) -> None:
    scenario = asked(estate, f"db={MOMENT}", "mail=2026-11-25T09:01:00Z")
    assert [name for name, _ in scenario.moments] == ["db", "mail"]


def test_only_a_loss_is_planned_to_a_moment(estate: Estate) -> None:
    with pytest.raises(InvalidInput, match="--moment can only be used with --lose"):
        scenario_of(estate, Question(evacuate=("north",), moments=(f"orders={MOMENT}",)), NOW_S)


def test_a_plan_prices_a_restore_by_its_last_test(estate: Estate) -> None:
    """What the files say of a restore is what someone once thought of it."""
    at = NOW_S * 1_000
    tested = ProofRecord("mail", "south", 4, "passed", at - 9, 1 << 30, took_ms=600_000)

    async def known() -> Estate:
        store = MemoryStore(lambda: at)
        await Evidence(store).add(BackupEvent("proven", at, "mail", "south", proof=tested))
        return situation.of(estate, await facts_now(None, store, None, at)).estate

    def ends(of: Estate) -> int:
        made = make_plan(of, asked(of), budget_ms=0).plan
        assert check(of, made).violations == ()
        (step,) = (one for one in made.steps if one.kind == "restore" and one.target == "mail")
        return step.end_ms - step.start_ms

    assert ends(estate) == 9_000, "1 GiB at 1 Gbit/s, as the files say, in whole seconds"
    assert ends(asyncio.run(known())) == 600_000
