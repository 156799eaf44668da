"""What restic does not say by itself, and what a repository may look like at three in the morning."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from evac.backup.known import Job
from evac.drivers.capabilities import READ, STRUCTURE
from evac.drivers.places import EarlyDigests, place_at
from evac.drivers.restic.driver import ResticDriver
from evac.model.errors import ActionError, Permanent, Retryable
from tests.contract.adapters.restic import Copies, copies, restic, write_files
from tests.contract.capabilities.asked import unrecorded
from tests.contract.capabilities.test_backups_in_trouble import controller, digests, task
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
LONG_S = 60.0
DAY_S = 86_400.0
How = Literal["silent", "reset"]


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
        (world.data / "large").write_bytes(os.urandom(3 << 20))  # read while restic restores the others
        ask("take", world.action())
        saw = ask("witness", world.action())
        place = str(tmp_path / "place")
        restored = ask("restore", world.action(), "", place, None)
        assert dict(restored.facts) == saw
        ask("clean_up", world.action(), place)
        (world.data / "one more").write_text("changed")
        assert ask("witness", world.action()) != saw
        assert ask("witness", world.action(paths=(str(world.data), "/etc"))) == {}
        # A data set may be one file, whatever its name means as a pattern.
        (world.data / "a [1]*.txt").write_text("one")
        (world.data / "a 1.txt").write_text("another")
        alone = world.action(paths=(str(world.data / "a [1]*.txt"),))
        ask("take", alone)
        restored = ask("restore", alone, "", place, None)
        assert [path.name for path in Path(place).iterdir()] == ["a [1]*.txt"]
        assert dict(restored.facts) == ask("witness", alone) != {}


def counted(folder: Path) -> tuple[str, Callable[[], list[str]]]:
    """A restic that notes what it is used for, and a function that returns that and forgets it."""
    program, log = folder / "restic", folder / "calls"
    program.write_text(f'#!/bin/sh\necho "$1" >> {log}\nexec {shutil.which("restic")} "$@"\n')
    program.chmod(0o755)

    def calls() -> list[str]:
        found = sorted(log.read_text().split()) if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    return str(program), calls


def test_the_key_of_a_repository_is_derived_no_more_often_than_needed(server_folder: Path) -> None:
    """Each use of the password takes half a second; names and the sealed configuration need none."""
    program, calls = counted(server_folder)

    async def story(world: Copies) -> None:
        driver, action = ResticDriver(), world.action(program=program)
        taken = await driver.take(action, LONG_S)
        assert calls() == ["backup", "cat", "snapshots"]
        assert taken.copy.paths == (str(world.data),)
        listing = await driver.list_copies(action, LONG_S)
        assert (calls(), listing.copies[-1].id, listing.locked) == (["version"], taken.copy.id, False)
        await driver.prove(action, LONG_S, READ, 1, 1)
        assert calls() == ["check"]
        first = await driver.restore(action, LONG_S, "", str(server_folder / "first"), None)
        assert (calls(), first.copy) == (["restore"], taken.copy.id)
        restic("backup", "--quiet", str(world.data), repository=server_folder / "served" / "one")
        second = await driver.restore(action, LONG_S, "", str(server_folder / "second"), None)
        assert (calls(), second.copy != first.copy) == (["restore", "snapshots"], True)

    with copies(server_folder) as world:
        asyncio.run(story(world))


@pytest.mark.parametrize("served", [True, False])
def test_another_repository_at_the_same_url_is_noticed_at_once(server_folder: Path, served: bool) -> None:
    """Also within the minute in which answers are used again."""

    async def story(world: Copies) -> None:
        folder = server_folder / "served"
        where = {} if served else {"repository": str(folder / "one")}
        driver = ResticDriver()
        first = await driver.list_copies(world.action(**where), LONG_S)
        pinned = world.action(repository_id=first.repository, **where)
        assert (await driver.list_copies(pinned, LONG_S)).copies == first.copies
        (folder / "one").rename(folder / "away")
        (folder / "two").rename(folder / "one")
        other = await driver.list_copies(world.action(**where), LONG_S)
        assert (other.repository != first.repository, other.copies) == (True, ())
        for asked in (
            driver.list_copies(pinned, LONG_S),
            driver.take(pinned, LONG_S),
            driver.restore(pinned, LONG_S, "", str(server_folder / "place"), None),
        ):
            with pytest.raises(Permanent) as raised:
                await asked
            assert raised.value.code == "backup-other-repository"
        proof = await driver.prove(pinned, LONG_S, READ, 1, 1)
        assert (proof.outcome, proof.code) == ("could-not-run", "backup-other-repository")

    with copies(server_folder) as world:
        asyncio.run(story(world))


def test_forget_on_an_append_only_server_deletes_nothing(server_folder: Path) -> None:
    with copies(server_folder) as world:
        ask("take", world.action())
        restic("forget", "--keep-last", "1", repository=f"rest:http://127.0.0.1:{world.port}/one/")
        listed = ask("list_copies", world.action())
        assert len(listed.copies) == 2, "forget ended with 0 and deleted nothing"
        assert listed.deletable is False
    with copies(server_folder / "open", "--no-verify-upload") as world:
        assert ask("list_copies", world.action()).deletable is True


def test_a_copy_that_is_not_there_afterwards_is_none(server_folder: Path) -> None:
    """`copy --json` prints no JSON, so the exit status is all that restic says of it."""
    program = server_folder / "restic"
    program.write_text(f'#!/bin/sh\n[ "$1" = copy ] || exec {shutil.which("restic")} "$@"\n')
    program.chmod(0o755)
    with copies(server_folder) as world:
        error = ask("copy_on", world.action(), world.action("two", program=str(program)), unrecorded)
        assert isinstance(error, Permanent)
        assert error.code == "copy-differs"
        assert ask("copy_on", world.action(), world.action("two"), unrecorded).copy.original


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


def test_a_restore_that_fails_while_files_are_read_stops_nothing_else(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases are renewed on the same event loop."""
    program = server_folder / "restic"
    program.write_text(
        f'#!/bin/sh\n{shutil.which("restic")} "$@" || exit $?\n'
        "case \"$1\" in restore) echo 'write: no space left on device' >&2; exit 1;; esac\n"
    )
    program.chmod(0o755)
    ticked = threading.Event()

    class Reading(EarlyDigests):
        """Takes as long to stop as the event loop needs for something else."""

        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.loop = asyncio.get_running_loop()

        def close(self) -> None:
            self.loop.call_soon_threadsafe(ticked.set)
            assert ticked.wait(20.0), "the event loop waits for the readers"
            super().close()

    monkeypatch.setattr("evac.drivers.restic.driver.EarlyDigests", Reading)
    with copies(server_folder) as world:
        error = ask("restore", world.action(program=str(program)), "", str(server_folder / "place"), None)
    assert (error.code, ticked.is_set()) == ("backup-full", True)


