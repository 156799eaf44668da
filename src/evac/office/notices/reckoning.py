"""What notices need of the estate: its errors, where its tools stand, what its stores promise.

Worked out in a process of its own, for an audit takes a whole core for seconds. What travels is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from evac.app.estates.copies import edition_of
from evac.app.side_process import Apart
from evac.model.errors import EvacError, InvalidInput, Unavailable
from evac.model.observation import Observation

ERRORS_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Reckoned:
    """errors: (fingerprint, code, message, fix) of each error of the audit. tools: service -> sites where it
    has replicas. rpos: store -> milliseconds, where one is promised.
    """

    errors: tuple[tuple[str, str, str, str], ...]
    tools: Mapping[str, tuple[str, ...]]
    rpos: Mapping[str, int]


class NoticeReckoner:
    """One worker process. apart: False reckons in this one, for tests."""

    def __init__(self, path: Path, as_of: date | None = None, *, apart: bool = True) -> None:
        self._where = (str(path), as_of)
        self._apart = Apart() if apart else None

    async def reckon(self, observation: Observation) -> Reckoned:
        """Raises InvalidInput in the words of whoever found the problem, Unavailable."""
        path, as_of = edition_of(self._where[0]), self._where[1]
        if self._apart is None:
            found = _reckon(path, as_of, observation)
        else:
            try:
                found = await self._apart.ask(_reckon, path, as_of, observation)
            except BrokenProcessPool as error:
                raise Unavailable("the process that reckons ended; it is started again") from error
        if isinstance(found, tuple):
            raise InvalidInput(*found)
        return found

    def close(self) -> None:
        if self._apart is not None:
            self._apart.close()


_kept: dict[tuple[str, date | None], Any] = {}
"""In the worker: the estate as its files have it, and the last audit."""


def _reckon(path: str, as_of: date | None, observation: Observation) -> Reckoned | tuple[str, str, str]:
    from evac import estate as estates
    from evac.audit import audit
    from evac.derive import situation
    from evac.model.digest import estate_digest

    key = (path, as_of)
    try:
        files, report = _kept.get(key) or (estates.load(path, as_of), None)
        seen = situation.of(files, observation).estate
        digest = estate_digest(seen)
        if report is None or report.digest != digest:
            report = audit(seen, digest=digest)
        _kept.clear()
        _kept[key] = (files, report)
        return reckoned(report)
    except EvacError as error:
        return error.code, error.message, error.hint


def reckoned(report: Any) -> Reckoned:
    """What notices need of an audit."""
    impacts = report.impacts
    estate, index, per_site = impacts.estate, impacts.graph.index, impacts.presence.per_site
    grave = (one for one in report.findings if one.severity == "error")
    errors = [(one.fingerprint, one.code, one.message, one.fix) for one in grave]
    names = sorted({name for filled in estate.tools.values() for name in filled if name in index})
    tools = {
        name: tuple(site.id for n, site in enumerate(estate.sites) if per_site[n, index[name]] > 0)
        for name in names
    }
    rpos = {store.id: store.rpo_ms for store in estate.stores if store.rpo_ms is not None}
    return Reckoned(tuple(errors[:ERRORS_MOST]), {k: v for k, v in tools.items() if v}, rpos)
