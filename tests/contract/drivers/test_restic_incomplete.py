"""Backups and copies of restic that lack something: it lists them like any other."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.backup.complete import recorded, restoring_complete
from evac.backup.evidence import Evidence
from evac.backup.known import Job
from evac.drivers.capabilities import BACKUP
from evac.drivers.port import Order
from evac.drivers.restic.driver import ResticDriver
from evac.model.errors import Permanent
from evac.store.port import MemoryStore, host_monotonic_ms
from tests.contract.adapters.restic import Copies, copies, restic
from tests.contract.capabilities.asked import unrecorded
from tests.contract.capabilities.test_backups_in_trouble import controller, task
from tests.contract.drivers.test_restic import LONG_S, ask

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def _rewriting(folder: Path, then: str) -> Path:
    """restic that rewrites the backup to be copied first: the result has another tree and states the same
    original. then: what it does with both, `$4` and `$other`.
    """
    restic = shutil.which("restic")
    program = folder / "rewriting"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = copy ] || exec {restic} "$@"\n'
        "export RESTIC_FROM_REPOSITORY RESTIC_FROM_PASSWORD\n"
        "for wanted; do :; done\n"
        f'other=$(RESTIC_REPOSITORY="$RESTIC_FROM_REPOSITORY" RESTIC_PASSWORD="$RESTIC_FROM_PASSWORD" '
        f'{restic} rewrite --exclude file-3 "$wanted" | sed -n "s/^saved new snapshot //p")\n'
        f'[ -n "$other" ] || exit 70\n{then}\n'
    )
    program.chmod(0o755)
    return program


def test_a_copy_with_another_tree_is_named_as_incomplete(server_folder: Path) -> None:
    """It states the same original, so a listing alone would count it."""
    program = _rewriting(server_folder, f'exec {shutil.which("restic")} copy "$other"')
    with copies(server_folder) as world:
        taken = ask("copy_on", world.action(), world.action("two", program=str(program)), unrecorded)
        assert not isinstance(taken, Permanent), taken
        assert taken.missing == (f"the tree of {taken.copy.original[:8]}",)
        (listed,) = ask("list_copies", world.action("two")).copies
        assert (listed.id, listed.original) == (taken.copy.id, taken.copy.original)


@pytest.mark.parametrize("order", ['"$wanted" "$other"', '"$other" "$wanted"'])
def test_a_whole_copy_is_found_next_to_one_with_another_tree(server_folder: Path, order: str) -> None:
    """Both have the same time and original."""
    each = f'for one in {order}; do {shutil.which("restic")} copy "$one" || exit $?; done'
    program = _rewriting(server_folder, each)
    with copies(server_folder) as world:
        (made,) = ask("list_copies", world.action()).copies
        taken = ask("copy_on", world.action(), world.action("two", program=str(program)), unrecorded)
        assert not isinstance(taken, Permanent), taken
        assert (taken.missing, taken.copy.tree) == ((), made.tree)
        (other,) = (one for one in ask("list_copies", world.action("two")).copies if one.id != taken.copy.id)
        assert [(one.id, one.tree) for one in taken.wrong] == [(other.id, other.tree)]
        assert other.tree != made.tree


def partly(folder: Path, *, answers: bool = True) -> str:
    """A program that backs up one more file with restic, which cannot be read. answers: whether it does
    anything else.
    """
    program, rest = folder / "partly", 'exec restic "$@"' if answers else "exit 1"
    program.write_text(f'#!/bin/sh\n[ "$1" = backup ] && exec restic "$@" /proc/self/mem\n{rest}\n')
    program.chmod(0o755)
    return str(program)


def far(job: Job, world: Copies, **settings: str) -> Any:
    """A job on the copy in the other repository."""
    made = task(job, world.action("two", **settings), world.action())
    assert made.origin is not None
    origin = replace(made.origin, id="r-one")  # as an estate states it: an endpoint of the same data
    return replace(made, copy="r-two", endpoint=replace(made.endpoint, id="r-two"), origin=origin)


def test_an_incomplete_backup_counts_neither_here_nor_as_a_copy(server_folder: Path, tmp_path: Path) -> None:
    """restic ends with 3, and lists it like any other backup."""

    async def story(world: Copies) -> None:
        store = MemoryStore(host_monotonic_ms)
        worker, evidence = controller(tmp_path, store), Evidence(store, 0.0)
        (before,) = (await ResticDriver().list_copies(world.action(), LONG_S)).copies
        taken = await worker.do(task("take", world.action(program=partly(server_folder))))
        assert (taken.outcome, taken.code) == ("failed", "backup-incomplete")
        assert taken.detail == "not in the backup: /proc/self/mem"
        listing = await ResticDriver().list_copies(world.action(), LONG_S)
        assert [one.failed for one in listing.copies] == [False, False], "restic says it now"
        driver = restoring_complete(lambda name: ResticDriver(), recorded(store))("restic")
        order = Order("r", "restore", 1, 1, 1, "a test", LONG_S, "k")
        action = world.action(place=str(tmp_path / "place"))
        action = replace(action, target="messages", parameters={BACKUP: "r-one"})
        assert (await driver.check(action, order)).evidence["copy"] == before.id
        assert (await driver.execute(action, order))["copy"] == before.id, "in a run, too"
        copied = await worker.do(far("copy", world))
        assert (copied.outcome, copied.code) == ("failed", "backup-incomplete")
        action = world.action("two", place=str(tmp_path / "there"))
        action = replace(action, target="messages", parameters={BACKUP: "r-two"})
        refused = (await driver.check(action, order)).error
        assert refused is not None
        assert (refused.code, "all 1 are incomplete" in refused.message) == ("copy-unknown", True)
        near, there = (await evidence.known("messages")).copies
        assert (near.count, near.taken_at_ms) == (1, before.taken_at * 1_000)
        assert (there.count, there.taken_at_ms) == (0, None)
        tested = await worker.do(task("restore-test", world.action()))
        assert tested.proof is not None
        assert (tested.proof.outcome, tested.proof.snapshot) == ("passed", before.id)
        tested = await worker.do(far("restore-test", world))
        assert tested.proof is not None
        assert (tested.proof.outcome, tested.proof.code) == ("could-not-run", "copy-unknown")
        assert (await worker.do(task("take", world.action()))).outcome == "done"
        assert (await worker.do(far("copy", world))).outcome == "done"
        assert [one.count for one in (await evidence.known("messages")).copies] == [2, 1]

    with copies(server_folder) as world:
        asyncio.run(story(world))


@pytest.mark.parametrize("order", ['"$wanted" "$other"', '"$other" "$wanted"'])
def test_a_wrong_copy_next_to_a_whole_one_never_counts(
    server_folder: Path, tmp_path: Path, order: str
) -> None:
    each = f'for one in {order}; do {shutil.which("restic")} copy "$one" || exit $?; done'
    program = str(_rewriting(server_folder, each))

    async def story(world: Copies) -> None:
        store = MemoryStore(host_monotonic_ms)
        worker, evidence = controller(tmp_path, store), Evidence(store, 0.0)
        copied = await worker.do(far("copy", world, program=program))
        assert (copied.outcome, "not that of the original: " in copied.detail) == ("done", True)
        (seen,) = (await evidence.known("messages")).copies
        assert (seen.copy, seen.count, seen.unusable) == ("r-two", 1, 1)
        tested = await worker.do(far("restore-test", world))
        assert tested.proof is not None
        assert (tested.proof.outcome, tested.snapshot) == ("passed", copied.snapshot)

    with copies(server_folder) as world:
        asyncio.run(story(world))


@pytest.mark.parametrize("where", ["one", "two"])
def test_a_backup_that_someone_rewrote_does_not_count_next_to_its_original(
    server_folder: Path, tmp_path: Path, where: str
) -> None:
    """restic lists it as another copy of that original, of the same time."""

    async def story(world: Copies) -> None:
        worker = controller(tmp_path, store := MemoryStore(host_monotonic_ms))
        taken = await worker.do(task("take", world.action()))
        copied = await worker.do(far("copy", world))
        assert (taken.outcome, copied.outcome) == ("done", "done")
        whole = {"one": taken, "two": copied}[where].snapshot
        repository = server_folder / "served" / where
        assert "saved new" in restic("rewrite", "--exclude", "file-3", whole, repository=repository)
        event = await worker.do(task("list", world.action()) if where == "one" else far("list", world))
        assert event.seen is not None
        assert (event.seen.unusable, event.snapshot) == (1, whole)
        tested = await worker.do(
            task("restore-test", world.action()) if where == "one" else far("restore-test", world)
        )
        assert (tested.code, tested.snapshot) == ("", whole)
        (lacks,) = (await Evidence(store, 0.0).known("messages")).incomplete
        assert lacks.snapshot != whole

    with copies(server_folder) as world:
        asyncio.run(story(world))


def test_an_incomplete_backup_is_one_even_if_nothing_answers_after_it(server_folder: Path) -> None:
    with copies(server_folder) as world:
        taken = ask("take", world.action(program=partly(server_folder, answers=False)))
        assert taken.missing == ("/proc/self/mem",)
        assert taken.copy.failed
        newest = ask("list_copies", world.action()).copies[-1]
        assert taken.copy.id == newest.id
