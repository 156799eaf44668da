"""The estate as loaded and audited: counts, domains, services, stores, findings, the effect of each loss,
what-ifs, backups, and what evac can do for each service and store.

Rows are serialised once per estate digest; a page is a slice of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.backup.evidence import Evidence
from evac.model.backup import BackupEvent, BackupFacts
from evac.model.errors import EvacError
from evac.model.records import dataclass
from evac.office import facts as f
from evac.office.doctor import DoctorSeen
from evac.office.headroom import Room
from evac.office.reckoning import WhatIf
from evac.web.access.port import Actor, need
from evac.web.api.shapes import LIMIT, After, Limit, WhatIfBody, answers, paged
from evac.web.room import JSON, WarRoom, answer, dump, page, room_of

what_if_router = APIRouter(prefix="/v1", tags=["what if"])
backups_router = APIRouter(prefix="/v1/backups", tags=["backups"], dependencies=[Depends(need("viewer"))])
DataSet = Annotated[str, Query(min_length=1, max_length=200, description="A store or another data set.")]
Most = Annotated[int, Query(ge=1, le=1_000, description="Maximum number of events.")]
doctor_router = APIRouter(prefix="/v1", tags=["estate"])


@what_if_router.post("/what-if", responses=answers(WhatIf, 404, 400, 413, 422, 503))
async def what_if(
    request: Request, body: WhatIfBody, actor: Annotated[Actor, Depends(need("viewer"))]
) -> Response:
    """Show what losing these domains at once would do. Lists what is down, degraded or permanently lost, when
    each service returns and why each one goes down. Changes nothing.
    """
    found = await room_of(request).office.what_if(body.domains)
    return Response(dump(found), 200, {"cache-control": "no-store"}, JSON)


router = APIRouter(prefix="/v1", tags=["estate"], dependencies=[Depends(need("viewer"))])


@dataclass(frozen=True, slots=True)
class EstateShown:
    """The estate in numbers. `digest` includes observed roles; `files` is the digest of the files alone."""

    name: str
    as_of: str | None
    digest: str
    files: str
    counts: dict[str, int]
    sites: tuple[f.SiteFacts, ...]
    rooms: tuple[Room, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    stamp: tuple[object, ...]
    ids: list[str]
    rows: list[bytes]
    numbers: dict[str, int]


_TABLES: dict[str, tuple[Callable[[f.EstateFacts], Sequence[Any]], Callable[[Any], str]]] = {
    "domains": (lambda facts: facts.domains, lambda row: row.id),
    "services": (lambda facts: facts.services, lambda row: row.id),
    "stores": (lambda facts: facts.stores, lambda row: row.id),
    "findings": (lambda facts: facts.findings, lambda row: row.fingerprint),
    "losses": (lambda facts: facts.losses, lambda row: row.domain),
}


def _page(request: Request, name: str, after: str, limit: int, kind: str = "") -> Response:
    room = room_of(request)
    facts = room.facts

    def make() -> bytes:
        table = _table(room, name, kind)
        return page(table.rows, table.ids, after, limit, {"estate": facts.digest})

    return room.shelf.answer(request, f"{name}?{kind}&{after}&{limit}", lambda: room.facts.stamp, make)


def _table(room: WarRoom, name: str, kind: str) -> _Table:
    """Rows as bytes, rebuilt when the estate changes. `kind` filters domains and losses; empty for all."""
    facts, key = room.facts, f"{name}:{kind}"
    known: _Table | None = room.tables.get(key)
    if known is not None and known.stamp == facts.stamp:
        return known
    rows_of, id_of = _TABLES[name]
    rows = [row for row in rows_of(facts) if not kind or row.kind == kind]
    ids = [id_of(row) for row in rows]
    numbers = {name: number for number, name in enumerate(ids)}
    table = room.tables[key] = _Table(facts.stamp, ids, [dump(row) for row in rows], numbers)
    return table


def _one(request: Request, name: str, wanted: str) -> Response:
    room = room_of(request)
    table = _table(room, name, "")
    number = table.numbers.get(wanted)
    if number is None:
        raise EvacError("not-found", f"the estate has no {name.rstrip('s')} {wanted[:80]}", f"GET /v1/{name}")
    row = table.rows[number]
    return room.shelf.answer(request, f"{name}/{wanted}", lambda: room.facts.stamp, lambda: row)


@router.get("/estate", responses=answers(EstateShown, 304, 503))
async def estate(request: Request) -> Response:
    """Show counts, sites with headroom, and the capacity of each server class and pool."""
    room = room_of(request)
    facts = room.facts
    day = facts.as_of.isoformat() if facts.as_of else None
    shown = EstateShown(
        facts.name, day, facts.digest, facts.files, dict(facts.counts), facts.sites, facts.rooms
    )
    return room.shelf.answer(request, "estate", lambda: room.facts.stamp, lambda: dump(shown))


Kind = Annotated[
    str, Query(pattern="^(site|group|provider|hall|feed|rack)?$", description="Only items of this kind.")
]


@router.get("/domains", responses=answers(paged(f.DomainFacts), 304, 404, 422, 503))
async def domains(request: Request, after: After = "", limit: Limit = LIMIT, kind: Kind = "") -> Response:
    """List fault domains above server level, each with the verdict on its loss and the date of its last
    drill.
    """
    return _page(request, "domains", after, limit, kind)


@router.get("/services", responses=answers(paged(f.ServiceFacts), 304, 404, 422, 503))
async def services(request: Request, after: After = "", limit: Limit = LIMIT) -> Response:
    """List services. Each has the sites where it runs, the role of its data there, and the effect of losing
    that site.
    """
    return _page(request, "services", after, limit)


@router.get("/services/{service}", responses=answers(f.ServiceFacts, 304, 404, 422, 503))
async def service(request: Request, service: str) -> Response:
    """Show one service."""
    return _one(request, "services", service)


@router.get("/stores", responses=answers(paged(f.StoreFacts), 304, 404, 422, 503))
async def stores(request: Request, after: After = "", limit: Limit = LIMIT) -> Response:
    """List stores. Each has its copies with their last observed roles, and the date of its last verified
    restore.
    """
    return _page(request, "stores", after, limit)


@router.get("/findings", responses=answers(paged(f.FindingFacts), 304, 404, 422, 503))
async def findings(request: Request, after: After = "", limit: Limit = LIMIT) -> Response:
    """List audit findings, most severe first. The cursor is a fingerprint."""
    return _page(request, "findings", after, limit)


@router.get("/audit/losses", responses=answers(paged(f.LossFacts), 304, 404, 422, 503))
async def losses(request: Request, after: After = "", limit: Limit = LIMIT, kind: Kind = "") -> Response:
    """List what each loss does: sites first, then groups, providers, halls, feeds and racks."""
    return _page(request, "losses", after, limit, kind)


@dataclass(frozen=True, slots=True)
class BackupHistory:
    items: list[BackupEvent]


@backups_router.get("/facts", responses=answers(BackupFacts, 304, 503))
async def facts(request: Request) -> Response:
    """Show what backup tools listed and what checks found: the evidence for backup verdicts."""
    return answer(request, await Evidence(room_of(request).office.store).facts())


@backups_router.get("/history", responses=answers(BackupHistory, 422, 503))
async def history(request: Request, data_set: DataSet, limit: Most = 100) -> Response:
    """List backup events of one data set, newest first. Each says who did what and when, with which tool and
    version.
    """
    events = await Evidence(room_of(request).office.store).history(data_set, limit)
    return Response(dump(BackupHistory(list(events))), 200, {"cache-control": "no-store"}, JSON)


@doctor_router.get("/doctor", dependencies=[Depends(need("viewer"))], responses=answers(DoctorSeen, 304))
async def seen(request: Request) -> Response:
    """Show the last result of the doctor check, and whether one is running now. The result is the same as
    that of `evac doctor`.
    """
    return answer(request, room_of(request).office.doctor.seen)


@doctor_router.post("/doctor", status_code=202, responses=answers(DoctorSeen, 409, status=202))
async def ask(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Start a doctor check: ask every system what it can do. Changes nothing in these systems. The result is
    available within two minutes; asking again while a check runs has no effect. 409 (`no-systems`) if this
    war room cannot reach any systems.
    """
    desk = room_of(request).office.doctor
    desk.begin(actor.name)
    return Response(dump(desk.seen), 202, {"cache-control": "no-store"}, JSON)
