"""Backups: what was seen and proven of them, and what happened to those of one data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.backup.evidence import Evidence
from evac.model.backup import BackupEvent, BackupFacts
from evac.web.access.port import need
from evac.web.api.shapes import answers
from evac.web.room import JSON, dump, room_of, tag_of, tagged

router = APIRouter(prefix="/v1/backups", tags=["backups"], dependencies=[Depends(need("viewer"))])
DataSet = Annotated[str, Query(min_length=1, max_length=200, description="A store, or another data set.")]
Most = Annotated[int, Query(ge=1, le=1_000, description="Maximum number of events.")]


@dataclass(frozen=True, slots=True)
class BackupHistory:
    items: list[BackupEvent]


@router.get("/facts", responses=answers(BackupFacts, 304, 503))
async def facts(request: Request) -> Response:
    """What the tools of backups listed and what checks showed, by which verdicts are made."""
    body = dump(await Evidence(room_of(request).office.store).facts())
    return tagged(request, body, tag_of(body))


@router.get("/history", responses=answers(BackupHistory, 422, 503))
async def history(request: Request, data_set: DataSet, limit: Most = 100) -> Response:
    """What happened to the backups of one data set, newest first: who, when, with which tool and version."""
    events = await Evidence(room_of(request).office.store).history(data_set, limit)
    return Response(dump(BackupHistory(list(events))), 200, {"cache-control": "no-store"}, JSON)
