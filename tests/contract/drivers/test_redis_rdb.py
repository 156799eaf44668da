"""What Redis does not say by itself about its RDB files."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.redis_rdb.driver import RedisRdbDriver
from evac.model.errors import ActionError, Permanent
from tests.contract.adapters.command import script
from tests.contract.adapters.copy_folder import World, world
from tests.contract.adapters.redis_rdb import PASSWORD, RedisSource

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def ask(question: str, *given: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(RedisRdbDriver(), question)(given[0], 30.0, *given[1:])
        except ActionError as error:
            return error

    return asyncio.run(story())


def program(made: World, *lines: str) -> str:
    """A redis-cli of ours in front of the real one."""
    return script(made.folder, "redis-cli", *lines, f'exec {shutil.which("redis-cli")} "$@"')


def test_a_witness_agrees_although_a_key_expires(server_folder: Path) -> None:
    with world(server_folder, RedisSource) as made:
        seen = ask("witness", made.action())
        assert seen["newest"] == "99"
        restored = ask("restore", made.action(), "", str(made.place), None)
        assert restored.facts["lasting_keys"] == 101, "the key that expires is not counted"
        assert seen.keys() == restored.facts.keys()
        assert restored.facts["newest"] == seen["newest"]


def test_half_a_file_and_an_error_that_ends_well_are_no_backup(server_folder: Path) -> None:
    with world(server_folder, RedisSource) as made:
        half = program(
            made,
            "for last; do :; done",
            f'case "$*" in *--rdb*) {shutil.which("redis-cli")} "$@" && truncate -s 300 "$last"; exit;; esac',
        )
        error = ask("take", made.action(program=half))
        assert isinstance(error, Permanent)
        assert error.code == "backup-incomplete"
        assert len(made.copies) == 1
        (made.folder / "wrong").write_text("another password")
        (made.folder / "wrong").chmod(0o600)
        for question in ("take", "witness"):
            error = ask(question, made.action(password=f"file:{made.folder}/wrong"))
            assert error.code == "backup-password", question
            assert PASSWORD not in f"{error!r}"
        assert ask("take", made.action(port=1)).code == "backup-silent"


def test_a_full_disk_is_named(server_folder: Path) -> None:
    """Of one, redis-cli says no more than this."""
    said = "sending REPLCONF capa eof ... Error writing data to file: short write"
    with world(server_folder, RedisSource) as made:
        full = program(made, f'case "$*" in *--rdb*) echo "{said}" >&2; exit 1;; esac')
        before = len(ask("list_copies", made.action()).copies)
        assert ask("take", made.action(program=full)).code == "backup-full"
        assert len(ask("list_copies", made.action()).copies) == before


def test_a_wrong_configuration_is_no_damage(server_folder: Path) -> None:
    """Only an empty server tells which of the two it is: Redis ends in the same way for both."""
    with world(server_folder, RedisSource) as made:
        wrong = made.folder / "wrong.conf"
        for line in ("no-such-setting yes", "maxmemory-policy often", f"loadmodule {made.folder}/none.so"):
            wrong.write_text(f"{line}\n")
            error = ask("restore", made.action(configuration=str(wrong)), "", str(made.place), None)
            assert (error.code, made.place.exists()) == ("setting-wrong", False), error
        error = ask("restore", made.action(configuration="/no/such.conf"), "", str(made.place), None)
        assert error.code == "setting-wrong"
        fits = f'case "$*" in *"/empty "*) exec {shutil.which("redis-server")} "$@"; esac; exit 1'
        picky = script(made.folder, "redis-server", fits)
        Path(picky).chmod(0o755)  # it runs as the account of Redis
        error = ask("restore", made.action(server_program=picky), "", str(made.place), None)
        assert error.code == "restore-incomplete", "it starts without this data"
