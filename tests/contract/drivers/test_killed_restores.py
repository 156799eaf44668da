"""Restores that are killed when the place holds some of the copy and not all of it, and then done again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.borg.driver import BorgDriver
from evac.drivers.etcd_snapshot.driver import EtcdSnapshotDriver
from evac.drivers.mariabackup.driver import MariabackupDriver
from evac.drivers.pg_basebackup.driver import PgBasebackupDriver
from evac.drivers.pgbackrest.driver import PgbackrestDriver
from evac.drivers.places import place_at
from evac.drivers.port import Action, Order
from evac.drivers.redis_rdb.driver import RedisRdbDriver
from evac.drivers.restic.driver import ResticDriver
from evac.drivers.restored_server import PID, is_alive
from evac.model.errors import ActionError
from tests.contract.adapters.borg import archives
from tests.contract.adapters.copy_folder import Source, world
from tests.contract.adapters.etcd_snapshot import EtcdSource
from tests.contract.adapters.mariabackup import MariadbSource
from tests.contract.adapters.pg_basebackup import PostgresSource
from tests.contract.adapters.pgbackrest import store
from tests.contract.adapters.redis_rdb import RedisSource
from tests.contract.adapters.restic import copies, places_below
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
LONG_S = 60.0
MIB = 1 << 20
_EVAC = """
import asyncio, json, sys
from evac.drivers.capabilities import RestoresData
from evac.drivers.port import Action, Order
from evac.drivers.registry import Drivers
from evac.model.errors import ActionError
name, settings, place, how = sys.argv[1:]
settings = {key: tuple(one) if isinstance(one, list) else one for key, one in json.loads(settings).items()}
action = Action("restore", "store-messages", name, "ansan", {**settings, "place": place})
driver = Drivers().able(name, RestoresData)
try:
    if how == "by hand":
        asyncio.run(driver.restore(action, 60.0, "", place, None))
    else:
        asyncio.run(driver.execute(action, Order("r-1", "restore", 1, int(how), 1, "a test", 60.0, "k")))
    print("restored")
except ActionError as error:
    print(error.code)
"""


@dataclass(slots=True)
class Copy:
    """A copy of some data, and an empty place for it."""

    driver: Any
    action: Action
    place: Path
    lacks: Callable[[Path], bool]
    """Whether a folder lacks some of the copy."""
    holds: Callable[[Path], Any]
    slow: dict[str, int] = field(default_factory=dict)
    """Settings that leave time for a signal."""

    @property
    def partial(self) -> Path:
        return place_at(str(self.place)).partial

    def begin(self, how: str, **more: int) -> subprocess.Popen[str]:
        """Starts a process of evac that restores it. how: by hand, or the fencing token of a run."""
        settings = json.dumps({**self.action.settings, **more})
        argv = (sys.executable, "-c", _EVAC, self.action.driver, settings, str(self.place), how)
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def ended(self, how: str) -> str:
        """How another process of evac ends: the code of its error, or `restored`."""
        with self.begin(how) as evac:
            return evac.communicate(timeout=LONG_S)[0].strip()

    def observed(self, token: int) -> str:
        action = replace(self.action, settings={**self.action.settings, "place": str(self.place)})
        return str(asyncio.run(self.driver.observe(action, _order(token))).outcome)


def _order(token: int) -> Order:
    return order(token=token, epoch=1, key="k")


def sizes(folder: Path) -> dict[str, int]:
    """Files below a folder that have content. Some may vanish meanwhile."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file() and not path.is_symlink() and path.stat().st_size:
                found[str(path.relative_to(folder))] = path.stat().st_size
    return found


def lacks_of(source: Path) -> Callable[[Path], bool]:
    """By the files of a folder with the same content."""
    wanted = sizes(source)
    return lambda folder: bool(wanted.items() - sizes(folder).items())


def _fill(data: Path, count: int) -> None:
    for number in range(count):
        (data / "inner" / f"large-{number:03}").write_bytes(os.urandom(MIB))


@contextmanager
def _restic(folder: Path) -> Iterator[Copy]:
    with copies(folder) as made:
        _fill(made.data, 16)
        asyncio.run(ResticDriver().take(made.action(), LONG_S))
        (folder / "places").mkdir()
        _, holds, _ = places_below(folder)
        yield Copy(
            ResticDriver(),
            made.action(),
            folder / "places" / "here",
            lacks_of(made.data),
            lambda place: asyncio.run(holds(place)),
            {"download_kib": 6 * 1_024},
        )


@contextmanager
def _borg(folder: Path) -> Iterator[Copy]:
    with archives(folder) as made:
        _fill(made.data, 48)
        made.borg("create", "::second", str(made.data))
        _, holds, _ = places_below(folder)
        yield Copy(
            BorgDriver(),
            made.action(),
            folder / "places" / "here",
            lacks_of(made.data),
            lambda place: asyncio.run(holds(place)),
        )


