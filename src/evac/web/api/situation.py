"""The current situation and its stream, alerts and updates, health checks, the caller's identity, and open
logins: people see and end their own; admins, everyone's.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.app.access_log import AccessLog, access_log
from evac.incident.records import Notice
from evac.model.errors import EvacError, NotAllowed
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.office.notices.overview import NoticesSeen, NoticeTold
from evac.office.office import TOPIC_SITUATION, TOPIC_WATCH
from evac.office.values import News, Situation
from evac.web import metrics as figures
from evac.web.access.keeping import Login
from evac.web.access.people import LOG, People
from evac.web.access.port import STATE, Actor, need
from evac.web.api.shapes import LIMIT, AfterNumber, Limit, answers, paged
from evac.web.problems import REQUEST_ID, problem
from evac.web.room import (
    JSON,
    LAST_EVENT,
    STREAM_MEDIA,
    after_of,
    answer,
    dump,
    event_message,
    listing,
    room_of,
    stream_answer,
)

notices_router = APIRouter(prefix="/v1/notices", tags=["notices"], dependencies=[Depends(need("viewer"))])
logins_router = APIRouter(prefix="/v1", tags=["logins"])
Name = Annotated[str, Query(max_length=512, description="A person; empty: the caller.")]
Id = Annotated[str, Query(max_length=64, pattern=r"^[0-9a-f]*$", description="One login; empty: all.")]


@notices_router.get("/told", responses=answers(paged(NoticeTold), 304, 422, 503))
async def told(request: Request, after: AfterNumber = 0, limit: Limit = LIMIT) -> Response:
    """List recent messages with their delivery state in each channel. Oldest first. A delivery is `waits`,
    `delivered` or `given up`. `next` is the value of `after` for the next page.
    """
    board = room_of(request).office.board
    rows = board.page(after, limit)
    last = board.told[-1].number if board.told else 0
    following = str(rows[-1].number) if rows and rows[-1].number < last else None
    return listing(request, rows, len(board.told), following)


@notices_router.get("/channels", responses=answers(NoticesSeen, 304, 503))
async def channels(request: Request) -> Response:
    """Show which site sends messages now, its channels and their queues, and the open concerns."""
    return answer(request, room_of(request).office.board.seen)


me_router = APIRouter(prefix="/v1", tags=["access"])


@dataclass(frozen=True, slots=True)
class Me:
    """The caller. `named`: whether the name is proven; if not, requests give one in `who`. `grant`: what a
    break-glass credential also permits, as text; empty without one.
    """

    name: str
    role: str
    named: bool
    proof: str
    grant: str


@me_router.get("/me", responses=answers(Me))
async def me(actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """Show the caller's name and current role."""
    grant = actor.grant
    words = "" if grant is None else f"{grant.verb} of {grant.run or grant.incident}"
    told = Me(actor.name, actor.role, actor.named, actor.proof, words)
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)


health_router = APIRouter(tags=["health"])


