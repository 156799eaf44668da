"""Every flaw that is put into a sound estate is found, and gone when it is taken out again."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.audit import AuditReport, audit
from evac.model.estate import Estate
from tests.unit.audit.estates import found, sound
from tests.unit.audit.flaws import FLAWS, Flaw

ALONE = {"a quorum without witness"}
"""Uses the same store as another flaw, so the two are not combined."""


def test_the_sound_estate_has_nothing_to_mend() -> None:
    report = audit(sound())
    assert report.findings == ()
    assert [row.verdict for row in report.rows] == ["degraded"] * 3


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda f: f.name)
def test_a_flaw_is_found(flaw: Flaw) -> None:
    assert not [f for f in found(audit(sound()), flaw.rule) if f.subject == flaw.subject]
    hits = [f for f in found(audit(flaw.add(sound())), flaw.rule) if f.subject == flaw.subject]
    assert len(hits) == 1
    assert hits[0].severity == flaw.severity
    assert hits[0].fix
    assert hits[0].message.endswith(hits[0].message.strip())


def test_what_to_add_to_pools_is_said_in_their_words() -> None:
    flaw = next(flaw for flaw in FLAWS if flaw.name == "no room")
    fixes = {f.fix for f in found(audit(flaw.add(sound())), flaw.rule) if f.subject == flaw.subject}
    assert fixes == {"Add cpu to the pools of other sites, or let lower tiers be shed."}


@cache
def audited(*chosen: Flaw) -> AuditReport:
    """The report on an estate with these flaws, added in this order; many examples share one."""
    return audit(_with(chosen))


def _with(chosen: tuple[Flaw, ...]) -> Estate:
    estate = sound(cores=1_200)  # what has no room elsewhere leaves room for all others
    for flaw in chosen:
        estate = flaw.add(estate)
    return estate


@given(st.lists(st.sampled_from([f for f in FLAWS if f.name not in ALONE]), unique=True, max_size=6))
def test_flaws_appear_and_vanish_in_any_combination(chosen: list[Flaw]) -> None:
    findings = {(f.rule, f.subject) for f in audited(*chosen).findings}
    expected = {(f.rule, f.subject) for f in chosen}
    assert expected <= findings
    for gone in chosen:
        rest = [f for f in chosen if f is not gone]
        left = {(f.rule, f.subject) for f in audited(*rest).findings}
        assert (gone.rule, gone.subject) not in left


@given(st.permutations(range(len(FLAWS))))
def test_the_report_does_not_depend_on_the_order_of_flaws(order: list[int]) -> None:
    chosen = [FLAWS[i] for i in order if FLAWS[i].rule in ("single-site-service", "data-loss-above-rpo")]
    report = audited(*chosen)
    again = audited(*sorted(chosen, key=lambda f: f.name))
    assert [f.fingerprint for f in report.findings] == [f.fingerprint for f in again.findings]
    assert report.findings == again.findings
