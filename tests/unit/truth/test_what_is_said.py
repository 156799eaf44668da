"""What is said of a loss is true of every loss that it names: what is taken of a store, when a tool is back,
and which services nobody can judge.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evac.app.doctor import examine_files
from evac.audit import audit
from evac.derive.planning_instance import derive
from evac.model.errors import EstateError
from evac.model.estate import Estate
from evac.model.scenario import Scenario, lose
from evac.office.facts import facts_of
from evac.office.reckoning import WhatIf, loss_by, verdict_of, what_if_of
from evac.planning.plan import plan
from evac.planning.simulation.simulate import simulate
from evac.views.audit_view import audit_answer, audit_context, audit_text
from evac.views.moves import stops_words, work_words, writes_words
from evac.views.plan_text import plan_text
from evac.views.plan_view import tier_rows
from evac.views.small_texts import simulate_text
from evac.web.pages.losses_view import can_lose, loss_row, tally
from evac.web.pages.what_if_view import _cards
from tests.unit.truth.written import servers, written

STORES = """
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  waits: {people: 1, replicas: {pb: 1}, traffic: {kind: none}, needs: [{store: waiting}]}
  moves: {people: 1, replicas: {pb: 1}, traffic: {kind: none}, needs: [{store: moving}]}
  votes: {people: 1, replicas: {pb: 1}, traffic: {kind: none}, needs: [{store: voting}]}
  burns: {people: 1, replicas: {pb: 1}, traffic: {kind: none}, needs: [{store: burning}]}
stores:
  waiting: {members: [{at: b, mode: primary}, {at: a, mode: sync}], sync_timeout: 10 s}
  moving: {members: [{at: a, mode: primary}, {at: b, mode: sync}], fence: 1 s, promote: 1 s}
  voting: {quorum: true, members: [{at: a, mode: primary, votes: 2}, {at: b, mode: sync}]}
  burning: {members: [{at: a, mode: primary}]}
"""


def test_what_a_loss_takes_of_a_store_is_said(tmp_path: Path) -> None:
    found = what_if_of(audit(written(tmp_path, STORES)), ("a",))
    assert {one.service: one.chain[-1] for one in found.services} == {
        "waits": "store waiting waits for the copies lost with a to confirm its commits",
        "moves": "store moving loses its primary with a",
        "votes": "store voting loses the majority of its votes with a, so writes stop",
        "burns": "store burning has no copy outside a",
    }


TOOLS = """
sites: {a: {}, b: {}, c: {}}
groups: {both: {members: [a, b]}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  git: {people: 1, replicas: {pa: 1}, START demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none},
        needs: [{store: repos}]}
stores:
  repos: {members: [{at: a, mode: primary}, {at: b, mode: sync}], fence: 1 s, promote: 1 s,
          sync_timeout: 0 s}
tools: {deploy: git}
limits: {manual: {start: TIME}}
"""


def tool_said(folder: Path, start: str, by_hand: str) -> str:
    estate = written(folder, TOOLS.replace("START", start).replace("TIME", by_hand))
    (one,) = (f for f in audit(estate).findings if f.rule == "recovery-tool-lost")
    return one.message


def test_a_tool_that_comes_back_is_not_said_never_to(tmp_path: Path) -> None:
    lost = "git (deploy) is lost with both, a, and its own recovery needs it: after the loss of"
    assert tool_said(tmp_path / "timed", "start: 5 s,", "4 min") == f"{lost} both, it never comes back"
    text = TOOLS.replace("START", "start: 5 s,").replace("TIME", "4 min").replace("fence: 1 s, ", "")
    estate = written(tmp_path / "worst", text)
    (one,) = (f for f in audit(estate).findings if f.rule == "recovery-tool-lost")
    assert one.message.endswith("after the loss of both, it never comes back"), "a: back at an unknown time"
    alone = TOOLS.replace("groups: {both: {members: [a, b]}}", "").replace("START", "start: 5 s,")
    estate = written(tmp_path / "alone", alone.replace("TIME", "4 min"))
    (one,) = (f for f in audit(estate).findings if f.rule == "recovery-tool-lost")
    assert one.message.endswith("its own recovery needs it: it is back after 4 min")
    estate = written(tmp_path / "untimed", alone.replace("start: 5 s,", "").replace("TIME", "unknown"))
    (one,) = (f for f in audit(estate).findings if f.rule == "recovery-tool-lost")
    assert one.message.endswith("it never comes back")


OPEN = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  gone: {tier: 0, people: 1, rto: 1 h, replicas: {pb: 1}, traffic: {kind: none}, needs: [{store: burnt}]}
  open: {tier: 0, people: 1, rto: 1 h, replicas: 2, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
  dear: {tier: 1, people: 1, rto: 1 h, replicas: {pb: 1}, traffic: {kind: none}, needs: [open]}
stores:
  burnt: {members: [{at: a, mode: primary}]}
"""


