"""What is down because its servers are off is not said to fall with a loss that does not touch it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from bench.random_estates import random_estate, strange_estate
from evac.audit import AuditReport, audit
from evac.audit.auditing import headline
from evac.office.facts import loss_facts
from evac.office.reckoning import what_if_of
from evac.views.audit_view import audit_json, audit_text
from evac.web.pages.what_if_view import _heading
from tests.unit.truth.written import servers, written

REST: Final = "start: 60 s, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}"
ESTATE: Final = f"""
name: n
sites: {{a: {{}}, b: {{}}}}
halls: {{a/h: {{}}, b/h: {{}}}}
racks: {{a/h/r: {{}}, b/h/r: {{}}}}
classes: {{c: {{cpu: 8 cores, memory: 64 GiB}}}}
providers: {{pay.example: {{}}}}
tools: {{deploy: [{{any_of: [old, shop]}}], vpn: old}}
services:
  half: {{tier: 0, people: 9, share: "50 %", {REST}}}
  needs-old: {{tier: 0, people: 9, replicas: {{pb: 1}}, {REST}, needs: [old]}}
  old: {{tier: 0, people: 9, {REST}}}
  either: {{tier: 0, people: 9, replicas: {{pb: 1}}, {REST}, needs: [{{any_of: [old, shop]}}]}}
  pay: {{tier: 0, people: 9, external: true, provider: pay.example}}
  shop: {{tier: 0, people: 9, {REST}, needs: [pay]}}
  soft: {{tier: 0, people: 9, share: "50 %", {REST}, needs: [{{service: shop, hard: false}}]}}
pools: {{pb: {{site: b, cpu: 8 cores, memory: 64 GiB}}}}
"""
REPLICAS: Final = "service,target,count\nold,v1,1\nhalf,v1,1\nhalf,b1,1\nsoft,v1,1\nsoft,b1,1\nshop,v2,1\n"


def report(folder: Path, state: str = "condemned") -> AuditReport:
    table = servers(f"v1,a,a/h/r,c,{state},", "v2,a,a/h/r,c,serving,", "b1,b,b/h/r,c,serving,")
    return audit(written(folder, ESTATE, servers=table, replicas=REPLICAS))


def caused(found: AuditReport, loss: str) -> set[str]:
    impacts = found.impacts
    rows = np.flatnonzero(impacts.caused[impacts.losses.index[loss]]).tolist()
    return {found.services[row] for row in rows}


@pytest.mark.parametrize("state", ["dark", "condemned"])
def test_a_provider_is_not_blamed_for_what_is_down_without_it(tmp_path: Path, state: str) -> None:
    found = report(tmp_path, state)
    loss = "provider:pay.example"
    assert caused(found, loss) == {"either", "pay", "shop"}
    (finding,) = [one for one in found.findings if one.rule == "provider-lost"]
    assert ": 2 services down (either, shop); 1 service degraded (soft); recovery tools" in finding.message
    assert "recovery tools lost: deploy (old or shop)." in finding.message
    row = next(row for row in found.rows if row.domain == loss)
    assert headline(found, row).what.startswith("5 services down (2 of them before the loss), ")


def test_every_view_says_how_many_are_down_before_the_loss(tmp_path: Path) -> None:
    found, loss = report(tmp_path), "provider:pay.example"
    row = next(row for row in found.rows if row.domain == loss)
    answer = what_if_of(found, (loss,))
    assert (row.down, row.down_before) == (5, 2)
    assert (loss_facts(found, row).down_before, answer.loss.down_before) == (2, 2)
    assert "5 services are down (2 of them were already down)" in _heading(answer)
    document = json.loads(audit_json(found, found.findings))
    (shown,) = (one for one in document["scenarios"] if one["domain"] == loss)
    assert (shown["down"], shown["down_before"]) == (5, 2)
    assert "5 (2 before)" in audit_text(found, found.findings, (), "x", 200, False)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_down_before_is_part_of_what_is_down(seed: int) -> None:
    found = audit(strange_estate(seed))
    impacts = found.impacts
    own = (impacts.caused | impacts.away & ~impacts.down).sum(axis=1).tolist()
    assert [row.down - row.down_before for row in found.rows] == own
    if not found.impacts.presence.off.any():
        assert not any(row.down_before for row in found.rows)


def test_where_all_is_on_a_loss_causes_all_of_it(tmp_path: Path) -> None:
    found = report(tmp_path, "serving")
    assert caused(found, "provider:pay.example") == {"pay", "shop"}
    assert caused(found, "a") == {"either", "needs-old", "old", "shop"}
    row = next(row for row in found.rows if row.domain == "a")
    assert "before the loss" not in headline(found, row).text


def test_a_loss_of_more_of_what_is_down_before_causes_it_too(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert caused(found, "a") == {"either", "shop"}
    assert caused(found, "b") >= {"half", "needs-old", "soft"}


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_caused_that_is_not_down(seed: int) -> None:
    for estate in (random_estate(seed), strange_estate(seed)):
        impacts = audit(estate).impacts
        assert not (impacts.caused & ~impacts.down).any()
        if not impacts.presence.off.any():
            assert (impacts.caused == impacts.down).all()
        up_before = impacts.presence.off == 0
        own = (impacts.lost > 0) & impacts.direct & up_before
        assert not (own & ~impacts.caused).any()
