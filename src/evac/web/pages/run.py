"""Pages of runs: the list, one run with its projection, its events, and the forms for requests to it.

A form ends in the route of the API, so that both make the same request, and it shows the same decision as
the API and the command line. What cannot be undone (cancel, undo) is confirmed by typing the names of the
sites that the run evacuates.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import quote

import orjson
from fastapi import Depends, Query, Request, Response
from pydantic import ValidationError

from evac.app import runs as cases
from evac.engine.runs.requests import TEXT_MOST
from evac.model.access import role_for
from evac.model.errors import EvacError, InvalidInput, NotAllowed
from evac.model.records import dataclass
from evac.model.run_policy import Envelope
from evac.run.data_loss import time_lost
from evac.run.view import RunView
from evac.views.decisions import Choice, Decision, asked_words, cost_words, people_words
from evac.web.access.guarding import path_within
from evac.web.access.port import Actor, need_to_ask
from evac.web.api import requests
from evac.web.api.requests import may_ask
from evac.web.api.runs import decision_in, kept_plan, shown_of
from evac.web.api.shapes import Ask, EnvelopeBody, RunName
from evac.web.pages import frame, run_view
from evac.web.pages.frame import sentence
from evac.web.pages.projection import Shown, projection_of, stamp_of
from evac.web.room import WarRoom, room_of

Word = Literal["approve", "pause", "resume", "retry", "skip", "undo", "attest", "cancel"]
Verb = Annotated[Word, Query()]
FIELDS_MOST: Final = 32
WAIT_S: Final = 5
"""How long a page waits for the leader's response."""
CONFIRMED: Final = frozenset({"cancel", "undo"})
GRAVE: Final = CONFIRMED | {"skip"}
TITLES: Final[Mapping[str, str]] = {
    "approve": "Approve",
    "pause": "Pause",
    "resume": "Resume",
    "retry": "Retry",
    "skip": "Skip",
    "undo": "Undo",
    "attest": "Attest",
    "cancel": "Cancel",
}
_OF_RUN: Final[Mapping[str, str]] = {
    "approve": "The run starts, limited to what is listed here. It asks again for anything beyond that.",
    "pause": "No new steps start until the pause ends. Running steps finish.",
    "resume": "Steps can start again.",
    "undo": "Completed steps are undone where evac is allowed to. Stores stay where they are.",
    "cancel": "No new steps start. Running steps finish. Completed steps are not rolled back. The run ends.",
}
_OF_STEP: Final[Mapping[str, str]] = {
    "approve": "The step starts.",
    "retry": "The step is retried once.",
    "skip": "Skips this step and continues. Steps that depend on it may fail.",
    "undo": "The step is undone.",
    "attest": "The step counts as done because you checked it. Your name is recorded.",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One possible request."""

    run: str
    verb: str
    step: str
    title: str
    words: str
    confirm: tuple[str, ...]
    """Names to type."""
    facts: tuple[tuple[str, str], ...]
    """(name, words) that a person agrees to when approving the run."""
    decision: Decision
    failure: str
    """Why the step failed last; empty if it did not."""
    envelope: Envelope | None = None
    """What an approval of the run covers."""
    grave: bool = False

    @property
    def choice(self) -> Choice | None:
        """The request, with its consequences."""
        return self.decision.choice(self.verb)

    @property
    def others(self) -> tuple[Choice, ...]:
        return tuple(one for one in self.decision.choices if one.answer != self.verb)

    @property
    def people(self) -> str:
        return people_words(self.decision)

    @property
    def cost(self) -> str:
        """The most data that an approval of the step may lose."""
        return cost_words(self.decision) if self.verb == "approve" and self.step else ""

    @property
    def question(self) -> str:
        if self.verb == "approve":
            return asked_words(self.decision)
        return f"{self.title}?"

    @property
    def button(self) -> str:
        """The label of the button, with the cost."""
        return f"Approve, lose {self.cost}" if self.cost else self.title


async def question(room: WarRoom, view: RunView, verb: str, step: str) -> Question:
    """Raises InvalidInput for a request that the run or the step does not accept."""
    words = (_OF_STEP if step else _OF_RUN).get(verb)
    if words is None:
        what = "a step" if step else "a run"
        raise InvalidInput("request-invalid", f"{verb} is not a valid request for {what}", "go back")
    facts: list[tuple[str, str]] = []
    envelope = None
    if verb == "approve" and not step:
        facts, envelope = await _agreed(room, view)
    decision = await decision_in(room, view.spec.run, step)
    choice = decision.choice(verb)
    code, message = view.failures.get(view.index[step], ("", "")) if step else ("", "")
    return Question(
        view.spec.run,
        verb,
        step,
        f"{TITLES[verb]} {step or view.spec.run}",
        words if choice is None else choice.words,
        names_to_type(view, verb),
        tuple(facts),
        decision,
        f"{message} [{code}]" if code else "",
        envelope,
        verb in GRAVE,
    )


def names_to_type(view: RunView, verb: str) -> tuple[str, ...]:
    """The sites that the run evacuates; for a run that evacuates none, the name of its incident."""
    if verb == "approve":
        return view.approvals.untyped
    if verb not in CONFIRMED:
        return ()
    return view.spec.envelope.sites or view.replaced.lost or (view.spec.incident,)


async def _agreed(room: WarRoom, view: RunView) -> tuple[list[tuple[str, str]], Envelope]:
    """What an approval covers, and the most data that may be lost as far as is known now."""
    needed, now_ms = view.spec.envelope, room.office.clock.now_ms()
    lost = await cases.losses_of(room.office.store, view, now_ms)
    most = max([needed.most_lost_ms, *(one.most_ms for one in lost if one.most_ms is not None)])
    facts = [
        ("leaves", ", ".join(needed.sites) or "no site"),
        ("promotes", ", ".join(needed.stores) or "no store"),
        ("may lose at most", f"{time_lost(most)} of writes"),
        ("sheds services of", f"{needed.most_shed:,} people"),
        *((f"{one.store} may lose", one.words) for one in lost),
    ]
    return facts, replace(needed, most_lost_ms=most)


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a form. Raises InvalidInput."""
    told = {"verb": "", "step": ""} | frame.fields_of(body, FIELDS_MOST, strict=True)
    if told["verb"] not in get_args(Word):
        raise InvalidInput("request-invalid", "the form does not say what is requested", "go back")
    return told


def prefilled(fields: Mapping[str, str]) -> dict[str, str]:
    """What the form shows; its own idempotency key makes sending it twice the same as sending it once."""
    names = ("reason", "who", "typed", "minutes", "ticket", "problem")
    return {name: fields.get(name, "") for name in names} | {"key": secrets.token_hex(16)}


async def asked(
    request: Request, actor: Actor, wanted: Question, fields: Mapping[str, str]
) -> dict[str, Any]:
    """Make the request and wait briefly for the leader. Raises EvacError with what is missing or not
    allowed.
    """
    typed = frame.confirmed(fields, wanted.confirm)
    try:
        body = _body(wanted, fields, typed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput("request-invalid", f"{where}: {first['msg']}") from error
    key = fields.get("key", "")
    found = await requests.ask(request, wanted.run, body, actor, key if key.isalnum() else "", WAIT_S)
    told: dict[str, Any] = orjson.loads(bytes(found.body))
    if told["state"] == "refused":
        raise NotAllowed("refused", f"refused: {told['why']}", told["hint"])
    return told


def _body(wanted: Question, fields: Mapping[str, str], typed: list[str]) -> Ask:
    minutes = fields.get("minutes", "").strip()
    if minutes and not (minutes.isascii() and minutes.isdigit() and len(minutes) < TEXT_MOST):
        raise InvalidInput("minutes", f"'{minutes[:20]}' is not a number of minutes")
    whole = int(minutes[:9] or 0) if wanted.verb == "pause" else 0
    return Ask(
        reason=fields["reason"].strip(),
        who=fields.get("who", "").strip(),
        verb=wanted.verb,  # type: ignore[arg-type]
        step=wanted.step,
        for_ms=min(whole, 10**6) * 60_000,
        ticket=fields.get("ticket", "").strip(),
        envelope=_envelope(wanted, fields),
        typed=typed if wanted.verb == "approve" else [],
    )


def _envelope(wanted: Question, fields: Mapping[str, str]) -> EnvelopeBody | None:
    """What is agreed to: never more data loss than the form showed, even if more is known by now."""
    if wanted.envelope is None:
        return None
    shown, needed = fields.get("most_lost_ms", ""), wanted.envelope
    most = int(shown[:15]) if shown.isascii() and shown.isdigit() else needed.most_lost_ms
    return EnvelopeBody(
        sites=list(needed.sites),
        stores=list(needed.stores),
        most_lost_ms=min(most, needed.most_lost_ms),
        most_shed=needed.most_shed,
    )


PAGE: Final = frame.Page("/runs", "Runs", icon="runs", group="Respond", badge="running", key="r")
ROWS: Final = 100
Begin = Annotated[int, Query(ge=0, le=10_000_000)]
Show = Annotated[
    str, Query(pattern="^(|failed|unknown|undoing|running|ready|pending|undone|skipped|succeeded)$")
]


@PAGE.router.get(PAGE.path)
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
            PAGE.path,
            now_ms,
            rows=run_view.run_rows(found[begin:end]),
            total=len(found),
            begin=begin,
            end=end,
            before=begin - ROWS if begin else None,
            after=end if end < len(found) else None,
        )

    return frame.answer(request, f"page runs {begin}", (now.version, now_ms), make)


@PAGE.router.get(PAGE.path + "/{run}")
async def run(request: Request, run: RunName, show: Show = "", begin: Begin = 0) -> Response:
    """One run: its state, what waits for a person, its projection, its steps and last events."""
    room = room_of(request)
    register = room.office.register
    found, now_ms = await shown_of(room, run), room.office.clock.now_ms()
    silent = found.silent_ms > 0
    view, name = found.view, found.view.spec.run
    said = await projection_of(room, view, now_ms)
    plan = await kept_plan(room, view)
    begun = max(0, view.events - run_view.EVENTS)
    shown = Shown(
        found,
        said,
        plan,
        next((row.created_ms for row in room.office.runs() if row.run == name), 0),
        () if silent else await register.events(name, begun, run_view.EVENTS),
        show,
        begin,
    )

    def make() -> bytes:
        return frame.render("run.html.j2", PAGE.path, said.at_ms, **run_view.context(shown))

    stamp = (stamp_of(view, now_ms), found.leader, view.phase, found.silent_ms, found.untaken)
    return frame.answer(request, f"page run {name} {show} {begin}", stamp, make)


@PAGE.router.get(PAGE.path + "/{run}/events")
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
        PAGE.path,
        _now_ms(room),
        run=view.spec.run,
        rows=run_view.event_rows(view, found),
        first=begin + 1,
        last=last,
        total=view.events,
        older=begin + 1 if begin else None,
    )
    return Response(body, 200, {"cache-control": "no-cache"}, frame.HTML)


