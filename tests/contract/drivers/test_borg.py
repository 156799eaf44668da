"""What Borg does not say by itself."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.borg.driver import BorgDriver
from evac.drivers.capabilities import READ, Taken
from evac.drivers.port import Action
from evac.model.errors import ActionError, Permanent
from tests.contract.adapters.borg import archives
from tests.contract.adapters.command import script
from tests.contract.adapters.restic import flip

pytestmark = [pytest.mark.servers]


def ask(question: str, *given: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(BorgDriver(), question)(given[0], 60.0, *given[1:])
        except ActionError as error:
            return error

    return asyncio.run(story())


def test_a_missing_path_and_a_repair_are_each_named(server_folder: Path) -> None:
    place = server_folder / "places" / "here"
    with archives(server_folder) as world:
        lacking = world.action(paths=(str(world.data), "/nowhere/at/all"))
        world.borg("create", "::second", str(world.data), "/nowhere/at/all", allowed=(107,))
        (entry,) = json.loads(world.borg("info", "--json", "::second"))["archives"]
        assert "/nowhere/at/all" in entry["command_line"], "Borg tells them apart now"
        assert [one.failed for one in ask("list_copies", lacking).copies][-1]
        assert ask("restore", lacking, "", str(place), None).code == "copy-unknown"

        (world.data / "one file").write_text("alone")
        alone = world.action(paths=(str(world.data / "one file"),))
        ask("take", alone)
        restored = ask("restore", alone, "", str(place), None)
        assert len(list(place.iterdir())) == 1, "one file is restored as that file"
        assert dict(restored.facts) == ask("witness", alone) != {}
        ask("clean_up", alone, str(place))

        # A repair puts zeros where content was lost; its extraction ends with a warning.
        asyncio.run(world.spoil())
        world.borg("check", "--repair", allowed=(0, 1))
        assert ask("restore", world.action(), "first", str(place), None).code == "restore-incomplete"
        assert not place.exists()


def test_damage_is_named_by_its_cause_however_much_is_missing(server_folder: Path) -> None:
    """After the error Borg lists every chunk that is missing because of it, in more lines than are kept."""
    with archives(server_folder) as world:
        for number in range(600):
            (world.data / f"file {number}").write_bytes(os.urandom(100))
        assert isinstance(ask("take", world.action()), Taken)
        segments = (world.folder / "one" / "data").glob("*/*")
        flip(max(segments, key=lambda path: path.stat().st_size), 20)
        proof = ask("prove", world.action(), READ, 1, 1)
        assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt")
        assert proof.detail.startswith("Data integrity error: "), proof.detail
        assert "[segment " in proof.detail
        assert proof.detail.endswith("; to see all errors, run: borg check --verify-data")
        assert len(proof.detail) < 200


def test_a_repository_that_lost_its_newest_data_is_damaged(server_folder: Path) -> None:
    """Borg ignores what follows the last transaction that it can read, and its check passes."""
    with archives(server_folder) as world:
        newest = max((world.folder / "one" / "data").glob("*/*"), key=lambda path: int(path.name))
        flip(newest)
        world.borg("check", "--verify-data")
        proof = ask("prove", world.action(), READ, 1, 1)
        assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt")
        assert "newer than repository" in proof.detail, "Borg's own words"
        error = ask("restore", world.action(), "", str(server_folder / "places" / "here"), None)
        assert error.code == "backup-corrupt"


def test_an_error_is_known_by_its_id_and_described_by_borg(server_folder: Path) -> None:
    """A word of a message may be part of a name."""
    with archives(server_folder) as world:
        nothing = world.folder / "the manifest does not exist"
        error = ask("list_copies", world.action(repository=str(nothing)))
        assert error.code == "backup-no-repository"
        assert error.message == f"borg: the repository does not exist: Repository {nothing} does not exist."
        moved = world.folder / "elsewhere"
        shutil.copytree(world.folder / "one", moved)
        error = ask("list_copies", world.action(repository=str(moved)))
        assert error.code == "backup-other-repository"
        assert "the repository was moved" in error.message
        (world.folder / "one" / "config").write_text("no configuration")
        error = ask("list_copies", world.action())
        assert error.code == "backup-refused"
        assert "MissingSectionHeaderError: File contains no section headers." in error.message


def test_what_could_not_be_read_is_named(server_folder: Path) -> None:
    with archives(server_folder) as world:
        more = f'[ "$2" = create ] && exec {shutil.which("borg")} "$@" /proc/self/mem'
        program = script(world.folder, "borg", more, f'exec {shutil.which("borg")} "$@"')
        taken = ask("take", world.action(program=program))
        assert taken.copy.failed
        (unread,) = taken.missing
        assert unread.startswith("/proc/self/mem: read: ")


def test_a_restore_needs_no_version(server_folder: Path) -> None:
    """It is reported with a listing; a start of the program costs time that a check may not have."""
    with archives(server_folder) as world:
        silent = script(
            world.folder, "borg", '[ "$1" = --version ] && exit 1', f'exec {shutil.which("borg")} "$@"'
        )
        action = world.action(program=silent)
        assert ask("list_copies", action).code == "backup-refused"
        assert ask("restore", action, "", str(server_folder / "places" / "here"), None).copy


ARCHIVE = {
    "name": "first",
    "start": "2026-11-21T01:00:00.000000",
    "command_line": ["borg", "create", "::first", "/srv/wiki"],
    "stats": {"original_size": 9, "nfiles": 1},
}


@pytest.mark.parametrize(
    "said",
    [
        "none",
        {"archives": []},
        {"archives": 5, "repository": {"id": "one"}},
        {"archives": [{**ARCHIVE, "start": "yesterday"}], "repository": {"id": "one"}},
        {"archives": [{**ARCHIVE, "command_line": "borg create"}], "repository": {"id": "one"}},
        {"archives": [{**ARCHIVE, "stats": {"original_size": -1}}], "repository": {"id": "one"}},
        {"archives": [ARCHIVE], "repository": {"id": 7}},
    ],
)
def test_what_has_another_shape_is_refused(tmp_path: Path, said: Any) -> None:
    answer = json.dumps(said)
    version = """[ "$1" = --version ] && echo borg 1.4.0 && exit"""
    program = script(tmp_path, "borg", version, f"echo '{answer}'")
    settings = {"repository": "/srv/one", "program": program, "paths": ("/srv/wiki",)}
    error = ask("list_copies", Action("verify", "wiki", "borg", "ansan", settings))
    assert isinstance(error, Permanent)
    assert error.code == "backup-output"
