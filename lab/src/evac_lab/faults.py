"""Faults of a site: it burns, half of it burns, it is cut off, flaps, is slow, its disk is full.

Each fault changes the world at once and returns when it did; evac's reaction is not its concern. Clocks jump
through libfaketime, if the lab was started with it: only those of evac's own processes, and never the
monotonic one, as with a real jump.
"""

from __future__ import annotations

import pwd
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from evac.model.records import dataclass
from evac_lab import process as processes
from evac_lab.namespaces import network_of
from evac_lab.process import ServerFailed, find_program, run_once
from evac_lab.state import HALLS, LabError, LabFolder, LabState, Running, living

SLOW_PERIOD_SECONDS: Final = 0.1
Sleep = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that happened. at: seconds since 1970; until: when the last process was gone, 0 if nothing
    ends. processes: how many were killed or stopped.
    """

    kind: str
    site: str
    at: float
    processes: int
    until: float = 0.0


@contextmanager
def _changing(folder: LabFolder) -> Iterator[LabState]:
    with folder.locked():
        yield folder.need()


def burn(folder: LabFolder, site: str) -> Struck:
    """Kills everything at a site at the same instant and cuts its network."""
    with _changing(folder) as state:
        _check(state, site)
        network = network_of(folder, state)
        pids = living(state, folder, site)
        at = time.time()
        if state.world != "loopback":
            network.isolate(site)
        processes.send(pids, signal.SIGKILL)
        processes.wait_gone(pids, 5.0)
        _finish(state, folder, site)
        until = time.time()
        folder.write(replace(state, burnt={**state.burnt, site: at}))
    return Struck("burn", site, at, len(pids), until)


def _finish(state: LabState, folder: LabFolder, site: str) -> None:
    """Kills processes that were being started at that moment."""
    deadline = time.monotonic() + 5.0
    while (left := living(state, folder, site)) and time.monotonic() < deadline:
        processes.send(left, signal.SIGKILL)
        processes.wait_gone(left, 0.5)
    if left:
        raise LabError("lab-burn", f"{len(left)} processes of {site} are still running", "evac lab down")


def half(folder: LabFolder, site: str, hall: str = "hall-1") -> Struck:
    """Kills everything in one hall of a site."""
    with _changing(folder) as state:
        _check(state, site)
        if hall not in HALLS:
            raise LabError("lab-hall", f"no such hall: {hall[:40]}", f"one of: {', '.join(HALLS)}")
        pids = family([one for one in state.of_site(site) if one.role in HALLS[hall]])
        at = time.time()
        processes.send(pids, signal.SIGKILL)
        processes.wait_gone(pids)
    return Struck("half", site, at, len(pids))


def cut(folder: LabFolder, site: str) -> Struck:
    """Isolates a live site."""
    with _changing(folder) as state:
        _check(state, site)
        pids = living(state, folder, site)
        network_of(folder, state).isolate(site)
        # Only now: until the last process stopped, the site still answered.
        at = time.time()
        folder.write(replace(state, cut=tuple(sorted({*state.cut, site}))))
    return Struck("cut", site, at, len(pids))


def heal(folder: LabFolder, site: str) -> Struck:
    """Ends a cut; does nothing if there is none."""
    with _changing(folder) as state:
        state.topology.site(site)
        at = time.time()
        network_of(folder, state).join(site)
        folder.write(replace(state, cut=tuple(one for one in state.cut if one != site)))
    return Struck("heal", site, at, 0)


def disturb(
    folder: LabFolder, site: str, loss: float = 0.0, delay_ms: float = 0.0, one_way: str = ""
) -> Struck:
    """Drops or delays packets of a site to and from everywhere; one_way: cuts `in` or `out` only. Lasts until
    `heal`. Raises `LabError` on loopback, which has no links.
    """
    from evac_lab import namespaces
    from evac_lab.namespaces import Links

    with _changing(folder) as state:
        _check(state, site)
        if state.world != "namespaces":
            raise LabError("lab-no-links", "loopback has no links", "evac lab up --world namespaces")
        others = [one.name for one in state.topology.others(site)] + [""]
        out, into = [f"{site}>{one}" for one in others], [f"{one}>{site}" for one in others]
        dropped = {"out": out, "in": into}.get(one_way, [])
        at = time.time()

        def changed(links: Links) -> Links:
            calm = links.without_cut(site)
            return replace(
                calm,
                one_way=(*calm.one_way, *dropped),
                loss={**calm.loss, **(dict.fromkeys([*out, *into], loss) if loss else {})},
                delays={**calm.delays, **(dict.fromkeys([*out, *into], delay_ms) if delay_ms else {})},
            )

        namespaces.Network(folder, state).change(changed)
    return Struck("disturbed", site, at, 0)


def flap(
    folder: LabFolder,
    site: str,
    times: int = 5,
    down_s: float = 0.7,
    up_s: float = 2.0,
    sleep: Sleep = time.sleep,
) -> Struck:
    """Cuts a site off and reconnects it, several times; it is connected when this returns or is
    interrupted.
    """
    first = 0.0
    try:
        for _ in range(times):
            struck = cut(folder, site)
            first = first or struck.at
            sleep(down_s)
            heal(folder, site)
            sleep(up_s)
    finally:
        heal(folder, site)
    return Struck("flap", site, first, times)


def slow(
    folder: LabFolder, site: str, for_s: float = 10.0, share: float = 0.8, sleep: Sleep = time.sleep
) -> Struck:
    """For a while the site runs only one fifth of the time, in slices of a tenth of a second.

    share: of the time in which it is stopped. It runs freely when this returns or is interrupted.
    """
    state = folder.need()
    _check(state, site)
    at = time.time()
    end = time.monotonic() + for_s
    try:
        while time.monotonic() < end:
            pids = living(state, folder, site)
            processes.pause(pids)
            sleep(SLOW_PERIOD_SECONDS * share)
            processes.resume(pids)
            sleep(SLOW_PERIOD_SECONDS * (1 - share))
    finally:
        processes.resume(living(state, folder, site))
    return Struck("slow", site, at, 0)


def disk_full(folder: LabFolder, site: str, full: bool = True) -> Struck:
    """Makes all files of the site's processes unwritable, by a reversible file size limit. Sockets and pipes
    are not affected.
    """
    with _changing(folder) as state:
        _check(state, site)
        pids = living(state, folder, site)
        at = time.time()
        for pid in pids:
            _limit_files(pid, full)
    return Struck("disk-full" if full else "disk-freed", site, at, len(pids))


def _limit_files(pid: int, full: bool) -> None:
    """Sets only the soft limit, which its owner may raise again. A process of another user is changed as that
    user, because root in a container may lack the right.
    """
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))
    except ProcessLookupError:
        return
    except PermissionError:
        owner = pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
        soft = "0" if full else "unlimited"
        with suppress(ServerFailed):
            # It fails if the process has just ended; database sessions come and go.
            argv = (find_program("prlimit", "util-linux"), "--pid", str(pid), f"--fsize={soft}:")
            run_once(argv, user=owner, timeout_s=5)


def clock_jump(folder: LabFolder, site: str, seconds: float) -> Struck:
    """Makes the wall clock of evac's processes at the site jump. Raises `LabError` without libfaketime."""
    with _changing(folder) as state:
        _check(state, site)
        at = time.time()
        jump(folder, state, site, seconds)
    return Struck("clock-jump", site, at, 0)


