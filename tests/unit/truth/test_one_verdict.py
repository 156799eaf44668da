"""Audit and plan give one answer on estates of any shape, and what is not known never improves it."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.contradictions import contradictions
from bench.random_estates import random_estate
from evac.audit import audit, headline
from evac.audit.context import Context, why_lost
from evac.model.plan import Outcome
from evac.model.reason import Reason
from evac.model.scenario import lose
from evac.planning.plan import foresee, plan
from evac.verify import check
from evac.views.plan_view import Planned, answer, verdict_words
from tests.unit.truth.written import servers, written

NO_ROOM = Reason("no-capacity")
NO_DEMAND = Reason("fact-unknown", fact="services/shop/demand")


@pytest.mark.parametrize("seed", [1, 3, 4, 7, 9, 12, 22, 25, 48, 57])
def test_the_audit_says_what_the_plan_says(seed: int) -> None:
    assert list(contradictions(random_estate(seed))) == []


POOLS = """
name: pools
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 6 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 1}, START rto: 10 min, sheddable: false,
         demand: {cpu: CORES cores, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {tier: 1, people: 9, replicas: {pb: 1}, start: 60 s, sheddable: SHED,
         demand: {cpu: 2 cores, memory: 1 GiB}, traffic: {kind: none}}
LIMITS
"""


def outcome_of(
    folder: Path, text: str, service: str = "shop", **tables: str
) -> tuple[Outcome, str, int | None]:
    """What plan and audit say of a service after the loss of a: outcome, fate and recovery."""
    estate = written(folder, text, **tables)
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    row = next(row for row in audit(estate).rows if row.domain == "a")
    names = tuple(s.id for s in estate.services)
    one = next(one for one in row.fates(names) if one.service == service)
    return next(o for o in made.outcomes if o.service == service), one.fate, one.recovery_ms


def pools(start: str = "start: 60 s,", cores: int = 4, shed: str = "false", limits: str = "") -> str:
    text = POOLS.replace("START", start).replace("CORES", str(cores)).replace("SHED", shed)
    return text.replace("LIMITS", limits)


def test_an_unknown_start_is_an_unknown_recovery(tmp_path: Path) -> None:
    outcome, fate, back = outcome_of(tmp_path / "known", pools())
    assert (outcome.state, outcome.recovery_ms, fate, back) == ("restored", 60_000, "recovers", 60_000)
    outcome, fate, back = outcome_of(tmp_path / "unknown", pools(start=""))
    assert (outcome.state, outcome.recovery_ms, outcome.meets_rto) == ("restored", None, None)
    assert (fate, back) == ("recovers", None)


def test_a_known_recovery_of_an_unknown_start_is_refused(tmp_path: Path) -> None:
    estate = written(tmp_path, pools(start=""))
    made = plan(estate, lose("a"))
    lie = replace(made, outcomes=(replace(made.outcomes[0], recovery_ms=0),))
    assert "F19" in {v.rule for v in check(estate, lie).violations}


def test_no_room_is_said_where_it_is_proved(tmp_path: Path) -> None:
    outcome, fate, _ = outcome_of(tmp_path, pools(cores=5))
    assert (outcome.state, outcome.why, fate) == ("unplaced", NO_ROOM, "lost")


def test_that_no_room_is_left_is_refused_where_a_shed_makes_it(tmp_path: Path) -> None:
    estate = written(tmp_path, pools(cores=5, shed="true"))
    made = plan(estate, lose("a"))
    lie = replace(made, outcomes=tuple(replace(o, why=NO_ROOM) for o in made.outcomes))
    assert "F1" in {v.rule for v in check(estate, lie).violations}
    assert check(estate, made).holds


def test_what_does_not_fit_beside_its_equals_was_not_found(tmp_path: Path) -> None:
    twin = "  twin: {tier: 0, people: 8, replicas: {pa: 1}, start: 60 s, sheddable: false,\n" + (
        "         demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}\n"
    )
    estate = written(tmp_path, pools().replace("  wiki:", twin + "  wiki:"))
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    (why,) = (outcome.why for outcome in made.outcomes if outcome.service == "twin")
    assert why == Reason("capacity-not-found", resource="cpu", missing=4_000)
    row = next(row for row in audit(estate).rows if row.domain == "a")
    assert {one.service: one.fate for one in row.fates(("shop", "twin", "wiki"))}["twin"] == "not proved"
    assert "(4 cores short)" in why.words
    lie = replace(why, missing=3_000)
    outcomes = tuple(replace(o, why=lie) if o.why == why else o for o in made.outcomes)
    assert "F1" in {v.rule for v in check(estate, replace(made, outcomes=outcomes)).violations}


DARK = """
name: dark
sites: {a: {}, b: {}}
classes: {c: {cpu: 4 cores, memory: 64 GiB, boot: 60 s, boot_odds: 100 %}}
limits: {LIMITS}
services:
  shop: {tier: 0, people: 9, replicas: 1, start: 60 s, demand: {cpu: 4 cores, memory: 1 GiB},
         traffic: {kind: none}}
"""
ROWS = ("a1,a,,c,serving,,yes", "b1,b,,c,dark,,no", "b2,b,,c,dark,,BMC")


def fleet(bmc: str) -> str:
    head = "server,site,rack,class,state,pool,bmc"
    return "\n".join([head, *ROWS]).replace("BMC", bmc) + "\n"


BINDING = "service,target,count\nshop,a1,1\n"


@pytest.mark.parametrize(
    ("limits", "bmc", "booted"),
    [
        ("", "no", None),
        ("manual: {boot: 10 min}", "no", ("b1", 660_000)),
        ("manual: {boot: 1 s}", "yes", ("b2", 120_000)),
    ],
)
def test_people_boot_servers_after_everything_else(
    tmp_path: Path, limits: str, bmc: str, booted: tuple[str, int] | None
) -> None:
    text = DARK.replace("LIMITS", limits)
    outcome, fate, back = outcome_of(tmp_path, text, servers=fleet(bmc), replicas=BINDING)
    if booted is None:
        assert (outcome.state, fate) == ("unplaced", "lost")
        return
    assert (outcome.state, fate, back) == ("restored", "recovers", booted[1])
    assert f"boot:{booted[0]}" in outcome.critical


def test_what_stays_degraded_until_the_horizon_is_not_among_what_is_back(tmp_path: Path) -> None:
    text = pools(cores=3).replace("replicas: {pa: 1}", "replicas: {pa: 3}, share: 1/3")
    outcome, fate, back = outcome_of(tmp_path, text)
    assert (outcome.state, fate, back) == ("degraded", "degraded", outcome.recovery_ms)
    report = audit(written(tmp_path, text))
    row = next(row for row in report.rows if row.domain == "a")
    assert (row.down, row.recovered, row.degraded, row.reduced, row.late) == (1, 0, 1, 1, 0)
    assert "1 of them degraded until the horizon" in headline(report, row).text


def test_what_stays_degraded_can_be_late_as_well(tmp_path: Path) -> None:
    text = pools(cores=3).replace("replicas: {pa: 1}", "replicas: {pa: 3}, share: 1/3")
    report = audit(written(tmp_path, text.replace("rto: 10 min", "rto: 30 s")))
    assert next(row for row in report.rows if row.domain == "a").late == 1
    assert "shop" in {finding.subject for finding in report.findings if finding.rule == "recovery-above-rto"}


def test_a_service_of_unknown_demand_cannot_be_judged(tmp_path: Path) -> None:
    text = pools().replace("demand: {cpu: 4 cores, memory: 1 GiB},", "", 1)
    outcome, fate, back = outcome_of(tmp_path, text)
    assert (outcome.state, outcome.why, outcome.recovery_ms) == ("unknown", NO_DEMAND, None)
    assert (fate, back) == ("unknown", None)
    made = plan(written(tmp_path, text), lose("a"))
    assert [step.kind for step in made.steps] == ["start", "verify"]
    words = "cannot be judged: demand of shop"
    assert words in verdict_words(made)
    assert words in answer(Planned(made, ""))[0]
    assert answer(Planned(made, ""))[1] == "unknown"
    assert "cannot be judged" not in verdict_words(plan(written(tmp_path / "known", pools()), lose("a")))


def test_nobody_knows_what_is_free_beside_a_service_of_unknown_demand(tmp_path: Path) -> None:
    text = pools().replace("demand: {cpu: 2 cores, memory: 1 GiB},", "", 1)
    outcome, fate, _ = outcome_of(tmp_path, text)
    assert (outcome.state, outcome.reason, fate) == ("unknown", "cannot be judged: demand of wiki", "unknown")


def test_a_pool_of_unknown_capacity_proves_nothing_and_is_used_last(tmp_path: Path) -> None:
    text = pools().replace("cpu: 6 cores, ", "")
    outcome, fate, _ = outcome_of(tmp_path, text)
    assert (outcome.state, outcome.reason, fate) == ("unknown", "cannot be judged: cpu of pool pb", "unknown")
    enough = text.replace("pb: {", "pc: {site: b, cpu: 6 cores, memory: 64 GiB}, pb: {")
    outcome, fate, _ = outcome_of(tmp_path / "enough", enough)
    assert (outcome.state, fate) == ("restored", "recovers")


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ("replicas: {pb: 2}, share: 100 %", "unknown"),
        ("replicas: {pb: 3}, share: 1/3", "degraded"),
    ],
)
def test_nobody_knows_that_what_was_shed_fits_elsewhere(facts: str, state: str, tmp_path: Path) -> None:
    """Its base depends on that only where too little of it was left in place."""
    estate = written(
        tmp_path,
        f"""
name: moved
sites: {{a: {{}}, b: {{}}}}
pools:
  pa: {{site: a, cpu: 4 cores, memory: 9 GiB}}
  pb: {{site: b, cpu: 6 cores, memory: 9 GiB}}
  pc: {{site: b, memory: 9 GiB}}
services:
  pay: {{tier: 0, people: 9, replicas: {{pa: 1}}, start: 60 s, demand: {{cpu: 4 cores, memory: 1 GiB}},
        traffic: {{kind: none}}}}
  wiki: {{tier: 3, people: 9, {facts}, start: 60 s, demand: {{cpu: 2 cores, memory: 1 GiB}},
         traffic: {{kind: none}}, sheddable: true}}
""",
    )
    made = plan(estate, lose("a"))
    assert check(estate, made).violations == ()
    wiki = next(one for one in made.outcomes if one.service == "wiki")
    assert (wiki.state, wiki.reason) == (state, "cannot be judged: cpu of pool pc")
    lie = replace(made, outcomes=tuple(replace(o, state="restored", why=None) for o in made.outcomes))
    assert not check(estate, lie).holds


def test_that_something_comes_back_is_refused_where_nobody_knows_that_it_fits(tmp_path: Path) -> None:
    estate = written(tmp_path, pools().replace("cpu: 6 cores, ", ""))
    made = plan(estate, lose("a"))
    lie = replace(made, outcomes=tuple(replace(o, state="restored", why=None) for o in made.outcomes))
    assert "F1" in {v.rule for v in check(estate, lie).violations}


def test_where_nobody_knows_that_the_rest_fits_it_is_degraded(tmp_path: Path) -> None:
    text = pools(cores=3).replace("replicas: {pa: 1}", "replicas: {pa: 2, pb: 1}, share: 1/3")
    outcome, fate, _ = outcome_of(tmp_path, text.replace("cpu: 6 cores, ", ""))
    assert (outcome.state, outcome.reason) == ("degraded", "cannot be judged: cpu of pool pb")
    assert fate == "degraded"


LATE_TOOL = """
name: late tool
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 64 cores, memory: 64 GiB}}
limits: {manual: {BY_HAND}}
stores:
  orders: {engine: postgresql, promote: 30 s, fence: 5 s,
           members: [{at: a, mode: primary}, {at: b, mode: sync}]}
