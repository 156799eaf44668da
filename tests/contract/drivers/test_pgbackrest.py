"""What pgBackRest does not say by itself, and a restore that is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.backups import Stopwatch
from evac.drivers.capabilities import READ
from evac.drivers.pgbackrest import archive
from evac.drivers.pgbackrest.driver import PgbackrestDriver
from evac.drivers.places import place_at
from evac.drivers.postgres_timelines import SIZES
from evac.drivers.restored_postgres import Engine, last_commit
from evac.model.errors import ActionError, Permanent, Retryable
from evac_lab.servers.postgres import program_folder
from tests.contract.adapters.command import script
from tests.contract.adapters.pgbackrest import ROWS, Store, as_owner, control, give, sql, store
from tests.contract.adapters.restic import flip

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
LONG_S = 60.0
GZIP = 31
KILLED = """
import asyncio, json, sys
from evac.drivers.pgbackrest.driver import PgbackrestDriver
from evac.drivers.port import Action
settings, place = json.loads(sys.argv[1]), sys.argv[2]
action = Action("restore", "store-messages", "pgbackrest", "ansan", settings)
asyncio.run(PgbackrestDriver().restore(action, 60.0, "", place, None))
"""


def ask(question: str, *given: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(PgbackrestDriver(), question)(given[0], LONG_S, *given[1:])
        except ActionError as error:
            return error

    return asyncio.run(story())


def program(world: Store, *lines: str) -> str:
    """A pgBackRest of ours in front of the real one, which is `$REAL`."""
    real = shutil.which("pgbackrest")
    path = script(world.folder, "pgbackrest", f"REAL={real}", *lines, f'exec {real} "$@"')
    Path(path).chmod(0o755)
    return path


@pytest.mark.parametrize("question", ["list_copies", "prove"])
def test_a_repository_server_that_takes_no_connection_is_named_at_once(
    server_folder: Path, question: str
) -> None:
    """pgBackRest would try again for minutes, with the lock of the repository. A server that takes one is
    left to pgBackRest, and so is one that other options may name. A restore and a backup wait for theirs.
    """
    with store(server_folder) as world, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port, calls, config = (
            server.getsockname()[1],
            world.folder / "calls",
            world.folder / "pgbackrest.conf",
        )
        words = f"repo1-host=127.0.0.1\nrepo1-host-type=tls\nrepo1-host-port={port}\n"
        config.write_text(config.read_text().replace("[m]\n", f"{words}[m]\n"))
        path = script(world.folder, "pgbackrest", f'echo "$*" >> {calls}', "exit 1")
        Path(path).chmod(0o755)
        calls.touch()
        calls.chmod(0o666)
        action, given = world.action(program=path), (READ, 1, 1) if question == "prove" else ()
        found = ask(question, action, *given)
        assert found.code == "backup-silent"
        assert f"127.0.0.1:{port}" in (found.detail if question == "prove" else found.message)
        assert not calls.read_text(), "pgBackRest was asked"
        ask("take", action)
        ask("restore", action, "", str(world.places / "here"), None)
        assert len(asked := calls.read_text().splitlines()) == 2
        assert all("--repo=1 info" in words for words in asked), "another repository may be silent as well"
        clear = config.read_text()
        for words in ("[global:info]\nrepo1-host=localhost\n", "[m]\nrepo1-host=localhost\n  pg1-port=1\n"):
            config.write_text(f"{clear}\n{words}")
            calls.write_text("")
            ask(question, action, *given)
            assert "info" in calls.read_text(), words
        config.write_text(clear)
        calls.write_text("")
        server.listen()
        ask(question, action, *given)
        assert "info" in calls.read_text()


def test_verify_says_nothing_of_what_the_driver_finds(server_folder: Path) -> None:
    with store(server_folder) as world:
        asyncio.run(world.spoil())
        said = as_owner("pgbackrest", f"--config={world.folder}/pgbackrest.conf", "--stanza=m", "verify")
        assert said == "", "pgBackRest says it now: the guard may be simpler"
        proof = ask("prove", world.action(), READ, 1, 1)
        assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt")
        silent = program(world, 'case "$*" in *verify) exec true;; esac')
        proof = ask("prove", world.action(program=silent), READ, 1, 1)
        assert (proof.outcome, proof.code) == ("could-not-run", "nothing-read")
        empty = ask("prove", world.action(2), READ, 1, 1)
        assert (empty.outcome, empty.code) == ("could-not-run", "nothing-read")


def test_a_backup_with_an_error_is_not_whole(server_folder: Path) -> None:
    with store(server_folder) as world:
        wrong = program(
            world, """case "$*" in *info*) $REAL "$@" | sed 's/"error":false/"error":true/'; exit;; esac"""
        )
        (copy,) = ask("list_copies", world.action(program=wrong)).copies
        assert copy.failed
        error = ask("restore", world.action(program=wrong), "", str(world.places / "here"), None)
        assert isinstance(error, Permanent)
        assert error.code == "copy-unknown"


def test_it_is_asked_once_recovery_has_ended(server_folder: Path) -> None:
    """Every segment of the log comes late; a database that is asked before holds fewer rows. The version of
    pgBackRest is not asked for.
    """
    with store(server_folder) as world:
        late = program(
            world,
            'case "$*" in version) exit 1;; *archive-get*) sleep 0.3;;'
            ' *restore*) set -- --cmd="$0" "$@";; esac',
        )
        done = ask("restore", world.action(program=late), "", str(world.places / "here"), None)
        assert done.facts["rows"] == ROWS
        assert str(done.facts["newest"]) > "2"
        assert done.reached_at is not None
        copy = ask("list_copies", world.action()).copies[0]
        assert done.reached_at >= copy.taken_at


@pytest.mark.parametrize("when", ["copying", "recovering"])
def test_what_was_half_restored_is_never_in_its_place(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """kill -9 while files come, and while the log is replayed: the next restore starts over and says so."""
    with store(server_folder) as world:
        at = place_at(str(world.places / "here"))
        slow = {
            "copying": 'case "$*" in *restore*) touch $(dirname $0)/copying; sleep 1;; esac',
            "recovering": 'case "$*" in *archive-get*) touch $(dirname $0)/recovering; sleep 1;;'
            ' *restore*) set -- --cmd="$0" "$@";; esac',
        }
        world.folder.chmod(0o777)
        temporary = world.folder / "tmp"
        temporary.mkdir()
        temporary.chmod(0o777)
        monkeypatch.setenv("TMPDIR", str(temporary))
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        settings: Mapping[str, Any] = world.action(program=program(world, slow[when])).settings
        argv = (sys.executable, "-c", KILLED, json.dumps(dict(settings)), str(at.path))
        with subprocess.Popen(argv) as process:
            deadline = time.monotonic() + 30.0
            while not (world.folder / when).exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert at.partial.exists()
        assert not at.path.exists()
        again: Any = Retryable("none", "")
        deadline = time.monotonic() + 60.0
        while isinstance(again, Retryable):  # the program that outlived it still holds the place
            assert time.monotonic() < deadline
            again = ask("restore", world.action(), "", str(at.path), None)
        assert again.facts["started_over"] == 1
        assert again.facts["rows"] == ROWS
        assert list(temporary.iterdir()) == [], "the folder of its socket stays"
        assert ask("clean_up", world.action(), str(at.path)) is None
        assert world.around() == []


def next_second() -> int:
    """Waits for a whole second that no write of this test falls into, and returns it."""
    moment = int(time.time()) + 1
    time.sleep(moment + 0.02 - time.time())
    return moment


def test_a_store_returns_to_a_moment_that_the_log_covers_and_to_no_other(server_folder: Path) -> None:
    with store(server_folder, runs=True) as world:
        moment = next_second()
        sql(world.folder, world.port, "INSERT INTO messages VALUES (0)")
        switched = sql(world.folder, world.port, "SELECT pg_walfile_name(pg_switch_wal())")
        in_archive(world, f"{switched}-*")
        place = str(world.places / "here")
        (copy,) = ask("list_copies", world.action()).copies
        for uncovered in (copy.taken_at, int(time.time()) + 5):
            error = ask("restore", world.action(), "", place, uncovered)
            assert (error.code, world.around()) == ("moment-uncovered", []), error.message
        assert "the latest point in time is" in error.message
        done = ask("restore", world.action(), "", place, moment)
        assert done.facts["rows"] == ROWS, "the row that was written after the moment is not there"
        assert done.reached_at < done.as_of == moment, "the newest write is older than the restore point"
        assert ask("restore", world.action(), "", str(world.places / "all"), None).facts["rows"] == ROWS + 1


def test_the_configuration_of_debian_never_starts_the_data_of_the_source(server_folder: Path) -> None:
    """It names the data, its access file and the pid of the server by full paths, and includes a folder."""
    with store(server_folder) as world:
        outside, place = server_folder / "etc", str(world.places / "here")
        (outside / "conf.d").mkdir(parents=True)
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            (outside / name).write_bytes((world.folder / "data" / name).read_bytes())
        pid = server_folder / "server.pid"
        with (outside / "postgresql.conf").open("a") as file:
            file.write(f"data_directory = '{world.folder}/data'\nexternal_pid_file = '{pid}'\n")
            file.write("hba_file = '/nowhere/pg_hba.conf'\ninclude_dir = 'conf.d'\n")
        find = 'for one in "$@"; do case $one in --pg1-path=*) to=${one#*=};; esac; done'
        bare = 'case "$*" in *restore) $REAL "$@" && rm $to/postgresql.conf; exit;; esac'
        action = world.action(program=program(world, find, bare), configuration=str(outside), place=place)
        source = world.folder / "data" / "pg_wal"
        before = sorted(path.name for path in source.iterdir())
        done = ask("restore", action, "", place, None)
        assert done.facts["rows"] == ROWS
        asyncio.run(Engine(Path(place), action.settings).serve(Stopwatch(LONG_S)))
        count = "SELECT count(*), current_setting('data_directory') FROM messages"
        assert sql(Path("127.0.0.1"), world.served, count) == f"{ROWS}|{place}"
        assert not pid.exists()
        assert sorted(path.name for path in source.iterdir()) == before
        own = (world.folder / "pgbackrest.conf").read_text().replace(f"{world.folder}/data", place)
        (world.places / "pgbackrest.conf").write_text(own)
        sql(Path("127.0.0.1"), world.served, "INSERT INTO messages VALUES (0)")
        switched = sql(Path("127.0.0.1"), world.served, "SELECT pg_walfile_name(pg_switch_wal())")
        deadline = time.monotonic() + 20.0
        while not list((world.folder / "repo1" / "archive").rglob(f"{switched}-*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        again = ask("restore", action, "", str(world.places / "again"), None)
        assert again.facts["rows"] == ROWS + 1, "what was written after the first restore"
        (world.places / "pgbackrest.conf").unlink()
        assert ask("clean_up", action, str(world.places / "again")) is None
        assert ask("clean_up", action, place) is None
        (outside / "conf.d" / "wrong.conf").write_text("no_such_setting = 1\n")
        error = ask("restore", action, "", place, None)
        assert error.code == "setting-wrong", "a wrong configuration is no damage"
        assert not Path(place).exists()


@pytest.mark.parametrize(("program", "suffix"), [("zstd", ".zst"), ("lz4", ".lz4"), ("bzip2", ".bz2")])
def test_the_end_of_the_log_is_read_however_it_is_packed(
    server_folder: Path, program: str, suffix: str
) -> None:
    with store(server_folder) as world:
        (packed,) = (world.folder / "repo1" / "archive").rglob("*0003-*.gz")
        content = zlib.decompress(packed.read_bytes(), GZIP)
        settings = world.action().settings
    watch = Stopwatch(LONG_S)
    name = packed.name.removesuffix(".gz")
    again = subprocess.run((program, "-c"), input=content, capture_output=True, check=True).stdout
    ends = [
        asyncio.run(last_commit(*one, settings, watch)) for one in ((name, content), (name + suffix, again))
    ]
    assert ends[0] == ends[1] is not None
    with pytest.raises(Permanent, match="cannot be unpacked"):
        asyncio.run(last_commit(f"{name}.gz", again, settings, watch))


def damage(path: Path, chance: random.Random) -> None:
    """Flips a byte at a random place where that changes what is read: gzip pads its blocks with bits that
    mean nothing.
    """
    whole = path.read_bytes()
    content = zlib.decompress(whole, GZIP)
    while True:
        flip(path, chance.randrange(len(whole)))
        try:
            if zlib.decompress(path.read_bytes(), GZIP) != content:
                return
        except zlib.error:
            return
        path.write_bytes(whole)


def archived(world: Store) -> Path:
    """A segment with a new row, once it is in the first repository."""
    sql(world.folder, world.port, "INSERT INTO messages VALUES (0)")
    name = sql(world.folder, world.port, "SELECT pg_walfile_name(pg_switch_wal())")
    return in_archive(world, f"{name}-*")


def in_archive(world: Store, pattern: str) -> Path:
    archive, deadline = world.folder / "repo1" / "archive", time.monotonic() + LONG_S
    while not (found := [one for one in archive.rglob(pattern) if one.suffix != ".tmp"]):
        assert time.monotonic() < deadline, pattern
        time.sleep(0.02)
    return found[0]


@contextmanager
def stopped(world: Store) -> Iterator[Path]:
    """The data of a store that is stopped cleanly, and started again afterwards."""
    data = world.folder / "data"
    control(data, "-m", "fast", "stop")
    yield data
    control(data, "start", options=f"-c unix_socket_directories={world.folder} -c port={world.port}")


def promoted(world: Store) -> Path:
    """The history file of the store's next timeline."""
    with stopped(world) as data:
        (data / "standby.signal").touch()
        give(data)
    control(data, "promote")
    return in_archive(world, "00000002.history")