@PAGE.router.get(PAGE.path + "/{run}/ask")
async def form(
    request: Request,
    run: RunName,
    actor: Annotated[Actor, Depends(need_to_ask())],
    verb: Verb,
    step: Annotated[str, Query(max_length=512)] = "",
) -> Response:
    """The form for one request to a run: its effect, the reason, and the names to type."""
    room = room_of(request)
    view = await room.office.register.view(run)
    if step:
        view.number(step)
    wanted = await question(room, view, verb, step)
    return _form(room, actor, wanted, {"back": frame.came_from(request, "")}, 200)


@PAGE.router.post(PAGE.path + "/{run}/ask")
async def ask(request: Request, run: RunName, actor: Annotated[Actor, Depends(need_to_ask())]) -> Response:
    """Make the request through the API's code, then show the result. The form shows what is missing."""
    room = room_of(request)
    view = await room.office.register.view(run)
    fields = fields_of(await request.body())
    wanted = await question(room, view, fields["verb"], fields["step"])
    try:
        told = await asked(request, actor, wanted, fields)
    except EvacError as error:
        return _form(room, actor, wanted, fields | {"problem": sentence(error)}, 422)
    done = "asked" if told["state"] != "taken" else "approved" if wanted.verb == "approve" else "taken"
    return frame.back_to(_back(fields.get("back", ""), wanted.run), done)


def _back(path: str, run: str) -> str:
    """The page of the war room that the form was opened from, or else the page of the run."""
    from evac.web.pages import PAGES

    pages = ("/incidents/", *(page.path for page in PAGES if page.badge))
    known = path_within(path) if path.startswith(pages) and "/ask" not in path else ""
    return known or f"{PAGE.path}/{quote(run, safe='')}"


def _form(room: WarRoom, actor: Actor, wanted: Question, fields: dict[str, str], status: int) -> Response:
    context: dict[str, Any] = {
        "wanted": wanted,
        "fields": prefilled(fields) | {"back": _back(fields.get("back", ""), wanted.run)},
        "actor": actor,
        "may": may_ask(actor, wanted.verb),
        "needed": role_for(wanted.verb),
    }
    body = frame.render("run_ask.html.j2", PAGE.path, _now_ms(room), **context)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)


def _now_ms(room: WarRoom) -> int:
    return room.office.clock.now_ms() // 10_000 * 10_000
