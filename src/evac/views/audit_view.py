"""An audit as screen, page and JSON document: a verdict for each important loss, then what must be fixed."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from textwrap import shorten
from typing import Any, Final

from evac.audit import RULES, AuditReport, Finding, LossRow, headline
from evac.audit.auditing import VERDICTS, Verdict, causes, proof_command
from evac.audit.impacts.all_losses import PLANNED
from evac.model.diagnostic import SEVERITIES
from evac.model.records import dataclass
from evac.views import svg
from evac.views.json_out import alert_of, alert_rows, document
from evac.views.sheet import Page
from evac.views.svg import Card
from evac.views.words import assumed_words, duration, listed, number, people, plural

LOSSES_SHOWN: Final = 10
RULES_SHOWN: Final = 12
ROOTS_SHOWN: Final = 6
EXAMPLE_LINES: Final = 2
"""Lines per example on screen; `--all` shows every message in full."""


def assumed_times(report: AuditReport) -> str:
    """What is assumed for detection and approval, and what does not wait for them."""
    ready = report.impacts.ready_ms
    return assumed_words(report.lead, bool(((ready > 0) & (ready < report.lead.ms)).any()))


def audit_text(
    report: AuditReport,
    findings: Sequence[Finding],
    left_out: Sequence[str],
    where: str,
    width: int,
    colour: bool,
    whole: bool = False,
) -> str:
    """The screen; `findings` are those that count (baseline and suppressions applied), `left_out` the
    words on what does not; `where`: the folder of the estate. `whole` lists everything."""
    page = Page(width, colour)
    counts = Counter(f.severity for f in findings)
    found = ", ".join(plural(counts[s], s) for s in SEVERITIES if counts[s]) or "nothing to fix"
    page.title(
        f"{report.estate}: {plural(len(report.rows), 'possible loss', 'possible losses')} tried, {found}"
    )
    page.line()
    _losses(page, report, whole)
    if assumed := assumed_times(report):
        page.line()
        page.line(f"{assumed[:1].upper()}{assumed[1:]}.", "unknown")
    _findings(page, findings, whole, width)
    for words in left_out:
        page.line(words, "dim")
    page.line()
    worst = next((r for r in important(report.rows, 1) if r.verdict != "ok"), None)
    lost = worst or (report.rows[0] if report.rows else None)
    folder = shlex.quote(where)
    if lost is not None:
        page.line(f"next: evac plan {folder} {' '.join(f'--lose {one}' for one in lost.members)}", "dim")
    if findings and not whole:
        page.line(f"next: evac audit {folder} --output html -o audit.html  (or --all): every fix", "dim")
    return page.text()


def _losses(page: Page, report: AuditReport, whole: bool) -> None:
    shown = important(report.rows, None if whole else LOSSES_SHOWN)
    rows = [
        (
            row.verdict,
            row.domain,
            _down(row),
            _from_to(row.lost + row.shed, row.not_proved),
            number(row.degraded),
            people(row.people_down, row.people_unstated),
            _last_back(row),
            _from_to(row.rto_missed, row.rto_unknown),
        )
        for row in shown
    ]
    heads = ("verdict", "when this is lost", "down", "not back", "degraded", "people", "last back")
    page.table((*heads, "miss RTO"), rows, right=range(2, 8), optional=(7, 4))
    worst = next((row for row in shown if row.verdict == "loss"), None)
    if worst is not None:
        page.line()
        page.line(headline(report, worst).text)
    rest = Counter(r.verdict for r in report.rows) - Counter(r.verdict for r in shown)
    if rest:
        page.line()
        kinds = listed([f"{number(n)} {verdict}" for verdict, n in sorted(rest.items())])
        page.line(f"and {plural(sum(rest.values()), 'other loss', 'other losses')}: {kinds}", "dim")
    if words := open_words(report):
        page.line()
        page.line(words, "unknown")


def _down(row: LossRow) -> str:
    """`3`, or `3 to 5` if the state of two of them is unknown; `3 (1 before)` if one is down already."""
    down = _from_to(row.down, row.down_most - row.down)
    return f"{down} ({number(row.down_before)} before)" if row.down_before else down


def _last_back(row: LossRow) -> str:
    """Adds up the known times; without any, no time is shown."""
    if not row.recovered + row.reduced:
        return "-"
    return "unknown" if row.untimed else duration(row.worst_ready_ms)


def _from_to(least: int, in_doubt: int) -> str:
    """`3`, or `3 to 5` if two more are in doubt."""
    return number(least) + (f" to {number(least + in_doubt)}" if in_doubt else "")


def important(rows: Sequence[LossRow], most: int | None) -> list[LossRow]:
    """Sites and groups first, then the largest losses with an effect, at most `most`; None for every loss."""
    grave = {"loss": 0, "unknown": 1, "degraded": 2, "ok": 3}
    large = {"site": 0, "group": 1, "pair": 2}
    ordered = sorted(
        rows,
        key=lambda r: (
            large.get(r.kind, 3),
            grave[r.verdict],
            -r.lost,
            -r.people_down,
            -r.people_unstated,
            r.domain,
        ),
    )
    return ordered if most is None else [r for r in ordered if _matters(r)][:most]


def _matters(row: LossRow) -> bool:
    return row.kind in ("site", "group") or row.verdict != "ok"


def _findings(page: Page, findings: Sequence[Finding], whole: bool, width: int) -> None:
    if whole:
        for finding in findings:
            _one(page, finding)
        return
    first = roots(findings)[:ROOTS_SHOWN]
    shown = {finding.fingerprint for root in first for finding in root.findings}
    if first:
        _roots(page, first, len(findings))
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.fingerprint not in shown:
            by_rule.setdefault(finding.rule, []).append(finding)
    if not by_rule:
        return
    page.line()
    rows = [
        (f[0].severity, rule, number(len(f)), f[0].message) for rule, f in list(by_rule.items())[:RULES_SHOWN]
    ]
    most = EXAMPLE_LINES * max(24, width - 48)
    rows = [
        (*row[:3], row[3] if len(row[3]) <= most else shorten(row[3], most, placeholder=" ..."))
        for row in rows
    ]
    heads = ("also to fix" if first else "to fix", "rule", "cases", "for example")
    page.table(heads, rows, right=(2,))
    rest = list(by_rule.items())[RULES_SHOWN:]
    if rest:
        page.line()
        cases = sum(len(found) for _, found in rest)
        page.line(f"and {plural(cases, 'case')} of {plural(len(rest), 'other rule')}", "dim")


@dataclass(frozen=True, slots=True)
class Root:
    """One thing to change, and the findings that go with it."""

    path: str
    """Fact path: `stores/config-store`."""
    findings: tuple[Finding, ...]
    """Most severe first."""
    key: str = ""
    """Fact path of what to change: `stores/config-store/members`."""

    @property
    def top(self) -> Finding:
        """The most severe one that names the key."""
        return next((one for one in self.findings if one.key != self.path), self.findings[0])

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def about(self) -> str:
        """The subjects: `config, abuse-filter, auth and 309 more`."""
        return listed(list(dict.fromkeys(finding.subject for finding in self.findings)), 3)

    @property
    def rules(self) -> str:
        """The rules with their cases, most frequent first."""
        found = Counter(finding.rule for finding in self.findings).most_common()
        return listed([f"{rule} {number(count)}" for rule, count in found], 3)


def roots(findings: Sequence[Finding]) -> list[Root]:
    """Changes that several findings depend on, those that resolve most errors first. Findings about a
    thing as a whole go with the one of its keys that most of the others name.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    whole: list[Finding] = []
    for finding in findings:
        if finding.root and finding.severity != "note":
            key = "/".join(finding.key.split("/")[:3])
            if key == finding.root:
                whole.append(finding)
            else:
                groups.setdefault((finding.root, key), []).append(finding)
    homes = {
        path: (path, key)
        for (path, key), _ in sorted(groups.items(), key=lambda one: len(one[1]))
        if key.startswith(f"{path}/")
    }
    for finding in whole:
        groups.setdefault(homes.get(finding.root, (finding.root, finding.root)), []).append(finding)
    place = {finding.fingerprint: number for number, finding in enumerate(findings)}
    for mine in groups.values():
        mine.sort(key=lambda finding: place[finding.fingerprint])
    found = [Root(path, tuple(mine), key) for (path, key), mine in groups.items() if len(mine) > 1]
    return sorted(found, key=lambda root: (-root.errors, -len(root.findings), root.path, root.key))


