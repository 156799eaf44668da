"""An audit on one screen: a verdict for each loss that matters, then what must be mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from evac.audit import AuditReport, Finding, LossRow, headline
from evac.model.diagnostic import SEVERITIES
from evac.views.screen import Page
from evac.views.words import duration, listed, number, people, plural

LOSSES_SHOWN: Final = 10
RULES_SHOWN: Final = 12


def audit_text(
    report: AuditReport,
    findings: Sequence[Finding],
    left_out: Sequence[str],
    width: int,
    colour: bool,
    whole: bool = False,
) -> str:
    """The screen; `findings` are those that count (baseline and suppressions applied), `left_out` the
    words on what does not. `whole` lists everything."""
    page = Page(width, colour)
    counts = Counter(f.severity for f in findings)
    found = ", ".join(plural(counts[s], s) for s in SEVERITIES if counts[s]) or "nothing to mend"
    page.title(
        f"{report.estate}: {plural(len(report.rows), 'possible loss', 'possible losses')} tried, {found}"
    )
    page.line()
    _losses(page, report, whole)
    _findings(page, findings, whole)
    for words in left_out:
        page.line(words, "dim")
    page.line()
    worst = next((r for r in important(report.rows, 1) if r.verdict != "ok"), None)
    ask = f"evac plan ESTATE --lose {worst.domain if worst else 'DOMAIN'}"
    page.line(f"next: {ask}; each finding with its fix: --all, or --output html", "dim")
    return page.text()


def _losses(page: Page, report: AuditReport, whole: bool) -> None:
    shown = important(report.rows, len(report.rows) if whole else LOSSES_SHOWN)
    rows = [
        (
            row.verdict,
            row.domain,
            number(row.down),
            number(row.lost),
            number(row.degraded),
            people(row.people_down),
            _last_back(row),
            number(row.late),
        )
        for row in shown
    ]
    heads = (
        "verdict",
        "when this is lost",
        "down",
        "never back",
        "degraded",
        "people",
        "last back",
        "miss rto",
    )
    page.table(heads, rows, right=range(2, 8))
    worst = next((row for row in shown if row.verdict == "loss"), None)
    if worst is not None:
        page.line()
        page.line(headline(report, worst).text)
    rest = Counter(r.verdict for r in report.rows) - Counter(r.verdict for r in shown)
    if rest:
        page.line()
        kinds = listed([f"{number(n)} {verdict}" for verdict, n in sorted(rest.items())])
        page.line(f"and {plural(sum(rest.values()), 'other loss', 'other losses')}: {kinds}", "dim")


def _last_back(row: LossRow) -> str:
    """Times add up what is known; where nothing is, no time is said."""
    if not row.recovered:
        return "-"
    return "unknown" if row.untimed else duration(row.worst_ready_ms)


def important(rows: Sequence[LossRow], most: int) -> list[LossRow]:
    """Sites and groups first, then whatever loses most; in that order, at most `most`."""
    grave = {"loss": 0, "unknown": 1, "degraded": 2, "ok": 3}
    large = {"site": 0, "group": 1, "pair": 2}
    ordered = sorted(
        rows,
        key=lambda r: (large.get(r.kind, 3), grave[r.verdict], -r.lost, -r.people_down, r.domain),
    )
    return [r for r in ordered if large.get(r.kind, 3) < 2 or r.verdict != "ok"][:most]


def _findings(page: Page, findings: Sequence[Finding], whole: bool) -> None:
    if whole:
        for finding in findings:
            _one(page, finding)
        return
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    if not by_rule:
        return
    page.line()
    rows = [
        (f[0].severity, rule, number(len(f)), f[0].message) for rule, f in list(by_rule.items())[:RULES_SHOWN]
    ]
    page.table(("to mend", "rule", "cases", "for example"), rows, right=(2,))
    rest = list(by_rule.items())[RULES_SHOWN:]
    if rest:
        words = listed([f"{rule} {number(len(found))}" for rule, found in rest], 30)
        page.line(f"and: {words}", "dim")


def _one(page: Page, finding: Finding) -> None:
    page.line()
    page.line(f"{finding.severity}: {finding.subject}: {finding.message} [{finding.rule}]", finding.severity)
    if finding.domains:
        page.line(f"  when this is lost: {listed(list(finding.domains), 4)}")
    if finding.chain:
        page.line(f"  chain: {' > '.join(finding.chain)}")
    page.line(f"  do: {finding.fix}", "dim")
    if finding.place.file:
        page.line(f"  at {finding.place}", "dim")