def family(roots: list[Running]) -> set[int]:
    """Pids of some processes and all their descendants."""
    return processes.descendants([one.pid for one in roots if one.alive], processes.table())


def _check(state: LabState, site: str) -> None:
    """Raises if the site does not exist or is gone already."""
    state.topology.site(site)
    if site in state.burnt:
        raise LabError("lab-burnt", f"{site} has already burnt", f"evac lab restore {site}")


PACKAGE: Final = "faketime"
_LIBRARIES: Final = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


def library() -> Path | None:
    """Path of libfaketime."""
    found = [path for pattern in _LIBRARIES for path in Path("/").glob(pattern.lstrip("/"))]
    return found[0] if found else None


def clock_file(folder: LabFolder, site: str) -> Path:
    return folder.path / "clocks" / site


def environment(folder: LabFolder, site: str) -> Mapping[str, str]:
    """Environment for a process whose clock may jump later. Raises `LabError` without libfaketime."""
    found = library()
    if found is None:
        raise LabError("lab-clocks", "libfaketime is not installed", f"sudo apt-get install {PACKAGE}")
    path = clock_file(folder, site)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("+0", encoding="ascii")
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def ahead(folder: LabFolder, sites: Iterable[str]) -> dict[str, float]:
    """Site -> seconds that its clock is ahead of the true one; negative: behind."""
    found = {}
    for site in sites:
        with suppress(OSError, ValueError):
            found[site] = float(clock_file(folder, site).read_text(encoding="ascii"))
    return found


def jump(folder: LabFolder, state: LabState, site: str, seconds: float) -> None:
    """Moves a site's clock ahead (or back). Raises `LabError` if the lab was started without clocks."""
    if not any("FAKETIME_TIMESTAMP_FILE" in one.env for one in state.of_site(site)):
        raise LabError(
            "lab-clocks",
            "this lab was started without clocks that can jump",
            "evac lab down, then evac lab up --clocks",
        )
    clock_file(folder, site).write_text(f"{seconds:+g}", encoding="ascii")
