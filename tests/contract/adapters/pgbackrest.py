"""Real PostgreSQL and real repositories of pgBackRest for the suites."""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.pgbackrest import DRIVER
from evac.drivers.pgbackrest.driver import PgbackrestDriver
from evac.drivers.port import Action, Value, Verb
from evac_lab.process import MissingProgram
from evac_lab.servers.postgres import program_folder
from tests.contract.adapters.command import script
from tests.contract.adapters.restic import flip
from tests.contract.capabilities.hostile import ProgramWire
from tests.contract.capabilities.story import Case, nothing
from tests.contract.capabilities.suites import Adapter, AskedBackups, AskedRestore
from tests.contract.ports import free_port

ROWS = 1_500
"""1,000 in the backup, the others in the log that was archived after it."""
_SETTINGS = """
listen_addresses = ''
unix_socket_directories = ''
shared_buffers = '16MB'
dynamic_shared_memory_type = 'mmap'
fsync = off
wal_level = replica
archive_mode = on
archive_command = 'exec pgbackrest --config=$(dirname $PWD)/pgbackrest.conf --stanza=m archive-push %p'
"""


def as_owner(*argv: str, timeout_s: float = 600.0, allowed: tuple[int, ...] = (0,), told: str = "") -> str:
    """Runs a program as the owner of the data. told: its standard input."""
    owner = pwd.getpwnam("postgres")
    whom: dict[str, Any] = {} if os.geteuid() else {"user": owner.pw_uid, "group": owner.pw_gid}
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": "/"}
    done = subprocess.run(
        argv,
        env=env,
        cwd="/",
        input=told,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        **whom,
    )
    assert done.returncode in allowed, f"{argv}: {done.stdout} {done.stderr}"
    return done.stdout.strip()


def configure(folder: Path, port: int, archive_s: int = 10) -> None:
    """pgBackRest with two repositories below a folder. archive_s: how long a backup waits for its log."""
    words = (
        f"[global]\nrepo1-path={folder}/repo1\nrepo2-path={folder}/repo2\nlog-level-file=off\nstart-fast=y\n"
        f"lock-path={folder}/lock\nspool-path={folder}/spool\ncompress-level=1\narchive-timeout={archive_s}\n"
        "repo1-retention-full=9\nrepo2-retention-full=9\njob-retry=0\n"
        f"[m]\npg1-path={folder}/data\npg1-port={port}\npg1-socket-path={folder}\n"
    )
    (folder / "pgbackrest.conf").write_text(words, encoding="utf-8")


def control(data: Path, *argv: str, options: str = "") -> None:
    more = ("-o", options) if options else ()
    log = data.parent / f"{data.name}.log"
    as_owner(f"{program_folder()}/pg_ctl", "-D", str(data), "-w", "-t", "300", "-l", str(log), *more, *argv)


def sql(socket: Path, port: int, statement: str) -> str:
    argv = ("-XAtq", "-h", str(socket), "-p", str(port), "-U", "postgres", "-c", statement)
    return as_owner(f"{program_folder()}/psql", *argv)


@contextmanager
def running(data: Path, port: int) -> Iterator[None]:
    """A server on a socket in the folder above its data, ended at once afterwards."""
    control(data, "start", options=f"-c unix_socket_directories={data.parent} -c port={port}")
    try:
        yield
    finally:
        control(data, "-m", "immediate", "stop")


