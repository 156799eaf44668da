"""Which driver restores a store in a run, and what a person still does."""

from __future__ import annotations

from pathlib import Path

from evac.derive.listed_backups import with_backups
from evac.derive.stores import observed
from evac.drivers.capabilities import BACKUP, EXPECTED
from evac.drivers.port import Action
from evac.engine.runs.binding import bind
from evac.estate.loading import load
from evac.model.backup import BackupFacts, CopySeen
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Policy, lose
from evac.planning.plan import plan
from evac.run.values import RunStep
from tests.unit.steps.test_restore import ESTATE

NAMED = """endpoints:
  copies: {for: db, at: south, driver: restic,
           settings: {repository: /backups/db, password: "env:P", place: /srv/db}}
  others: {for: db, at: south, driver: restic,
           settings: {repository: /backups/2, password: "env:P", place: /srv/2}}
"""
AGENT = """  hand: {for: south, at: south, driver: process,
         settings: {agent: "http://10.0.0.1:1", secret: "env:A"}}
"""


def estate_of(folder: Path, *more: str) -> Estate:
    (folder / "estate.yaml").write_text(ESTATE + "".join(more))
    return load(folder)


def restore_of(estate: Estate) -> tuple[RunStep, Action]:
    """The step that restores the store, and its one action."""
    made = plan(estate, lose("north"), policy=Policy(waivers=("db",)))
    found = bind(estate, made, RunPolicy(), run="r", incident="i", digest="d")
    (step,) = (step for step in found.spec.steps if step.kind == "restore")
    (action,) = found.actions[step.id]
    return step, action


def test_the_driver_of_the_backup_restores_it(tmp_path: Path) -> None:
    step, action = restore_of(estate_of(tmp_path, NAMED))
    assert (step.manual, step.data_set, step.site) == (False, "db", "south")
    assert step.gate.startswith("restoring db may lose its newest writes, up to 3600 s")
    assert (action.verb, action.driver, action.settings["place"]) == ("restore", "restic", "/srv/db")
    assert action.parameters["candidate"] == "south"


def test_the_hand_of_the_site_restores_on_its_machine(tmp_path: Path) -> None:
    _, action = restore_of(estate_of(tmp_path, NAMED, AGENT))
    assert action.driver == "restic@south"


def test_the_endpoint_that_a_backup_names_is_the_one(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(
        ESTATE.replace("restore: 1 Gbit/s", "restore: 1 Gbit/s, endpoint: others") + NAMED
    )
    _, action = restore_of(load(tmp_path))
    assert action.settings["place"] == "/srv/2"
    assert action.parameters[BACKUP] == "others"


def test_a_restore_names_the_repository_that_was_listed_and_not_one_that_replaced_it(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(
        ESTATE.replace("restore: 1 Gbit/s", "restore: 1 Gbit/s, endpoint: others") + NAMED
    )
    estate = load(tmp_path)
    assert EXPECTED not in restore_of(estate)[1].parameters
    facts = BackupFacts((CopySeen("db", "others", 5, 4, repository="b" * 64), CopySeen("db", "copies", 5, 4)))
    seen = observed(estate, with_backups(Observation(6), facts, 6))
    assert restore_of(seen)[1].parameters[EXPECTED] == "b" * 64
    swapped = BackupFacts((CopySeen("db", "others", 7, 4, repository="c" * 64, expected="b" * 64),))
    again = observed(estate, with_backups(Observation(8), swapped, 8))
    assert restore_of(again)[1].parameters[EXPECTED] == "b" * 64
    assert estate_digest(seen) != estate_digest(estate), "a plan of another repository is stale"
    assert observed(seen, Observation(7)) is seen


def test_without_a_place_a_person_restores(tmp_path: Path) -> None:
    words = NAMED.replace(", place: /srv/db", "").replace(", place: /srv/2", "")
    step, action = restore_of(estate_of(tmp_path, words))
    assert step.manual
    assert (action.verb, action.driver) == ("attest", "manual")
