"""A short summary of a store: leader, hold, open runs, plan library, last alerts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from evac.app import detached, runs
from evac.app.published import Published
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.votes import votes_in
from evac.engine.plans import library
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import SITES_KEY, marks_in
from evac.model.errors import Corrupt
from evac.model.observation import Observation
from evac.store.generation import read_generation, read_newer, takes_place_of
from evac.store.port import Store, all_entries, owner_in
from evac.views.status_document import SCHEMA_VERSION, PlanLine, StatusDocument
from evac.views.words import moment
from evac.watch.verdict import silent_sites

NOTICES_SHOWN: Final = 10
NOT_JUDGED: Final = "the checker of this version has not checked it yet"


async def status(store: Store) -> StatusDocument:
    """The document of `evac status`."""
    from evac.app.incidents import watched

    lease, hold = await store.holder(LEADER), await runs.held(store)
    opened = {entry.key.removeprefix(OPEN) for entry in await all_entries(store, OPEN)}
    marks = await store.get(SITES_KEY)
    sites = {} if marks is None else marks_in(marks.value)
    own, newer = await read_generation(store), await read_newer(store)
    return StatusDocument(
        SCHEMA_VERSION,
        store.name,
        "" if lease is None else lease.owner,
        hold,
        own.number,
        newer.number if newer is not None and takes_place_of(newer, own) else 0,
        sites or {},
        tuple(row for row in await runs.list_runs(store) if row.run in opened),
        tuple(await plan_lines(store)),
        tuple((await watched(store))[-NOTICES_SHOWN:]),
        "" if lease is None else await _background(store, lease.owner),
        (SITES_KEY,) if sites is None else (),
        silent_sites((vote.target, vote.opinion) for vote in await votes_in(store)),
    )


async def _background(store: Store, owner: str) -> str:
    """As text; empty if the leading controller was not started by a command."""
    started = await detached.last_started(store)
    if started is None or owner_in(owner).process != started.pid:
        return ""
    since = moment(started.since_ms, "minutes")
    return (
        f"process {started.pid}, started for a run of {started.estate} at {since}; ends by itself once its "
        f"runs have ended, or have waited for people for {detached.PARKED_S / 60:.0f} min"
    )


async def plan_lines(store: Store) -> list[PlanLine]:
    """The plans of the library, by scenario."""
    found = [library.decode(entry) for entry in await all_entries(store, library.PREFIX)]
    return [
        plan_line("+".join(one.lost), one.lost, one.plan, one.estate, one.at_ms, one.took_ms, one.problem)
        for one in found
        if one is not None
    ]


def plan_line(
    scenario: str, lost: Sequence[str], plan: str, estate: str, at_ms: int, took_ms: int, problem: str
) -> PlanLine:
    """`estate`: empty for a plan that this version's checker has not judged yet."""
    if plan and not estate:
        problem = problem or NOT_JUDGED
    return PlanLine(scenario, tuple(lost), plan, estate, at_ms, took_ms, problem)


async def what_if(store: Store, domains: Sequence[str], estate: Path) -> Mapping[str, Any]:
    """The answer to a what-if, with the last observed roles of stores."""
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
