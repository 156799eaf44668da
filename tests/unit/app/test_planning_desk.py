"""Standing plans: what a change touches is planned again, the rest is kept if the checker agrees."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evac import estate as estates
from evac.app.planner import desk
from evac.app.planner.desk import Based, Place, Told
from evac.derive.basis import may_keep
from evac.estate.codecs import plan as plan_codec
from evac.model.observation import MemberSeen, Observation
from evac.model.scenario import lose
from evac.verify.check import check
from tests.web.rooms import ESTATE

NOW = Observation(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ESTATE, tmp_path / "estate"))


def place(folder: Path) -> Place:
    desk._desks.clear()
    return Place(str(folder), None, ())


def edit(folder: Path, old: str, new: str) -> None:
    """Changes one place of the estate."""
    path = folder / "estate.yaml"
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def planned(where: Place, *lost: str) -> Told:
    found = desk.plan(where, NOW, lost, 0)
    assert isinstance(found, Told)
    return found


def test_a_plan_of_the_desk_is_that_of_the_planner_and_the_checker_accepts_it(folder: Path) -> None:
    made = plan_codec.decode(planned(place(folder), "south").data)
    assert check(estates.load(folder), made).holds
    assert made.scenario == lose("south")


def test_every_domain_above_a_rack_is_a_scenario(folder: Path) -> None:
    found = desk.scenarios(place(folder), NOW)
    kinds = {"+".join(one.lost): one.kind for one in found if isinstance(one, desk.Domain)}
    above = {"hill": "site", "north": "site", "south": "site", "river-utility": "group"}
    assert kinds == above | {"hill+north": "pair", "hill+south": "pair", "north+south": "pair"}
    assert all(one.people >= 0 for one in found if isinstance(one, desk.Domain))


def test_another_objective_touches_no_plan_and_the_kept_one_says_it(folder: Path) -> None:
    where = place(folder)
    before = planned(where, "south")
    edit(folder, "paid: true, rto: 20 min", "paid: true, rto: 9 d")
    where = place(folder)
    based = desk.basis(where, NOW, ("south",))
    assert isinstance(based, Based)
    assert may_keep(before.basis, str(based.basis))
    assert based.basis.whole == before.whole
    again = desk.still(where, NOW, ("south",), before.data, "")
    assert isinstance(again, Told)
    kept = plan_codec.decode(again.data)
    assert check(estates.load(folder), kept).holds
    assert next(one.rto_ms for one in kept.outcomes if one.service == "pay") == 9 * 86_400_000
    assert kept.steps == plan_codec.decode(before.data).steps


def test_a_start_that_takes_longer_touches_the_plan(folder: Path) -> None:
    where = place(folder)
    before = planned(where, "south")
    edit(folder, "start: 40 s", "start: 11 min")
    where = place(folder)
    based = desk.basis(where, NOW, ("south",))
    assert isinstance(based, Based)
    assert not may_keep(before.basis, str(based.basis))
    assert desk.still(where, NOW, ("south",), before.data, "") is None, "the checker would refuse it too"
    assert desk.again(where, NOW, ("south",), before.data, before.whole) is None


def test_a_primary_elsewhere_touches_the_plan(folder: Path) -> None:
    where = place(folder)
    before = planned(where, "south")
    store = next(s for s in estates.load(folder).stores if s.id == "ledger")
    sites = [member.at.partition("/")[0] for member in store.members]
    moved = Observation(
        1, tuple(MemberSeen("ledger", site, "async" if n == 0 else "primary") for n, site in enumerate(sites))
    )
    based = desk.basis(where, moved, ("south",))
    assert isinstance(based, Based)
    assert not may_keep(before.basis, str(based.basis))


def test_one_plan_serves_two_losses_that_take_the_same(folder: Path) -> None:
    edit(folder, "  river-utility:", "  annex: {kind: campus, members: [south]}\n  river-utility:")
    where = place(folder)
    site = planned(where, "south")
    assert desk.basis(where, NOW, ("annex",)) == desk.basis(where, NOW, ("south",))
    group = desk.again(where, NOW, ("annex",), site.data, site.whole)
    assert isinstance(group, Told)
    found = plan_codec.decode(group.data)
    assert found.scenario == lose("annex")
    assert check(estates.load(folder), found).holds


def test_an_unknown_domain_is_told_in_words(folder: Path) -> None:
    told = desk.basis(place(folder), NOW, ("atlantis",))
    assert isinstance(told, tuple)
    assert "atlantis" in told[1]


def test_a_mistake_in_one_plan_is_its_problem_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = place(folder)

    def broken(self: object, lost: tuple[str, ...]) -> None:
        raise IndexError("hunter2")

    with monkeypatch.context() as patched:
        patched.setattr(desk._Desk, "instance", broken)
        told = desk.plan(where, NOW, ("south",), 0)
    assert isinstance(told, tuple)
    code, words, hint = told
    assert (code, "hunter2" in words + hint) == ("internal-error", False)
    assert words.startswith("internal error (IndexError at app/test_planning_desk.py:")
    assert planned(where, "south").data
