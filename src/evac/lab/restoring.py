"""A burnt site comes back: power, network and its servers; its data only as evac says.

Everything that holds no data of the company is started as it was. PostgreSQL and Redis are not: what stood
here as a primary must not come up as one. evac archives what it had alone, rewinds it and lets it rejoin.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from evac.lab.network import network_of
from evac.lab.starting import Starter
from evac.lab.state import LabError, LabFolder, LabState, Running

DATA_ROLES: Final = frozenset({"postgres", "redis"})
_FIRST: Final = ("etcd", "dns", "haproxy", "agent")
SETTLE_SECONDS: Final = 1.0
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back. whole: everything that was asked for."""

    site: str
    started: tuple[str, ...]
    whole: bool
    words: tuple[str, ...] = ()

    def as_text(self) -> str:
        lines = [f"{self.site}: {', '.join(self.started) or 'nothing'} started", *self.words]
        return "\n".join(lines) + "\n"


def start_site(folder: LabFolder, site: str, told: Told = lambda words: None) -> tuple[str, ...]:
    """Starts what a burnt site had, without its data. Raises `LabError` where it has not burnt."""
    with folder.locked():
        state = folder.need()
        state.topology.site(site)
        if site not in state.burnt and not _lacks_something(state, site):
            raise LabError("lab-not-burnt", f"{site} has not burnt", "evac lab status")
        network_of(folder, state).join(site)
        starter = Starter(folder, state, lambda share, words: told(words))
        todo = [one for one in state.of_site(site) if one.role not in DATA_ROLES and not one.alive]
        early = [one for one in todo if one.role in _FIRST]
        late = [one for one in todo if one.role not in _FIRST]
        for rows in (early, late):
            with ThreadPoolExecutor(max_workers=8) as pool:
                list(pool.map(lambda one: _again(starter, one), rows))
        time.sleep(SETTLE_SECONDS)
        starter.check()
        burnt = {name: at for name, at in starter.state.burnt.items() if name != site}
        starter.change(burnt=burnt, cut=tuple(one for one in starter.state.cut if one != site))
        starter.let_go()
    return tuple(one.role for one in todo)


def _lacks_something(state: LabState, site: str) -> bool:
    return any(not one.alive for one in state.of_site(site))


def _again(starter: Starter, one: Running) -> None:
    if one.role == "dns":
        # Knot does not start while the pid in its old file is anybody's.
        (starter.folder.data(one.site, "dns") / "run" / "knot.pid").unlink(missing_ok=True)
    starter.launch(one.site, one.role, one.again())


def start_data(folder: LabFolder, site: str, role: str) -> None:
    """Starts a site's PostgreSQL or Redis again; the caller knows that it will not be a second primary."""
    with folder.locked():
        state = folder.need()
        found = [one for one in state.of_site(site) if one.role == role]
        if not found or found[0].alive:
            return
        starter = Starter(folder, state, lambda share, words: None)
        starter.launch(site, role, found[0].again())
        time.sleep(SETTLE_SECONDS)
        starter.check()
        starter.let_go()


def restore(
    folder: LabFolder, site: str, told: Told = lambda words: None, *, failback: bool = False, reason: str = ""
) -> Restored:
    """The site starts, then evac brings its data back. Returns when that has ended."""
    started = start_site(folder, site, told)
    return Restored(site, started, True)
