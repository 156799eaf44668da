"""The verdict of a loss in plain words: what is down, what never comes back, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from evac.audit.auditing import AuditReport
from evac.audit.chains import common_reason
from evac.audit.context import Context
from evac.audit.impacts import LOST
from evac.audit.rows import LossRow
from evac.audit.words import counted, duration, listed


@dataclass(frozen=True, slots=True)
class Headline:
    """One loss in one sentence; because: the commonest reasons, how many services each holds back."""

    domain: str
    verdict: str
    what: str
    """What the loss does, without its name and without why."""
    text: str
    because: tuple[tuple[str, int], ...] = ()


def headline(report: AuditReport, row: LossRow) -> Headline:
    """The sentence of one row: `pangyo: 412 services down, 37 never come back, because ...`."""
    because = reasons(report, row) if row.lost else ()
    parts = [_first(row)]
    if row.lost:
        parts.append(f"{row.lost:,} never {'comes' if row.lost == 1 else 'come'} back")
    if row.recovered > row.untimed:
        who = "the others are" if row.lost or row.untimed else "all"
        parts.append(f"{who} back within {duration(row.worst_ready_ms)}")
    if row.untimed:
        parts.append(f"{row.untimed:,} {'comes' if row.untimed == 1 else 'come'} back at a time not known")
    if row.late:
        parts.append(f"{row.late:,} later than promised")
    if row.unknown:
        parts.append(f"{row.unknown:,} cannot be judged")
    what = ", ".join(parts)
    text = f"{row.domain}: {what}" + (f", because {because[0][0]}" if because else "")
    return Headline(row.domain, row.verdict, what, text, because)


def _first(row: LossRow) -> str:
    if row.down:
        return f"{counted(row.down, 'service')} down"
    return f"{counted(row.degraded, 'service')} with fewer replicas" if row.degraded else "nothing is down"


def reasons(report: AuditReport, row: LossRow, most: int = 3) -> tuple[tuple[str, int], ...]:
    """Why services never come back: the end of each one's chain, the commonest first."""
    impacts = report.impacts
    number = impacts.losses.index.get(row.domain)
    if number is None:
        return ()
    context = Context(impacts.estate, impacts, report.as_of, report.digest)
    counts: Counter[str] = Counter()
    for service in np.flatnonzero(impacts.fate[number] == LOST).tolist():
        counts[common_reason(context, service, number)] += 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])


def summary(report: AuditReport) -> tuple[Headline, ...]:
    """The headlines of the losses that matter: every site, then what else loses something."""
    shown = [row for row in report.rows if row.kind == "site" or row.verdict == "loss"]
    return tuple(headline(report, row) for row in shown)


def quiet(report: AuditReport) -> str:
    """One line on the losses that `summary` leaves out."""
    rest = Counter(row.verdict for row in report.rows if row.kind != "site" and row.verdict != "loss")
    return listed([f"{count:,} {verdict}" for verdict, count in sorted(rest.items())], 4)
