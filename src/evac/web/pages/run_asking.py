"""What a person asks of a run on a page: what it does in words, what must be typed, and the form's answer.

It ends in the route of the API, so that both ask alike. What cannot be taken back (cancel, undo) is confirmed
by typing the names of the sites that the run leaves.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, get_args

import orjson
from fastapi import Query, Request
from pydantic import ValidationError

from evac.app import runs as cases
from evac.engine.runs.requests import TEXT_MOST
from evac.model.errors import InvalidInput
from evac.model.run_policy import Envelope
from evac.run.view import RunView
from evac.web import forms
from evac.web.access.port import Actor
from evac.web.api import requests
from evac.web.api.bodies import Ask, EnvelopeBody
from evac.web.pages.run_charts import words_of
from evac.web.room import WarRoom

Word = Literal["approve", "pause", "resume", "retry", "skip", "undo", "attest", "cancel"]
Verb = Annotated[Word, Query()]
FIELDS_MOST: Final = 32
MINUTES_MOST: Final = 60
WAIT_S: Final = 5
"""So long a page waits for the leader's answer."""
CONFIRMED: Final = frozenset({"cancel", "undo"})
TITLES: Final[Mapping[str, str]] = {
    "approve": "Approve",
    "pause": "Pause",
    "resume": "Resume",
    "retry": "Retry",
    "skip": "Skip",
    "undo": "Undo",
    "attest": "Vouch for",
    "cancel": "Cancel",
}
_OF_RUN: Final[Mapping[str, str]] = {
    "approve": "The run may begin, within what is listed here. It asks again for anything beyond.",
    "pause": "No step is begun until the pause ends. What is under way goes on.",
    "resume": "Steps are begun again.",
    "undo": "What was done is taken back, as far as evac may; stores stay where they are.",
    "cancel": "No step is begun any more; what is under way is waited for. What was done stays done.",
}
_OF_STEP: Final[Mapping[str, str]] = {
    "approve": "The step may begin.",
    "retry": "The step is tried once more.",
    "skip": "The run goes on as if the step were done. What needs it may fail.",
    "undo": "What the step did is taken back.",
    "attest": "You looked, and it is done. Your name stands for it.",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that can be asked. confirm: names that must be typed; facts: (name, words) that a person
    agrees to. envelope: what an approval of the run covers.
    """

    run: str
    verb: str
    step: str
    title: str
    words: str
    confirm: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    envelope: Envelope | None = None
    grave: bool = False


async def question(room: WarRoom, view: RunView, verb: str, step: str) -> Question:
    """Raises InvalidInput for what cannot be asked of a run, or of a step."""
    words = (_OF_STEP if step else _OF_RUN).get(verb)
    if words is None:
        what = "a step" if step else "a run"
        raise InvalidInput("request-invalid", f"{verb} is nothing that can be asked of {what}", "go back")
    facts: list[tuple[str, str]] = []
    envelope = None
    if verb == "approve" and not step:
        facts, envelope = await _agreed(room, view)
    if step:
        at = view.steps[view.number(step)]
        facts = [("step", step), ("does", f"{words_of(at.kind)}: {at.target}")]
        code, message = view.failures.get(view.index[step], ("", ""))
        facts += [("last failure", f"{message} [{code}]")] if code else []
    name = step or view.spec.run
    return Question(
        view.spec.run,
        verb,
        step,
        f"{TITLES[verb]} {name}",
        words,
        names_to_type(view, verb),
        tuple(facts),
        envelope,
        verb in CONFIRMED,
    )


def names_to_type(view: RunView, verb: str) -> tuple[str, ...]:
    """Sites that the run leaves; of a run that leaves none, the name of its incident."""
    if verb == "approve":
        return view.approvals.untyped
    if verb not in CONFIRMED:
        return ()
    return view.spec.envelope.sites or view.replaced.lost or (view.spec.incident,)


async def _agreed(room: WarRoom, view: RunView) -> tuple[list[tuple[str, str]], Envelope]:
    """What an approval covers, and the most that may be lost as it is known now."""
    needed, now_ms = view.spec.envelope, room.office.clock.now_ms()
    lost = await cases.losses_of(room.office.store, view, now_ms)
    most = max([needed.most_lost_ms, *(one.most_ms for one in lost if one.most_ms is not None)])
    facts = [
        ("leaves", ", ".join(needed.sites) or "no site"),
        ("promotes", ", ".join(needed.stores) or "no store"),
        ("may lose at most", f"{most / 1_000:g} s of writes"),
        ("sheds services of", f"{needed.most_shed:,} people"),
        *((f"{one.store} may lose", one.words) for one in lost),
    ]
    return facts, replace(needed, most_lost_ms=most)


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a form. Raises InvalidInput."""
    told = {"verb": "", "step": ""} | forms.fields_of(body, FIELDS_MOST, strict=True)
    if told["verb"] not in get_args(Word):
        raise InvalidInput("request-invalid", "the form does not say what is asked", "go back")
    return told


def prefilled(fields: Mapping[str, str]) -> dict[str, str]:
    """What the form shows; a key of its own makes asking twice the same as asking once."""
    names = ("reason", "who", "typed", "minutes", "ticket", "problem")
    return {name: fields.get(name, "") for name in names} | {"key": secrets.token_hex(16)}


async def asked(
    request: Request, actor: Actor, wanted: Question, fields: Mapping[str, str]
) -> dict[str, Any]:
    """Asks, and waits a moment for the leader. Raises EvacError with what is missing or not allowed."""
    typed = forms.confirmed(fields, wanted.confirm)
    try:
        body = _body(wanted, fields, typed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput("request-invalid", f"{where}: {first['msg']}") from error
    key = fields.get("key", "")
    found = await requests.ask(request, wanted.run, body, actor, key if key.isalnum() else "", WAIT_S)
    told: dict[str, Any] = orjson.loads(bytes(found.body))
    return told


def _body(wanted: Question, fields: Mapping[str, str], typed: list[str]) -> Ask:
    minutes = fields.get("minutes", "").strip()
    if minutes and not (minutes.isascii() and minutes.isdigit() and len(minutes) < TEXT_MOST):
        raise InvalidInput("minutes", f"'{minutes[:20]}' is no number of minutes")
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
    """What is agreed to: never more loss of data than the form showed, even if more is known by now."""
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
