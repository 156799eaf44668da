"""What a visitor of the demonstration can do next: watch, decide, tell users, resolve, look around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from evac.incident.components import is_published
from evac.model.errors import EvacError
from evac.office.incidents import IncidentFile
from evac.office.values import Situation
from evac.web.room import WarRoom

STEPS: Final = 5


@dataclass(frozen=True, slots=True)
class TourStep:
    """One step, as every page shows it."""

    number: int
    words: str
    links: tuple[tuple[str, str], ...] = ()
    """(word, address)"""
    typed: str = ""
    """What to type to begin with an estate of one's own, at the end."""


async def next_step(room: WarRoom) -> TourStep:
    """The first thing that is not done yet."""
    desk = room.office.incidents
    try:
        names = await desk.names()
        files = [await desk.file(name) for name in names[:1]]
    except EvacError:
        files = []
    return step_of(room.office.situation, files)


def step_of(now: Situation, files: Sequence[IncidentFile]) -> TourStep:
    """files: of the incident, if there is one yet."""
    if not files:
        return TourStep(1, "A site is about to catch fire. Watch the Now page.", (("Now", "/now"),))
    about, notes = files[0].about, files[0].dossier.notes
    path = f"/incidents/{quote(about.incident)}"
    waiting = next((run.run for run in now.open_runs if run.waits), "")
    if waiting:
        words = "One promotion may lose data, so it waits for you. Read what it costs, then decide."
        return TourStep(2, words, (("Review the decision", f"/runs/{quote(waiting)}"),))
    if not is_published(notes):
        words = "Users see nothing yet. Publish the first update."
        return TourStep(3, words, (("Write an update", f"{path}/write?kind=update"),))
    if now.open_runs:
        words = "Services come back one by one. Watch the run until it ends."
        return TourStep(3, words, (("Watch the run", f"/runs/{quote(now.open_runs[0].run)}"),))
    if about.ended_ms is None:
        words = "The run has ended. Resolve the incident; evac lists what is still down."
        return TourStep(4, words, (("Resolve it", f"{path}/write?kind=resolved"),))
    links = (("Credits", "/credits"), ("Backups", "/backups"), ("Report", f"{path}/report"))
    words = "Resolved. See what customers are owed and what each backup proves."
    return TourStep(STEPS, words, links, "evac init .")
