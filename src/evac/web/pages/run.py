"""Pages of runs: all of them, one with its trajectory, its events, and the forms that ask something of it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.app import runs as cases
from evac.model.access import role_for
from evac.model.errors import EvacError
from evac.model.plan import Plan
from evac.run.view import RunView
from evac.views.run_document import LossRow
from evac.web.access.granting import may_ask
from evac.web.access.port import Actor, need, need_to_ask
from evac.web.api.shapes import RunName
from evac.web.forms import sentence
from evac.web.pages import frame, run_asking, run_view
from evac.web.pages.projection import plan_of, projection_of, stamp_of
from evac.web.room import WarRoom, room_of

PATH: Final = "/runs"
ROWS: Final = 100
router = APIRouter(dependencies=[Depends(need("viewer"))])
Begin = Annotated[int, Query(ge=0, le=10_000_000)]
Show = Annotated[
    str, Query(pattern="^(|failed|unknown|undoing|running|ready|pending|undone|skipped|succeeded)$")
]


@router.get(PATH)
async def runs(request: Request, begin: Begin = 0) -> Response:
    """All runs: open ones first, then ended ones, newest first."""
    room = room_of(request)
    now = room.office.situation
    now_ms = _now_ms(room)
    found = room.office.runs()
    begin = min(begin, max(0, len(found) - 1)) // ROWS * ROWS

    def make() -> bytes:
        end = min(len(found), begin + ROWS)
        return frame.render(
            "runs.html.j2",
            PATH,
            now_ms,
            rows=run_view.run_rows(found[begin:end]),
            total=len(found),
            begin=begin,
            end=end,
            before=begin - ROWS if begin else None,
            after=end if end < len(found) else None,
        )

    return room.shelf.answer(request, f"page runs {begin}", (now.version, now_ms), make, frame.HTML)


@router.get(PATH + "/{run}")
async def run(request: Request, run: RunName, show: Show = "", begin: Begin = 0) -> Response:
    """One run: where it stands, what waits for a person, where it is heading, its steps and last events."""
    room = room_of(request)
    register = room.office.register
    view, now_ms = await register.view(run), room.office.clock.now_ms()
    name, now = view.spec.run, room.office.situation
    said = await projection_of(room, view, now_ms)
    lost = await cases.losses_of(room.office.store, view, now_ms)
    plan = await _plan(room, view)
    begun = max(0, view.events - run_view.EVENTS)
    shown = run_view.Shown(
        view,
        said,
        plan,
        next((row.created_ms for row in room.office.runs() if row.run == name), 0),
        tuple(LossRow(one.store, one.candidate, one.most_ms, one.basis, one.words) for one in lost),
        now,
        await register.events(name, begun, run_view.EVENTS),
        show,
        begin,
    )

    def make() -> bytes:
        return frame.render("run.html.j2", PATH, said.at_ms, **run_view.context(shown))

    stamp = (stamp_of(view, now_ms), now.leader, view.phase)
    return room.shelf.answer(request, f"page run {name} {show} {begin}", stamp, make, frame.HTML)


@router.get(PATH + "/{run}/events")
async def events(
    request: Request, run: RunName, before: Annotated[int, Query(ge=0, le=2**53)] = 0
) -> Response:
    """The journal in words, newest first; before: only events with a smaller number."""
    room = room_of(request)
    view = await room.office.register.view(run)
    last = min(before - 1, view.events) if before else view.events
    begin = max(0, last - ROWS)
    found = await room.office.register.events(view.spec.run, begin, last - begin) if last > 0 else []
    body = frame.render(
        "run_events.html.j2",
        PATH,
        _now_ms(room),
        run=view.spec.run,
        rows=run_view.event_rows(view, found),
        first=begin + 1,
        last=last,
        total=view.events,
        older=begin + 1 if begin else None,
    )
    return Response(body, 200, {"cache-control": "no-cache"}, frame.HTML)


@router.get(PATH + "/{run}/ask")
async def form(
    request: Request,
    run: RunName,
    actor: Annotated[Actor, Depends(need_to_ask())],
    verb: run_asking.Verb,
    step: Annotated[str, Query(max_length=512)] = "",
) -> Response:
    """The form for one thing that is asked of a run: what it does, why, and names that must be typed."""
    room = room_of(request)
    view = await room.office.register.view(run)
    if step:
        view.number(step)
    wanted = await run_asking.question(room, view, verb, step)
    return _form(room, actor, wanted, {}, 200)


@router.post(PATH + "/{run}/ask")
async def ask(request: Request, run: RunName, actor: Annotated[Actor, Depends(need_to_ask())]) -> Response:
    """Asks, by the code of the API; then says what became of it. What is missing is said in the form."""
    room = room_of(request)
    view = await room.office.register.view(run)
    fields = run_asking.fields_of(await request.body())
    wanted = await run_asking.question(room, view, fields["verb"], fields["step"])
    try:
        told = await run_asking.asked(request, actor, wanted, fields)
    except EvacError as error:
        return _form(room, actor, wanted, fields | {"problem": sentence(error)}, 422)
    body = frame.render("run_asked.html.j2", PATH, _now_ms(room), told=told, wanted=wanted)
    return Response(body, 200, {"cache-control": "no-store"}, frame.HTML)


def _form(
    room: WarRoom, actor: Actor, wanted: run_asking.Question, fields: dict[str, str], status: int
) -> Response:
    context: dict[str, Any] = {
        "wanted": wanted,
        "fields": run_asking.prefilled(fields),
        "actor": actor,
        "may": may_ask(actor, wanted.verb),
        "needed": role_for(wanted.verb),
    }
    body = frame.render("run_ask.html.j2", PATH, _now_ms(room), **context)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)


def _now_ms(room: WarRoom) -> int:
    return room.office.clock.now_ms() // 10_000 * 10_000


async def _plan(room: WarRoom, view: RunView) -> Plan | None:
    """The plan in force, where it can be read: objectives and people come from it."""
    try:
        return await plan_of(room, view.plans[-1])
    except EvacError:
        return None
