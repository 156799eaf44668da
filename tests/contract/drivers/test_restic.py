"""What restic does not say by itself, and what a repository may look like at three in the morning."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import READ, STRUCTURE
from evac.drivers.places import place_at
from evac.drivers.restic.driver import ResticDriver
from evac.model.errors import ActionError, Permanent, Retryable
from tests.contract.adapters.restic import PASSWORD, copies, flip, restic, write_files

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
LONG_S = 60.0


def ask(question: str, *given: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(ResticDriver(), question)(given[0], LONG_S, *given[1:])
        except ActionError as error:
            return error

    return asyncio.run(story())


def test_a_path_that_restic_leaves_out_is_missing(server_folder: Path) -> None:
    with copies(server_folder) as world:
        wanted = (str(world.data), "/nowhere/at/all")
        argv = ("backup", "--json", "--quiet", *wanted)
        said = restic(*argv, repository=server_folder / "served" / "one")
        assert "nowhere" not in said, "restic says it now: the guard may be simpler"
        taken = ask("take", world.action(paths=wanted))
        assert taken.missing == ("/nowhere/at/all",)
        listed = ask("list_copies", world.action(paths=wanted))
        assert [one.failed for one in listed.copies] == [True, True, True]


def test_a_witness_sees_what_a_restore_has_to_have(server_folder: Path, tmp_path: Path) -> None:
    with copies(server_folder) as world:
        saw = ask("witness", world.action())
        place = str(tmp_path / "place")
        restored = ask("restore", world.action(), "", place, None)
        assert dict(restored.facts) == saw
        ask("clean_up", world.action(), place)
        (world.data / "one more").write_text("changed")
        assert ask("witness", world.action()) != saw
        assert ask("witness", world.action(paths=(str(world.data), "/etc"))) == {}


def test_forget_on_an_append_only_server_deletes_nothing(server_folder: Path) -> None:
    with copies(server_folder) as world:
        ask("take", world.action())
        restic("forget", "--keep-last", "1", repository=f"rest:http://127.0.0.1:{world.port}/one/")
        listed = ask("list_copies", world.action())
        assert len(listed.copies) == 2, "forget ended with 0 and deleted nothing"
        assert listed.deletable is False
    with copies(server_folder / "open", "--no-verify-upload") as world:
        assert ask("list_copies", world.action()).deletable is True


def test_a_part_without_packs_proves_nothing(server_folder: Path) -> None:
    with copies(server_folder) as world:
        held = {int(pack.name[:2], 16) for pack in world.packs()}
        part = next(number for number in range(256) if number not in held) + 1
        empty = ask("prove", world.action(), READ, part, 256)
        assert (empty.outcome, empty.code, empty.bytes_read) == ("could-not-run", "nothing-read", 0)
        nothing = ask("prove", world.action("two"), READ, 1, 1)
        assert (nothing.outcome, nothing.code) == ("could-not-run", "nothing-read")


def test_a_restore_that_lost_files_and_ended_well_is_refused(server_folder: Path) -> None:
    """As restic did for a damaged snapshot: the last line says 11 of 12 files."""
    program = server_folder / "restic"
    program.write_text(
        f'#!/bin/sh\n{shutil.which("restic")} "$@" || exit $?\n'
        'case "$1" in restore) find "$(eval echo \\$$#)" -name file-3 -delete;; esac\n'
    )
    program.chmod(0o755)
    with copies(server_folder) as world:
        place = server_folder / "place"
        error = ask("restore", world.action(program=str(program)), "", str(place), None)
        assert isinstance(error, Permanent)
        assert error.code == "restore-incomplete"
        assert "11 of 12 files" in error.message
        assert not place.exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Load(<data/0>): connect: connection refused", "backup-silent"),
        ("write: no space left on device", "backup-full"),
        ("ciphertext verification failed", "restore-incomplete"),
    ],
)
def test_a_server_that_goes_away_in_the_middle_damages_nothing(
    server_folder: Path, words: str, code: str
) -> None:
    program = server_folder / "restic"
    program.write_text(
        f'#!/bin/sh\n{shutil.which("restic")} "$@" || exit $?\n'
        'case "$1" in restore) find "$(eval echo \\$$#)" -name file-3 -delete;'
        f" echo '{words}' >&2; exit 1;; esac\n"
    )
    program.chmod(0o755)
    with copies(server_folder) as world:
        place = server_folder / "place"
        error = ask("restore", world.action(program=str(program)), "", str(place), None)
        assert error.code == code
        assert not place.exists()


@contextmanager
def holding(world: Any) -> Iterator[None]:
    """Another restic holds the repository alone, and is stopped in the middle."""
    locks = world.folder / "served" / "one" / "locks"
    env = {"RESTIC_PASSWORD": PASSWORD, "PATH": os.environ["PATH"]}
    argv = ("restic", "check", "--read-data", "--no-cache", "-r", str(locks.parent))
    with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20.0
            while not any(locks.iterdir()):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            process.send_signal(signal.SIGSTOP)
            yield
        finally:
            process.kill()


def test_a_locked_repository_waits_and_the_lock_of_a_killed_program_does_not_last(
    server_folder: Path,
) -> None:
    with copies(server_folder) as world:
        with holding(world):
            assert ask("list_copies", world.action()).locked
            error = ask("take", world.action())
            assert isinstance(error, Retryable)
            assert error.code == "backup-locked"
            proof = ask("prove", world.action(), STRUCTURE, 1, 1)
            assert (proof.outcome, proof.code) == ("could-not-run", "backup-locked")
        assert ask("list_copies", world.action()).locked, "a killed program leaves its lock"
        assert ask("prove", world.action(), STRUCTURE, 1, 1).outcome == "passed"
        assert not ask("list_copies", world.action()).locked


def test_packs_that_a_killed_backup_left_do_not_stop_a_proof(server_folder: Path) -> None:
    with copies(server_folder) as world:
        read = sum(path.stat().st_size for path in world.packs())
        left = world.packs()[0].with_name(f"{world.packs()[0].name[:2]}{'0' * 62}")
        left.write_bytes(b"half of a backup")
        proof = ask("prove", world.action(), READ, 1, 1)
        assert (proof.outcome, proof.bytes_read) == ("passed", read)


def test_a_full_repository_says_so(server_folder: Path) -> None:
    with copies(server_folder, "--append-only", "--max-size", "150000") as world:
        write_files(world.data / "more", 20)

        async def story() -> None:
            with pytest.raises(Permanent) as raised:
                await ResticDriver().take(world.action(), 86_400.0)
            assert raised.value.code == "backup-full"

        asyncio.run(story())
        assert [one.failed for one in ask("list_copies", world.action()).copies] == [False]


def test_a_corrupt_index_is_damage_and_no_copy(server_folder: Path) -> None:
    with copies(server_folder) as world:
        (index,) = (server_folder / "served" / "one" / "index").iterdir()
        flip(index)
        proof = ask("prove", world.action(), STRUCTURE, 1, 1)
        assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt")
        place = server_folder / "place"
        assert isinstance(ask("restore", world.action(), "", str(place), None), Permanent)
        assert not place.exists()


def test_what_a_killed_restore_left_is_started_over(server_folder: Path) -> None:
    with copies(server_folder) as world:
        at = place_at(str(server_folder / "place"))
        at.partial.mkdir()
        (at.partial / "half").write_text("of a file")
        with at.held():  # a program that outlived its evac still writes there
            error = ask("restore", world.action(), "", str(at.path), None)
            assert isinstance(error, Retryable)
            assert error.code == "restore-under-way"
        done = ask("restore", world.action(), "", str(at.path), None)
        assert done.facts["started_over"] == 1
        assert not (at.path / "half").exists()
