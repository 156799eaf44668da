"""A series of fires with a failback after each: the tenth must go as well as the first.

python -m evac_lab.torture --fires 10 --kind any

A separate lab burns, is restored and failed back, waits until its database is protected again, and burns
again. Kinds: `any` (any site first), `primary` (the site of the primaries), `leader` (every second time the
leader burns with its site), `replica` (the site of the copy that confirms commits), `cut` (a site's network),
`half` (one hall). Each fire must end without help, lose no acknowledged write and never have two primaries;
otherwise the exit code is 1. With `--mariadb`, the same holds for a MariaDB, and the first write to each
database is measured directly.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from random import Random
from typing import Final

from evac.app import runs
from evac.engine.lead.watch_journal import STREAM, Notice, decode
from evac.engine.runs.live_actions import PREFIX, decode_standing
from evac.model.errors import EvacError
from evac.model.records import dataclass
from evac.run.view import RunView
from evac.run.waits import waiting
from evac.store.journal import read
from evac.store.port import Store
from evac.views.documents import end_words
from evac.views.wait_words import words_of
from evac_lab import clients, doctor, episodes, orders, restoring, status, world
from evac_lab.clients import Direct
from evac_lab.episodes import Fire, Patience
from evac_lab.orders_database import STORE as ORDERS
from evac_lab.site_servers import Ground
from evac_lab.state import LOOPBACK_OFFSETS, LabError, LabFolder, topology
from evac_lab.status import ENDED_WELL, UNHARMED
from evac_lab.world import SYNCHRONOUS, Options

KINDS: Final = ("any", "primary", "leader", "replica", "cut", "half")
PATIENCE: Final = Patience(45.0)
PROTECTED_S: Final = 60.0
READY_S: Final = 300.0
"""How long the first plans may take: without compiled kernels, the first planner compiles them."""
BEFORE_S: Final = 5.0
"""How long before a failed fire its log excerpt begins."""


@dataclass(frozen=True, slots=True)
class Round:
    """One fire and the following failback. trouble: empty if all is well. left: what its run says it left
    behind. direct: by store, what its probes noticed.
    """

    fire: Fire
    home_s: float
    trouble: str = ""
    left: str = ""
    direct: Mapping[str, Direct] = field(default_factory=dict)

    def line(self) -> str:
        fire = self.fire
        first = _seconds(fire.first_write_seconds)
        with_leader = ", with the leader" if fire.leader_burnt else ""
        return (
            f"{fire.number:3} {fire.kind} {fire.lost_site}{with_leader}: {fire.state}, first write {first}, "
            f"lost {fire.lost}, two primaries {fire.double_primary_seconds:.1f} s, home {self.home_s:.0f} s"
            + "".join(f", {store} {_seconds(one.first_write_seconds)}" for store, one in self.direct.items())
            + "".join(f"; {words}" for words in (self.left, self.trouble) if words)
        )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def play(
    folder: LabFolder, kind: str, fires: int, random: Random, patience: Patience = PATIENCE
) -> Iterator[Round]:
    """A number of fires of one kind; stops after the first failure."""
    names = [site.name for site in folder.need().topology.sites]
    stores = world.synchronous(folder.need())
    if missing := world.wait_for_plans(folder.need().topology, within_s=READY_S, stores=stores):
        raise LabError(
            "lab-not-ready", f"not ready after {READY_S:.0f} s: {', '.join(missing)}", "make setup"
        )
    for number in range(fires):
        site = random.choice(names)
        if kind == "replica":
            site = _replica(folder) or site
        if kind == "leader" and number % 2 == 0:
            episodes.move(folder, site)
        if kind == "primary":
            site = names[0]
        fire, direct = _strike(folder, kind, site, patience)
        trouble = _trouble(folder, fire) or _trouble_of_orders(folder, direct, site)
        left = "" if fire.state in ("succeeded", UNHARMED) else _ask(folder, fire, end_words)
        began = time.monotonic()
        if not trouble:
            trouble = _home(folder, site)
        yield Round(fire, time.monotonic() - began, trouble, left, direct)
        if trouble:
            return


def _strike(folder: LabFolder, kind: str, site: str, patience: Patience) -> tuple[Fire, Mapping[str, Direct]]:
    """The fire, and in a lab with MariaDB what the probes of each store noticed of it."""
    if kind == "cut":
        fire = episodes.cut(folder, site, patience, reason="torture")
    elif kind == "half":
        fire = episodes.half(folder, site, "hall-1", patience, reason="torture")
    else:
        fire = episodes.burn(folder, site, patience, reason="torture")
    stores = world.synchronous(folder.need())
    if ORDERS not in stores:
        return fire, {}
    rows = list(clients.read_ledger(folder.ledger, fire.ledger_offset))
    measured = {store: clients.measure_directly(rows, store, fire.burnt_at, site) for store in stores}
    return fire, measured


def _trouble_of_orders(folder: LabFolder, direct: Mapping[str, Direct], site: str) -> str:
    """What went wrong with the MariaDB; empty if all is well or there is none."""
    seen = direct.get(ORDERS)
    if seen is None:
        return ""
    if seen.first_write_seconds is None:
        return f"no write to {ORDERS} was acknowledged"
    if seen.double_primary_seconds:
        return f"two primaries of {ORDERS} for {seen.double_primary_seconds:.1f} s"
    known = clients.acknowledged_probes(clients.read_ledger(folder.ledger), ORDERS)
    try:
        missing = orders.lost(Ground(folder, folder.need().topology), known, site)
    except LabError as error:
        return error.message
    return f"{len(missing)} acknowledged writes to {ORDERS} are lost" if missing else ""


def _trouble(folder: LabFolder, fire: Fire) -> str:
    if fire.lost:
        return f"{fire.lost} acknowledged writes are lost"
    if fire.double_primary_seconds:
        return f"two primaries for {fire.double_primary_seconds:.1f} s"
    if fire.state not in ENDED_WELL:
        return f"it is {fire.state}: {_ask(folder, fire, _waits)}"
    return ""


def _waits(view: RunView) -> str:
    words = [words_of(one) for one in waiting(view)]
    return f"{view.spec.run} is {view.phase}; {'; '.join(words) or 'it is not waiting for anyone'}"


def _ask(folder: LabFolder, fire: Fire, words: Callable[[RunView], str]) -> str:
    """These words of the newest run, in the store of a site that did not burn."""

    async def look(store: Store) -> str:
        rows = await runs.list_runs(store)
        return words(await runs.view_of(store, rows[-1].run)) if rows else "no run was created"

    others = folder.need().topology.others(fire.lost_site)
    return status.ask(folder.need().topology, look, others[0].name)


def story(folder: LabFolder, fire: Fire) -> Iterator[str]:
    """What the controllers logged since a fire was lit, with seconds after it: why it failed."""

    async def look(store: Store) -> list[Notice]:
        return [decode(record) async for segment in read(store, STREAM) for record in segment.records]

    first = folder.need().topology.others(fire.lost_site)[0].name
    try:
        notices = status.ask(folder.need().topology, look, first)
    except EvacError as error:
        yield f"the store does not answer: {error.message}"
        return
    for one in notices:
        at_s = one.at_ms / 1_000 - fire.burnt_at
        if at_s >= -BEFORE_S:
            yield f"{at_s:8.2f} s  {one.kind} {one.site}: {one.words}"


def _home(folder: LabFolder, site: str) -> str:
    """Restores a site and fails back what is away; returns what went wrong."""
    try:
        home = folder.need().topology.sites[0].name
        back = restoring.restore(folder, site, failback=site == home, reason="torture")
    except LabError as error:
        return error.message
    if not back.whole:
        return f"restore: {'; '.join(back.words)}"
    state = folder.need()
    missing = world.wait_for_plans(state.topology, within_s=PROTECTED_S, stores=world.synchronous(state))
    return f"not ready after {PROTECTED_S:.0f} s: {', '.join(missing)}" if missing else ""


def _replica(folder: LabFolder) -> str:
    """The site of the copy that confirms commits, by the stored proof; empty if none."""

    async def look(store: Store) -> str:
        entry = await store.get(PREFIX + SYNCHRONOUS)
        return "" if entry is None else decode_standing(SYNCHRONOUS, entry.value).candidate

    return status.ask(folder.need().topology, look)


@contextmanager
def _lab(kind: str, mariadb: bool) -> Iterator[LabFolder]:
    """A separate lab, at unused addresses."""
    offset = next(n for n in range(10, LOOPBACK_OFFSETS) if not doctor.taken_ports(topology("loopback", n)))
    path = Path(tempfile.mkdtemp(prefix="evac-torture-"))
    path.chmod(0o755)
    folder = LabFolder(path)
    try:
        options = Options(
            offset=offset, writers=6, pause_s=0.1, controllers=True, halls=kind == "half", mariadb=mariadb
        )
        world.up(options, folder)
        yield folder
    finally:
        world.down(folder)
        shutil.rmtree(path, ignore_errors=True)


def summary(rounds: Sequence[Round]) -> str:
    """One line over all fires of a kind, and one for each store whose probes were measured."""
    good = sum(not one.trouble for one in rounds)
    lost = sum(one.fire.lost or 0 for one in rounds)
    double_s = sum(one.fire.double_primary_seconds for one in rounds)
    times = _times([one.fire.first_write_seconds for one in rounds])
    lines = [f"{good} of {len(rounds)} without help; {times}; lost {lost}; two primaries {double_s:.1f} s"]
    for store in rounds[0].direct if rounds else ():
        lines.append(f"{store}: {_times([one.direct[store].first_write_seconds for one in rounds])}")
    return "\n  directly, ".join(lines)


def _times(found: Sequence[float | None]) -> str:
    firsts = [one for one in found if one is not None]
    if not firsts:
        return "no write"
    return f"first write {statistics.median(firsts):.2f} / {max(firsts):.2f} s (median, worst)"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 if a fire failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fires", type=int, default=10)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--mariadb", action="store_true", help="with a MariaDB too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=PATIENCE.longest_s, help="seconds a fire may take")
    parser.add_argument("--logs", type=Path, help="keep the logs of failed fires in this folder")
    given = parser.parse_args(argv)
    failed = False
    for kind in given.kind or KINDS:
        print(f"{kind}: {given.fires} fires in a row", flush=True)
        rounds: list[Round] = []
        with _lab(kind, given.mariadb) as folder:
            for one in play(folder, kind, given.fires, Random(given.seed), Patience(given.patience)):
                print(one.line(), flush=True)
                rounds.append(one)
                if one.trouble:
                    print("\n".join(story(folder, one.fire)), flush=True)
                    if given.logs is not None:
                        shutil.copytree(folder.logs, given.logs / kind, dirs_exist_ok=True)
        failed = failed or len(rounds) < given.fires or any(one.trouble for one in rounds)
        print(f"{kind}: {summary(rounds)}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