def fix_first(findings: Sequence[Finding], most: int) -> list[Root]:
    """What to fix first: changes that several findings depend on, and findings that depend on nothing else;
    those that resolve most errors first. Notes are left out.
    """
    found = roots(findings)
    shown = {finding.fingerprint for root in found for finding in root.findings}
    single = (one for one in findings if one.fingerprint not in shown and one.severity != "note")
    each = [*found, *(Root(one.root or one.path, (one,), one.key) for one in single)]
    return sorted(each, key=lambda root: (-root.errors, -len(root.findings)))[:most]


def _roots(page: Page, first: Sequence[Root], every: int) -> None:
    resolved = sum(len(root.findings) for root in first)
    page.line()
    change = "one change resolves" if len(first) == 1 else f"{number(len(first))} changes resolve"
    page.line(f"Fix first: {change} {number(resolved)} of {plural(every, 'finding')}", "bold")
    for root in first:
        top = root.top
        place = f" in {top.key_place.name}" if top.key_place.file else ""
        line = f", line {top.key_place.line}" if top.key_place.line else ""
        page.line()
        page.line(f"{root.name}: {plural(len(root.findings), 'finding')}", top.severity)
        page.facts(
            (
                ("  change", f"{top.key}{place}{line}", ""),
                ("  how", top.fix, ""),
                ("  affects", root.about, ""),
                ("  rules", root.rules, "dim"),
            )
        )


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


