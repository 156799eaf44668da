"""Backups whose rate is limited take the time that their bytes need, and are as complete as others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import READ
from evac.drivers.mariabackup.driver import MariabackupDriver
from evac.drivers.restic.driver import ResticDriver
from evac.model.errors import ActionError
from tests.contract.adapters.command import script
from tests.contract.adapters.copy_folder import Source, World, world
from tests.contract.adapters.mariabackup import MariadbSource
from tests.contract.adapters.pg_basebackup import PostgresSource
from tests.contract.adapters.redis_rdb import RedisSource
from tests.contract.adapters.restic import copies
from tests.contract.capabilities.asked import unrecorded

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
SECONDS = 2
KIB = 1_024


def ask(made: World, question: str, *given: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(made.source.driver(), question)(given[0], 120.0, *given[1:])
        except ActionError as error:
            return error

    return asyncio.run(story())


def needed_ms(size: int, kib: int) -> float:
    """How long so many bytes take at the limit. A quarter of a second of them may be on their way."""
    return size / (kib * KIB) * 1_000 - 250


def limited_bytes(copy: Path) -> int:
    """Bytes of a backup, without the log that a server sends meanwhile, which has no limit."""
    files = [path for path in (copy / "content").rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if "pg_wal" not in path.parts)


def names_of(copy: Path) -> set[str]:
    """Files of a backup, without the log. mariadb-backup writes `.new` for tables created meanwhile."""
    below = copy / "content"
    files = (path.relative_to(below) for path in below.rglob("*") if path.is_file())
    return {str(path).replace(".new", ".ibd") for path in files if "pg_wal" not in path.parts}


@pytest.mark.parametrize("kind", [RedisSource, MariadbSource, PostgresSource])
def test_a_limited_backup_takes_as_long_as_its_bytes_need_and_is_whole(
    server_folder: Path, kind: type[Source]
) -> None:
    with world(server_folder, kind) as made:
        kib = max(1, limited_bytes(made.copies[0]) // KIB // SECONDS)
        asyncio.run(made.change())
        taken = ask(made, "take", made.action(upload_kib=kib))
        assert not isinstance(taken, ActionError), taken
        copy = made.folder / "one" / "store-messages" / taken.copy.id
        assert taken.took_ms >= needed_ms(limited_bytes(copy), kib)
        missing = names_of(made.copies[0]) - names_of(copy)
        added = sorted(names_of(copy) - names_of(made.copies[0]))  # by a vacuum in between
        assert not missing, f"instead of these, the second backup has {added}"

        seen = ask(made, "witness", made.action())
        restored = ask(made, "restore", made.action(), taken.copy.id, str(made.place), None)
        assert {name: restored.facts[name] for name in seen} == seen
        assert ask(made, "prove", made.action(), READ, 1, 1).outcome == "passed"

        size = taken.copy.bytes
        kib = max(1, size // KIB // SECONDS)
        copied = ask(made, "copy_on", made.action(download_kib=kib), made.action("two"), unrecorded)
        assert copied.took_ms >= needed_ms(size, kib)


def test_a_limited_backup_that_cannot_be_unpacked_is_none(server_folder: Path) -> None:
    with world(server_folder, MariadbSource) as made:
        words = "echo No space left on device >&2; exit 1"
        full = script(made.folder, "full", "head -c 100000 >/dev/null", words)
        endless = script(made.folder, "endless", "exec sleep 600")
        silent = script(made.folder, "silent", "cat >/dev/null")
        cases = {full: "backup-full", "/nowhere/mbstream": "backup-tool-missing", silent: "backup-incomplete"}
        for program, code in cases.items():
            error = ask(made, "take", made.action(upload_kib=1 << 20, unpack_program=program))
            assert isinstance(error, ActionError), program
            assert error.code == code

        async def slow() -> None:
            action = made.action(upload_kib=1 << 20, unpack_program=endless)
            await MariabackupDriver().take(action, 3.0)

        with pytest.raises(ActionError):
            asyncio.run(slow())
        assert len(made.copies) == 1
        assert list(made.copies[0].parent.glob(".partial*")) == []


def test_a_check_of_restic_keeps_to_the_limit(server_folder: Path) -> None:
    with copies(server_folder) as made:
        size = sum(path.stat().st_size for path in made.packs())
        kib = max(1, size // KIB // (2 * SECONDS))
        proof = asyncio.run(ResticDriver().prove(made.action(download_kib=kib), 120.0, READ, 1, 1))
        assert (proof.outcome, proof.bytes_read) == ("passed", size)
        assert proof.took_ms >= needed_ms(size, kib) - 1_000, "restic's limit begins with a second's worth"
