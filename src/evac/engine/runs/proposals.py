"""What a person wants to be run, and the answer that takes its place.

    proposal/<id>      {"incident", "plan", "reason", "mode", "leaving", "mark", "ends", "typed", "who"}
    answer/<id>        {"run"} of the run that was made of it, or {"refused", "code", "kind", "hint"}

The answers of older leaders say neither kind nor hint.

Who asked may take a proposal back while nobody answered it. So the answer is written in the transaction that
makes the run, and only while the proposal lies there as it was read: either there is a run with an answer, or
the proposal was withdrawn and there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from evac.engine.plans.library import get_plan
from evac.engine.runs.reading import incident_key
from evac.engine.runs.requested import Wanted
from evac.engine.stores.guards import Permit
from evac.model.error_kinds import kind_of
from evac.model.errors import EvacError, NotAllowed, RunError
from evac.store.port import Compare, Delete, Entry, Put, Store

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
