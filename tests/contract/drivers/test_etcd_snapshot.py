"""A restored etcd shows no client a revision that it has seen, and holds the keys that a witness read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.backups import Stopwatch
from evac.drivers.copy_folder import Dumped
from evac.drivers.etcd_snapshot.driver import BUMP, EtcdSnapshotDriver
from evac.drivers.port import Action
from evac.model.errors import ActionError
from tests.contract.adapters.command import script
from tests.contract.adapters.copy_folder import world
from tests.contract.adapters.etcd_snapshot import EtcdSource
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def ask(question: str, *given: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(EtcdSnapshotDriver(), question)(given[0], 30.0, *given[1:])
        except ActionError as error:
            return error

    return asyncio.run(story())


def test_the_revision_is_raised_and_a_witness_reads_keys(server_folder: Path) -> None:
    with world(server_folder, EtcdSource) as made:
        seen = ask("witness", made.action())
        ask("take", made.action())
        taken_at = int(ask("list_copies", made.action()).copies[-1].source.removeprefix("revision "))
        restored = ask("restore", made.action(), "", str(made.place), None)
        assert restored.facts["revision"] > taken_at + BUMP - 1
        assert {name: restored.facts[name] for name in seen} == seen
        asyncio.run(made.change())
        assert ask("witness", made.action())["config"] != restored.facts["config"]


class Unnamed(EtcdSnapshotDriver):
    """Its records do not name the revision."""

    async def _dump(self, action: Action, content: Path, watch: Stopwatch, lock: int) -> Dumped:
        await super()._dump(action, content, watch, lock)
        return Dumped()


def test_a_restore_that_kept_the_old_revision_is_refused_whatever_the_record_says(
    server_folder: Path,
) -> None:
    unraised = script(
        server_folder,
        "etcdutl",
        "for given do",
        '  shift; case "$given" in',
        "    --bump-revision) skips=yes ;;",
        "    --mark-compacted) ;;",
        '    *) [ "$skips" = yes ] && skips=no || set -- "$@" "$given" ;;',
        "  esac",
        "done",
        'exec etcdutl "$@"',
    )
    with world(server_folder, EtcdSource) as made:
        action = made.action(restore_program=unraised, bump=1)
        asyncio.run(Unnamed().take(action, 30.0))
        assert ask("restore", action, "", str(made.place), None).code == "restore-incomplete"


def test_no_snapshot_is_begun_of_a_member_that_does_not_answer(server_folder: Path) -> None:
    """etcdctl would wait for it without an end, and hold the store's copies meanwhile."""
    with world(server_folder, EtcdSource) as made:
        asked = server_folder / "asked"
        program = script(server_folder, "client", f'echo "$@" >> {asked}', 'exec etcdctl "$@"')
        action = made.action(program=program, url=f"http://127.0.0.1:{free_port()}")
        assert ask("take", action).code == "backup-silent"
        assert "snapshot save" not in asked.read_text()
