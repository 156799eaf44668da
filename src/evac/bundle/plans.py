"""Plans and runbooks of a bundle: from the plan library if they fit, otherwise made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from evac.app.planner.plans import make_plan
from evac.app.planner.worker import waivers_of
from evac.derive.domains import domains
from evac.engine.plans import library
from evac.estate.codecs import plan as plan_codec
from evac.estate.codecs.bundle import Source
from evac.incident import runbook as books
from evac.model.digest import estate_digest
from evac.model.errors import EvacError
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.model.scenario import lose
from evac.store.port import Entry
from evac.views.incident_view import runbook_page, runbook_sheet
from evac.views.sheet import sheet_text
from evac.views.words import listed, plural

EACH_MS: Final = 2_000
WIDTH: Final = 100
SHOWN: Final = 12
KINDS: Final = ("group", "hall", "feed")
"""Included in addition to sites and pairs of them; for a rack, use the plan of its hall."""

LeftOut = dict[str, str]
"""what -> why."""


@dataclass(frozen=True, slots=True)
class Planned:
    """rows: of the manifest, one for each plan."""

    sources: tuple[Source, ...]
    rows: tuple[dict[str, Any], ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    data: bytes
    at_ms: int


def plans_of(
    estate: Estate,
    policy: RunPolicy,
    entries: Mapping[str, bytes],
    budget_ms: int,
    room: Path,
    tell: Callable[[float, str], None] = lambda share, words: None,
) -> Planned:
    """Plans for each site and each pair of sites, then for groups, halls and feeds, with a runbook each.

    entries: of the store, by key. budget_ms: for the search of plans below a site that are not ready,
    `EACH_MS` each, counted in work: the same input gives the same plans on every machine. room: a folder for
    what would not fit in memory.
    """
    digest = estate_digest(estate)
    sources: list[Source] = []
    rows: list[dict[str, Any]] = []
    left: list[LeftOut] = []
    left_to_make, spent = budget_ms // EACH_MS, []
    wanted = list(_wanted(estate))
    for number, (kind, lost) in enumerate(wanted):
        name = "+".join(lost)
        tell(number / len(wanted), name)
        found = _from_drawer(entries, lost, digest)
        source = "drawer" if found is not None else "made"
        if found is None:
            if kind in KINDS:
                if left_to_make <= 0:
                    spent.append(name)
                    continue
                left_to_make -= 1
            try:
                made = make_plan(
                    estate,
                    lose(*lost),
                    budget_ms=EACH_MS,
                    waivers=waivers_of(policy),
                    report=lambda line: tell(0.0, line),
                )
            except EvacError as error:
                left.append({"what": f"plan for the loss of {name}", "why": error.message})
                continue
            found = _Kept(made.data, 0)
        parts, row, lacks = _written(estate, found, lost)
        for part in parts:
            sources.append(_kept_on_disk(part, room / str(len(sources))))
        left += lacks
        rows.append({"lost": list(lost), "kind": kind, "from": source, **row})
    if spent:
        words = f"plans for the loss of {plural(len(spent), 'smaller domain')}: {listed(spent, SHOWN)}"
        left.append({"what": words, "why": "the time budget ran out; raise it with --budget"})
    return Planned(tuple(sources), tuple(rows), tuple(left))


def without_small_plans(entries: Mapping[str, bytes]) -> dict[str, bytes]:
    """A store without standby plans of halls, feeds and groups, which are already parts of the bundle and may
    number hundreds. Plans that a run uses stay.
    """
    found = {
        key: library.decode(Entry(key, entries[key], 1)) for key in entries if key.startswith(library.PREFIX)
    }
    small = {key for key, ready in found.items() if ready is None or any("/" in name for name in ready.lost)}
    used = b"".join(value for key, value in entries.items() if key.startswith(("open/", "incident/")))
    kept = {ready.plan for key, ready in found.items() if key not in small and ready is not None}
    gone = {
        ready.plan
        for key, ready in found.items()
        if key in small
        and ready is not None
        and ready.plan
        and ready.plan not in kept
        and f"plan-kept/{ready.plan}" not in entries
        and ready.plan.encode() not in used
    }
    return {
        key: value
        for key, value in entries.items()
        if key not in small and not (key.startswith("plan/") and key.split("/")[1] in gone)
    }


def _kept_on_disk(part: Source, path: Path) -> Source:
    assert isinstance(part.data, bytes)
    path.write_bytes(part.data)
    return Source(part.name, path)


def _wanted(estate: Estate) -> Iterator[tuple[str, tuple[str, ...]]]:
    for lost in library.scenarios_of([site.id for site in estate.sites]):
        yield ("site" if len(lost) == 1 else "pair"), lost
    found = domains(estate)
    for kind in KINDS:
        yield from ((kind, (domain.id,)) for domain in found if domain.kind == kind)


def _from_drawer(entries: Mapping[str, bytes], lost: tuple[str, ...], digest: str) -> _Kept | None:
    """The standby plan, if it is intact and made from the current estate."""
    key = library.key_of(lost)
    ready = library.decode(Entry(key, entries[key], 1)) if key in entries else None
    if ready is None or not ready.plan or ready.estate != digest:
        return None
    prefix = f"plan/{ready.plan}/"
    data = library.joined([entries[part] for part in sorted(entries) if part.startswith(prefix)])
    return _Kept(data, ready.at_ms) if library.digest_of(data) == ready.plan else None


def _written(
    estate: Estate, kept: _Kept, lost: tuple[str, ...]
) -> tuple[list[Source], dict[str, Any], list[LeftOut]]:
    digest, name = library.digest_of(kept.data), quote("+".join(lost), safe="+")
    part = f"plans/{name}.json"
    row: dict[str, Any] = {"digest": digest, "at_ms": kept.at_ms, "part": part, "runbook": ""}
    sources = [Source(part, kept.data)]
    try:
        book = books.runbook(plan_codec.decode(kept.data, digest), digest, estate)
    except EvacError as error:
        return sources, row, [{"what": f"runbook for the loss of {'+'.join(lost)}", "why": error.message}]
    row["runbook"] = f"runbooks/{name}.html"
    sources.append(Source(row["runbook"], runbook_page(book).encode()))
    text = sheet_text(runbook_sheet(book), WIDTH, False)
    sources.append(Source(f"runbooks/{name}.txt", text.encode()))
    return sources, row, []