@contextmanager
def _pgbackrest(folder: Path) -> Iterator[Copy]:
    with store(folder) as made:
        yield Copy(
            PgbackrestDriver(),
            made.action(),
            made.places / "here",
            lambda place: not (place / "global" / "pg_control").exists(),  # it is restored last
            lambda place: asyncio.run(made.holds(place)),
        )


@contextmanager
def _limited(folder: Path, source: type[Source], driver: object, download_kib: int) -> Iterator[Copy]:
    """A copy of a server that is restored so slowly that it can be killed on the way."""
    with world(folder, source) as made:
        yield Copy(
            driver,
            made.action(),
            made.place,
            lacks_of(made.copies[0] / "content"),
            lambda place: asyncio.run(made.holds(place)),
            {"download_kib": download_kib},
        )


def _base_backup(folder: Path) -> AbstractContextManager[Copy]:
    return _limited(folder, PostgresSource, PgBasebackupDriver(), 4 * 1_024)


@contextmanager
def _base_backup_with_log(folder: Path) -> Iterator[Copy]:
    with world(folder, PostgresSource) as made:
        action = made.action(archive=str(made.source.folder / "archive"))
        yield Copy(
            PgBasebackupDriver(), action, made.place, lambda _: True, lambda at: asyncio.run(made.holds(at))
        )


def _mariabackup(folder: Path) -> AbstractContextManager[Copy]:
    return _limited(folder, MariadbSource, MariabackupDriver(), 16 * 1_024)


@contextmanager
def _redis_rdb(folder: Path) -> Iterator[Copy]:
    with world(folder, RedisSource) as made:
        port = made.source.server.port
        for number in range(8):
            made.source.say(port, "SETRANGE", f"large:{number}", str(MIB), "end")
        made.source.say(port, "CONFIG", "SET", "rdbcompression", "no")
        try:
            asyncio.run(RedisRdbDriver().take(made.action(), LONG_S))
        finally:
            made.source.say(port, "DEL", *(f"large:{number}" for number in range(8)))
        newest = made.copies[-1] / "content" / "dump.rdb"
        yield Copy(
            RedisRdbDriver(),
            made.action(),
            made.place,
            lacks_of(newest.parent),
            lambda place: (place / "dump.rdb").read_bytes() == newest.read_bytes(),
            {"download_kib": 4 * 1_024},
        )


@contextmanager
def _etcd_snapshot(folder: Path) -> Iterator[Copy]:
    with world(folder, EtcdSource) as made:
        yield Copy(
            EtcdSnapshotDriver(),
            made.action(),
            made.place,
            lambda place: not [*place.glob("member/wal/*.wal")],  # it is written last
            lambda place: asyncio.run(made.holds(place)),
        )


KINDS = {
    "restic": _restic,
    "borg": _borg,
    "pgbackrest": _pgbackrest,
    "pg_basebackup": _base_backup,
    "mariabackup": _mariabackup,
    "redis_rdb": _redis_rdb,
    "etcd_snapshot": _etcd_snapshot,
}
FILLED_BY_EVAC = frozenset({"pg_basebackup", "mariabackup", "redis_rdb"})
"""evac itself copies the files."""


@pytest.fixture(params=sorted(KINDS))
def copy(request: pytest.FixtureRequest, server_folder: Path) -> Iterator[Copy]:
    with KINDS[request.param](server_folder) as made:
        yield made


def children(parent: int) -> list[int]:
    """Processes that a process started and that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, above = stat.read_text().rpartition(")")[2].split()[:2]
            if int(above) == parent and state != "Z":
                found.append(int(stat.parent.name))
    return found


def has_stopped(process: int) -> bool:
    """Whether all of its threads have, or it has ended."""
    with suppress(OSError):
        states = [one.read_text() for one in Path(f"/proc/{process}/task").glob("*/stat")]
        return all(one.rpartition(")")[2].split()[0] in "TtZX" for one in states)
    return True


def words_of(process: int) -> str:
    """Its arguments; none of one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


@contextmanager
def stopped(evac: subprocess.Popen[str], half: Callable[[], bool]) -> Iterator[list[int]]:
    """Stops a process of evac and its programs as soon as something is true, and yields the programs. None of
    them is left in the end.
    """
    deadline, programs = time.monotonic() + LONG_S, list[int]()
    try:
        while not half():
            assert evac.poll() is None, f"it ended before: {evac.communicate()[0]}"
            assert time.monotonic() < deadline
        evac.send_signal(signal.SIGSTOP)
        programs += children(evac.pid)
        for program in programs:
            os.killpg(program, signal.SIGSTOP)
        while not all(map(has_stopped, programs)):  # a thread first ends what it asked of the kernel
            assert time.monotonic() < deadline
        assert half(), "it was no longer half way when it stopped"
        yield programs
    finally:
        evac.kill()
        for program in programs:
            with suppress(ProcessLookupError):
                os.killpg(program, signal.SIGKILL)


