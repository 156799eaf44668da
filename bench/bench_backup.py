"""`python -m bench backup`: what evac adds to a backup tool, finds in a damaged repository, and survives.

On real restic, Borg, pgBackRest, PostgreSQL, MariaDB, etcd and Redis, in a folder of its own. The schedule of
1,000 data sets is played in virtual time, with the controller's own code and repositories in memory. FULL=1
reads 1 GiB and flips 1,000 bits.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.figures import Figure, Table, median, peak_mib, worst
from bench.restore_forecasts import forecasts
from evac.drivers.borg.driver import BorgDriver
from evac.drivers.capabilities import READ
from evac.drivers.pgbackrest.driver import PgbackrestDriver
from evac.drivers.restic.driver import ResticDriver
from evac.model.backup import WHOLE
from evac.model.backup_policy import BackupPolicy
from evac.model.errors import ActionError
from tests.contract.adapters import borg
from tests.contract.adapters.copy_folder import Source, world
from tests.contract.adapters.etcd_snapshot import EtcdSource
from tests.contract.adapters.mariabackup import MariadbSource
from tests.contract.adapters.pg_basebackup import PostgresSource
from tests.contract.adapters.pgbackrest import store
from tests.contract.adapters.redis_rdb import RedisSource
from tests.contract.adapters.restic import copies, flip, restic
from tests.contract.drivers.test_pgbackrest import damage
from tests.unit.backup.test_scheduler import story_of
from tests.unit.backup.world import estate_of
from tests.unit.virtual_time import run_virtually

LONG_S = 3_600.0
PARTS = 4
SOUND = (True, False)
"""A rotation that read every byte and found no damage."""
HISTORY = "backup.history"
"""Folder where pgBackRest keeps manifests that no restore reads."""


def _filled(folder: Path, size: int, seed: int) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    made = random.Random(seed)
    for number in range(max(1, size >> 20)):
        (folder / f"file-{number}").write_bytes(made.randbytes(min(size, 1 << 20)))


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def overhead(table: Table, folder: Path, size: int, times: int) -> None:
    """The driver next to the bare tool, each first in every other turn, on repositories that begin empty."""
    table.section(f"evac next to bare restic, {size >> 20:,} MiB")
    driver = ResticDriver()
    found: dict[str, list[float]] = {"backup": [], "verify": [], "restore": []}
    with copies(folder, "--no-verify-upload") as made:
        _filled(made.data, size, 1)
        for turn in range(times):
            bare, ours = (folder / f"{name}-{turn}" for name in ("bare", "ours"))
            for where in (bare, ours):
                restic("init", repository=where)
            action = made.action(repository=str(ours))
            pairs: dict[str, tuple[Callable[[], Any], Callable[[], Awaitable[Any]]]] = {
                "backup": (
                    lambda bare=bare: restic("backup", "--json", "-q", str(made.data), repository=bare),
                    lambda action=action: driver.take(action, LONG_S),
                ),
                "verify": (
                    lambda bare=bare: restic("check", "--read-data", repository=bare),
                    lambda action=action: driver.prove(action, LONG_S, READ, 1, 1),
                ),
                "restore": (
                    lambda bare=bare, turn=turn: restic(
                        "restore",
                        f"latest:{made.data}",
                        "--target",
                        str(folder / f"b{turn}"),
                        repository=bare,
                    ),
                    lambda action=action, turn=turn: driver.restore(
                        action, LONG_S, "", str(folder / f"o{turn}"), None
                    ),
                ),
            }
            for name, (tool, asked) in pairs.items():
                both = [tool, lambda asked=asked: asyncio.run(asked())]  # type: ignore[misc]
                took_s = [0.0, 0.0]
                for which in (0, 1) if turn % 2 else (1, 0):
                    os.sync()  # what the one wrote must not be written out while the other is timed
                    took_s[which] = _timed(both[which])
                found[name].append(100 * (took_s[1] / took_s[0] - 1))
            for path in (bare, ours, folder / f"b{turn}", folder / f"o{turn}"):
                shutil.rmtree(path)
    for name, samples in found.items():
        table.add(
            median(f"overhead-{name}", f"{name}: more than bare restic takes", samples, "%", 5, "at most")
        )


def schedule(table: Table, folder: Path, sets: int) -> None:
    """All of them are due at the same three moments of a day, four are taken at one time."""
    table.section(f"{sets:,} data sets under one controller, a day in virtual time")
    with pytest.MonkeyPatch.context() as patch:

        async def story() -> int:
            names = tuple(f"d{number}" for number in range(sets))
            spread = estate_of(BackupPolicy(schedule="0 */8 * * *"), names=names)
            told = story_of(patch, folder, spread)
            for repository in told.world.repositories.values():
                repository.takes_s = 0.05
            await told.lead()
            await asyncio.sleep(86_400)
            await told.stop()
            assert sum(len(told.asked(f"r-{name}", "take")) for name in names) >= 2 * sets
            return told.scheduler.latest_ms

        latest_ms = run_virtually(story(), 2 * 86_400)
    table.add(
        worst("late", "the latest start of a job, after its moment", [latest_ms / 1_000], "s", 60),
        worst(
            "memory", "memory of this process", [peak_mib()], "MiB", 300, "repositories and store are in it"
        ),
    )


def flips(table: Table, folder: Path, count: int, seed: int, engines: Sequence[str]) -> None:
    """One bit at a random place of a random file; then one rotation reads every part, and the bit is put
    back. Repositories of all kinds take turns. Whatever is read as a whole although a bit of its catalogue
    is flipped is restored: its content must be the same as before.
    """
    table.section(f"one bit flipped at {count:,} random places")
    chosen, found = random.Random(seed), dict[str, list[bool]]()
    with ExitStack() as stack:
        held = [kind for name in engines for kind in KINDS[name](stack, _below(folder, name))]
        for kind in held:
            assert _rotation(kind) == SOUND, f"{kind.name} is damaged before anything is flipped"
        content = {kind.name: _restored(kind) for kind in held if kind.catalogue}
        assert all(content.values()), content
        wrong = 0
        for number in range(count):
            kind = held[number % len(held)]
            files = kind.files()
            path = chosen.choices(files, [one.stat().st_size for one in files])[0]
            with _flipped(path, kind.tail, chosen):
                verified, damaged = _rotation(kind)
                if kind.catalogue:  # what cannot be read at all is found, too
                    verified = verified and _restored(kind) != content[kind.name]
                    damaged = not verified
            if verified or not damaged:
                table.trouble(
                    f"{kind.name}: {path.relative_to(folder)} ({'read' if verified else 'not found'})"
                )
            wrong += verified
            found.setdefault(kind.name, []).append(damaged)
        for kind in held:
            assert _rotation(kind) == SOUND, f"{kind.name} is damaged after all was put back"
    for name, each in found.items():
        words = f"{name}: not found within one rotation, of {len(each):,}"
        table.add(worst(f"flips-missed-{name}", words, [each.count(False)], "flips", 0))
    missed = sum(each.count(False) for each in found.values())
    table.add(
        worst("flips-missed", "not found within one rotation", [missed], "flips", 0),
        worst("flips-verified", 'whole rotations of damaged copies that say "read"', [wrong], "copies", 0),
    )


@dataclass(frozen=True)
class Kind:
    """Copies of one kind. files: those that are flipped, listed before each flip. tail: whether zeros at
    their ends are data.
    """

    name: str
    driver: Any
    action: Any
    files: Callable[[], Sequence[Path]]
    tail: bool = True
    catalogue: bool = False
    """The files say what is where (index, keys, manifest). Tools keep some of them twice, and not every bit
    of them has a meaning.
    """
    place: Path = Path()
    """Where a copy with a catalogue is restored to."""


def _below(folder: Path, name: str) -> Path:
    made = folder / name.strip("_")
    made.mkdir(mode=0o755)
    return made


def _files_of(*folders: Path) -> list[Path]:
    return sorted(
        path for top in folders for path in top.rglob("*") if path.is_file() and path.stat().st_size
    )


def _these(files: Sequence[Path]) -> Callable[[], Sequence[Path]]:
    return lambda: files


def _restic(stack: ExitStack, folder: Path) -> Iterator[Kind]:
    made = stack.enter_context(copies(folder))
    yield Kind("restic", ResticDriver(), made.action(), made.packs)
    served = folder / "served" / "one"
    files = [*_files_of(*(served / name for name in ("index", "keys", "snapshots"))), served / "config"]
    place = _below(folder, "restored") / "here"
    yield Kind("restic catalogue", ResticDriver(), made.action(), _these(files), catalogue=True, place=place)


def _borg(stack: ExitStack, folder: Path) -> Iterator[Kind]:
    made = stack.enter_context(borg.archives(folder))
    yield Kind("Borg", BorgDriver(), made.action(), lambda: _files_of(folder / "one" / "data"))

    def files() -> list[Path]:
        """Borg writes some of them again, under other names."""
        return sorted(path for path in (folder / "one").iterdir() if path.is_file() and path.stat().st_size)

    place = _below(folder, "restored") / "here"
    yield Kind("Borg catalogue", BorgDriver(), made.action(), files, catalogue=True, place=place)


def _folders(stack: ExitStack, folder: Path) -> Iterator[Kind]:
    kinds: list[tuple[str, type[Source]]] = [
        ("etcd", EtcdSource),
        ("Redis", RedisSource),
        ("mariabackup", MariadbSource),
        ("base backup", PostgresSource),
    ]
    for name, kind in kinds:
        made = stack.enter_context(world(_below(folder, name), kind))
        files = _files_of(*(one / "content" for one in made.copies))
        yield Kind(name, kind.driver(), made.action(), _these(files))
        records = [one / "copy.json" for one in made.copies]
        yield Kind(
            f"{name} catalogue",
            kind.driver(),
            made.action(),
            _these(records),
            catalogue=True,
            place=made.place,
        )
        if isinstance(made.source, PostgresSource):
            archive = made.source.folder / "archive"
            newest = _switched(made.source)
            first = min(
                one.name for one in (made.copies[0] / "content" / "pg_wal").iterdir() if one.is_file()
            )
            needed = (path for path in sorted(archive.iterdir()) if first <= path.name <= newest)
            log = [path for path in needed if len(path.name) == len(newest)]
            action = made.action(archive=str(archive))
            yield Kind("WAL archive", kind.driver(), action, _these(log), tail=False)


def _switched(source: PostgresSource) -> str:
    """Name of a segment with rows that was archived after the backup."""
    source.change()
    name = source.sql("SELECT pg_walfile_name(pg_switch_wal())")
    while source.sql(f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver") != "t":
        time.sleep(0.1)
    return name


def _pgbackrest(stack: ExitStack, folder: Path) -> Iterator[Kind]:
    made = stack.enter_context(store(folder))
    repository = folder / "repo1"
    for name, below, pattern in (("pgBackRest", "backup", "*.gz"), ("pgBackRest WAL", "archive", "0*-*.gz")):
        files = sorted(path for path in (repository / below).rglob(pattern) if HISTORY not in path.parts)
        yield Kind(name, PgbackrestDriver(), made.action(), _these(files))
    files = sorted(
        path
        for pattern in ("backup.info*", "archive.info*", "backup.manifest*", f"{HISTORY}/*/*.manifest.gz")
        for path in repository.rglob(pattern)
        if path.is_file()
    )
    place = made.places / "here"
    action, listed = made.action(), _these(files)
    yield Kind("pgBackRest catalogue", PgbackrestDriver(), action, listed, catalogue=True, place=place)


KINDS = {"restic": _restic, "borg": _borg, "folders": _folders, "pgbackrest": _pgbackrest}
"""By the word that names them on the command line."""


@contextmanager
def _flipped(path: Path, tail: bool, chosen: random.Random) -> Iterator[None]:
    """A file with one bit flipped that changes what is read from it, and put back afterwards."""
    before, about = path.read_bytes(), path.stat()
    try:
        if path.suffix == ".gz":
            damage(path, chosen)
        else:
            flip(path, chosen.randrange(len(before) if tail else len(before.rstrip(b"\0"))))
        yield
    finally:
        if path.exists():  # Borg removes an index that it does not trust
            path.write_bytes(before)
            path.chmod(about.st_mode)


def _rotation(kind: Kind) -> tuple[bool, bool]:
    """Whether every byte counts as read without damage, and whether damage was found."""
    read = 0
    for part in range(1, PARTS + 1):
        proof = asyncio.run(kind.driver.prove(kind.action, LONG_S, READ, part, PARTS))
        if proof.outcome == "damaged":  # the rest of the rotation cannot change that
            return False, True
        read += proof.share_read if proof.outcome == "passed" else 0
    return read >= WHOLE - PARTS, False


def _restored(kind: Kind) -> dict[str, Any]:
    """Facts of the data after a restore, which is removed again; none if it cannot be restored."""

    async def story() -> dict[str, Any]:
        place = str(kind.place)
        try:
            return dict((await kind.driver.restore(kind.action, LONG_S, "", place, None)).facts)
        except ActionError as error:
            return {"error": error.code}
        finally:
            await kind.driver.clean_up(kind.action, LONG_S, place)

    facts = asyncio.run(story())
    return {} if "error" in facts else facts


_CHILD = """
import asyncio, sys
from evac.drivers.restic.driver import ResticDriver
from evac.drivers.port import Action
action = Action("restore", "store-messages", "restic", "ansan", {
    "repository": sys.argv[2], "password": "env:EVAC_TEST_RESTIC", "paths": (sys.argv[3],)})