def test_nobody_counts_what_cannot_be_judged_as_not_restored(tmp_path: Path) -> None:
    estate = written(tmp_path, OPEN)
    made = plan(estate, lose("a"), work=0)
    instance = derive(estate, made.scenario, made.policy, made.tick_ms)
    text = simulate_text(made, simulate(instance, made, trials=5), 200, False)
    assert "(2 cannot be judged, 1 not restored by this plan)" in text
    assert "2 services cannot be judged: where the replicas of open run" in text
    assert [(row["gone"], row["unjudged"]) for row in tier_rows(made)] == [("1", "1"), ("0", "1")]
    table = [line.split() for line in plan_text(made, "x", 200, False).splitlines() if "tier " in line]
    assert [row[-2:] for row in table[:2]] == [["1", "1"], ["0", "1"]]


def audited(estate: Estate, whole: bool) -> list[str]:
    report = audit(estate)
    text = audit_text(report, report.findings, (), "x", 200, False, whole)
    return [line.split()[1] for line in text.splitlines() if line.startswith("  ok ")]


def test_every_loss_is_listed_on_request(tmp_path: Path) -> None:
    estate = written(tmp_path, "sites: {a: {}}\nhalls: {a/h: {}}\nracks: {a/h/r: {}}\n")
    assert audited(estate, whole=False) == ["a"]
    assert audited(estate, whole=True) == ["a", "a/h", "a/h/r"]


def test_a_server_in_yaml_is_sent_to_the_table_of_replicas(tmp_path: Path) -> None:
    text = "sites: {a: {}}\nservices: {shop: {replicas: {s1: 1}}}\n"
    with pytest.raises(EstateError) as raised:
        written(tmp_path, text, servers=servers("s1,a,,,serving,"))
    (one,) = raised.value.diagnostics
    assert (one.code, one.place.line) == ("name-unknown", 3)
    assert "replicas.csv" in one.hint