def wait_for_end(copy: Copy, program: int) -> None:
    """Its lock is released by the last of its threads."""
    deadline = time.monotonic() + LONG_S
    while is_alive(program) or place_at(str(copy.place)).is_held():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_left_alone(copy: Copy, again: str) -> None:
    """No restore and no removal begins while a program of another one fills the place."""
    half = sizes(copy.partial)
    assert copy.observed(2) == "unclear"
    assert copy.ended(again) == "restore-under-way"
    with pytest.raises(ActionError) as refused:
        asyncio.run(copy.driver.clean_up(copy.action, LONG_S, str(copy.place)))
    assert refused.value.code == "restore-under-way"
    assert sizes(copy.partial) == half


@pytest.mark.parametrize("how", ["by hand", "1"], ids=["by-hand", "in-a-run"])
def test_evac_is_killed_half_way(copy: Copy, how: str) -> None:
    """What is there has not the name of the place. Nothing is done to it while a program of the killed evac
    lives on, and then it is started over.
    """
    theirs = copy.place.with_name("theirs")
    theirs.write_text("of someone else")
    again = how if how == "by hand" else "2"
    with (
        copy.begin(how, **copy.slow) as evac,
        stopped(evac, lambda: bool(sizes(copy.partial)) and copy.lacks(copy.partial)) as programs,
    ):
        evac.kill()
        evac.wait()
        assert bool(programs) == (copy.action.driver not in FILLED_BY_EVAC)
        assert not copy.place.exists()
        if programs:
            assert_left_alone(copy, again)
        for program in programs:
            os.killpg(program, signal.SIGCONT)
            wait_for_end(copy, program)
    assert not copy.place.exists(), "what a program filled alone, no one checked"
    assert copy.observed(2) == "absent"
    copy.place.mkdir()
    (copy.place / "another").write_text("of someone else")
    assert copy.ended(again) == "place-not-empty"
    assert [path.name for path in copy.place.iterdir()] == ["another"]
    (copy.place / "another").unlink()
    copy.place.rmdir()
    assert copy.ended(again) == "restored"
    assert copy.holds(copy.place)
    assert not copy.partial.exists()
    assert place_at(str(copy.place)).read().facts["started_over"] == 1
    assert theirs.read_text() == "of someone else"
    if how != "by hand":
        assert copy.ended(how) == "stale-token", "the one that was killed comes back"
        assert copy.observed(2) == "done"


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - FILLED_BY_EVAC))
def test_the_program_is_killed_half_way(kind: str, server_folder: Path) -> None:
    """That says nothing about the backup, and leaves nothing of it."""
    with KINDS[kind](server_folder) as copy:
        with (
            copy.begin("by hand", **copy.slow) as evac,
            stopped(evac, lambda: bool(sizes(copy.partial)) and copy.lacks(copy.partial)) as programs,
        ):
            for program in programs:
                os.killpg(program, signal.SIGKILL)
            evac.send_signal(signal.SIGCONT)
            assert evac.communicate(timeout=LONG_S)[0].strip() == "backup-killed"
        assert [*copy.place.parent.iterdir()] == []
        assert copy.ended("by hand") == "restored"
        assert copy.holds(copy.place)


def server_of(folder: Path) -> list[int]:
    """Processes of a PostgreSQL that has not ended its recovery: the first one, then the one that replays."""
    with suppress(OSError, ValueError, IndexError):
        server = int((folder / "postmaster.pid").read_text().splitlines()[0])
        others = children(server)
        others.sort(key=lambda one: b"startup" not in Path(f"/proc/{one}/cmdline").read_bytes())
        replays = others and b"startup" in Path(f"/proc/{others[0]}/cmdline").read_bytes()
        return [server, *others] if replays and (folder / "recovery.signal").exists() else []
    return []


@contextmanager
def stopped_server(evac: subprocess.Popen[str], folder: Path) -> Iterator[list[int]]:
    """As `stopped`, while PostgreSQL replays the log: yields its processes, as `server_of` does."""
    processes: list[int] = []
    with stopped(evac, lambda: bool(server_of(folder))):
        try:
            processes += server_of(folder)
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            assert server_of(folder) == processes, "its recovery had ended when it stopped"
            yield processes
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)


REPLAYING = {"pgbackrest": _pgbackrest, "pg_basebackup": _base_backup_with_log}