LOSSES_OPEN: Final = 12
LOSSES_MOST: Final = 3_000
"""Maximum rows of losses on a page, which must open at once. The JSON document has all of them."""

CASES_OPEN: Final = 2
FIXES_OPEN: Final = 4
MENDS_SHOWN: Final = 5
CASES_MOST: Final = 400
"""Maximum cases per rule and fix on a page, for the same reason."""

EACH: Final = "each"
VERDICT_WORDS: Final[dict[Verdict, str]] = {
    "loss": "lose services for good",
    "unknown": "cannot be judged",
    "degraded": "disrupt services but lose none",
    "ok": "affect no service",
}
OF_ONE: Final[dict[Verdict, str]] = {
    "loss": "loses services for good",
    "unknown": "cannot be judged",
    "degraded": "disrupts services but loses none",
    "ok": "affects no service",
}


def audit_context(report: AuditReport, findings: Sequence[Finding]) -> dict[str, Any]:
    """The audit's part of a report page."""
    first = important(report.rows, LOSSES_OPEN)
    chosen = {id(row) for row in first}
    rest = [row for row in important(report.rows, len(report.rows)) if id(row) not in chosen]
    gravest = [_row(report, row, True) for row in first]
    return {
        "audit": report,
        "audit_answer": audit_answer(report),
        "audit_cards": _cards(report, findings),
        "loss_chart": _chart(report, first),
        "loss_words": _verdict_words(report),
        "loss_assumed": assumed_times(report),
        "loss_rows": gravest,
        "loss_reasons": any(row["words"] for row in gravest),
        "loss_rest": [_row(report, row, False) for row in rest[:LOSSES_MOST]],
        "loss_rest_words": f"{plural(len(rest), 'more loss', 'more losses')} that affect something",
        "loss_left_out": number(len(rest) - LOSSES_MOST) if len(rest) > LOSSES_MOST else "",
        "mends": mends(findings),
        "finding_parts": finding_parts(findings),
    }


def audit_answer(report: AuditReport) -> tuple[str, str]:
    """(sentence, state): what the losses of whole sites do, with a description of the worst loss."""
    sites = [row for row in report.rows if row.kind == "site"]
    losing = sum(1 for row in sites if row.verdict == "loss")
    worst = max(
        report.rows, key=lambda r: (r.lost, r.stores_gone, r.people_down, r.people_unstated), default=None
    )
    if worst is None:
        return "No loss was tried.", "unknown"
    if worst.verdict == "loss":
        words = f"{number(losing)} of {plural(len(sites), 'site')} cannot be lost without losing services"
        words = f"{words} for good." if losing else "Every site can be lost, but not every smaller domain."
        never = f"{number(worst.lost)} never come back"
        if not worst.lost:
            never = f"{plural(worst.stores_gone, 'store')} not restored"
        return f"{words} Worst is {worst.domain}: {plural(worst.down, 'service')} down, {never}.", "error"
    unknown = sum(1 for row in report.rows if row.verdict == "unknown")
    if unknown:
        judged = f"{number(unknown)} cannot be judged"
        return f"No loss is known to take down a service for good, but {judged}.", "unknown"
    late, in_doubt = _late_losses(report)
    which = " that is not shed" if any(row.shed for row in report.rows) else ""
    words, of = f"Every service{which} recovers from every loss that was tried", number(len(report.rows))
    if late:
        more = f" After {number(in_doubt)} others it is not known whether all are." if in_doubt else ""
        return f"{words}, but after {number(late)} of {of} some are back too late.{more}", "warning"
    if in_doubt:
        words += f", but after {number(in_doubt)} of {of} it is not known whether all are back in time"
        return f"{words}.", "unknown"
    return f"{words}.", "ok"


