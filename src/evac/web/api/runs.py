"""Runs: all in a line each, one with what it waits for, its steps, its events, and the stream of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.app import runs as cases
from evac.office.hub import News
from evac.office.runs import topic_of
from evac.office.values import RunShort
from evac.run.values import ENDED, Event
from evac.views.run_document import LossRow, RunHead, RunShown, StepRow, by_need, run_head, step_row
from evac.views.words import moment
from evac.web import streams
from evac.web.access.port import need
from evac.web.answering import PART, dump, page, tag_of, tagged
from evac.web.api.shapes import LIMIT, After, AfterNumber, Limit, Numbered, RunName, answers, paged
from evac.web.room import WarRoom, room_of

router = APIRouter(prefix="/v1", tags=["runs"], dependencies=[Depends(need("viewer"))])
FORECAST_MS = 5_000
"""A forecast is as of a moment; it is made anew so often at most."""


@router.get("/runs", responses=answers(paged(RunShort), 304, 404, 422, 503))
async def runs(request: Request, after: After = "", limit: Limit = LIMIT) -> Response:
    """All runs: open ones first, then ended ones, newest first."""
    room = room_of(request)

    def make() -> bytes:
        rows = room.office.runs()
        return page([dump(row) for row in rows], [row.run for row in rows], after, limit, {})

    return room.shelf.answer(request, f"runs?{after}&{limit}", lambda: room.office.situation.version, make)


@router.get("/runs/{run}", responses=answers(RunHead, 304, 404, 422, 503))
async def run(request: Request, run: RunName) -> Response:
    """Where a run stands, what waits for a person, and when it is expected to end. `If-Match` of requests
    takes its `ETag`: as long as there was no event, it is the same run, whatever the forecast says by now.
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
    """The document of a run without its steps, as of now."""
    office = room.office
    view = await office.register.view(name)
    now_ms = office.clock.now_ms() // FORECAST_MS * FORECAST_MS
    await office.register.foretell(view, now_ms)
    lost = await cases.losses_of(office.store, view, now_ms)
    told = tuple(LossRow(one.store, one.candidate, one.most_ms, one.basis, one.words) for one in lost)
    return run_head(RunShown(view, office.situation.leader.owner, now_ms, told))


Order = Annotated[Literal["plan", "need"], Query(description="need: failed, in doubt and under way first.")]


@router.get("/runs/{run}/steps", responses=answers(paged(StepRow), 304, 404, 422, 503))
async def steps(
    request: Request, run: RunName, after: After = "", limit: Limit = LIMIT, order: Order = "plan"
) -> Response:
    """Steps in the order of the plan; or in that of need, which has one page and no cursor."""
    room = room_of(request)
    view = await room.office.register.view(run)
    if order == "need":
        rows = [step_row(view, i) for i in by_need(view, limit)]
        body = dump({"items": rows, "total": len(view.steps), "next": None})
        return tagged(request, body, tag_of(body))
    begin = view.number(after) + 1 if after else 0
    numbers = range(begin, min(len(view.steps), begin + limit))
    following = view.steps[numbers[-1]].id if numbers and numbers[-1] + 1 < len(view.steps) else None
    rows = [step_row(view, i) for i in numbers]
    body = dump({"items": rows, "total": len(view.steps), "next": following})
    return tagged(request, body, tag_of(body))


@router.get("/runs/{run}/events", responses=answers(paged(Numbered), 304, 404, 422, 503))
async def events(request: Request, run: RunName, after: AfterNumber = 0, limit: Limit = LIMIT) -> Response:
    """The journal of a run after a number; `next` is the number to go on after."""
    room = room_of(request)
    view = await room.office.register.view(run)
    rows = [numbered(number, event) for number, event in await room.office.register.events(run, after, limit)]
    following = str(rows[-1].number) if rows and rows[-1].number < view.events else None
    body = dump({"items": rows, "total": view.events, "next": following})
    return tagged(request, body, tag_of(body))


def numbered(number: int, event: Event) -> Numbered:
    return Numbered(number, moment(event.at_ms), event.kind, event.step, event.attempt, dict(event.data))


@router.get(
    "/runs/{run}/stream",
    responses=answers(None, 404, 422, 503, media=streams.MEDIA),
    openapi_extra={"parameters": [streams.LAST_EVENT]},
)
async def stream(request: Request, run: RunName, after: AfterNumber | None = None) -> Response:
    """Server-sent events of a run. `event`: its id is its number in the journal, and `Last-Event-ID` goes on
    after it. `end`: the run has ended, and there will be no more. From the first event on, unless told
    otherwise.
    """
    room = room_of(request)
    register = room.office.register
    name = register.resolve(run)
    begin = streams.after_of(request) or 0
    view = await register.view(name)

    async def backlog(number: int, limit: int) -> list[tuple[int, str, Any]]:
        found = await register.events(name, number, limit)
        return [(n, "event", numbered(n, event)) for n, event in found]

    def say(news: News) -> bytes | None:
        return streams.message("event", numbered(news.number, news.value), news.number)

    return streams.stream(
        room.office.hub,
        (topic_of(name),),
        backlog,
        begin,
        say,
        room.setting.heartbeat_s,
        lambda: view.phase in ENDED or not register.follows(name),
    )