@pytest.mark.parametrize("kind", sorted(REPLAYING))
def test_evac_is_killed_while_the_log_is_replayed(kind: str, server_folder: Path) -> None:
    """The server that it leaves behind is ended before the place is filled again."""
    with REPLAYING[kind](server_folder) as copy:
        with copy.begin("1") as evac, stopped_server(evac, copy.partial) as processes:
            evac.kill()
            evac.wait()
        assert not copy.place.exists()
        assert copy.observed(2) == "absent"
        assert copy.ended("2") == "restored"
        assert not is_alive(processes[0])
        assert copy.holds(copy.place)
        assert not copy.partial.exists()


@pytest.mark.parametrize("victim", ["all", "one"])
@pytest.mark.parametrize("kind", sorted(REPLAYING))
def test_postgresql_is_killed_while_the_log_is_replayed(kind: str, victim: str, server_folder: Path) -> None:
    """As when memory runs out: that says nothing about the backup, and leaves nothing of it. victim: all of
    its processes, or the one that replays.
    """
    with REPLAYING[kind](server_folder) as copy:
        with copy.begin("by hand") as evac, stopped_server(evac, copy.partial) as processes:
            for process in processes if victim == "all" else processes[1:2]:
                os.kill(process, signal.SIGKILL)
            for process in [evac.pid, *children(evac.pid), *processes]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)
            assert evac.communicate(timeout=LONG_S)[0].strip() == "backup-killed"
        assert [*copy.place.parent.iterdir()] == []
        assert copy.ended("by hand") == "restored"
        assert copy.holds(copy.place)


STARTED = {"mariabackup": _mariabackup, "redis_rdb": _redis_rdb, "etcd_snapshot": _etcd_snapshot}
"""evac starts the server itself, and asks it for its content."""


def started(folder: Path) -> list[int]:
    """The process of a server that evac started in a folder."""
    with suppress(OSError, ValueError):
        server = int((folder / PID).read_text())
        if is_alive(server) and Path(f"/proc/{server}/exe").resolve().name not in ("sh", "dash"):
            return [server]
    return []


@pytest.mark.parametrize("kind", sorted(STARTED))
def test_evac_is_killed_while_the_server_starts(kind: str, server_folder: Path) -> None:
    """The server that it leaves behind is ended before the place is filled again."""
    with STARTED[kind](server_folder) as copy:
        with copy.begin("1") as evac, stopped(evac, lambda: bool(started(copy.partial))):
            (server,) = started(copy.partial)
            evac.kill()
            evac.wait()
            os.kill(server, signal.SIGCONT)
            assert not copy.place.exists()
            assert copy.observed(2) == "absent"
            assert copy.ended("2") == "restored"
            assert not is_alive(server)
        assert place_at(str(copy.place)).read().facts["started_over"] == 1
        assert not copy.partial.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize("kind", sorted(STARTED))
def test_the_server_is_killed_while_it_starts(kind: str, how: int, server_folder: Path) -> None:
    """As when memory runs out: that says nothing about the backup, and leaves nothing of it."""
    with STARTED[kind](server_folder) as copy:
        with (
            copy.begin("by hand") as evac,
            stopped(evac, lambda: bool(started(copy.partial))) as programs,
        ):
            (server,) = started(copy.partial)
            os.kill(server, how)
            with suppress(ProcessLookupError):
                os.kill(server, signal.SIGCONT)
            deadline = time.monotonic() + LONG_S
            while is_alive(server):  # Redis would still answer for a tenth of a second
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for process in (*programs, evac.pid):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)
            assert evac.communicate(timeout=LONG_S)[0].strip() == "backup-killed"
        assert [*copy.place.parent.iterdir()] == []
        assert copy.ended("by hand") == "restored"
        assert copy.holds(copy.place)


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGKILL, "backup-killed"), (signal.SIGABRT, "restore-incomplete")]
)
def test_mariadb_ends_while_its_rows_are_read(how: int, code: str, server_folder: Path) -> None:
    """It ends itself at a page that it cannot read, which is damage; being killed is not."""
    with _mariabackup(server_folder) as copy:
        asked = replace(copy.action, settings={**copy.action.settings, "facts": ("slow=SELECT SLEEP(60)",)})
        copy.action, action = asked, copy.action
        with copy.begin("by hand") as evac:
            deadline = time.monotonic() + LONG_S
            while not any("SLEEP" in words_of(one) for one in children(evac.pid)):
                assert evac.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            (server,) = started(copy.partial)
            os.kill(server, how)
            assert evac.communicate(timeout=LONG_S)[0].strip() == code
        assert [*copy.place.parent.iterdir()] == []
        copy.action = action
        assert copy.ended("by hand") == "restored"
