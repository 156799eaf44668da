"""What Korean law asks a provider to tell its users after an interruption, with the day it is due. Pure.

Telecommunications Business Act, Article 33(2), and its Enforcement Decree, Article 37-13: without delay the
fact of the interruption, its cause, what is done about it and where to ask; within 30 days after the
service resumed or its cause was removed who may claim damages, on which basis, and how. Whether an
exception of the decree applies is a question of law and not answered here. Nor is whether a report to the
Ministry of Science and ICT is due (operators of data centres, and designated operators); the basics of this
report hold what such a report says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from evac.incident.incident import Dossier, Summary
from evac.incident.notes import in_order
from evac.incident.regulator import Basics, Said, Stated
from evac.incident.values import DAY_MS

DAMAGES_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing to be told. told: when it was, as records say; due_ms None: no day can be named yet."""

    law: str
    words: str
    due: str
    due_ms: int | None
    told: Stated
    content: tuple[tuple[str, Stated], ...]


def duties(dossier: Dossier, about: Summary, report: Basics) -> tuple[Duty, ...]:
    said = Said(dossier.notes)
    published = next((note for note in in_order(dossier.notes) if note.kind == "update"), None)
    told = said.moment("users_notified_at")
    if not told.known and published is not None:
        told = Stated(published.at_ms, f"first published update (note {published.id})")
    measures = said.text("measures")
    if not measures.known and report.actions:
        measures = Stated(f"{len(report.actions)} actions, listed below", "the journal")
    due_ms = None if about.ended_ms is None else about.ended_ms + DAMAGES_DAYS * DAY_MS
    return (
        Duty(
            "Telecommunications Business Act, Article 33(2); Enforcement Decree, Article 37-13",
            "tell users of the interruption",
            "without delay",
            about.detected_ms or None,
            told,
            (
                ("that the service is interrupted", report.start),
                ("cause", report.cause),
                ("what is done about it", measures),
                ("where to ask", said.text("contact")),
            ),
        ),
        Duty(
            "Telecommunications Business Act, Article 33(2); Enforcement Decree, Article 37-13",
            "tell users of damages",
            f"within {DAMAGES_DAYS} days after the service resumed or its cause was removed",
            due_ms,
            said.moment("damages_notified_at"),
            (
                ("who may claim", said.text("damages_claimants")),
                ("basis", said.text("damages_basis")),
                ("procedure", said.text("damages_procedure")),
            ),
        ),
    )
