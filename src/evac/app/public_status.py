"""The public status as the store has it: made of every incident, of which only what changed is read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from evac.app import incidents
from evac.app.incident_folds import Folds
from evac.app.runs import INCIDENT
from evac.incident.components import StatusPage, status_page
from evac.incident.incident import Dossier, Summary
from evac.store.journal import head_of
from evac.store.port import Store

URL: Final = "https://status.example/"
_Told = tuple[object, tuple[Dossier, Summary]]


@dataclass(frozen=True, slots=True)
class About:
    """Whose page it is. names: service -> what users call it."""

    title: str
    names: Mapping[str, str]
    url: str = URL


class PublicStatus:
    """Makes the page again and again. Of an incident it keeps the notes of people and what it came to. folds:
    of runs that are read on.
    """

    def __init__(self, store: Store, folds: Folds | None = None) -> None:
        self._store, self._folds = store, folds or Folds()
        self._told: dict[str, _Told] = {}

    async def page(self, about: About, now_ms: int) -> StatusPage:
        """The page as the store has it now."""
        seen = await incidents.watched(self._store)
        noted = await self._store.get(incidents.NOTED)
        told: dict[str, _Told] = {}
        for name in await incidents.names(self._store):
            stamp = (noted.revision if noted else 0, *await self._records(name))
            kept = self._told.get(name)
            if kept is None or kept[0] != stamp:
                whole = await incidents.dossier(self._store, name, now_ms, seen, self._folds.of)
                about_it = self._folds.summary_of(whole)
                kept = (stamp, (Dossier(whole.incident, (), (), whole.notes), about_it))
            told[name] = kept
        self._told = told
        rows = sorted((row for _, row in told.values()), key=lambda row: (row[1].begun_ms, row[1].incident))
        first = [one.begun_ms for _, one in rows if one.begun_ms] + [one.at_ms for one in seen[:1]]
        return status_page(about.title, about.names, rows, min(first, default=0), now_ms)

    async def _records(self, incident: str) -> tuple[Any, ...]:
        """(run, records) of an incident; nothing where it is notes alone."""
        entry = await self._store.get(INCIDENT + incident)
        if entry is None:
            return ()
        run = str(orjson.loads(entry.value)["run"])
        head = await head_of(self._store, run)
        return run, head.records if head else 0
