"""Runs: the list, one with its steps and events, its event stream, and the verification of its journal."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from evac.app import runs as cases
from evac.app import runs as floor
from evac.engine.runs import refused_takeovers
from evac.model.errors import EvacError
from evac.model.plan import Plan
from evac.office.runs import topic_of
from evac.office.values import News, RunShort
from evac.run.values import ENDED, Event
from evac.run.view import RunView
from evac.store.anchors import Anchor
from evac.views.decisions import Decision, decision_of
from evac.views.documents import RunHead, RunShown, StepRow, by_need, run_head, step_row
from evac.views.quarantine import quarantine_csv, quarantine_json, quarantine_page
from evac.views.words import moment
from evac.web.access.port import actor_of, need
from evac.web.api.shapes import LIMIT, After, AfterNumber, Amount, Limit, Numbered, RunName, answers, paged
from evac.web.room import (
    JSON,
    LAST_EVENT,
    PART,
    STREAM_MEDIA,
    WarRoom,
    after_of,
    answer,
    dump,
    event_message,
    listing,
    page,
    room_of,
    stream_answer,
    tag_of,
    tagged,
)

proofs_router = APIRouter(prefix="/v1", tags=["runs"], dependencies=[Depends(need("viewer"))])
HEADS_MOST: Final = 10_000
MEDIA: Final = {"json": JSON, "csv": "text/csv", "html": "text/html"}


class Head(BaseModel):
    """A journal head kept elsewhere. `records` is the total up to and including this segment."""

    model_config = ConfigDict(extra="forbid", strict=True)
    segment: Amount
    records: Amount
    hash: Annotated[str, Field(max_length=128)]
    stream: Annotated[
        str, Field(max_length=200, description="A chapter of the journal; empty: the journal itself.")
    ] = ""


class HeadsKept(BaseModel):
    """Journal heads kept elsewhere. Without any, a truncated end goes unnoticed."""

    model_config = ConfigDict(extra="forbid", strict=True)
    heads: Annotated[list[Head], Field(max_length=HEADS_MOST)] = []


@proofs_router.post("/runs/{run}/proof", responses=answers(cases.Proof, 400, 404, 413, 422, 503))
async def proof(request: Request, run: RunName, body: HeadsKept) -> Response:
    """Verify the journal of a run: read it from the start and check its hash chain. Changes nothing."""
    name = room_of(request).office.register.resolve(run)
    heads = [Anchor(name, head.segment, head.records, head.hash) for head in body.heads]
    return await _verified(request, name, heads)


async def _verified(request: Request, stream: str, heads: list[Anchor]) -> Response:
    room = room_of(request)
    async with room.proving.setdefault(actor_of(request).name, asyncio.Lock()):
        incidents = room.office.incidents
        found = await incidents.reading(lambda store: asyncio.run(cases.verify(store, stream, heads)))
    return Response(dump(asdict(found)), 200, {"cache-control": "no-store"}, JSON)


Stream = Literal["access", "backups", "notices", "plans", "watch"]


@proofs_router.post("/journals/{stream}/proof", responses=answers(cases.Proof, 400, 413, 422, 503))
async def proof_of_journal(request: Request, stream: Stream, body: HeadsKept) -> Response:
    """Verify another journal: watch, notices, plans, access or backups. Changes nothing."""
    heads = [Anchor(head.stream or stream, head.segment, head.records, head.hash) for head in body.heads]
    return await _verified(request, stream, heads)


Form = Annotated[
    Literal["json", "csv", "html"], Query(alias="format", description="html prints on A4 paper.")
]


def lists() -> dict[int | str, object]:
    found = answers(None, 304, 404, 422, 503)
    found[200]["content"] = {media: {} for media in MEDIA.values()}
    return dict(found)


@proofs_router.get("/runs/{run}/quarantine", responses=lists())  # type: ignore[arg-type]
async def quarantine(request: Request, run: RunName, form: Form = "json") -> Response:
    """Download the hands-on list: servers that did not come up. Says what is wrong with each, and what
    on-site staff have to do.
    """
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
    told = tagged(request, body, media=MEDIA[form] + ("" if form == "json" else "; charset=utf-8"))
    if form != "json":
        told.headers["content-disposition"] = f'attachment; filename="quarantine.{form}"'
    return told


router = APIRouter(prefix="/v1", tags=["runs"], dependencies=[Depends(need("viewer"))])
PLANS_KEPT: Final = 4
FORECAST_MS = 5_000
"""A forecast holds for one moment; it is recomputed at most this often."""


@router.get("/runs", responses=answers(paged(RunShort), 304, 404, 422, 503))
async def runs(request: Request, after: After = "", limit: Limit = LIMIT) -> Response:
    """List runs: open ones first, then ended ones, newest first."""
    room = room_of(request)

    def make() -> bytes:
        rows = room.office.runs()
        return page([dump(row) for row in rows], [row.run for row in rows], after, limit, {})

    return room.shelf.answer(request, f"runs?{after}&{limit}", lambda: room.office.situation.version, make)


@router.get("/runs/{run}", responses=answers(RunHead, 304, 404, 422, 503))
async def run(request: Request, run: RunName) -> Response:
    """Show a run: its state, what waits for a person, and its expected end. Send its `ETag` as `If-Match`
    with requests: it matches until the run has a new event, even if the forecast changes.
    """
    room = room_of(request)
    found = dump(await head_of(room, run))
    tag = await run_tag(room, run)
    return tagged(request, found, f"{tag[:-1]}{PART}{tag_of(found)[1:]}")


async def run_tag(room: WarRoom, name: str) -> str:
    """The tag of a run: its name and the number of its last event."""
    view = await room.office.register.view(name)
    return f'"{view.spec.run[:200].encode().hex()}-{view.events}"'


async def head_of(room: WarRoom, name: str) -> RunHead:
    """The current document of a run, without its steps."""
    return run_head(await shown_of(room, name))


async def shown_of(room: WarRoom, name: str) -> RunShown:
    """The current state of a run, for its document and its page."""
    office = room.office
    view = await office.register.view(name)
    now_ms = office.clock.now_ms() // FORECAST_MS * FORECAST_MS
    await office.register.foretell(view, now_ms)
    silence = office.silence()
    store = None if silence else office.store
    told = await cases.loss_rows(store, view, now_ms)
    untaken = await refused_takeovers.words_of(store, view.spec.run)
    since_ms = silence.since_ms if silence else 0
    return RunShown(view, office.situation.leader.owner, now_ms, told, since_ms, untaken)


StepOf = Annotated[str, Query(max_length=512, description="A step; empty: the whole run.")]


@router.get("/runs/{run}/decision", responses=answers(Decision, 304, 404, 422, 503))
async def decision(request: Request, run: RunName, step: StepOf = "") -> Response:
    """Show what people have to decide about a step or a run. Says what it does, the most data that may be
    lost and how that is known, which services wait for it, and what approve, skip, wait and the other choices
    would do.
    """
    return answer(request, await decision_in(room_of(request), run, step))


async def decision_in(room: WarRoom, run: str, step: str) -> Decision:
    """Raises RunError if there is no such run or step."""
    shown = await shown_of(room, run)
    return decision_of(shown, step, await kept_plan(room, shown.view))


async def kept_plan(room: WarRoom, view: RunView) -> Plan | None:
    """The current plan of a run; None if it can no longer be read."""
    digest = view.plans[-1]
    if room.office.silence() and digest not in room.tables.get("plans", {}):
        return None
    try:
        return await plan_of(room, digest)
    except EvacError:
        return None


async def plan_of(room: WarRoom, digest: str) -> Plan:
    """A stored plan, decoded and cached by its digest. Raises Corrupt."""
    from evac.estate.codecs import plan as plan_codec

    kept: OrderedDict[str, Plan] = room.tables.setdefault("plans", OrderedDict())
    if digest not in kept:
        data = await room.office.plan(digest)
        kept[digest] = await asyncio.to_thread(plan_codec.decode, data)
        while len(kept) > PLANS_KEPT:
            kept.popitem(last=False)
    kept.move_to_end(digest)
    return kept[digest]


Order = Annotated[
    Literal["plan", "need"], Query(description="need: failed, outcome unknown and running steps first.")
]


@router.get("/runs/{run}/steps", responses=answers(paged(StepRow), 304, 404, 422, 503))
async def steps(
    request: Request, run: RunName, after: After = "", limit: Limit = LIMIT, order: Order = "plan"
) -> Response:
    """List the steps of a run, in plan order or by urgency. By urgency there is one page and no cursor."""
    room = room_of(request)
    view = await room.office.register.view(run)
    if order == "need":
        rows = [step_row(view, i) for i in by_need(view, limit)]
        return listing(request, rows, len(view.steps), None)
    begin = view.number(after) + 1 if after else 0
    numbers = range(begin, min(len(view.steps), begin + limit))
    following = view.steps[numbers[-1]].id if numbers and numbers[-1] + 1 < len(view.steps) else None
    rows = [step_row(view, i) for i in numbers]
    return listing(request, rows, len(view.steps), following)


@router.get("/runs/{run}/events", responses=answers(paged(Numbered), 304, 404, 422, 503))
async def events(request: Request, run: RunName, after: AfterNumber = 0, limit: Limit = LIMIT) -> Response:
    """List the journal events of a run after a number. `next` is the value of `after` for the next page."""
    room = room_of(request)
    view = await room.office.register.view(run)
    rows = [numbered(number, event) for number, event in await room.office.register.events(run, after, limit)]
    following = str(rows[-1].number) if rows and rows[-1].number < view.events else None
    return listing(request, rows, view.events, following)


def numbered(number: int, event: Event) -> Numbered:
    return Numbered(number, moment(event.at_ms), event.kind, event.step, event.attempt, dict(event.data))


@router.get(
    "/runs/{run}/stream",
    responses=answers(None, 404, 422, 503, media=STREAM_MEDIA),
    openapi_extra={"parameters": [LAST_EVENT]},
)
async def stream(request: Request, run: RunName, after: AfterNumber | None = None) -> Response:
    """Follow a run as server-sent events. `event`: its id is its number in the journal; `Last-Event-ID`
    resumes after it. `end`: the run has ended, and no more events follow. Starts with the first event unless
    `after` or `Last-Event-ID` is given.
    """
    room = room_of(request)
    register = room.office.register
    name = register.resolve(run)
    begin = after_of(request) or 0
    view = await register.view(name)

    async def backlog(number: int, limit: int) -> list[tuple[int, str, Any]]:
        found = await register.events(name, number, limit)
        return [(n, "event", numbered(n, event)) for n, event in found]

    def say(news: News) -> bytes | None:
        return event_message("event", numbered(news.number, news.value), news.number)

    return stream_answer(
        room.office.hub,
        (topic_of(name),),
        backlog,
        begin,
        say,
        room.setting.heartbeat_s,
        lambda: view.phase in ENDED or not register.follows(name),
    )