def _late_losses(report: AuditReport) -> tuple[int, int]:
    """Losses after which services are back too late, and others after which that is not known."""
    late = sum(1 for row in report.rows if row.late)
    return late, sum(
        1 for row in report.rows if not row.late and (row.rto_unknown or row.untimed or row.congested)
    )


def _cards(report: AuditReport, findings: Sequence[Finding]) -> list[Card]:
    verdicts = Counter(row.verdict for row in report.rows)
    levels = Counter(f.severity for f in findings)
    late, in_doubt = _late_losses(report)
    not_known = f"; unknown for {number(in_doubt)} more" if in_doubt else ""
    return [
        Card(
            "lose services for good",
            number(verdicts["loss"]),
            f"of {number(len(report.rows))} losses tried",
            "error" if verdicts["loss"] else "ok",
        ),
        Card(
            "cannot be judged",
            number(verdicts["unknown"]),
            f"{'loss' if verdicts['unknown'] == 1 else 'losses'}, because facts are missing",
            "unknown" if verdicts["unknown"] else "ok",
        ),
        Card(
            "bring services back too late",
            number(late),
            f"of {plural(len(report.rows), 'loss', 'losses')} tried{not_known}",
            "warning" if late else "unknown" if in_doubt else "ok",
        ),
        Card(
            "errors to fix",
            number(levels["error"]),
            f"and {plural(levels['warning'], 'warning')}, {plural(levels['note'], 'note')}",
            "error" if levels["error"] else "ok",
        ),
    ]


def _verdict_words(report: AuditReport) -> str:
    verdicts = Counter(row.verdict for row in report.rows)
    told = [
        f"{number(count)} {(OF_ONE if count == 1 else VERDICT_WORDS)[v]}"
        for v in VERDICTS
        if (count := verdicts[v])
    ]
    words = f"{plural(len(report.rows), 'loss', 'losses')} tried: {', '.join(told)}."
    return f"{words} {open_words(report)}".rstrip()


def open_words(report: AuditReport) -> str:
    """How much the estimate leaves open, and what proves it; empty if nothing."""
    parts = []
    if rows := [row for row in report.rows if row.not_proved and row.method != PLANNED]:
        parts.append(
            f"In {plural(len(rows), 'loss', 'losses')} the estimate can't prove what happens to some "
            f"services, up to {plural(max(row.not_proved for row in rows), 'service')} in one. They count as "
            f"not restored. A plan can prove it, for example {proof_command(important(rows, 1)[0])}."
        )
    if rows := [row for row in report.rows if row.not_proved and row.method == PLANNED]:
        parts.append(
            f"In {plural(len(rows), 'loss', 'losses')} no placement was found for some services, or "
            "services are shed while some capacity or demand is unknown, which does not prove that it must "
            "be so. They count as not restored. A longer search may restore or keep them, for example "
            f"{proof_command(important(rows, 1)[0])}."
        )
    return " ".join(parts)


def _chart(report: AuditReport, rows: Sequence[LossRow]) -> str:
    whole = max(1, len(report.services))
    lines = []
    for row in rows:
        pieces = (
            ("never", row.lost, "never back"),
            ("cannot-tell", row.unknown + row.not_proved, "unknown or not proved"),
            ("returns", row.recovered, "back later"),
            ("fewer", row.degraded, "with fewer replicas"),
        )
        parts = tuple(
            svg.Part(count / whole, style, f"{row.domain}: {plural(count, 'service')} {words}")
            for style, count, words in pieces
            if count
        )
        lines.append(svg.Shares(row.domain, (parts,), f"{number(row.lost)} never"))
    words = "; ".join(
        f"{r.domain}: {number(r.lost)} never back, {number(r.recovered)} back later" for r in rows
    )
    title = f"What each loss takes down, of {plural(whole, 'service')}"
    return svg.shares("losses-chart", title, words + ".", lines)


def _row(report: AuditReport, row: LossRow, explained: bool) -> dict[str, str]:
    because = causes(report, row, 1) if explained and row.lost else ()
    words = f"{plural(because[0][1], 'service')}: {because[0][0].words}" if because else ""
    return {
        "domain": row.domain,
        "kind": row.kind,
        "verdict": row.verdict,
        "down": _down(row),
        "gone": _from_to(row.lost + row.shed, row.not_proved),
        "degraded": number(row.degraded),
        "missed": _from_to(row.rto_missed, row.rto_unknown),
        "people": people(row.people_down, row.people_unstated),
        "back": _last_back(row),
        "words": words,
    }


