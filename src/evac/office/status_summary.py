"""How things stand in a store, in short: who leads, what is held, open runs, the drawer, the last notices."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from evac.app import runs
from evac.app.incidents import watched
from evac.app.observed_stores import Published
from evac.engine.lead.leadership import LEADER
from evac.engine.plans import library
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import SITES_KEY
from evac.engine.stores.sightings import pages
from evac.incident.records import Notice
from evac.model.errors import Corrupt
from evac.model.observation import Observation
from evac.store.generation import read_generation, read_newer, takes_place_of
from evac.store.port import Store
from evac.views.words import moment

SCHEMA_VERSION: Final = 1
NOTICES_SHOWN: Final = 10
NOT_JUDGED: Final = "the checker of this version has not judged it yet"


async def status(store: Store) -> dict[str, Any]:
    """The document of `evac status`."""
    lease = await store.holder(LEADER)
    held = await runs.held(store)
    opened = {entry.key.removeprefix(OPEN) for entry in await pages(store, OPEN)}
    marks = await store.get(SITES_KEY)
    return status_document(
        store.name,
        "" if lease is None else lease.owner,
        _hold(held),
        {} if marks is None else orjson.loads(marks.value),
        [row for row in await runs.list_runs(store) if row["run"] in opened],
        await drawer_rows(store),
        (await watched(store))[-NOTICES_SHOWN:],
        *await _generations(store),
    )


async def _generations(store: Store) -> tuple[int, int]:
    """Of the store, and of the newer one that took its place; 0 for none."""
    own, newer = await read_generation(store), await read_newer(store)
    return own.number, newer.number if newer is not None and takes_place_of(newer, own) else 0


def _hold(held: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if held is None:
        return None
    return {
        "who": str(held.get("who", "")),
        "reason": str(held.get("reason", "")),
        "at": moment(int(held.get("at_ms", 0))),
    }


def status_document(
    store: str,
    leader: str,
    hold: Mapping[str, Any] | None,
    marks: Mapping[str, str],
    open_runs: Sequence[Mapping[str, Any]],
    plans: Sequence[Mapping[str, Any]],
    notices: Sequence[Notice],
    generation: int = 0,
    newer: int = 0,
) -> dict[str, Any]:
    """hold: who, reason, at. open_runs: rows of `evac run list`; plans: rows of the drawer. newer: the
    generation that took the place of this store, 0 for none.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "store": store,
        "leader": leader,
        "hold": hold,
        "generation": generation,
        "newer_generation": newer,
        "sites": dict(sorted(marks.items())),
        "runs": list(open_runs),
        "plans": list(plans),
        "notices": [
            {
                "number": one.number,
                "at": moment(one.at_ms),
                "kind": one.kind,
                "site": one.site,
                "words": one.words,
            }
            for one in notices
        ],
    }


async def drawer_rows(store: Store) -> list[dict[str, Any]]:
    """The plans that lie ready, by scenario."""
    found = [library.decode(entry) for entry in await pages(store, library.PREFIX)]
    return [
        drawer_row("+".join(one.lost), one.lost, one.plan, one.estate, one.at_ms, one.took_ms, one.problem)
        for one in found
        if one is not None
    ]


def drawer_row(
    scenario: str, lost: Sequence[str], plan: str, estate: str, at_ms: int, took_ms: int, problem: str
) -> dict[str, Any]:
    """estate: empty for a plan that the checker of this version has not judged yet."""
    if plan and not estate:
        problem = problem or NOT_JUDGED
    return {
        "scenario": scenario,
        "lost": list(lost),
        "plan": plan,
        "estate": estate,
        "at": moment(at_ms),
        "took_ms": took_ms,
        "problem": problem,
    }


async def what_if(store: Store, domains: Sequence[str], estate: Path) -> Mapping[str, Any]:
    """The answer to a what-if, by the roles of stores as last seen."""
    observation = Observation(0)
    with contextlib.suppress(Corrupt):
        observation = await Published(store).get() or observation
    from evac.office.reckoning import Worker

    worker = Worker(estate, apart=False)
    try:
        found = await worker.what_if(observation, domains)
    finally:
        worker.close()
    plain: dict[str, Any] = orjson.loads(orjson.dumps(asdict(found)))
    return plain