@cache
def blank(*options: str, password: str = "", without: tuple[str, ...] = ("template0", "template1")) -> Path:
    """An empty data folder to copy servers from, made once. It lacks databases that a test has no use for: it
    copies, packs, checks and restores every file, several times. options: of initdb.
    """
    programs, folder = program_folder(), Path(tempfile.mkdtemp(prefix="evac-blank-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "password").write_text(password)
    give(folder)
    data, more = str(folder / "data"), (f"--pwfile={folder}/password",) if password else ()
    as_owner(f"{programs}/initdb", "-D", data, "-N", "-U", "postgres", *options, *more)
    drop = "ALTER DATABASE {0} IS_TEMPLATE false\nDROP DATABASE {0}\n"
    told = "".join(drop.format(name) for name in without)
    as_owner(f"{programs}/postgres", "--single", "-D", data, "postgres", told=told)
    assert len(list((folder / "data" / "base").iterdir())) == 3 - len(without)
    return folder / "data"


@cache
def template() -> Path:
    """A store with one full backup in `repo1`, and with rows after it in the archive. Made once."""
    folder, port = Path(tempfile.mkdtemp(prefix="evac-pgbackrest-")), free_port()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("repo1", "repo2"):
        (folder / name).mkdir()
    configure(folder, port, archive_s=600)  # a busy machine archives late
    shutil.copytree(blank("-A", "trust"), folder / "data")
    give(folder)
    with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(_SETTINGS)
    with running(folder / "data", port):
        rest = (f"--config={folder}/pgbackrest.conf", "--stanza=m")
        as_owner("pgbackrest", *rest, "stanza-create")
        rows = "INSERT INTO messages SELECT generate_series({}, {})"
        sql(folder, port, "CREATE TABLE messages (id int, at timestamptz DEFAULT now())")
        sql(folder, port, rows.format(1, 1_000))
        as_owner("pgbackrest", *rest, "--repo=1", "--type=full", "--log-level-console=error", "backup")
        next_seconds()
        sql(folder, port, rows.format(1_001, ROWS))
        sql(folder, port, "SELECT pg_switch_wal()")
        control(folder / "data", "-m", "fast", "stop")  # the last segments are archived first
        control(folder / "data", "start", options=f"-c unix_socket_directories={folder} -c port={port}")
    return folder


def next_seconds() -> None:
    """What is written next is not of the last second of a backup: its times are whole seconds."""
    begun = int(time.time())
    while int(time.time()) < begun + 3:
        time.sleep(0.05)


def give(folder: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


@dataclass(slots=True)
class Store:
    """A stopped store in `folder/data` and its repositories."""

    folder: Path
    port: int = field(default_factory=free_port)
    served: int = field(default_factory=free_port)

    @property
    def places(self) -> Path:
        return self.folder / "places"

    def action(self, repo: int = 1, **more: Value) -> Action:
        settings: dict[str, Value] = {
            "config": f"{self.folder}/pgbackrest.conf",
            "stanza": "m",
            "repo": repo,
            "type": "full",
            "bin": program_folder(),
            "host": "127.0.0.1",
            "port": self.served,
            "facts": ("rows=SELECT count(*) FROM messages", "newest=SELECT max(at) FROM messages"),
            **more,
        }
        return Action("restore", "store-messages", "pgbackrest", "ansan", settings)

    @contextmanager
    def held(self) -> Iterator[None]:
        """As another backup of the stanza holds it."""
        lock = self.folder / "lock" / "m-backup-1.lock"
        lock.parent.mkdir(exist_ok=True)
        with lock.open("w") as file:
            give(lock.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    async def corrupt(self) -> None:
        """Both copies of the list of backups."""
        for path in (self.folder / "repo1" / "backup" / "m").glob("backup.info*"):
            flip(path)

    async def spoil(self) -> None:
        """One bit in the largest file of the backup."""
        files = (self.folder / "repo1" / "backup").rglob("pg_data/base/*/*")
        flip(max(files, key=lambda path: path.stat().st_size))

    async def holds(self, place: Path) -> bool:
        """Whether a place holds every row, asked of PostgreSQL itself."""
        if not (place / "PG_VERSION").exists():
            return False
        count = "SELECT count(*) FROM messages"
        if (place / "postmaster.pid").exists():
            return sql(Path("127.0.0.1"), self.served, count) == str(ROWS)
        copy = self.folder / "looked-at"  # a look changes nothing of the place itself
        shutil.copytree(place, copy, symlinks=True)
        give(copy)
        try:
            with running(copy, self.port):
                return sql(self.folder, self.port, count) == str(ROWS)
        finally:
            shutil.rmtree(copy)

    def around(self) -> object:
        """Names and sizes below the places."""
        found = sorted(path for path in self.places.rglob("*") if "pg_stat" not in path.parts)
        return [(str(path), path.stat().st_size if path.is_file() else 0) for path in found]


@contextmanager
def store(folder: Path, *, runs: bool = False) -> Iterator[Store]:
    """A copy of the template; runs: with its server. Everything ends at the end."""
    try:
        program_folder()
    except MissingProgram as error:
        pytest.skip(str(error))
    if shutil.which("pgbackrest") is None:
        pytest.skip("pgbackrest is not installed")
    for name in ("data", "repo1", "repo2"):
        shutil.copytree(template() / name, folder / name, symlinks=True)
    (folder / "data" / "postmaster.pid").unlink(missing_ok=True)
    world = Store(folder)
    world.places.mkdir()
    configure(folder, world.port)
    give(folder)
    try:
        if runs:
            with running(folder / "data", world.port):
                yield world
        else:
            yield world
    finally:
        for data in world.places.glob("*/postmaster.pid"):
            with suppress(AssertionError):
                control(data.parent, "-m", "immediate", "stop")


def _slowly(folder: Path) -> tuple[str, Path]:
    """A pgBackRest that waits while a file is there, and the file."""
    slow = folder / "slow"
    wait = f"while [ -e {slow} ]; do sleep 0.05; done"
    program = script(folder, "pgbackrest", wait, f'exec {shutil.which("pgbackrest")} "$@"')
    Path(program).chmod(0o755)
    return program, slow


def through(action: Action, program: str) -> Action:
    """As whoever runs the tests: the script is theirs."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    return replace(action, settings={**action.settings, "program": program, "system_user": user})


def wires(folder: Path, program: str) -> tuple[ProgramWire, ...]:
    (folder / "wire").mkdir()
    return (ProgramWire(program, folder / "wire", through, turns=1, bounded=False),)


@contextmanager
def _backups(folder: Path) -> Iterator[AskedBackups]:
    with store(folder, runs=True) as world:
        program, slow = _slowly(folder)

        async def silence() -> None:
            slow.touch()

        async def speak() -> None:
            slow.unlink()

        async def change() -> None:
            sql(folder, world.port, "INSERT INTO messages VALUES (0)")

        yield AskedBackups(
            PgbackrestDriver(),
            world.action(program=program),
            silence,
            speak,
            wires=wires(folder, program),
            change=change,
            spoil=world.spoil,
            deletable=True,
            wrong={
                "backup-password": world.action(env=("PGBACKREST_REPO1_CIPHER_TYPE=aes-256-cbc", *_CIPHER)),
                "backup-no-repository": world.action(stanza="other"),
                "backup-other-repository": world.action(system_id="12"),
                "backup-tool-missing": world.action(program="/nowhere/pgbackrest"),
            },
            levels=(2,),
            disk=folder / "repo1",
            room_bytes=1 << 20,
            held=world.held,
            corrupt=world.corrupt,
        )


@contextmanager
def _restores(folder: Path) -> Iterator[AskedRestore]:
    with store(folder) as world:

        async def left() -> object:
            return world.around()

        async def fill(place: Path) -> None:
            place.mkdir()
            (place / "theirs").write_text("of someone else", encoding="utf-8")

        yield AskedRestore(
            PgbackrestDriver(),
            world.action(),
            nothing,
            place=world.places / "here",
            holds=world.holds,
            spoil=world.spoil,
            left=left,
            fill=fill,
        )


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with store(folder) as world:
        place = world.places / "here"
        count = "SELECT count(*), pg_is_in_recovery() FROM messages"

        async def state() -> object:
            names = sorted(path.name for path in world.places.iterdir())
            if not (place / "postmaster.pid").exists():
                return names
            return names, await asyncio.to_thread(sql, Path("127.0.0.1"), world.served, count)

        async def is_done() -> bool:
            return await state() == (_DONE, f"{ROWS}|f")

        yield Case(
            PgbackrestDriver(),
            world.action(place=str(place)),
            state,
            is_done,
            tokens=True,
            epochs=True,
        )


_CIPHER = ("PGBACKREST_REPO1_CIPHER_PASS=another",)
_DONE = [".here.evac-restored", "here"]
ADAPTER = Adapter(DRIVER, acts={RestoresData: _acts}, asks={TakesBackups: _backups, RestoresData: _restores})