UNTIMED = """
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  shop: {people: 1, rto: 1 min, replicas: {pa: 1}, START demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    ("start", "short", "words"),
    [
        ("start: 5 s,", "Yes", "You can lose any one site."),
        ("start: 2 min,", "Late", "You can lose b or c."),
        ("", "Not known", "You can lose b or c."),
    ],
)
def test_a_site_whose_services_return_at_an_unknown_time_is_not_said_to_be_safe_to_lose(
    tmp_path: Path, start: str, short: str, words: str
) -> None:
    facts = facts_of(audit(written(tmp_path, UNTIMED.replace("START", start))), "")
    row = next(one for one in facts.losses if one.domain == "a")
    assert loss_row(row)["short"] == short
    counts = tally(facts)
    assert (counts["yes"], counts["late"], counts["unknown"]) == (
        2 + (short == "Yes"),
        int(short == "Late"),
        int(short == "Not known"),
    )
    quorum = SimpleNamespace(answers=True, problem="")
    now: Any = SimpleNamespace(lost_sites=(), quorum=quorum)
    found = can_lose(now, facts)
    assert found is not None
    assert (found["words"], found["all"]) == (words, short == "Yes")
    assert ("unknown when some services are back after the loss of a" in found["more"]) == (
        short == "Not known"
    )
    assert (row.late, row.rto_unknown) == (int(short == "Late"), int(short == "Not known"))
    late = _cards(WhatIf(("a",), "", row, ()))[3].more
    said = {
        "Late": "1 service later than",
        "Not known": "1 service may be later than",
        "Yes": "None later than",
    }
    assert late == f"{said[short]} promised"


@pytest.mark.parametrize("start", ["start: 5 s,", "start: 2 min,", ""])
def test_the_audit_says_how_many_may_be_too_late(tmp_path: Path, start: str) -> None:
    report = audit(written(tmp_path, UNTIMED.replace("START", start)))
    text = audit_text(report, report.findings, (), "x", 200, False)
    (line,) = [words for words in text.splitlines() if words.startswith("  degraded  a ")]
    (row,) = [one for one in audit_context(report, report.findings)["loss_rows"] if one["domain"] == "a"]
    ends = {"start: 5 s,": ("5 s", "0"), "start: 2 min,": ("2 min", "1"), "": ("unknown", "0 to 1")}
    assert tuple(re.split(" {2,}", line)[-2:]) == ends[start]
    assert (row["back"], row["missed"]) == ends[start]


NARROW = (
    UNTIMED.replace("START", "start: 5 s,")
    .replace("a: {}, b: {}, c: {}", "a: {ingress: 9 Mbit/s}, b: {ingress: 1 Mbit/s}, c: {ingress: 9 Mbit/s}")
    .replace("kind: none", "kind: load_balancer, settle: 1 s, peak: 2 Mbit/s")
)
FULL = UNTIMED.replace("START", "start: 5 s, tier: 0,") + (
    "  batch: {rto: 1 h, sheddable: true, tier: 3, replicas: {pb: 9},\n"
    "          demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}\n"
)
CROWDED = "The traffic may be too much for a link or an ingress after the loss of a"


@pytest.mark.parametrize(
    ("text", "short", "said", "card"),
    [
        (NARROW, "Not known", CROWDED, "1 service may be later than promised"),
        (NARROW.replace("rto: 1 min, ", ""), "Not known", CROWDED, "None later than promised"),
        (
            NARROW.replace(", peak: 2 Mbit/s", ""),
            "Not known",
            CROWDED,
            "1 service may be later than promised",
        ),
        (
            FULL,
            "In part",
            "Some services are shed after the loss of a.",
            "None that comes back is later than promised",
        ),
    ],
    ids=["narrow", "no objective", "no peak", "full"],
)
@pytest.mark.parametrize("by_plan", [False, True])
def test_a_site_whose_loss_congests_a_link_or_sheds_is_not_said_to_be_safe_to_lose(
    tmp_path: Path, text: str, short: str, said: str, card: str, by_plan: bool
) -> None:
    """Also if the services behind the link return in time, or if only what may be shed stays away."""
    estate = written(tmp_path, text)
    report = audit(estate)
    facts = facts_of(report, "")
    if by_plan:
        planned = [
            loss_by(one, verdict_of("", plan(estate, lose(one.domain)))) if one.domain == "a" else one
            for one in facts.losses
        ]
        facts = replace(facts, losses=tuple(planned))
    (row,) = [one for one in facts.losses if one.domain == "a"]
    if not by_plan and text == FULL:  # the estimate does not prove a shed, and never says that it is safe
        assert (row.verdict, loss_row(row)["short"], row.not_proved > 0) == ("unknown", "Not known", True)
        return
    assert (row.verdict, row.late) == ("degraded", 0)
    assert (loss_row(row)["short"], loss_row(row)["look"]) == (short, "")
    assert _cards(WhatIf(("a",), "", row, ()))[3].more == card
    counts = tally(facts)
    assert sum(counts[name] for name in ("yes", "part", "late", "unknown", "no")) == counts["all"]
    now: Any = SimpleNamespace(lost_sites=(), quorum=SimpleNamespace(answers=True, problem=""))
    found = can_lose(now, facts)
    assert found is not None
    assert not found["all"]
    assert said in found["more"]
    assert audit_answer(report)[1] in {"Not known": ("unknown",), "In part": ("unknown", "warning")}[short]


def test_a_second_loss_that_leaves_an_objective_in_doubt_is_worse(tmp_path: Path) -> None:
    made = plan(written(tmp_path, NARROW), lose("a"))
    calm = tuple(replace(one, congested=False) for one in made.outcomes)
    before = replace(made, outcomes=calm, congestion=())
    assert verdict_of("", made, before).rto_unknown == verdict_of("", made).rto_unknown == 1
    assert verdict_of("", made, made).rto_unknown == 0


ELECTS = """
sites: {a: {}, b: {}, c: {}}
stores:
  orders: {KEYS members: [{at: a, mode: primary}, {at: b, mode: sync}, {at: c, mode: none}]}
"""


@pytest.mark.parametrize(
    ("keys", "elects"),
    [
        ("quorum: true, automatic: true,", True),
        ("quorum: true, automatic: false,", False),
        ("quorum: true,", False),
    ],
)
def test_the_doctor_and_the_plan_agree_on_who_promotes(tmp_path: Path, keys: str, elects: bool) -> None:
    estate = written(tmp_path, ELECTS.replace("KEYS", keys))
    kinds = {step.kind for step in plan(estate, lose("a"), work=0).steps}
    assert ("elect" in kinds) == elects
    found = asyncio.run(examine_files(tmp_path / "estate.yaml", None, 0))
    assert (found.verdict("orders") == "automatic") == elects


MOVES = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  shop: {people: 1, replicas: {pa: 1}, START demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none},
         needs: [{store: orders}]}
stores:
  orders: {FENCE PROMOTE members: [{at: a, mode: primary}, {at: b, mode: sync}]}
"""


