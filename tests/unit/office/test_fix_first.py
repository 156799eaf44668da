"""What to fix first on the page Now: the same groups as `evac audit` prints, then single findings."""

from __future__ import annotations

from evac.audit import audit
from evac.estate import examples
from evac.office.facts import FIXES_MOST, facts_of
from evac.views.audit_view import fix_first, roots


def test_a_change_that_resolves_several_findings_is_one_thing_to_fix() -> None:
    report = audit(examples.pangyo(servers=1000))
    groups = roots(report.findings)
    fixes = facts_of(report, "").fixes
    assert len(fixes) == FIXES_MOST
    assert [(one.name, one.findings) for one in fixes if one.findings > 1] == [
        (root.name, len(root.findings)) for root in groups[: sum(one.findings > 1 for one in fixes)]
    ]
    assert all(one.fix and one.severity != "note" for one in fixes)


def test_no_finding_is_listed_twice_and_errors_come_first() -> None:
    report = audit(examples.pangyo(servers=1000))
    found = fix_first(report.findings, len(report.findings))
    listed = [finding.fingerprint for root in found for finding in root.findings]
    assert len(listed) == len(set(listed))
    assert set(listed) == {one.fingerprint for one in report.findings if one.severity != "note"}
    errors = [root.errors for root in found]
    assert errors == sorted(errors, reverse=True)


def test_findings_count_as_one_change_only_where_they_name_the_same_key() -> None:
    report = audit(examples.pangyo(servers=1000))
    groups = roots(report.findings)
    for root in groups:
        keys = {"/".join(one.key.split("/")[:3]) for one in root.findings} - {root.path}
        assert len(keys) <= 1, root.path
    paths = [root.path for root in groups]
    assert len(paths) > len(set(paths)), "one thing may need two changes"
