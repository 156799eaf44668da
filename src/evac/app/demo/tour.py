"""The visitor's next step in the demonstration: decided here, shown on every page and in the terminal.

It is computed from records of the incident that only grow: the incident exists, the decision was made,
something was published, the run ended, a person resolved it. So it goes back only when the visitor reopens
the incident.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from evac.incident.components import is_published
from evac.incident.incident import Dossier, Summary
from evac.incident.records import PHASES
from evac.model.records import dataclass
from evac.views.words import listed

STEPS: Final = 5
INCIDENT: Final = "pangyo-fire"
LOST: Final = "pangyo"
PEOPLE: Final[Mapping[str, str]] = {"kim": "incident commander", "lee": "second approver"}
"""Users of a demonstration with sign-in, and the role of each."""
DECIDED: Final = frozenset({"gate_opened", "step_skipped", "run_ended"})
"""Records after which the one decision of the run was made."""


@dataclass(frozen=True, slots=True)
class TourStep:
    """One step. links: (text, address)."""

    number: int
    words: str
    links: tuple[tuple[str, str], ...] = ()
    typed: str = ""
    """At the end: the command that starts an estate of one's own."""

    def line(self, address: str) -> str:
        """The step as text for a terminal. address: of the war room."""
        where = "".join(f" {word}: {address}{path}" for word, path in self.links)
        own = f" To start with your own: {self.typed} in a folder with your own files." if self.typed else ""
        return f"Step {self.number} of {STEPS}. {self.words}{where}{own}"


def step_of(dossier: Dossier | None, about: Summary | None, waits: Mapping[str, int]) -> TourStep:
    """The first step that is not done yet; None without an incident. waits: runs that wait for people ->
    number of the record when that was seen; one from before the last decision is outdated.
    """
    if dossier is None or about is None:
        return TourStep(1, "A site is about to catch fire. Watch the Now page.", (("Now", "/now"),))
    path, run = f"/incidents/{quote(INCIDENT)}", dossier.runs[0] if dossier.runs else None
    watch = () if run is None else (("Watch the run", f"/runs/{quote(run.run)}"),)
    events = () if run is None else run.events
    decided = max((n for n, event in enumerate(events, 1) if event.kind in DECIDED), default=0)
    kinds = {event.kind for event in events}
    asks = run is not None and waits.get(run.run, -1) >= decided and "run_started" in kinds
    review = () if run is None else (("Review the decision", f"/runs/{quote(run.run)}"),)
    if about.ended_ms is not None:
        links = (("Credits", "/credits"), ("Backups", "/backups"), ("Report", f"{path}/report"))
        words = "See what customers are owed and what each backup proves."
        left = (
            f" Still down: {listed(about.still_down, 3)}; the status page says so."
            if about.still_down
            else ""
        )
        return TourStep(STEPS, f"Resolved.{left} {words}", links, "evac init .")
    if not decided:
        if asks:
            words = "One promotion may lose data, so it waits for you. Read what it costs, then decide."
            return TourStep(2, words, review)
        words = (
            f"{LOST} is lost and its plan is being executed. One promotion will soon wait for your decision."
        )
        return TourStep(2, words, watch)
    said = {note.value for note in dossier.notes if note.kind == "update"}
    told, over = bool(said & set(PHASES[PHASES.index("monitoring") :])), "run_ended" in kinds
    number = 4 if told and over else 3
    if asks:
        return TourStep(number, "The run waits for you again. Read what it needs, then decide.", review)
    if not over:
        if is_published(dossier.notes):
            return TourStep(3, "Services come back one by one. Watch the run until it ends.", watch)
        words = "Users see nothing yet. Publish the first update."
        return TourStep(3, words, (("Write an update", f"{path}/write?kind=update"),))
    if number == 3:
        words = "The run has ended. Publish an update in phase Monitoring: what is back, and what is not."
        return TourStep(3, words, (("Write an update", f"{path}/write?kind=update&phase=monitoring"),))
    words = "Everything is restored. Resolve the incident."
    if about.still_down:
        words = f"Down until {LOST} returns: {listed(about.still_down, 3)}. "
        words += "Resolve what evac could restore, or keep the incident open."
    return TourStep(4, words, (("Resolve it", f"{path}/write?kind=resolved"),))


def sign_in_words(passwords: Mapping[str, str]) -> str:
    """How the visitor signs in. passwords: by name."""
    known = [f"{name} ({PEOPLE[name]}), password {passwords[name]}" for name in PEOPLE if name in passwords]
    return f"Sign in as {', or as '.join(known)}."
