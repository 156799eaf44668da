"""Shedding never takes what a service that stays, or one that is restored, needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES
from evac.model.reason import Reason
from evac.model.scenario import lose
from evac.office.reckoning import verdict_of
from evac.planning.plan import plan
from evac.verify import check
from evac.views.plan_view import tally
from tests.unit.truth.written import written

ESTATE = """
name: shedding
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  front: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, needs: [SHOP], sheddable: false,
          demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
  middle: {tier: 1, people: 9, replicas: {pb: 1}, needs: [base], sheddable: true,
           demand: {cpu: 2 cores, memory: 1 GiB}, traffic: {kind: none}}
  base: {tier: 2, people: 9, replicas: {pb: 1}, sheddable: true,
         demand: {cpu: 6 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


def verdicts(folder: Path, needs: str, text: str = ESTATE) -> tuple[str, str, bool]:
    """What plan and audit say of front after the loss of a, and whether anything is shed."""
    estate = written(folder, text.replace("SHOP", needs))
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    found = audit(estate)
    row = [s.id for s in estate.services].index("front")
    fate = FATES[int(found.impacts.fate[found.impacts.losses.index["a"], row])]
    state = next(o.state for o in made.outcomes if o.service == "front")
    return state, fate, any(step.kind == "shed" for step in made.steps)


def test_what_nobody_needs_makes_way(tmp_path: Path) -> None:
    alone = ESTATE.replace("needs: [base], ", "")
    assert verdicts(tmp_path, "", alone) == ("restored", "recovers", True)


def test_what_takes_more_than_one_shed_is_not_proved(tmp_path: Path) -> None:
    assert verdicts(tmp_path, "") == ("unplaced", "not proved", False)


def test_what_a_restored_service_needs_through_another_stays(tmp_path: Path) -> None:
    assert verdicts(tmp_path, "middle") == ("unplaced", "lost", False)


DOWN = """
name: down
sites: {a: {}, b: {}}
providers: {cloud: {}}
groups: {both: {kind: spine, members: [a, "provider:cloud"]}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
stores: {data: {engine: postgresql, members: [{at: a, mode: primary}]}}
services:
  front: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, sheddable: false,
          demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
  saas: {external: true, provider: cloud}
  down: {tier: 1, people: 9, replicas: {pb: 1}, needs: [NEED], sheddable: true, start: 60 s,
         demand: {cpu: 6 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    ("need", "loss", "why"),
    [
        ("{store: data}", "a", Reason("no-copy", store="data")),
        ("saas", "both", Reason("needs", ("saas",))),
    ],
)
def test_what_never_returns_is_down_for_that_although_it_makes_way(
    tmp_path: Path, need: str, loss: str, why: Reason
) -> None:
    """Not because it made way: nothing would bring it back if it had not."""
    estate = written(tmp_path, DOWN.replace("NEED", need))
    made = plan(estate, lose(loss))
    assert check(estate, made).violations == ()
    assert [step.target for step in made.steps if step.kind == "shed"] == ["down"]
    told = {one.service: (one.state, one.why) for one in made.outcomes}
    assert told["front"] == ("restored", None)
    assert told["down"] == ("unplaced", why)


HALVED = """
name: halved
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 900, replicas: {pa: 1, pb: 1}, share: 50 %, rto: 5 min, start: 60 s,
         sheddable: false, demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {tier: 2, people: 9, replicas: {pb: 1}, rto: 1 h, start: 60 s, sheddable: true,
         demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


@pytest.mark.parametrize("work", [0, 400])
def test_what_makes_way_for_missing_replicas_is_in_the_row_of_the_loss(tmp_path: Path, work: int) -> None:
    """Without a search, nothing was shed for a service that stays up: audits left out what plans shed."""
    estate = written(tmp_path, HALVED)
    made = plan(estate, lose("a"), work=work)
    assert check(estate, made).holds
    assert {one.service: one.state for one in made.outcomes} == {"shop": "restored", "wiki": "shed"}
    row = next(row for row in audit(estate).rows if row.domain == "a")
    fates = {estate.services[s].id: FATES[int(f)] for s, f in zip(row.service, row.fate, strict=True)}
    assert (fates["wiki"], row.shed) == ("shed", 1)
    found, told = tally(made), verdict_of("", made)
    assert (row.down, row.people_down, row.rto_missed) == (found.down, 9, 1) == (told.down, 9, told.missed)


def test_what_a_plan_sheds_misses_its_objective_in_a_finding(tmp_path: Path) -> None:
    found = [one for one in audit(written(tmp_path, HALVED)).findings if one.code == "EV113"]
    assert [(one.subject, one.severity, one.domains) for one in found] == [("wiki", "warning", ("a", "b"))]
    assert found[0].message == "wiki is shed to free capacity (plan); its RTO is 1 h (loss of a, b)"
    assert found[0].chain == ("wiki", "frees capacity for shop")


def test_what_stays_down_for_missing_replicas_says_whose(tmp_path: Path) -> None:
    """No longer search finds capacity for wiki unless the plan leaves shop degraded."""
    estate = written(tmp_path, HALVED)
    made = plan(estate, lose("b"))
    assert check(estate, made).holds
    told = {one.service: (one.state, one.why) for one in made.outcomes}
    assert told["wiki"] == ("unplaced", Reason("capacity-taken", ("shop",)))
    row = next(row for row in audit(estate).rows if row.domain == "b")
    assert (row.down, row.not_proved, row.rto_unknown) == (1, 1, 1)


@pytest.mark.parametrize("more", [{}, {"supply": "b"}, {"fact": "limits/manual/boot"}])
def test_a_plan_that_says_no_capacity_is_left_is_caught_if_there_is(
    tmp_path: Path, more: dict[str, str]
) -> None:
    estate = written(tmp_path, HALVED)
    made = plan(estate, lose("b"))
    lied = tuple(
        replace(one, why=Reason("no-capacity", **more)) if one.service == "wiki" else one
        for one in made.outcomes
    )
    found = check(estate, replace(made, outcomes=lied)).violations
    assert [(one.rule, one.subject) for one in found] == [("F1", "wiki")]


def test_what_no_missing_replica_would_make_room_for_names_none(tmp_path: Path) -> None:
    estate = written(tmp_path, HALVED.replace("replicas: {pb: 1}, rto", "replicas: {pb: 3}, rto"))
    made = plan(estate, lose("b"))
    why = next(one.why for one in made.outcomes if one.service == "wiki")
    assert why is not None
    assert why.kind != "capacity-taken"
