"""The situation as it is now, the notices of watching, and the stream of both."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from evac.incident.values import Notice
from evac.office.hub import News
from evac.office.office import TOPIC_SITUATION, TOPIC_WATCH
from evac.office.values import Situation
from evac.web import streams
from evac.web.access.port import need
from evac.web.answering import dump, tag_of, tagged
from evac.web.api.shapes import LIMIT, AfterNumber, Limit, answers, paged
from evac.web.room import room_of

router = APIRouter(prefix="/v1", tags=["situation"], dependencies=[Depends(need("viewer"))])


@router.get("/situation", responses=answers(Situation, 304, 503))
async def situation(request: Request) -> Response:
    """Sites with verdicts and votes, leader, quorum, hold, drawer, runs, last notices; as of one moment."""
    room = room_of(request)
    office = room.office
    return room.shelf.answer(
        request, "situation", lambda: office.situation.version, lambda: dump(office.situation)
    )


@router.get("/notices", responses=answers(paged(Notice), 304, 422, 503))
async def notices(request: Request, after: AfterNumber = 0, limit: Limit = LIMIT) -> Response:
    """The journal of watching, from the first notice on; `next` is the number to go on after."""
    room = room_of(request)
    rows = await room.office.notices(after, limit)
    told = room.office.situation.notice
    following = str(rows[-1].number) if rows and rows[-1].number < told else None
    body = dump({"items": rows, "total": max(told, rows[-1].number if rows else 0), "next": following})
    return tagged(request, body, tag_of(body))


@router.get(
    "/stream",
    responses=answers(None, 422, 503, media=streams.MEDIA),
    openapi_extra={"parameters": [streams.LAST_EVENT]},
)
async def stream(request: Request, after: AfterNumber | None = None) -> Response:
    """Server-sent events. `notice`: its id is its number in the journal, and `Last-Event-ID` goes on after
    it. `situation`: the version of the situation changed; read /v1/situation. Begins with what comes next,
    unless `after` or `Last-Event-ID` says where.
    """
    room = room_of(request)
    begin = streams.after_of(request)
    office = room.office

    async def backlog(number: int, limit: int) -> list[tuple[int, str, Any]]:
        return [(one.number, "notice", one) for one in await office.notices(number, limit)]

    def say(news: News) -> bytes | None:
        if news.topic == TOPIC_WATCH:
            return streams.message("notice", news.value, news.number)
        return streams.message("situation", {"version": news.value})

    start = office.situation.notice if begin is None else begin
    return streams.stream(
        office.hub, (TOPIC_WATCH, TOPIC_SITUATION), backlog, start, say, room.setting.heartbeat_s
    )
