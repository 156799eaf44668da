"""What a journal proves: that it is whole, and which servers did not come up."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from evac.app import quarantine as floor
from evac.app import runs as cases
from evac.store.anchors import Anchor
from evac.views.quarantine import quarantine_csv, quarantine_json
from evac.views.quarantine_page import quarantine_page
from evac.views.words import moment
from evac.web.access.port import need
from evac.web.answering import JSON, dump, tag_of, tagged
from evac.web.api.bodies import Amount
from evac.web.api.shapes import RunName, answers
from evac.web.room import room_of

router = APIRouter(prefix="/v1", tags=["runs"], dependencies=[Depends(need("viewer"))])
HEADS_MOST: Final = 10_000
MEDIA: Final = {"json": JSON, "csv": "text/csv", "html": "text/html"}


class Head(BaseModel):
    """The head of a journal as somebody else kept it. records: in all, up to and with this segment."""

    model_config = ConfigDict(extra="forbid", strict=True)
    segment: Amount
    records: Amount
    hash: Annotated[str, Field(max_length=128)]


class HeadsKept(BaseModel):
    """Heads that others kept; without any, a cut-off end is not seen."""

    model_config = ConfigDict(extra="forbid", strict=True)
    heads: Annotated[list[Head], Field(max_length=HEADS_MOST)] = []


class ProofTold(BaseModel):
    """problems: what is missing, changed or cut off; empty where the journal is whole."""

    stream: str
    segments: int
    records: int
    anchors: int
    problems: list[str]


@router.post("/runs/{run}/proof", responses=answers(ProofTold, 400, 404, 413, 422, 503))
async def proof(request: Request, run: RunName, body: HeadsKept) -> Response:
    """Reads the journal of a run from its start and checks its chain. Changes nothing."""
    office = room_of(request).office
    name = office.register.resolve(run)
    heads = [Anchor(name, head.segment, head.records, head.hash) for head in body.heads]
    found = await office.incidents.reading(lambda store: asyncio.run(cases.verify(store, name, heads)))
    return Response(dump(asdict(found)), 200, {"cache-control": "no-store"}, JSON)


Stream = Literal["notices", "plans", "watch"]


@router.post("/journals/{stream}/proof", responses=answers(ProofTold, 400, 413, 422, 503))
async def proof_of_journal(request: Request, stream: Stream, body: HeadsKept) -> Response:
    """The same of a journal that is no run's: what was watched (`watch`), notices, plans that lay ready."""
    heads = [Anchor(stream, head.segment, head.records, head.hash) for head in body.heads]
    incidents = room_of(request).office.incidents
    found = await incidents.reading(lambda store: asyncio.run(cases.verify(store, stream, heads)))
    return Response(dump(asdict(found)), 200, {"cache-control": "no-store"}, JSON)


Form = Annotated[Literal["json", "csv", "html"], Query(alias="format", description="html prints on A4.")]


def lists() -> dict[int | str, object]:
    found = answers(None, 304, 404, 422, 503)
    found[200]["content"] = {media: {} for media in MEDIA.values()}
    return dict(found)


@router.get("/runs/{run}/quarantine", responses=lists())  # type: ignore[arg-type]
async def quarantine(request: Request, run: RunName, form: Form = "json") -> Response:
    """Servers that did not come up, with what is wrong and what to do there, for the people on the floor."""
    office = room_of(request).office
    name, now_ms = office.register.resolve(run), office.clock.now_ms()

    def made(store: object) -> bytes:
        found = asyncio.run(floor.quarantine(store, name))  # type: ignore[arg-type]
        if form == "json":
            return quarantine_json(found).encode()
        return (
            quarantine_csv(found) if form == "csv" else quarantine_page(found, moment(now_ms) or "")
        ).encode()

    body = await office.incidents.reading(made)
    told = tagged(request, body, tag_of(body), MEDIA[form] + ("" if form == "json" else "; charset=utf-8"))
    if form != "json":
        told.headers["content-disposition"] = f'attachment; filename="quarantine.{form}"'
    return told
