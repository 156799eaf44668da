"""Base backups return to a moment; a gap or a flipped byte in the archived log is found by a proof."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.backups import Stopwatch
from evac.drivers.capabilities import READ
from evac.drivers.copy_folder import copy_folder
from evac.drivers.pg_basebackup.driver import SYSTEM_AT, PgBasebackupDriver, archive_problems
from evac.drivers.restored_postgres import Engine
from evac.model.errors import ActionError
from tests.contract.adapters.copy_folder import world
from tests.contract.adapters.pg_basebackup import PostgresSource
from tests.contract.adapters.pgbackrest import give
from tests.contract.adapters.restic import flip

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def ask(question: str, *given: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(PgBasebackupDriver(), question)(given[0], 60.0, *given[1:])
        except ActionError as error:
            return error

    return asyncio.run(story())


def switched(source: PostgresSource) -> None:
    """The segment so far is in the archive."""
    name = source.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    source.sql("SELECT pg_switch_wal()")
    deadline = time.monotonic() + 20.0
    while not (source.folder / "archive" / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refuses_any_flip(checked: Any, segment: Path) -> None:
    """Bytes in and between records, in headers, and after the end of the log."""
    chance, content = random.Random(2022), segment.read_bytes()
    used = len(content.rstrip(b"\0"))
    places = {SYSTEM_AT, *(chance.randrange(used) for _ in range(60)), chance.randrange(used, len(content))}
    for at in sorted(places - {2}):  # its flag may have both values
        flip(segment, at)
        assert asyncio.run(archive_problems(*checked, Stopwatch(20.0))) != [], at
        segment.write_bytes(content)
    assert asyncio.run(archive_problems(*checked, Stopwatch(20.0))) == []


def reads_the_own_segments_of_a_backup(action: Any, content: Path, segment: Path) -> None:
    """PostgreSQL takes a segment from the archive even if the backup includes it. segment: the one before the
    first in the backup, which is added to it meanwhile.
    """
    added = content / "pg_wal" / segment.name
    shutil.copyfile(segment, added)
    copies = [one for one in copy_folder(action).copies() if one.content == content]
    before = segment.read_bytes()
    flip(segment, len(before.rstrip(b"\0")) - 40)
    driver, watch = PgBasebackupDriver(), Stopwatch(20.0)
    for looked in (
        archive_problems(action, content, copies[0].report.source, watch),
        driver._look_at_log(action, copies, 1, 1, watch),
    ):
        (problem,) = asyncio.run(looked)
        assert segment.name in problem or "damaged" in problem, problem
    segment.write_bytes(before)
    added.unlink()


def served_twice(engine: Engine) -> None:
    """A server that was too busy to answer is not started again, and not called broken."""

    async def story() -> None:
        try:
            await engine.serve(Stopwatch(30.0))
            first = (engine.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0]
            await engine.serve(Stopwatch(30.0))
            assert (engine.data / "postmaster.pid").read_text(encoding="utf-8").startswith(f"{first}\n")
        finally:
            await engine.stop()

    asyncio.run(story())


def last_segment(content: Path) -> str:
    return max(path.name for path in (content / "pg_wal").iterdir() if len(path.name) == 24)


def test_a_store_returns_to_a_moment_and_its_log_is_read(server_folder: Path) -> None:
    with world(server_folder, PostgresSource) as made:
        source = made.source
        assert isinstance(source, PostgresSource)
        source.sql(
            "DELETE FROM messages"
        )  # other tests write into it, and compare its files, which this keeps
        source.sql("INSERT INTO messages SELECT generate_series(1, 1000)")
        taken = ask("take", made.action())
        assert ask("witness", made.action()) == {"rows": 1_000}
        moment = taken.copy.consistent_at
        while time.time() < moment + 0.2:
            time.sleep(0.02)
        source.sql("INSERT INTO messages SELECT generate_series(1, 5)")  # the mistake
        switched(source)
        source.sql("INSERT INTO messages VALUES (0)")
        switched(source)
        archive = made.folder / "archive"
        shutil.copytree(source.folder / "archive", archive)
        action = made.action(archive=str(archive))
        if os.geteuid() == 0:
            error = ask("restore", action, "", str(made.place), None)
            assert error.code == "backup-forbidden", "it came back without what its owner may not read"
            give(archive)

        latest = ask("restore", action, "", str(made.place), None)
        assert not isinstance(latest, ActionError), latest
        assert latest.facts == {"rows": 1_006}
        served_twice(Engine(made.place, action.settings))
        there = str(made.folder / "places" / "there")
        assert ask("restore", action, "", there, moment).facts == {"rows": 1_000}
        for settings, until, code in (
            (action, int(time.time()) + 60, "moment-uncovered"),
            (made.action(), moment, "moment-uncovered"),
            (made.action(archive="/nowhere/at/all"), moment, "backup-no-repository"),
        ):
            nowhere = str(made.folder / "places" / "nowhere")
            assert ask("restore", settings, "", nowhere, until).code == code

        proof = ask("prove", action, READ, 1, 1)
        assert proof.outcome == "passed", proof
        before, last = sorted(path for path in archive.iterdir() if len(path.name) == 24)[-2:]
        kept = copy_folder(action).copies()[-1]
        checked = (action, kept.content, kept.report.source)
        for segment in (archive / last_segment(kept.content), last):
            refuses_any_flip(checked, segment)
        before.rename(made.folder / before.name)
        (problem,) = asyncio.run(archive_problems(*checked, Stopwatch(20.0)))
        assert problem == f"the segment {before.name} of the archived WAL is missing"
        nowhere = made.folder / "places" / "nowhere"
        error = ask("restore", action, "", str(nowhere), None)
        assert (error.code, error.message) == (
            "archive-damaged",
            f"the newest state cannot be restored: {problem}",
        )
        assert not nowhere.exists() or not any(nowhere.iterdir())


def test_the_log_between_two_backups_and_of_later_timelines_is_read(server_folder: Path) -> None:
    with world(server_folder, PostgresSource) as made:
        source = made.source
        assert isinstance(source, PostgresSource)
        source.change()
        switched(source)
        source.change()
        switched(source)
        assert not isinstance(ask("take", made.action()), ActionError)
        source.change()
        switched(source)
        archive = made.folder / "archive"
        other = shutil.ignore_patterns("00000002*")  # a server that another test restored archives there too
        shutil.copytree(source.folder / "archive", archive, ignore=other)
        give(archive)
        action = made.action(archive=str(archive))
        older, newer = (one.content for one in copy_folder(action).copies())
        between = [
            archive / name
            for name in sorted(path.name for path in archive.iterdir() if len(path.name) == 24)
            if last_segment(older) < name < last_segment(newer)
        ]
        assert len(between) >= 2
        proof = ask("prove", action, READ, 1, 1)
        assert proof.outcome == "passed", proof
        for segment in between:
            content = segment.read_bytes()
            flip(segment, len(content.rstrip(b"\0")) - 40)
            proof = ask("prove", action, READ, 1, 1)
            assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt")
            segment.write_bytes(content)
        reads_the_own_segments_of_a_backup(action, newer, between[-1])
        between[0].unlink()
        assert ask("prove", action, READ, 1, 1).outcome == "passed", "a retention removed it"

        last = max(path for path in archive.iterdir() if len(path.name) == 24)
        branch = archive / f"00000002{last.name[8:]}"
        branch.write_bytes(last.read_bytes())
        give(archive)
        proof = ask("prove", action, READ, 1, 1)
        gone = "the file 00000002.history of the archived WAL is missing"
        assert (proof.outcome, proof.detail) == ("damaged", gone)
        fork = (int(last.name[16:], 16) << 24) + 0x100
        (archive / "00000002.history").write_text(f"1\t{int(last.name[8:16], 16):X}/{fork:X}\tby a test\n")
        give(archive)
        assert ask("prove", action, READ, 1, 1).outcome == "passed"
        flip(branch, 60)
        assert ask("prove", action, READ, 1, 1).outcome == "damaged"
        error = ask("restore", action, "", str(made.place), None)
        assert error.code == "archive-damaged", error


def test_a_tablespace_and_a_password_in_the_estate_are_refused(server_folder: Path) -> None:
    with world(server_folder, PostgresSource) as made:
        source = made.source
        assert isinstance(source, PostgresSource)
        error = ask("take", made.action(source=f"{made.action().settings['source']} password=quiet"))
        assert error.code == "secret-in-clear"
        assert ask("witness", made.action(source="host=127.0.0.1 port=1")).code == "backup-silent"
        elsewhere = source.folder / "elsewhere"
        elsewhere.mkdir()
        shutil.chown(elsewhere, (source.folder / "data").owner())
        source.sql(f"CREATE TABLESPACE fast LOCATION '{elsewhere}'")
        try:
            assert ask("take", made.action()).code == "backup-unsupported"
        finally:
            source.sql("DROP TABLESPACE fast")
        assert len(made.copies) == 1