work = ResticDriver()
taking = sys.argv[1] == "take"
asyncio.run(work.take(action, 60.0) if taking else work.restore(action, 60.0, "", sys.argv[4], None))
"""


def kills(table: Table, folder: Path, count: int, seed: int) -> None:
    """evac and all that it started are killed at a random moment; then a new process is asked the same."""
    table.section(f"killed at {count:,} random moments of backups and restores")
    chosen, half, stuck, again_s = random.Random(seed), 0, 0, []
    with copies(folder) as made:
        _filled(made.data, 24 << 20, 2)
        repository = f"rest:http://127.0.0.1:{made.port}/one/"
        for number in range(count):
            what, place = ("take", "restore")[number % 2], folder / f"place-{number}"
            argv = (sys.executable, "-c", _CHILD, what, repository, str(made.data), str(place))
            child = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.DEVNULL)
            try:
                child.wait(chosen.uniform(0.2, 4.0))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                files = len(list(place.iterdir())) if place.is_dir() else 0
                half += 0 < files < len(list(made.data.iterdir()))
            shutil.rmtree(place, ignore_errors=True)
            began = time.perf_counter()
            done = subprocess.run(argv, capture_output=True, check=False)
            again_s.append(time.perf_counter() - began)
            stuck += done.returncode != 0
            shutil.rmtree(place, ignore_errors=True)
        proof = asyncio.run(ResticDriver().prove(made.action(), LONG_S, READ, 1, 1))
    table.add(
        worst("half-restored", "places that hold a part and have their name", [half], "places", 0),
        worst("stuck", "next runs that did not end well", [stuck], "runs", 0),
        Figure("sound", "the repository is read as a whole afterwards", proof.outcome == "passed", "", 1),
        median("again", "the next run takes", again_s, "s"),
    )


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, writes."""
    full = bool(os.environ.get("FULL"))
    parser = argparse.ArgumentParser(prog="python -m bench backup", description="Figures of backups.")
    parser.add_argument("--only", default="overhead,schedule,flips,kills,forecasts")
    parser.add_argument("--mib", type=int, default=1_024 if full else 128)
    parser.add_argument("--times", type=int, default=5 if full else 3)
    parser.add_argument("--sets", type=int, default=1_000)
    parser.add_argument("--flips", type=int, default=1_000 if full else 30)
    parser.add_argument("--engines", default=",".join(KINDS), help="whose repositories are flipped")
    parser.add_argument("--kills", type=int, default=100 if full else 10)
    parser.add_argument("--sizes", default="128,512,1536" if full else "32,96,256", help="MiB to restore")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    parts = given.only.split(",")
    table = Table("Backups")
    table.open()
    with tempfile.TemporaryDirectory(prefix="evac-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("overhead", "schedule", "flips", "kills", "forecasts"):
            (folder / part).mkdir()
        if "schedule" in parts:
            schedule(table, folder / "schedule", given.sets)
        if "overhead" in parts:
            overhead(table, folder / "overhead", given.mib << 20, given.times)
        if "flips" in parts:
            flips(table, folder / "flips", given.flips, given.seed, given.engines.split(","))
        if "kills" in parts:
            kills(table, folder / "kills", given.kills, given.seed)
        if "forecasts" in parts:
            sizes = sorted(int(one) << 20 for one in given.sizes.split(","))
            forecasts(table, folder / "forecasts", sizes, given.times)
    return table.close(given.json)