@pytest.mark.parametrize("kind", ["evacuate", "failback"])
@pytest.mark.parametrize(
    ("start", "fence", "promote", "works", "stops"),
    [
        ("start: 9 s,", "fence: 1 s,", "promote: 2 s,", "9 s", "3 s"),
        ("start: 9 s,", "", "promote: 2 s,", "at least 9 s", "at least 2 s"),
        ("start: 9 s,", "fence: 1 s,", "", "at least 9 s", "at least 1 s"),
        ("", "fence: 1 s,", "promote: 2 s,", "at least 3 s", "3 s"),
    ],
)
def test_work_of_unknown_length_takes_at_least_what_is_known(
    tmp_path: Path, kind: Any, start: str, fence: str, promote: str, works: str, stops: str
) -> None:
    text = MOVES.replace("START", start).replace("FENCE", fence).replace("PROMOTE", promote)
    made = plan(written(tmp_path, text), Scenario(kind, ("a",)), work=0)
    assert work_words(made) == works
    assert writes_words(made) == f"writes of store orders stop for {stops} while its primary moves"


HELD = """
sites: {a: {region: here}, b: {region: here}, c: {region: there}}
groups: {grid: {members: [a, b]}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pc: {site: c, cpu: 9 cores, memory: 9 GiB}}
services:
  shop: {people: 1, replicas: {pc: 1}, traffic: {kind: none}, needs: [{store: orders}]}
stores:
  orders: {DATA members: [{at: a, mode: primary}, {at: b, mode: sync}], fence: 1 s, promote: 1 s}
"""


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ("", "Keep a copy of orders, or a backup that restores in time, at another site."),
        (
            "data_in: [here],",
            "Allow the data of orders at a site that fails independently (`data_in`), and keep a copy of"
            " orders, or a backup that restores in time, there.",
        ),
        (
            "data_in: [here, there],",
            "Keep a copy of orders, or a backup that restores in time, at another site.",
        ),
    ],
)
def test_no_advice_puts_data_where_it_may_not_be(tmp_path: Path, data: str, advice: str) -> None:
    findings = audit(written(tmp_path, HELD.replace("DATA", data))).findings
    (lost,) = (f for f in findings if f.rule == "service-lost")
    (copy,) = (f for f in findings if f.rule == "no-copy-outside")
    assert lost.fix == advice
    assert copy.fix.startswith(advice.split(" ", maxsplit=1)[0])


@pytest.mark.parametrize("need", ["{service: open, hard: false}", "{any_of: [open, gone], hard: false}"])
def test_why_a_service_is_degraded_is_said_if_what_it_uses_cannot_be_judged(
    tmp_path: Path, need: str
) -> None:
    text = OPEN.replace("needs: [open]", f"needs: [{need}]")
    found = what_if_of(audit(written(tmp_path, text)), ("a",))
    dear = next(one for one in found.services if one.service == "dear")
    assert dear.fate == "degraded"
    assert dear.chain == ("dear", "open, which it uses, cannot be judged")


STOPS = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  shop: {people: 1, replicas: {pa: 1}, start: 9 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
  wiki: {people: 1, replicas: {pa: 1}, start: 9 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}, shed_time: 5 s, needs: [{store: pages}]}
stores:
  pages: {members: [{at: a, mode: primary}]}
"""


@pytest.mark.parametrize(("deadline_ms", "after"), [(600_000, "10 min"), (86_400_000, "24 h")])
def test_the_work_of_an_evacuation_ends_before_what_runs_until_its_deadline(
    tmp_path: Path, deadline_ms: int, after: str
) -> None:
    made = plan(written(tmp_path, STOPS), Scenario("evacuate", ("a",), deadline_ms), work=0)
    assert {one.service: one.state for one in made.outcomes} == {"shop": "restored", "wiki": "unplaced"}
    assert work_words(made) == "9 s"
    words = f"wiki stops at the deadline, {after} after the start; it does not come back before the horizon"
    assert stops_words(made) == words
    assert f"wiki stops at the deadline, {after}" in plan_text(made, "x", 200, False)


@pytest.mark.parametrize("deadline_ms", [600_000, 86_400_000, 90_000_000])
def test_no_outage_is_claimed_of_what_stops_only_at_the_horizon(tmp_path: Path, deadline_ms: int) -> None:
    """Nothing after the horizon counts, so an outage of 0 is no proof that a plan is good."""
    made = plan(written(tmp_path, STOPS), Scenario("evacuate", ("a",), deadline_ms), work=0)
    said, is_late = plan_text(made, "x", 200, False), deadline_ms >= 86_400_000
    assert ("; 1 service without another place is down after that" in said) is is_late
    assert ("unknown: the outage of what has no other place begins only after the horizon" in said) is is_late
    assert "no plan can be better" not in said
    assert (made.objective == 0) is is_late