@dataclass(frozen=True, slots=True)
class Alive:
    """The process answers."""

    alive: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The data shown is current: the store was read a moment ago, the controller here leads or follows, and
    the estate is loaded.
    """

    ready: bool
    looked_at_ms: int


@health_router.get("/healthz", responses=answers(Alive))
async def healthz() -> Response:
    """Check that the process answers, and nothing else."""
    return Response(dump(Alive(True)), 200, {"cache-control": "no-store"}, JSON)


@health_router.get("/readyz", responses=answers(Ready, 503))
async def readyz(request: Request) -> Response:
    """Check that the data shown is current. If not, the problem says why, to callers who may read."""
    office = room_of(request).office
    if office.ready:
        why = office.ready if request.scope.get(STATE) is not None else "sign in to see why"
        return problem(503, "not-ready", why, "wait", str(request.scope.get(REQUEST_ID, "")))
    told = Ready(True, office.looked_ms)
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)


@health_router.get(
    "/metrics", responses=answers(None, media="text/plain"), dependencies=[Depends(need("viewer"))]
)
async def metrics(request: Request) -> Response:
    """Get metrics in the Prometheus text format, all named `evac_*`."""
    return Response(room_of(request).metrics.text(), 200, {"cache-control": "no-store"}, figures.MEDIA)


router = APIRouter(prefix="/v1", tags=["situation"], dependencies=[Depends(need("viewer"))])


@router.get("/situation", responses=answers(Situation, 304, 503))
async def situation(request: Request) -> Response:
    """Show the current situation at one moment. Sites with verdicts and votes, leader, quorum, hold, plan
    library, runs and recent alerts.
    """
    room = room_of(request)
    office = room.office
    return room.shelf.answer(
        request, "situation", lambda: office.situation.version, lambda: dump(office.situation)
    )


@router.get("/situation/facts", responses=answers(Observation, 304, 404, 503))
async def facts(request: Request) -> Response:
    """Show the facts that are not in the estate files, as published by the leader. Roles of stores, what runs
    moved, and what is lost. A plan made with these facts is based on what the leader sees. 404 if no leader
    has published any.
    """
    known = room_of(request).office.published
    if known is None:
        raise EvacError("no-facts", "no leader has published the situation", "start a controller: evac serve")
    return answer(request, known)


@router.get("/notices", responses=answers(paged(Notice), 304, 422, 503))
async def notices(request: Request, after: AfterNumber = 0, limit: Limit = LIMIT) -> Response:
    """List the watch journal, oldest alert first. `next` is the value of `after` for the next page."""
    room = room_of(request)
    rows = await room.office.notices(after, limit)
    told = room.office.situation.notice
    following = str(rows[-1].number) if rows and rows[-1].number < told else None
    return listing(request, rows, max(told, rows[-1].number if rows else 0), following)


@router.get(
    "/stream",
    responses=answers(None, 422, 503, media=STREAM_MEDIA),
    openapi_extra={"parameters": [LAST_EVENT]},
)
async def stream(request: Request, after: AfterNumber | None = None) -> Response:
    """Follow the situation as server-sent events. `notice`: its id is its number in the journal;
    `Last-Event-ID` resumes after it. `situation`: the situation has a new version; read /v1/situation. Starts
    with the next event unless `after` or `Last-Event-ID` is given.
    """
    room = room_of(request)
    begin = after_of(request)
    office = room.office

    async def backlog(number: int, limit: int) -> list[tuple[int, str, Any]]:
        return [(one.number, "notice", one) for one in await office.notices(number, limit)]

    def say(news: News) -> bytes | None:
        if news.topic == TOPIC_WATCH:
            return event_message("notice", news.value, news.number)
        return event_message("situation", {"version": news.value})

    start = office.situation.notice if begin is None else begin
    return stream_answer(
        office.hub, (TOPIC_WATCH, TOPIC_SITUATION), backlog, start, say, room.setting.heartbeat_s
    )


@dataclass(frozen=True, slots=True)
class Logins:
    items: list[Login]


@dataclass(frozen=True, slots=True)
class LoginsEnded:
    ended: int


@logins_router.get("/logins", responses=answers(Logins, 503))
async def logins(request: Request, actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """List open logins: everyone's for an admin, otherwise the caller's own."""
    access = room_of(request).access
    rows = await access.logins() if isinstance(access, People) else []
    told = Logins(
        [
            Login(one.id, one.name, one.proof, one.acr, one.made_ms, one.seen_ms, one.until_ms)
            for one in rows
            if actor.has("admin") or one.name == actor.name
        ]
    )
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)


@logins_router.delete("/logins", responses=answers(LoginsEnded, 422, 503))
async def end(
    request: Request, actor: Annotated[Actor, Depends(need("viewer"))], name: Name = "", id: Id = ""
) -> Response:
    """End one or all logins of a person, in every war room, within seconds."""
    whose = name or actor.name
    if whose != actor.name and not actor.has("admin"):
        raise NotAllowed("role", f"this needs the role admin; {actor.name} is {actor.role}", "ask an admin")
    access = room_of(request).access
    count = 0
    if isinstance(access, People):
        count = await access.end_logins(lambda row: row.name == whose and (not id or row.id == id))
        LOG.warning("%s ended %d logins of %s", actor.name, count, whose)
    return Response(dump(LoginsEnded(count)), 200, {"cache-control": "no-store"}, JSON)


Since = Annotated[int, Query(ge=0, le=2**53, description="Only entries since this time, in ms since 1970.")]


@logins_router.get("/access-log", responses=answers(AccessLog, 422, 503))
async def log(
    request: Request, actor: Annotated[Actor, Depends(need("admin"))], since_ms: Since = 0
) -> Response:
    """List the access log, oldest entry first. Says who signed in, who was refused, what people requested and
    how they proved their identity. Damaged parts of the journals are listed under `problems`.
    """
    found = await access_log(room_of(request).office.store, since_ms)
    return Response(dump(found), 200, {"cache-control": "no-store"}, JSON)
