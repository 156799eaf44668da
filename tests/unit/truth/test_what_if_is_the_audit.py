"""A loss that is asked about alone has the answer that the audit of all losses gives."""

from __future__ import annotations

from bench.random_estates import random_estate
from evac.audit import audit
from evac.audit.auditing import audit_together


def test_one_loss_is_judged_as_among_all() -> None:
    report = audit(random_estate(9))
    for row in report.rows:
        alone = audit_together(report, row.members).rows[0]
        assert list(alone.fates(report.services)) == list(row.fates(report.services))