def finding_parts(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """By severity, then by rule: the rules in the order of their findings, each with its fixes."""
    titles = {rule.id: rule.title for rule in RULES}
    parts = []
    for severity in SEVERITIES:
        mine = [f for f in findings if f.severity == severity]
        by_rule: dict[str, list[Finding]] = {}
        for finding in mine:
            by_rule.setdefault(finding.rule, []).append(finding)
        rules = [
            {
                "rule": rule,
                "code": found[0].code,
                "title": titles.get(rule, rule.replace("-", " ")),
                "count": plural(len(found), "case"),
                "fixes": fixes[:FIXES_OPEN],
                "more": fixes[FIXES_OPEN:],
            }
            for rule, found in by_rule.items()
            for fixes in [_fixes(found)]
        ]
        if rules:
            parts.append({"severity": severity, "words": plural(len(mine), severity), "rules": rules})
    return parts


def mends(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Single changes that resolve several errors at once, the one that resolves most first."""
    first = [root for root in roots(findings) if root.errors > 1][:MENDS_SHOWN]
    return [{"fix": root.top.fix, "count": plural(root.errors, "error")} for root in first]


def _fixes(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings that one change fixes are listed under it; the fix that resolves most comes first."""
    groups: dict[str, list[Finding]] = {}
    shared = Counter(finding.fix for finding in findings)
    for finding in findings:
        alone = shared[finding.fix] == 1
        fix = _named(finding.fix, finding.subject, EACH) if alone else finding.fix
        groups.setdefault(fix, []).append(finding)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [_fix(fix if len(found) > 1 else found[0].fix, found) for fix, found in ordered]


def _named(text: str, subject: str, word: str) -> str:
    """The text with a word in place of the subject's name."""
    return re.sub(rf"(?<![\w-]){re.escape(subject)}(?![\w-])", lambda match: word, text)


def _fix(fix: str, found: Sequence[Finding]) -> dict[str, Any]:
    cases = [_case(finding) for finding in found[:CASES_MOST]]
    shown = len(cases) if len(cases) <= CASES_OPEN + 1 else CASES_OPEN
    rest = len(found) - shown
    return {
        "fix": fix,
        "open": cases[:shown],
        "rest": cases[shown:],
        "rest_words": plural(rest, "more case") if rest else "",
        "left_out": number(len(found) - CASES_MOST) if len(found) > CASES_MOST else "",
    }


def _case(finding: Finding) -> dict[str, str]:
    return {
        "subject": finding.subject,
        "message": finding.message,
        "domains": listed(list(finding.domains), 3) if finding.domains else "",
        "place": str(finding.place) if finding.place.file and finding.place.line else "",
    }


def audit_json(report: AuditReport, findings: Sequence[Finding]) -> str:
    """Every loss with its affected services, and every finding with its fix. The format is published:
    docs/reference/audit-format.md and `evac schema audit`.
    """
    listing = [
        row
        | {"code": f.code, "scenario": f.scenario, "chain": list(f.chain), "path": f.path}
        | {"root": f.root, "key": f.key}
        for row, f in zip(alert_rows([alert_of(f) for f in findings]), findings, strict=True)
    ]
    body = {"estate": report.estate, "as_of": report.as_of, "estate_digest": report.digest} | asdict(
        report.lead
    )
    scenarios = [_scenario(report, row) for row in report.rows]
    return document("evac-audit", body | {"scenarios": scenarios, "findings": listing})


_AS_THEY_ARE: Final = (
    "kind",
    "verdict",
    "down",
    "down_before",
    "recovered",
    "degraded",
    "reduced",
    "unknown",
    "not_proved",
    "late",
    "rto_missed",
    "untimed",
    "rto_unknown",
    "congested",
    "people_down",
    "people_unstated",
    "data_loss_ms",
    "stores_lost",
    "stores_gone",
    "stores_open",
    "to_place",
    "placed",
    "sheds",
    "shed",
    "short",
)


def _scenario(report: AuditReport, row: LossRow) -> dict[str, Any]:
    """One loss; `never_back` counts services of fate `lost`."""
    services = [
        {"service": f.service, "fate": f.fate, "recovery_ms": f.recovery_ms, "method": row.method}
        for f in row.fates(report.services)
    ]
    plain = {name: getattr(row, name) for name in _AS_THEY_ARE}
    named = {"domain": row.domain, "lost": row.members, "never_back": row.lost}
    return plain | named | {"worst_recovery_ms": row.worst_ready_ms, "services": services}
