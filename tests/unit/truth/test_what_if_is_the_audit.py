"""A loss that is asked about alone has the answer that the audit of all losses gives."""

from __future__ import annotations

import subprocess
import sys

from bench.random_estates import random_estate
from evac.audit import audit
from evac.audit.auditing import audit_together


def test_one_loss_is_judged_as_among_all() -> None:
    report = audit(random_estate(9))
    for row in report.rows:
        alone = audit_together(report, row.members).rows[0]
        assert list(alone.fates(report.services)) == list(row.fates(report.services))


def test_audit_and_what_if_of_a_small_estate_compile_nothing() -> None:
    code = """
import sys
from bench.random_estates import random_estate
from evac.audit import audit
from evac.office.reckoning import what_if_of
for seed in (1, 9):
    report = audit(random_estate(seed))
    sites = tuple(site.id for site in report.impacts.estate.sites)
    for lost in ((sites[0],), sites[:2]):
        what_if_of(report, lost)
print("numba" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
