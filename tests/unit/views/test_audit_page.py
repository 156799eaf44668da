"""An audit as a page: verdicts and figures counted again, findings under the change that mends them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.audit import AuditReport, Finding, audit
from evac.estate import examples, load
from evac.model.diagnostic import Place, Severity
from evac.model.estate import Estate
from evac.views import audit_view
from evac.views.html_report import html_report
from evac.views.sheet import at_joints

HOSTILE = '"><script>alert(1)</script><svg onload=x>&amp;\u202e{{7*7}}'


@pytest.fixture(scope="module")
def estate(project_root: Path) -> Estate:
    return load(project_root / "tests" / "fixtures" / "estates" / "small")


@pytest.fixture(scope="module")
def report(estate: Estate) -> AuditReport:
    return audit(estate)


@pytest.fixture(scope="module")
def flawed() -> AuditReport:
    return audit(examples.pangyo(servers=1000))


def page_of(estate: Estate, report: AuditReport, findings: tuple[Finding, ...]) -> str:
    context = audit_view.audit_context(report, findings)
    return html_report(estate, title="Audit", lead="l", footer="f", audit=context)


def cases_of(parts: list[dict[str, object]]) -> list[tuple[str, str]]:
    """(severity, subject) of every case a page carries, however it is folded."""
    found = []
    for part in parts:
        for rule in part["rules"]:  # type: ignore[attr-defined]
            for fix in (*rule["fixes"], *rule["more"]):
                found += [(str(part["severity"]), case["subject"]) for case in (*fix["open"], *fix["rest"])]
    return found


def test_every_finding_is_on_the_page_once(flawed: AuditReport) -> None:
    parts = audit_view.finding_parts(flawed.findings)
    assert Counter(cases_of(parts)) == Counter((f.severity, f.subject) for f in flawed.findings)


def test_every_fix_is_said_once(flawed: AuditReport, estate: Estate) -> None:
    text = unescape(page_of(estate, flawed, flawed.findings))
    one = next(f for f in flawed.findings if f.rule == "service-lost")
    assert sum(f.fix == one.fix for f in flawed.findings) > 20
    assert text.count(f'<p class="fix">{one.fix}</p>') <= 2  # errors and warnings


def test_every_loss_that_takes_something_has_a_row(flawed: AuditReport) -> None:
    context = audit_view.audit_context(flawed, ())
    shown = [row["domain"] for row in (*context["loss_rows"], *context["loss_rest"])]
    assert len(shown) == len(set(shown))
    must = {r.domain for r in flawed.rows if r.verdict != "ok" or r.kind in ("site", "group")}
    assert set(shown) == must


def test_rows_say_what_the_audit_found(flawed: AuditReport) -> None:
    by_domain = {row.domain: row for row in flawed.rows}
    context = audit_view.audit_context(flawed, ())
    for shown in (*context["loss_rows"], *context["loss_rest"]):
        row = by_domain[shown["domain"]]
        fates = Counter(f.fate for f in row.fates(flawed.services))
        least, in_doubt = fates["lost"] + fates["shed"], fates["not proved"]
        assert shown["gone"] == f"{least:,}" + (f" to {least + in_doubt:,}" if in_doubt else "")
        assert shown["degraded"] == f"{fates['degraded']:,}"
        assert shown["verdict"] == row.verdict


def test_the_verdict_sentence_follows_the_verdicts(flawed: AuditReport, report: AuditReport) -> None:
    words, state = audit_view.audit_answer(flawed)
    sites = [r for r in flawed.rows if r.kind == "site"]
    losing = sum(r.verdict == "loss" for r in sites)
    assert words.startswith(f"{losing} of {len(sites)} sites cannot be lost")
    assert state == "error"
    calm: dict[str, Any] = {"verdict": "degraded", "lost": 0, "stores_gone": 0, "late": 0, "untimed": 0}
    calm |= {"rto_unknown": 0, "congested": False, "shed": 0}
    fine = replace(report, rows=tuple(replace(r, **calm) for r in report.rows))
    assert audit_view.audit_answer(fine) == ("Every service recovers from every loss that was tried.", "ok")
    slow = replace(fine, rows=(replace(fine.rows[0], late=3), *fine.rows[1:]))
    words, state = audit_view.audit_answer(slow)
    assert words.endswith(f"but after 1 of {len(fine.rows)} some are back too late.")
    assert state == "warning", "a loss after which services are late is not fine"
    open_one = replace(fine, rows=(replace(fine.rows[0], rto_unknown=3), *fine.rows[1:]))
    words, state = audit_view.audit_answer(open_one)
    assert words.endswith(f"after 1 of {len(fine.rows)} it is not known whether all are back in time.")
    assert state == "unknown"
    dark = replace(fine, rows=(replace(fine.rows[0], verdict="unknown"), *fine.rows[1:]))
    assert audit_view.audit_answer(dark)[1] == "unknown"
    assert audit_view.audit_answer(replace(report, rows=()))[1] == "unknown"


def finding(
    subject: str, fix: str, severity: Severity = "error", rule: str = "hidden-single-site", root: str = ""
) -> Finding:
    words = f"{subject} is in danger"
    return Finding(rule, "EV102", severity, subject, words, fix, ("north",), root=root)


def test_fixes_that_differ_by_name_alone_are_one() -> None:
    found = [finding(name, f"Run {name} at a second site.") for name in ("pay", "pay-web", "mail")]
    ((part,),) = [audit_view.finding_parts(found)]
    (rule,) = part["rules"]
    assert [fix["fix"] for fix in rule["fixes"]] == ["Run each at a second site."]
    assert [case["subject"] for fix in rule["fixes"] for case in (*fix["open"], *fix["rest"])] == [
        "pay",
        "pay-web",
        "mail",
    ]


def test_a_single_finding_keeps_its_own_fix() -> None:
    ((part,),) = [audit_view.finding_parts([finding("pay", "Run pay at a second site.")])]
    assert part["rules"][0]["fixes"][0]["fix"] == "Run pay at a second site."


def test_single_changes_that_mend_most_come_first() -> None:
    found = [finding(f"a{n}", "Copy config.", root="stores/config") for n in range(5)]
    found += [finding(f"b{n}", "Copy identity.", root="stores/identity") for n in range(7)]
    found += [finding("c", "Copy the bus.", root="stores/bus")]
    found += [finding("d", "Copy config.", "warning", root="stores/config")]
    assert audit_view.mends(found) == [
        {"fix": "Copy identity.", "count": "7 errors"},
        {"fix": "Copy config.", "count": "5 errors"},
    ]


def test_advice_that_a_whole_rule_shares_is_not_a_single_change() -> None:
    assert audit_view.mends([finding(f"a{n}", "Spread it.", root=f"services/a{n}") for n in range(9)]) == []


def screen_of(report: AuditReport, width: int) -> list[str]:
    return audit_view.audit_text(report, report.findings, (), "my estate", width, False).splitlines()


def test_a_narrow_screen_breaks_no_word_and_no_amount(flawed: AuditReport) -> None:
    narrow, wide = screen_of(flawed, 80), screen_of(flawed, 120)
    assert max(len(line) for line in narrow if "next: " not in line) <= 80
    for row in audit_view.important(flawed.rows, audit_view.LOSSES_SHOWN):
        for lines in (narrow, wide):
            (line,) = [one for one in lines if one.split()[:2] == [row.verdict, row.domain]]
            assert f"{row.down:,}" in line
            assert audit_view.people(row.people_down) in line
    assert "degraded" in wide[2]


@given(st.text(":/.-ab \u30b5", max_size=60), st.integers(4, 30))
def test_a_name_wider_than_its_column_is_broken_after_a_sign_only(words: str, width: int) -> None:
    broken = at_joints(words, width)
    assert broken.replace("\n", "") == words
    for line in broken.split("\n")[:-1]:
        assert line[-1] in ":/.-"
    assert at_joints("provider:api.payments.example", 26) == "provider:api.payments.\nexample"


def test_the_screen_begins_with_what_resolves_most_and_names_its_key(flawed: AuditReport) -> None:
    text = screen_of(flawed, 120)
    first = audit_view.roots(flawed.findings)[0]
    at = text.index(f"  {first.name}: {len(first.findings)} findings")
    assert text[at + 1].split()[:2] == ["change", first.findings[0].key]
    assert len({f.subject for f in first.findings}) > 5
    roots = audit_view.roots(flawed.findings)[: audit_view.ROOTS_SHOWN]
    shown = {finding.fingerprint for root in roots for finding in root.findings}
    rest = Counter(f.rule for f in flawed.findings if f.fingerprint not in shown)
    for line in text[text.index(next(one for one in text if "also to fix" in one)) + 1 :]:
        if line.split()[:1] in (["error"], ["warning"], ["note"]):
            assert f"{rest[line.split()[1]]:,}" == line.split()[2]
    assert any(line.startswith("  next: evac plan 'my estate' --lose ") for line in text)


@given(st.integers(1, 2000))
def test_long_lists_are_cut_and_say_so(count: int) -> None:
    parts = audit_view.finding_parts([finding(f"s{n}", "Copy config.") for n in range(count)])
    (fix,) = parts[0]["rules"][0]["fixes"]
    carried = len(fix["open"]) + len(fix["rest"])
    assert carried == min(count, audit_view.CASES_MOST)
    assert fix["left_out"] == (f"{count - carried:,}" if count > carried else "")


def test_what_a_file_names_never_becomes_markup(estate: Estate, report: AuditReport) -> None:
    bad = Finding(
        "service-lost",
        "EV100",
        "error",
        HOSTILE,
        f"{HOSTILE} is lost",
        f"Copy {HOSTILE}.",
        (HOSTILE,),
        place=Place(HOSTILE, 3, 1),
    )
    rows = tuple(replace(row, domain=f"{HOSTILE}{n}") for n, row in enumerate(report.rows))
    text = page_of(estate, replace(report, rows=rows), (bad, replace(bad, subject="x")))
    assert "<script" not in text
    assert "<svg onload" not in text
    assert "{{7*7}}" in unescape(text)


def test_nothing_found_is_said(estate: Estate, report: AuditReport) -> None:
    assert "Nothing found." in page_of(estate, report, ())


def test_one_loss_is_told_in_the_singular(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text("evac: 1\nsites: {a: {}}\n")
    alone = audit(load(tmp_path))
    told = audit_view.audit_context(alone, alone.findings)["loss_words"]
    assert told == "1 loss tried: 1 affects no service."