def test_a_damaged_index_is_damage_to_every_job_that_needs_it(server_folder: Path) -> None:
    with copies(server_folder, "--no-verify-upload") as world:
        asyncio.run(world.corrupt())
        taken = ask("take", world.action())
        assert (taken.code, taken.message) == ("backup-corrupt", "restic: the index is damaged")
        assert "restic repair index" in taken.hint
        place = server_folder / "place"
        restored = ask("restore", world.action(), "", str(place), None)
        assert restored.code == "restore-incomplete"
        assert "0 of 12 files" in restored.message
        assert restored.message.endswith("were restored (restic: the index is damaged)")
        assert not place.exists()


@pytest.mark.parametrize("question", ["list_copies", "take", "prove", "restore"])
def test_a_server_that_takes_no_connection_is_named_at_once(server_folder: Path, question: str) -> None:
    """restic would try again for a quarter of an hour."""
    program, calls = counted(server_folder)
    with copies(server_folder) as world:
        given: dict[str, tuple[object, ...]] = {
            "prove": (READ, 1, 1),
            "restore": ("", str(server_folder / "place"), None),
        }
        world.end()
        found = ask(question, world.action(program=program), *given.get(question, ()))
        assert found.code == "backup-silent"
        words = found.detail if question == "prove" else found.message
        assert f"127.0.0.1:{world.port}" in words
        assert set(calls()) <= {"version"}, "restic was not asked"
        assert not (server_folder / "place").exists()


