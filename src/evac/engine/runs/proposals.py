"""What a person wants to be run, and the answer that takes its place.

    proposal/<id>      {"incident", "plan", "reason", "mode", "leaving", "mark", "ends", "typed", "who"}
    answer/<id>        {"run"} of the run that was made of it, or {"refused", "code", "kind", "hint"}

The answers of older leaders say neither kind nor hint.

Who asked may take a proposal back while nobody answered it. So the answer is written in the transaction that
makes the run, and only while the proposal lies there as it was read: either there is a run with an answer, or
the proposal was withdrawn and there is none.

What shall be run: asked for by a person, or by the answer to a loss.

What another loss asks of a run under way, and what the register says when its plan was replaced. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from evac.drivers.port import Action
from evac.engine.plans.library import get_plan
from evac.engine.runs.reading import incident_key
from evac.engine.stores.guards import Mark, Permit
from evac.model.error_kinds import kind_of
from evac.model.errors import EvacError, NotAllowed, RunError
from evac.model.run_policy import Envelope
from evac.run import envelope
from evac.run.values import SETTLED
from evac.run.view import RunView
from evac.store.port import Compare, Delete, Entry, Put, Store

REPLACEABLE: Final = frozenset({"pending", "awaiting_approval", "running", "paused", "monitoring"})
"""Phases in which a run takes another plan."""


@dataclass(frozen=True, slots=True)
class Concerned:
    """A run under way, as another loss sees it. accounted: sites that its plan takes as lost. untyped: sites
    whose names it waits for. places: sites at which it still does something. plans: how many it had.
    """

    run: str
    accounted: frozenset[str]
    leaving: tuple[str, ...]
    untyped: tuple[str, ...]
    places: frozenset[str]
    plans: int


def places_of(view: RunView, actions_of: Callable[[RunView, str], Sequence[Action]]) -> frozenset[str]:
    """Sites at which something is still to be done, or is under way."""
    found: set[str] = set()
    for i, step in enumerate(view.steps):
        if view.phases[i] in SETTLED:
            continue
        found.add(step.site)
        for action in actions_of(view, step.id):
            given = action.parameters
            found |= {action.at, str(given.get("to", "")), str(given.get("candidate", ""))}
    return frozenset(found - {""})


def ends_after(ends: Mapping[str, Mark], gone: Collection[str]) -> dict[str, Mark]:
    """What the register says at the end of a run whose plan was replaced: a lost site stays lost."""
    return {site: mark for site, mark in ends.items() if site not in gone and mark != "active"}


def asks_of(view: RunView, agreed: Envelope) -> tuple[str, ...]:
    """What a person must agree to before the run goes on; empty where nobody is asked."""
    needed = view.spec.envelope
    given = (envelope.outside(one, needed) for one in view.approvals.given.values())
    closest = min(given, key=len, default=envelope.outside(agreed, needed))
    asks = (closest or ("an approval",)) if view.approvals.counted < view.spec.approvals else ()
    return (*asks, *(f"the name of {site} typed" for site in view.approvals.untyped))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be run. leaving, mark: sites that are left by it, and what the register says of them
    meanwhile; ends: what it says of which sites once the run succeeded. approvals: None as policy says, 0
    where policy has agreed beforehand. typed: names of sites that a person typed. names: sites that a person
    must type before it goes on; until then the register does not say that they are left. who: asked for it;
    empty where evac itself did.
    """

    incident: str
    plan: bytes
    reason: str
    mode: str
    leaving: tuple[str, ...] = ()
    mark: Mark = "lost"
    ends: Mapping[str, Mark] = field(default_factory=dict)
    approvals: int | None = None
    typed: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    who: str = ""


PROPOSAL: Final = "proposal/"
ANSWER: Final = "answer/"


def answered(entry: Entry | None, answer: Mapping[str, str]) -> Permit:
    """The answer in the place of its proposal, unless that was withdrawn; nothing where nobody proposed."""
    if entry is None:
        return Permit()
    key = ANSWER + entry.key.removeprefix(PROPOSAL)
    changes = (Delete(entry.key), Put(key, orjson.dumps(answer)))
    return Permit((Compare(entry.key, entry.revision),), changes)


def refused(error: EvacError) -> dict[str, str]:
    """The answer of a leader that will not: why, and which kind of error it is."""
    return {"refused": error.message, "code": error.code, "kind": kind_of(error), "hint": error.hint}


async def wanted_of(store: Store, entry: Entry) -> Wanted:
    """What was proposed, with its plan. Raises RunError for what cannot be read, NotAllowed for an incident
    that has its run, Corrupt without the plan.
    """
    try:
        told: dict[str, Any] = orjson.loads(entry.value)
        wanted = Wanted(
            str(told["incident"]),
            await get_plan(store, told["plan"]),
            str(told["reason"]),
            str(told.get("mode", "hold")),
            tuple(told.get("leaving", ())),
            told.get("mark", "evacuating"),
            dict(told.get("ends", {})),
            None,
            tuple(told.get("typed", ())),
            (),
            str(told.get("who", "")),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError("proposal-unreadable", f"{entry.key} cannot be read") from error
    await _must_have_no_run(store, wanted.incident)
    return wanted


async def _must_have_no_run(store: Store, incident: str) -> None:
    """Raises NotAllowed with the run that an incident has: whoever applies once more wants to know of it."""
    made = await store.get(incident_key(incident))
    if made is None:
        return
    try:
        run = str(orjson.loads(made.value)["run"])
    except (ValueError, KeyError, TypeError):
        run = incident
    words = f"the incident {incident} has its run already: {run}"
    raise NotAllowed(
        "incident-has-run", words, f"evac run show {run}; for something else name another incident"
    )
