"""What a company already knows, what it has put off, and what is new all the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from evac.audit import Suppression, apply_suppressions, audit, baseline_of, compare
from evac.audit.findings import Finding, merged
from evac.estate.codecs.suppressions import read_suppressions
from evac.model.diagnostic import Place
from evac.model.errors import EstateError
from tests.unit.audit.estates import TODAY, sound
from tests.unit.audit.flaws import lagging, no_copy, single_site

FINDING = Finding(
    "single-site-service", "EV101", "error", "pay", "pay stands alone", "add a site", ("a",), "site"
)


def test_only_new_findings_are_new() -> None:
    before = audit(single_site(sound())).findings
    after = audit(lagging(single_site(sound()))).findings
    compared = compare(after, baseline_of(before))
    assert {f.subject for f in compared.new} == {"slow", "slow-user"}
    assert {f.subject for f in compared.known} >= {"island"}
    assert compared.mended == ()


def test_what_was_mended_is_named() -> None:
    before = audit(no_copy(sound())).findings
    compared = compare(audit(sound()).findings, baseline_of(before))
    assert compared.new == ()
    assert set(compared.mended) == {f.fingerprint for f in before}


def test_a_finding_that_becomes_graver_is_new() -> None:
    known = baseline_of([replace(FINDING, severity="warning")])
    assert compare([FINDING], known).new == (FINDING,)
    assert compare([replace(FINDING, severity="note")], known).new == ()


def test_a_fingerprint_outlives_other_edits() -> None:
    moved = replace(FINDING, place=Place("b.yaml", 9, 9), message="other words", domains=("a", "b"))
    assert moved.fingerprint == FINDING.fingerprint
    assert replace(FINDING, subject="bank").fingerprint != FINDING.fingerprint
    assert replace(FINDING, domain_class="rack").fingerprint != FINDING.fingerprint


def test_findings_of_one_subject_become_one_that_lists_all_losses() -> None:
    rack = replace(FINDING, severity="warning", domains=("a/h/r1",), domain_class="rack")
    (one,) = merged([rack, FINDING])
    assert one.domains == ("a", "a/h/r1")
    assert (one.severity, one.domain_class) == ("error", "site")


def _given(**facts: object) -> Suppression:
    plain: dict[str, object] = {
        "rule": "EV101",
        "subject": "p*",
        "reason": "moves in March",
        "until": date(2027, 3, 31),
    }
    return Suppression(**(plain | facts))  # type: ignore[arg-type]


def test_a_suppression_puts_a_finding_aside() -> None:
    left, put_aside = apply_suppressions([FINDING], [_given()], TODAY)
    assert left == ()
    assert [s.finding for s in put_aside] == [FINDING]


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        ({"reason": "  "}, "suppression-invalid"),
        ({"until": None}, "suppression-invalid"),
        ({"until": date(2026, 11, 24)}, "suppression-ended"),
    ],
)
def test_one_without_reason_or_end_does_nothing_and_is_a_finding(facts: dict[str, object], rule: str) -> None:
    left, put_aside = apply_suppressions([FINDING], [_given(**facts)], TODAY)
    assert FINDING in left
    assert put_aside == ()
    assert rule in {f.rule for f in left}


def test_without_a_date_nothing_is_suppressed() -> None:
    left, _ = apply_suppressions([FINDING], [_given()], None)
    assert FINDING in left


def test_one_that_matches_nothing_is_noted() -> None:
    left, _ = apply_suppressions([FINDING], [_given(subject="bank")], TODAY)
    assert {f.rule for f in left} == {"single-site-service", "suppression-unused"}


def test_a_domain_pattern_must_cover_every_loss() -> None:
    wide = replace(FINDING, domains=("a", "b"))
    assert apply_suppressions([wide], [_given(domain="a")], TODAY)[1] == ()
    assert len(apply_suppressions([wide], [_given(domain="[ab]")], TODAY)[1]) == 1


def test_suppressions_are_read_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "suppressions.yaml"
    path.write_text(
        "- {rule: EV101, subject: 'batch-*', reason: 'moves to the new site', until: 2027-03-31}\n"
        "- rule: never-rehearsed\n  until: unknown\n"
    )
    first, second = read_suppressions(path)
    assert (first.rule, first.subject, first.until) == ("EV101", "batch-*", date(2027, 3, 31))
    assert first.place == Place("suppressions.yaml", 1, 3)
    assert (second.subject, second.reason, second.until) == ("*", "", None)


def test_every_problem_of_a_suppression_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "suppressions.yaml"
    path.write_text("- {rul: EV101, reason: [a]}\n- {rule: EV101, until: soon}\n- text\n")
    with pytest.raises(EstateError) as error:
        read_suppressions(path)
    codes = sorted(d.code for d in error.value.diagnostics)
    assert codes == ["key-unknown", "not-a-date", "value-missing", "wrong-type", "wrong-type"]


def test_an_empty_file_suppresses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "suppressions.yaml"
    path.write_text("# none\n")
    assert read_suppressions(path) == ()
