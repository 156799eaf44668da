"""What keeps servers off is named: the missing fact or the power that is short. No search changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.context import Context, why_lost
from evac.audit.impacts.all_losses import FATES
from evac.estate.codecs.plan import decode, encode
from evac.model.estate import Estate
from evac.model.plan import Outcome
from evac.model.reason import Reason
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import written

ESTATE = """
name: kept off
sites: {a: {}, b: {}}
halls: {b/h: {}}
feeds: {b/f: {power_budget: 3 kW}, b/g: {power_budget: 3 kW}}
racks: {b/h/r: {feeds: [b/f]}, b/h/s: {feeds: [b/g]}}
classes: {c: {cpu: 8 cores, memory: 32 GiB, boot: 120 s, boot_odds: 100 %, watts: 400 W}}
services:
  shop: {tier: 0, people: 900, replicas: {a: 3}, rto: 30 min, start: 60 s, sheddable: false,
         demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
limits: {}
"""
SERVERS = """server,site,rack,class,state,bmc
b1,b,b/h/r,c,dark,yes
b2,b,b/h/r,c,dark,yes
b3,b,b/h/s,c,dark,yes
b4,b,b/h/s,c,dark,yes
"""
BY_HAND = SERVERS.replace("yes", "no")
MANUAL = ESTATE.replace("limits: {}", "limits: {manual: {boot: 10 min}}")
NO_BOOT = ESTATE.replace(" boot: 120 s,", "")
WEAK = ESTATE.replace("3 kW", "700 W")
"""Each feed carries one server, and the service needs three."""
UNSTATED = (
    "there is no capacity left for it; servers that could take it stay off because a fact is not stated: "
)


def estate_of(folder: Path, text: str, servers: str) -> Estate:
    (folder / "servers.csv").write_text(servers, "utf-8")
    return written(folder, text)


def outcome_of(estate: Estate, work: int = 0) -> Outcome:
    made = plan(estate, lose("a"), work=work)
    assert check(estate, made).holds
    assert decode(encode(made)).outcomes == made.outcomes
    return made.outcomes[0]


@pytest.mark.parametrize(
    ("text", "servers", "why", "words"),
    [
        (
            ESTATE,
            BY_HAND,
            Reason("no-capacity", fact="limits/manual/boot"),
            f"{UNSTATED}how long boot takes by hand (limits: manual: boot)",
        ),
        (NO_BOOT, SERVERS, Reason("no-capacity", fact="classes/c/boot"), f"{UNSTATED}boot of class c"),
        (
            WEAK,
            SERVERS,
            Reason("no-capacity", supply="b/f"),
            "the power of b/f is not enough for the servers that it needs",
        ),
    ],
)
@pytest.mark.parametrize("work", [0, 40])
def test_plan_and_audit_name_what_keeps_servers_off(
    tmp_path: Path, text: str, servers: str, why: Reason, words: str, work: int
) -> None:
    estate = estate_of(tmp_path, text, servers)
    outcome = outcome_of(estate, work)
    assert (outcome.state, outcome.why, outcome.reason) == ("unplaced", why, words)
    report = audit(estate)
    number = report.impacts.losses.index["a"]
    assert FATES[int(report.impacts.fate[number, 0])] == "lost"
    chain = why_lost(Context(estate, report.impacts), 0, number)
    assert chain.words == ("shop", words)


@pytest.mark.parametrize(
    ("text", "servers"), [(ESTATE, SERVERS), (MANUAL, BY_HAND), (WEAK.replace("700", "800"), SERVERS)]
)
def test_what_is_stated_and_powered_restores_it(tmp_path: Path, text: str, servers: str) -> None:
    assert outcome_of(estate_of(tmp_path, text, servers)).state == "restored"


def test_servers_that_are_too_small_are_not_the_reason(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, ESTATE.replace("cpu: 4 cores", "cpu: 12 cores"), BY_HAND)
    assert outcome_of(estate).why == Reason("no-capacity")
