"""A whole fire: lit, followed until evac and the clients are done with it, measured, remembered."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from evac_lab import clocks, faults, fires, journal_facts, ledger, losses
from evac_lab.faults import Struck
from evac_lab.fires import Fire
from evac_lab.journal_facts import Before
from evac_lab.ledger import LedgerReader
from evac_lab.site_servers import Ground
from evac_lab.state import LabError, LabFolder, LabState

LOOK_SECONDS: Final = 0.25
STORE_SECONDS: Final = 1.0
"""How often evac's store is asked meanwhile: it is of what is measured, and on the same machine."""
_QUIET_SECONDS: Final = 1.5
"""After the last client is back, how long the lab watches on for a second primary."""

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a fire is followed. run: whether a run of evac must end too, or the clients are enough."""

    longest_s: float = 60.0
    run: bool = True


def fire(
    folder: LabFolder,
    site: str,
    light: Callable[[], Struck],
    patience: Patience,
    told: Told = lambda words: None,
    reason: str = "",
) -> Fire:
    """Lights a fire and follows it. Returns with what was measured, also when it was not over in time."""
    state = folder.need()
    controllers = has_controllers(state)
    others = [one.name for one in state.topology.others(site)]
    leader = journal_facts.leader_site(state.topology, others[0]) if controllers else ""
    before = journal_facts.before_fire(state.topology, others[0]) if controllers else Before()
    offset = ledger.size(folder.ledger)
    struck = light()
    begun = fires.begin(folder, struck, offset, leader == site and struck.kind in ("burn", "cut"), reason)
    told(f"{site}: {struck.kind}, {struck.processes} processes")
    followed = _follow(folder, state, begun, patience, told, before, struck.until)
    finished = _count_losses(folder, state, followed)
    fires.write(folder, finished)
    return finished


def _follow(
    folder: LabFolder,
    state: LabState,
    begun: Fire,
    patience: Patience,
    told: Told,
    before: Before,
    until: float,
) -> Fire:
    """Looks again and again until both are done, or patience ends. until: when nothing of the site lived any
    more.
    """
    records = LedgerReader(folder.ledger, begun.ledger_offset)
    ask_at = time.monotonic()
    first = state.topology.others(begun.lost_site)[0].name
    wants_run = patience.run and has_controllers(state)
    known: set[str] = set()
    deadline = time.monotonic() + patience.longest_s
    seen = begun
    while time.monotonic() < deadline:
        seen = fires.measured(seen, records.read(), until)
        if wants_run and time.monotonic() >= ask_at:
            seen = _with_run(folder, state, seen, first, before)
            ask_at = time.monotonic() + STORE_SECONDS
        _tell_news(seen, known, told)
        if seen.last_client_seconds is not None and (
            not wants_run or seen.state not in ("burning", "running")
        ):
            time.sleep(_QUIET_SECONDS)
            return replace(
                fires.measured(seen, records.read(), until), state=seen.state if wants_run else "over"
            )
        time.sleep(LOOK_SECONDS)
    return replace(fires.measured(seen, records.read(), until), state="not over")


def _with_run(folder: LabFolder, state: LabState, seen: Fire, first: str, before: Before) -> Fire:
    ahead = clocks.ahead(folder, [site.name for site in state.topology.sites])
    found = journal_facts.run_of_fire(state.topology, seen.lost_site, seen.burnt_at, first, ahead, before)
    if found is None:
        return seen
    return replace(seen, run=found.run, state=found.phase or "running", seconds=dict(found.seconds))


def _tell_news(seen: Fire, known: set[str], told: Told) -> None:
    """Each milestone once, as soon as it is seen."""
    rows = dict(seen.seconds)
    rows |= {"first write": seen.first_write_seconds, "last client": seen.last_client_seconds}
    news = sorted((at, name) for name, at in rows.items() if at is not None and name not in known)
    for at, name in news:
        known.add(name)
        told(f"{at:6.2f} s  {name}")


def _count_losses(folder: LabFolder, state: LabState, seen: Fire) -> Fire:
    """Compares the ledger with the new primary. Where none answers the count stays open."""
    try:
        return fires.with_losses(seen, losses.lost_messages(folder, Ground(folder, state.topology).database))
    except LabError:
        return seen


def burn(
    folder: LabFolder, site: str, patience: Patience, told: Told = lambda words: None, reason: str = ""
) -> Fire:
    return fire(folder, site, lambda: faults.burn(folder, site), patience, told, reason)


def cut(
    folder: LabFolder, site: str, patience: Patience, told: Told = lambda words: None, reason: str = ""
) -> Fire:
    return fire(folder, site, lambda: faults.cut(folder, site), patience, told, reason)


def half(
    folder: LabFolder,
    site: str,
    hall: str,
    patience: Patience,
    told: Told = lambda words: None,
    reason: str = "",
) -> Fire:
    return fire(folder, site, lambda: faults.half(folder, site, hall), patience, told, reason)


def has_controllers(state: LabState) -> bool:
    return any(one.role == "controller" for one in state.processes)