services:
  shop: {tier: 0, people: PEOPLE, replicas: {pa: 1, pb: 1}, share: 50 %, start: 60 s, traffic: {kind: none},
         demand: {cpu: 2 cores, memory: 1 GiB}, needs: [{store: orders}]}
"""
LINK = """
  NAME: {tier: 0, people: 1, replicas: {pb: 1}, start: 60 s, verify: 20 s, traffic: {kind: none},
         demand: {cpu: 2 cores, memory: 1 GiB}, needs: [OTHER]}
"""


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([0, 1, 10, 100_000]),
    st.integers(1, 4),
    st.sampled_from(["deploy", "registry"]),
    st.sampled_from(["", "stop: 9 min"]),
)
def test_what_waits_for_a_tool_that_needs_its_service_comes_back_in_full(
    people: int, links: int, role: str, by_hand: str
) -> None:
    """The replicas that a base can do without wait for a tool, and the tool for the base: in any order."""
    text = LATE_TOOL.replace("PEOPLE", str(people)).replace("BY_HAND", by_hand)
    for number, other in enumerate(["shop", *(f"link{n}" for n in range(links - 1))]):
        text += LINK.replace("NAME", f"link{number}").replace("OTHER", other)
    text += f"tools: {{{role}: link{links - 1}}}\n"
    with tempfile.TemporaryDirectory() as folder:
        estate = written(Path(folder), text)
    for work in (0, 200):
        made = plan(estate, lose("a"), work=work)
        assert check(estate, made).holds
        assert {outcome.state for outcome in made.outcomes} == {"restored"}


NO_PLACE = ("no-headroom", "nowhere-else")
"""What an audit says where it is room that is missing."""


@pytest.mark.parametrize("seed", [103, 105, 106, 111, 116, 120, 125, 127])
def test_the_audit_gives_the_reason_of_the_plan(seed: int) -> None:
    """Room is not what is missing where the plan names something else; and one reason is not that of all."""
    estate = random_estate(seed)
    report = audit(estate)
    context = Context(estate, report.impacts, None, None)
    for number, row in enumerate(report.rows):
        why = {outcome.service: outcome.why for outcome in foresee(estate, lose(*row.members)).outcomes}
        counts = Counter[str]()
        for one in row.fates(report.services):
            if one.fate != "lost":
                continue
            chain = why_lost(context, report.services.index(one.service), number)
            planned = why.get(chain.services[-1])
            if planned is not None and planned.kind not in ("no-capacity", "capacity-not-found"):
                assert chain.reason is None or chain.reason.kind not in NO_PLACE
            if chain.cause is not None:
                counts[chain.cause.general.words] += 1
        said = headline(report, row).text
        for words, count in counts.items():
            if f", because {words}" in said:
                assert count == row.lost
        if "the others are back" in said or ", all back" in said:
            assert not row.untimed
            assert row.recovered + row.reduced >= row.down - row.lost


def test_only_what_goes_down_is_said_to_come_back(tmp_path: Path) -> None:
    """A service with a replica left at the other site serves on."""
    text = pools(cores=3) + (
        "  news: {tier: 0, people: 9, start: 1 s, traffic: {kind: none}, share: 50 %,\n"
        "         demand: {cpu: 1 core, memory: 1 GiB}, replicas: {pa: 1, pb: 1}}\n"
    )
    made = plan(written(tmp_path, text), lose("a"))
    assert [(one.service, one.goes_down) for one in made.outcomes] == [("news", False), ("shop", True)]
    words = "the one service that goes down comes back; 1 more stays up"
    assert verdict_words(made).startswith(words)
    assert answer(Planned(made, ""))[0].startswith("The one service that goes down comes back")


def test_the_loss_of_a_rack_of_a_small_company_is_planned(tmp_path: Path) -> None:
    """Its estate is too large to plan every loss, and the loss of a rack says when services are back."""
    racks = [f"{'ab'[number % 2]}/r{number}" for number in range(20)]
    lines = [
        f"s{number}-{one},{rack[0]},{rack},c,serving,"
        for number, rack in enumerate(racks)
        for one in "123456"
    ]
    text = f"""
name: n
sites: {{a: {{}}, b: {{}}}}
racks: {{{", ".join(f"{rack}: {{}}" for rack in racks)}}}
classes: {{c: {{cpu: 8 cores, memory: 64 GiB}}}}
services:
  shop: {{tier: 0, people: 9, start: 60 s, demand: {{cpu: 2 cores, memory: 1 GiB}}, traffic: {{kind: none}}}}
"""
    table = "service,target,count\n" + "".join(f"shop,s0-{one},1\n" for one in "123456")
    report = audit(written(tmp_path, text, servers=servers(*lines), replicas=table))
    assert {row.kind: row.method for row in report.rows} == {"site": "plan", "rack": "plan"}
    (rack,) = [row for row in report.rows if row.domain == "a/r0"]
    (fate,) = rack.fates(report.services)
    assert (fate.service, fate.fate, fate.recovery_ms) == ("shop", "recovers", 60_000)