def test_a_gap_in_the_log_is_damage_and_no_restore_ends_at_it(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery takes a gap for the end of the log, and `verify` passes it. A segment that only arrives later
    than the next one is no gap.
    """
    place, held = str(server_folder / "places" / "here"), server_folder / "held"
    monkeypatch.setattr(archive, "PAUSE_S", 0.01)
    with store(server_folder, runs=True) as world:
        moment = next_second()
        files = [archived(world), archived(world), archived(world)]
        history = promoted(world)
        later = [archived(world), archived(world)]
        for path in (files[1], later[0], history):
            name = path.name.partition("-")[0]
            path.rename(held)
            proof = ask("prove", world.action(), READ, 1, 1)
            assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt")
            assert f"{name} of the archived WAL is missing" in proof.detail
            error = ask("restore", world.action(), "", place, None)
            assert (error.code, world.around()) == ("archive-damaged", []), error
            assert name in error.message
            held.rename(path)
        files[2].rename(held)
        assert ask("restore", world.action(), "", place, moment).facts["rows"] == ROWS, "before the gap"
        assert ask("clean_up", world.action(), place) is None
        look = archive._missing

        async def arrives(*given: Any) -> Any:
            found = await look(*given)
            if held.exists():
                held.rename(files[2])
            return found

        monkeypatch.setattr(archive, "_missing", arrives)
        assert ask("prove", world.action(), READ, 1, 1).outcome == "passed"
        assert not held.exists()
        assert ask("restore", world.action(), "", place, None).facts["rows"] == ROWS + 5


def test_a_backup_may_begin_in_the_first_segment_of_4_gib(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of that segment fits every size, and what is archived of it is compressed."""
    monkeypatch.setattr(archive, "PAUSE_S", 0.01)
    with store(server_folder, runs=True) as world:
        with stopped(world) as data:
            before = ("-l", "0000000100000000000000FF", "-D", str(data))
            as_owner(f"{program_folder()}/pg_resetwal", *before)
        assert ask("take", world.action()).missing == ()
        gap = [archived(world) for _ in range(3)][1]
        begin = in_archive(world, "000000010000000100000000-*")
        assert begin.stat().st_size < min(SIZES)
        assert ask("prove", world.action(), READ, 1, 1).outcome == "passed"
        gap.unlink()
        proof = ask("prove", world.action(), READ, 1, 1)
        assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt")
        assert f"{gap.name.partition('-')[0]} of the archived WAL is missing" in proof.detail


def test_a_backup_of_a_stopped_server_names_no_log(server_folder: Path) -> None:
    """Its proof checks the log from the newest other backup on."""
    with store(server_folder, runs=True) as world:
        with stopped(world):
            where = (f"--config={world.folder}/pgbackrest.conf", "--stanza=m", "--repo=1")
            as_owner("pgbackrest", *where, "--no-online", "--type=full", "backup")
        gap = [archived(world) for _ in range(3)][1]
        assert ask("prove", world.action(), READ, 1, 1).outcome == "passed"
        place = str(world.places / "here")
        assert ask("restore", world.action(), "", place, None).facts["rows"] == ROWS + 3
        gap.unlink()
        proof = ask("prove", world.action(), READ, 1, 1)
        assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt"), proof


def test_a_flipped_bit_in_either_file_of_the_catalogue_is_found(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pgBackRest reads the other one, and says so nowhere: both must be sound."""
    monkeypatch.setattr("evac.drivers.pgbackrest.driver.CATALOGUE_PAUSE_S", 0.01)
    chance = random.Random(2026)
    with store(server_folder) as world:
        repository = world.folder / "repo1"
        (manifest,) = (repository / "backup" / "m").glob("*F/backup.manifest")
        infos = [repository / "archive" / "m" / "archive.info", repository / "backup" / "m" / "backup.info"]
        for path in (manifest, *infos):
            for file in (path, path.with_name(f"{path.name}.copy")):
                before = file.read_bytes()
                flip(file, chance.randrange(len(before)))
                proof = ask("prove", world.action(), READ, 1, 1)
                assert proof.outcome == "damaged", file
                assert path.name in proof.detail, proof.detail
                file.write_bytes(before)
        assert ask("prove", world.action(), READ, 1, 1).outcome == "passed"


@pytest.mark.parametrize(
    ("status", "words", "outcome", "code"),
    [
        (
            103,
            "HTTP request failed with 503",
            "could-not-run",
            "backup-refused",
        ),
        (41, "unable to open file for read: [13] Permission denied", "could-not-run", "backup-forbidden"),
        (49, "unable to connect to host", "could-not-run", "backup-silent"),
        (29, "unable to read the file", "damaged", "backup-corrupt"),
        (95, "cipher header invalid", "damaged", "backup-corrupt"),
    ],
)
def test_only_damage_of_a_catalogue_counts_as_damage(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, words: str, outcome: str, code: str
) -> None:
    monkeypatch.setattr("evac.drivers.pgbackrest.driver.CATALOGUE_PAUSE_S", 0.01)
    with store(server_folder) as world:
        fails = f'case "$*" in *backup.info.copy) echo "ERROR: {words}" >&2; exit {status};; esac'
        proof = ask("prove", world.action(program=program(world, fails)), READ, 1, 1)
        assert (proof.outcome, proof.code) == (outcome, code), proof.detail


def test_a_catalogue_that_may_not_be_read_is_not_damaged(server_folder: Path) -> None:
    """As pgBackRest itself says it, on the standard output of `repo-get` unless asked otherwise."""
    with store(server_folder) as world:
        (world.folder / "repo1" / "backup" / "m" / "backup.info.copy").chmod(0)
        proof = ask("prove", world.action(), READ, 1, 1)
        assert (proof.outcome, proof.code) == ("could-not-run", "backup-forbidden"), proof.detail
        asyncio.run(world.spoil())
        assert ask("prove", world.action(), READ, 1, 1).outcome == "damaged", "what verify found counts"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (
            "[051]: PostgreSQL version 15 do not match stanza version 15",
            "backup-other-repository",
        ),
        ("[056]: unable to find primary cluster - cannot proceed", "source-silent"),
    ],
)
def test_a_backup_that_cannot_begin_names_the_reason(server_folder: Path, words: str, code: str) -> None:
    with store(server_folder) as world:
        fails = f'case "$*" in *" backup") echo "{words}" >&2; exit 51;; esac'
        assert ask("take", world.action(program=program(world, fails))).code == code


def test_a_log_that_is_not_archived_is_named(server_folder: Path) -> None:
    """As when `archive_command` cannot write to a full repository: pgBackRest only says that it waited."""
    with store(server_folder, runs=True) as world:
        for statement in ("ALTER SYSTEM SET archive_command = 'false pgbackrest'", "SELECT pg_reload_conf()"):
            sql(world.folder, world.port, statement)
        error = ask("take", world.action(env=("PGBACKREST_ARCHIVE_TIMEOUT=2",)))
    assert error.code == "archive-late"
    assert "archive_command" in error.hint


def test_every_flipped_byte_of_fifty_is_found(server_folder: Path) -> None:
    """At random places of the backup, and of a segment that was archived after it."""
    chance = random.Random(2022)
    with store(server_folder) as world:
        files = sorted((world.folder / "repo1" / "backup").rglob("pg_data/**/*.gz"))
        for path in chance.sample(files, 49):
            damage(path, chance)
        proof = ask("prove", world.action(), READ, 1, 1)
        assert proof.outcome == "damaged"
        valid, checked = re.findall(r"(\d+) of (\d+) files", proof.detail)[0]
        assert int(checked) - int(valid) == 49
    (server_folder / "log").mkdir()
    with store(server_folder / "log") as world:
        damage(max((world.folder / "repo1" / "archive").rglob("0000*-*.gz")), chance)
        assert ask("prove", world.action(), READ, 2, 2).outcome == "damaged"
