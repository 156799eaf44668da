"""The classification of an incident under DORA, with what is known, and fields of the report template. Pure.

Criteria and thresholds: Commission Delegated Regulation (EU) 2024/1772, Articles 1 to 9; names and numbers of
fields: Annex I of Commission Implementing Regulation (EU) 2025/302. An incident is major where critical
services are affected (Article 6) and either Article 9(5)(b) is met, or two or more of the other thresholds
(Article 8(1)). Recurring incidents (Article 8(2)) are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from evac.incident.incident import Dossier, Summary
from evac.incident.records import HOUR_MS
from evac.incident.regulator import Basics, Said, Stated
from evac.model.records import dataclass

Met = Literal["met", "not met", "not known"]
CLIENTS_MOST: Final = 100_000
DURATION_MOST_MS: Final = 24 * HOUR_MS
DOWNTIME_MOST_MS: Final = 2 * HOUR_MS
COSTS_MOST_EUR: Final = 100_000
STATES_LEAST: Final = 2


@dataclass(frozen=True, slots=True)
class Criterion:
    """One threshold: the legal reference, whether it is met, and why."""

    article: str
    name: str
    met: Met
    why: str


@dataclass(frozen=True, slots=True)
class TemplateField:
    """One data field of the template; value None: not known."""

    number: str
    name: str
    stated: Stated


@dataclass(frozen=True, slots=True)
class Classification:
    """`major`: whether the incident is major under Article 8(1), as far as the facts decide it."""

    major: Met
    why: str
    criteria: tuple[Criterion, ...]
    fields: tuple[TemplateField, ...]


def classify(dossier: Dossier, about: Summary, report: Basics) -> Classification:
    said = Said(dossier.notes)
    critical = _of_yes("Article 6", "critical services affected", said, "critical_services")
    malicious = _of_yes("Article 9(5)(b)", "malicious and unauthorised access", said, "malicious_access")
    others = (
        _clients(said, about),
        _of_yes("Article 9(2)", "reputational impact", said, "reputation_touched"),
        _duration(report, critical),
        _states(said),
        _of_yes("Article 9(5)(a)", "data losses", said, "data_losses"),
        _costs(said),
    )
    major, why = _major(critical, malicious, others)
    return Classification(major, why, (critical, malicious, *others), tuple(_fields(dossier, report, said)))


def _major(critical: Criterion, malicious: Criterion, others: Sequence[Criterion]) -> tuple[Met, str]:
    sure = sum(1 for one in others if one.met == "met")
    possible = sure + sum(1 for one in others if one.met == "not known")
    if critical.met == "not met":
        return "not met", "no critical service is affected"
    if malicious.met != "met" and possible < 2 and malicious.met == "not met":
        return "not met", "fewer than two thresholds are met, whatever the missing facts are"
    if critical.met == "met" and malicious.met == "met":
        return "met", "critical services are affected, and there was malicious access"
    if critical.met == "met" and sure >= 2:
        return "met", f"critical services are affected, and {sure} thresholds are met"
    missing = [one.name for one in (critical, malicious, *others) if one.met == "not known"]
    met = "1 threshold is" if sure == 1 else f"{sure} thresholds are"
    return "not known", f"{met} met so far; unknown: {', '.join(missing)}"


def _of_yes(article: str, name: str, said: Said, fact: str) -> Criterion:
    yes, basis = said.yes(fact)
    met: Met = "not known" if yes is None else "met" if yes else "not met"
    return Criterion(article, name, met, basis)


def _share(said: Said, part: str, whole: str) -> int | None:
    """Parts per thousand; None if either number is not known, or there is no whole."""
    some, all_ = said.count(part).value, said.count(whole).value
    if some is None or all_ is None or int(all_) == 0:
        return None
    return int(some) * 1_000 // int(all_)


def _above(said: Said, part: str, whole: str, percent: int) -> bool | None:
    some, all_ = said.count(part).value, said.count(whole).value
    if some == 0:
        return False
    if some is None or all_ is None or int(all_) == 0:
        return None
    return int(some) * 100 > int(all_) * percent


def _clients(said: Said, about: Summary) -> Criterion:
    """Any one condition suffices; it is only not met if each of them is known not to be."""
    name, article = "clients, financial counterparts and transactions", "Article 9(1)"
    told = said.count("clients_affected").value
    least, most = (about.people_least, about.people_most) if told is None else (int(told), int(told))
    felt = told is not None or (any(fate.was_down for fate in about.fates) and not about.people_unstated)
    number = True if least > CLIENTS_MOST else False if felt and most <= CLIENTS_MOST else None
    relevant, _ = said.yes("relevant_clients")
    rows = (
        (number, f"more than {CLIENTS_MOST:,} clients"),
        (_above(said, "clients_affected", "clients_total", 10), "more than 10 % of all clients"),
        (_above(said, "counterparts_affected", "counterparts_total", 30), "more than 30 % of counterparts"),
        (_above(said, "transactions_affected", "transactions_daily", 10), "more than 10 % of transactions"),
        (relevant, "relevant clients or counterparts"),
    )
    met = [words for holds, words in rows if holds]
    open_ = [words for holds, words in rows if holds is None]
    if met:
        basis = "" if told is not None else " (an estimate, from the number of people in the estate)"
        return Criterion(article, name, "met", "; ".join(met) + basis)
    if open_:
        return Criterion(article, name, "not known", f"not known: {'; '.join(open_)}")
    return Criterion(article, name, "not met", "none of its conditions holds")


def _duration(report: Basics, critical: Criterion) -> Criterion:
    name, article = "duration and service downtime", "Article 9(3)"
    length = report.duration.value
    down_ms = max((service.down_ms for service in report.services), default=0)
    if length is not None and int(length) > DURATION_MOST_MS:
        return Criterion(article, name, "met", "it lasts longer than 24 hours")
    if down_ms > DOWNTIME_MOST_MS and critical.met == "met":
        return Criterion(article, name, "met", "a service was down for more than 2 hours")
    if down_ms > DOWNTIME_MOST_MS and critical.met == "not known":
        return Criterion(
            article, name, "not known", "down for more than 2 hours; it is unknown whether it is critical"
        )
    if length is None or report.state != "over":
        return Criterion(article, name, "not known", "it is ongoing, or its start is unknown")
    return Criterion(
        article, name, "not met", "shorter than 24 hours, and no critical service down beyond 2 hours"
    )


def _states(said: Said) -> Criterion:
    count = said.count("member_states")
    met: Met = (
        "not known" if count.value is None else "met" if int(count.value) >= STATES_LEAST else "not met"
    )
    return Criterion("Article 9(4)", "geographical spread", met, count.basis)


def _costs(said: Said) -> Criterion:
    costs = said.count("costs_eur")
    met: Met = (
        "not known" if costs.value is None else "met" if int(costs.value) > COSTS_MOST_EUR else "not met"
    )
    return Criterion("Article 9(6)", "economic impact", met, costs.basis)


def _percent(permille: int | None) -> Stated:
    if permille is None:
        return Stated(None, "both numbers are needed")
    return Stated(f"{permille // 10}.{permille % 10}", "from the numbers people entered, rounded down")


def span(milliseconds: int) -> str:
    """DD:HH:MM, rounded up to the minute, as the template writes durations."""
    minutes = -(-milliseconds // 60_000)
    return f"{minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}"


def _spanned(stated: Stated) -> Stated:
    return stated if stated.value is None else Stated(span(int(stated.value)), stated.basis)


def _fields(dossier: Dossier, report: Basics, said: Said) -> Iterator[TemplateField]:
    """The fields that records and facts can fill, in the order of the template."""
    for row in (*_first_fields(dossier, report, said), *_later_fields(report, said)):
        yield TemplateField(*row)


_Row = tuple[str, str, Stated]


def _first_fields(dossier: Dossier, report: Basics, said: Said) -> tuple[_Row, ...]:
    """Up to the numbers of clients and counterparts."""
    back = max((s.restored_ms or 0 for s in report.services), default=0)
    all_back = back if report.services and all(s.restored_ms is not None for s in report.services) else None
    return (
        ("1.2", "Name of the entity submitting the report", said.text("entity")),
        ("1.6", "LEI code of the financial entity affected", said.text("lei")),
        ("1.7", "Primary contact person name", said.text("contact")),
        (
            "2.1",
            "Incident reference code assigned by the financial entity",
            Stated(dossier.incident, "its name in evac"),
        ),
        ("2.2", "Date and time of detection of the major ICT-related incident", report.detected),
        (
            "2.3",
            "Date and time of classification of the ICT-related incident as major",
            said.moment("classified_at"),
        ),
        (
            "2.4",
            "Description of the major ICT-related incident",
            Stated(report.title, "the scenario of its first run"),
        ),
        (
            "2.8",
            "Indication whether the major ICT-related incident originates from a third-party provider "
            "or another financial entity",
            said.text("origin_third_party"),
        ),
        ("2.9", "Activation of business continuity plan, if activated", _activated(dossier)),
        (
            "3.1",
            "Incident reference code provided by the competent authority",
            said.text("authority_reference"),
        ),
        ("3.2", "Date and time of occurrence of the major ICT-related incident", report.start),
        (
            "3.3",
            "Date and time when services, activities or operations have been recovered",
            Stated(all_back, "the last service to be restored" if all_back else "not all are back"),
        ),
        ("3.4", "Number of clients affected", report.people),
        (
            "3.5",
            "Percentage of clients affected",
            _percent(_share(said, "clients_affected", "clients_total")),
        ),
        ("3.6", "Number of financial counterparts affected", said.count("counterparts_affected")),
        (
            "3.7",
            "Percentage of financial counterparts affected",
            _percent(_share(said, "counterparts_affected", "counterparts_total")),
        ),
        ("3.8", "Impact on relevant clients or financial counterparts", said.text("relevant_clients")),
    )


def _later_fields(report: Basics, said: Said) -> tuple[_Row, ...]:
    """From transactions to the end."""
    down_ms = max((service.down_ms for service in report.services), default=0)
    downtime = (
        Stated(down_ms, "the longest of any service")
        if report.services
        else Stated(None, "no service was down")
    )
    services = ", ".join(service.service for service in report.services) or None
    losses = "; ".join(f"{one.store}: {one.words}" for one in report.losses) or None
    return (
        ("3.9", "Number of affected transactions", said.count("transactions_affected")),
        (
            "3.10",
            "Percentage of affected transactions",
            _percent(_share(said, "transactions_affected", "transactions_daily")),
        ),
        ("3.11", "Value of affected transactions", said.text("transactions_value")),
        ("3.13", "Reputational impact", said.text("reputation_touched")),
        ("3.14", "Contextual information about the reputational impact", said.text("reputation_words")),
        ("3.15", "Duration of the major ICT-related incident", _spanned(report.duration)),
        ("3.16", "Service downtime", _spanned(downtime)),
        (
            "3.19",
            "Description of how the major ICT-related incident has an impact in other Member States",
            said.text("member_states_words"),
        ),
        (
            "3.21",
            "Description of the data losses",
            _first(said.text("data_losses_words"), Stated(losses, "the largest loss from a promotion")),
        ),
        ("3.22", "Classification criterion 'Critical services affected'", said.text("critical_services")),
        (
            "3.27",
            "Information about affected functional areas and business processes",
            Stated(services, "services that were down"),
        ),
        (
            "3.33",
            "Temporary actions/measures taken or planned to be taken to recover from the incident",
            Stated("yes" if report.actions else None, f"{len(report.actions)} actions in the journal"),
        ),
        (
            "3.34",
            "Description of any temporary actions and measures taken or planned to be taken to recover "
            "from the incident",
            said.text("measures"),
        ),
        ("4.5", "Information about the root causes of the incident", report.cause),
        ("4.6", "Incident resolution summary", said.text("resolution")),
        (
            "4.7",
            "Date and time when the incident root cause was addressed",
            said.moment("cause_addressed_at"),
        ),
        ("4.8", "Date and time when the incident was resolved", report.end),
        ("4.13", "Amount of gross direct and indirect costs and losses", said.count("costs_eur")),
        ("4.14", "Amount of financial recoveries", said.count("recoveries_eur")),
    )


def _first(*found: Stated) -> Stated:
    return next((one for one in found if one.known), found[-1])


def _activated(dossier: Dossier) -> Stated:
    for record in dossier.runs:
        for number, event in enumerate(record.events, 1):
            if event.kind == "run_started":
                return Stated("yes", f"a recovery run began, {record.run}#{number}")
    return Stated(None, "no recovery run began; it is unknown whether another plan was used")