def test_a_locked_repository_waits_and_the_lock_of_a_killed_program_does_not_last(
    server_folder: Path,
) -> None:
    with copies(server_folder) as world:
        with world.held():
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


@contextmanager
def days() -> Iterator[Callable[[], None]]:
    """A function that lets a day pass for all that waits in this loop: limits of hours end at once, and only
    after what they wait for has gone wrong.
    """
    loop, passed = asyncio.get_running_loop(), 0.0
    true_time = loop.time

    def one_passes() -> None:
        nonlocal passed
        passed += DAY_S

    loop.time = lambda: true_time() + passed  # type: ignore[method-assign]
    try:
        yield one_passes
    finally:
        loop.time = true_time  # type: ignore[method-assign]


class Wire:
    """A connection to a server that lets so many bytes through to it, and then is silent or breaks."""

    def __init__(self, port: int) -> None:
        self.port, self.to = free_port(), port
        self.left: int | None = None
        self.how: How = "silent"
        self.passed = 0
        self.is_cut = False
        self._serving: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[None]:
        with days() as self._day_passes:
            server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            try:
                yield
            finally:
                server.close()
                for serving in self._serving:
                    serving.cancel()
                await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = asyncio.current_task()
        assert mine is not None
        self._serving.append(mine)
        if self.is_cut:
            self._day_passes()
        ends = [writer]
        try:
            there = await asyncio.open_connection("127.0.0.1", self.to)
            ends.append(there[1])
            await asyncio.gather(self._pass(reader, there[1], True), self._pass(there[0], writer, False))
        except OSError:
            pass
        finally:
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: bool) -> None:
        with contextlib.suppress(OSError):
            while part := await reader.read(16_384):
                if there and self.left is not None and self.passed + len(part) > self.left:
                    self._cut()
                if self.is_cut:
                    if self.how == "reset":
                        writer.transport.abort()
                        raise ConnectionResetError
                    await asyncio.Event().wait()
                self.passed += len(part) if there else 0
                writer.write(part)
                await writer.drain()
        writer.close()

    def _cut(self) -> None:
        if not self.is_cut:
            self.is_cut = True
            self._day_passes()

    def mend(self) -> None:
        self.left, self.is_cut, self.passed = None, False, 0


@pytest.mark.parametrize("how", ["silent", "reset"])
@pytest.mark.parametrize("job", ["take", "copy"])
def test_a_network_that_goes_away_in_the_middle_costs_one_window(
    server_folder: Path, job: Job, how: How
) -> None:
    async def story(world: Copies) -> None:
        wire = Wire(world.port)
        name = "one" if job == "take" else "two"
        where = f"rest:http://127.0.0.1:{wire.port}/{name}/"
        there = world.action(name, repository=where)
        origin = None if job == "take" else world.action()
        worker = controller(server_folder)
        async with wire.laid():
            assert (await worker.do(task(job, there, origin))).outcome == "done"
            whole, wire.passed = wire.passed, 0
            for number, share in enumerate((0.3, 0.8)):
                write_files(world.data / f"more-{how}-{number}", 20)
                if job == "copy":
                    assert (
                        await controller(server_folder).do(task("take", world.action()))
                    ).outcome == "done"
                before = digests(server_folder / "served")
                wire.left, wire.how, wire.passed = int(whole * share), how, 0
                cut = await worker.do(task(job, there, origin))
                assert wire.is_cut
                assert cut.outcome in ("unknown", "failed"), cut
                assert cut.code in ("backup-unknown", "backup-silent", "backup-killed"), cut
                assert cut.detail
                wire.mend()
                after = digests(server_folder / "served")
                assert {path: after.get(path) for path in before} == before, "nothing was overwritten"
                again = await worker.do(task(job, there, origin))
                assert (again.outcome, again.code) == ("done", "")
                proof = (await worker.do(task("prove", there))).proof
                assert proof is not None
                assert (proof.outcome, proof.bytes_read > 0) == ("passed", True)
            newest = await worker.do(task("restore-test", there))
            assert newest.proof is not None
            assert newest.proof.outcome == "passed", newest

    with copies(server_folder) as world:
        asyncio.run(story(world))
