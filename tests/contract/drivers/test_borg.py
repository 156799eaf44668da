"""What Borg does not say by itself."""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.borg.driver import BorgDriver
from evac.drivers.borg.log import ERRORS
from evac.drivers.capabilities import READ, Taken
from evac.drivers.port import Action
from evac.model.errors import ActionError, OutcomeUnknown, Permanent
from tests.contract.adapters.borg import PASSPHRASE, Archives, archives
from tests.contract.adapters.command import script
from tests.contract.adapters.restic import flip
from tests.contract.capabilities.test_backups_in_trouble import small_disk

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


def python_of_borg(world: Archives, program: str) -> list[str]:
    """What a program prints that uses Borg as a library, with the interpreter of the installed Borg."""
    interpreter = Path(shutil.which("borg") or "").read_text().partition("\n")[0].removeprefix("#!")
    asked = (interpreter, "-c", program)
    return subprocess.run(asked, env=world.env, capture_output=True, text=True, check=True).stdout.split()


SPOOF = """
import os
from borg.helpers import Manifest, msgpack
from borg.logger import setup_logging
from borg.repository import Repository
setup_logging()
with Repository(os.environ["BORG_REPO"], exclusive=True) as repository:
    manifest, key = Manifest.load(repository, Manifest.NO_OPERATION_CHECK)
    content = {"version": 1, "archives": {}, "config": {}, "timestamp": "2099-01-01T00:00:00.000000", **MORE}
    repository.put(Manifest.MANIFEST_ID, key.encrypt(msgpack.packb(content)))
    repository.commit(compact=False)
"""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("{}", "Manifest is unauthenticated"),
        (
            '{"tam": {"type": "HKDF_HMAC_SHA512", "hmac": bytes(64), "salt": bytes(64)}}',
            "Manifest authentication did not verify",
        ),
        ('{"tam": {"type": "other", "hmac": bytes(64), "salt": bytes(64)}}', "Unsupported suite"),
    ],
)
def test_a_manifest_that_borg_cannot_authenticate_is_damage(
    server_folder: Path, more: str, words: str
) -> None:
    """Someone with access to the repository put another list of archives in its place."""
    with archives(server_folder) as world:
        python_of_borg(world, SPOOF.replace("MORE", more))
        error = ask("list_copies", world.action())
        assert error.code == "backup-corrupt", error.message
        assert words in error.message
        proof = ask("prove", world.action(), READ, 1, 1)
        assert (proof.outcome, proof.code) == ("damaged", "backup-corrupt")


def test_every_error_of_integrity_is_damage(server_folder: Path) -> None:
    """Another version of Borg may have more of them."""
    program = """
import borg.archiver
from borg.helpers import IntegrityError
def below(kind):
    print(kind.__qualname__)
    for one in kind.__subclasses__():
        below(one)
below(IntegrityError)
"""
    with archives(server_folder) as world:
        names = python_of_borg(world, program)
        assert len(names) > 3, names
        codes = {name: ERRORS[name].code if name in ERRORS else "" for name in names}
        assert codes == dict.fromkeys(names, "backup-corrupt")


def remote(world: Archives, *options: str) -> dict[str, Any]:
    """Settings that reach the repository through a server of Borg, which also gets these options."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(world.folder / "one" / "config")
    rsh = script(world.folder, "rsh", "shift", f'exec "$@" {" ".join(options)}')
    where, id_ = f"ssh://me@here{world.folder}/one", config["repository"]["id"]
    return {"repository": where, "repository_id": id_, "env": (f"BORG_RSH={rsh}",)}


def test_what_a_server_reports_of_the_repository_is_known_as_well(server_folder: Path) -> None:
    with archives(server_folder) as world:
        (world.data / "more").write_bytes(os.urandom(12_000_000))
        error = ask("take", world.action(**remote(world, "--storage-quota=10M")))
        assert (error.code, "quota" in error.message) == ("backup-full", True), error.message


def test_a_full_disk_of_a_server_is_known_as_well(server_folder: Path) -> None:
    with archives(server_folder) as world:
        (world.data / "more").write_bytes(os.urandom(2_000_000))
        action = world.action(**remote(world))
        with small_disk(world.folder / "one", 500_000):
            error = ask("take", action)
        assert error.code == "backup-full"
        assert error.message == (
            "borg: the repository has no space left: OSError: [Errno 28] No space left on device"
        )


def test_a_closed_cache_is_not_blamed_on_the_repository(server_folder: Path) -> None:
    with archives(server_folder) as world:
        (config,) = (world.folder / "base" / ".cache" / "borg").glob("*/config")
        borg = f'exec setpriv --reuid nobody --clear-groups {shutil.which("borg")} "$@"'
        closed = world.action(program=script(world.folder, "borg", borg))
        for path in (world.folder / "one", world.folder / "base"):
            subprocess.run(("chown", "-R", "nobody", path), check=True)
        assert not isinstance(ask("list_copies", closed), ActionError)
        shutil.chown(config, "root")
        config.chmod(0o600)
        error = ask("list_copies", closed)
        assert error.code == "backup-refused"
        assert f"PermissionError: [Errno 13] Permission denied: '{config}'" in error.message
        shutil.chown(config, "nobody")

        data = world.folder / "one" / "data" / "0"
        shutil.chown(data, "root")
        data.chmod(0o700)
        assert ask("list_copies", closed).code == "backup-forbidden"


def test_a_full_cache_is_not_blamed_on_the_repository(server_folder: Path) -> None:
    with archives(server_folder) as world:
        with small_disk(world.folder / "base", 0):
            error = ask("list_copies", world.action())
        assert error.code == "backup-refused"
        assert error.message == "borg info ended with 2: OSError: [Errno 28] No space left on device"


def test_what_is_written_outside_the_log_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program that starts Borg, or by Borg before it has read its options."""
    monkeypatch.setenv("EVAC_TEST_BORG", PASSPHRASE)
    said = 'echo "sudo: a password is required, not $BORG_PASSPHRASE" >&2'
    noise = """echo '{"type": "question_prompt", "message": "yes?"}' >&2"""
    settings = {"repository": "/srv/one", "passphrase": "env:EVAC_TEST_BORG", "paths": ("/srv/wiki",)}
    action = Action("verify", "wiki", "borg", "ansan", settings)

    def with_program(*lines: str) -> Action:
        program = script(tmp_path, "borg", *lines)
        return Action("verify", "wiki", "borg", "ansan", {**settings, "program": program})

    words = "sudo: a password is required, not (secret)"
    version = '[ "$1" = --version ] && echo borg 1.4.0 && exit'
    for code in (1, 2):
        sudo = with_program(version, noise, said, noise, f"exit {code}")
        assert ask("list_copies", sudo).message == f"borg info ended with {code}: {words}"
        error = ask("take", sudo)
        assert error.code == ("backup-refused" if code == 2 else "backup-unknown")
        assert error.message.endswith(f"borg create ended with {code}: {words}")
        assert isinstance(error, OutcomeUnknown if code == 1 else Permanent)
    silent = with_program(version, "exit 2")
    assert ask("list_copies", silent).message == "borg info ended with 2"
    # What was written before is cut off, perhaps within a secret.
    long = f"printf '%065000d' 1 | tr 0 {PASSPHRASE[-1]} >&2"
    cut = with_program(version, 'printf "%s" "$BORG_PASSPHRASE" >&2', long, "echo >&2", said, "exit 2")
    assert ask("list_copies", cut).message.startswith("borg info ended with 2: ")
    real = ask("list_copies", replace(action, settings={**settings, "repository": "::"}))
    assert real.message.startswith("borg info ended with 2: "), "an option that Borg refuses"


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


def test_a_secret_with_blanks_is_hidden(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVAC_TEST_BLANKS", "two  blanks")
    with archives(server_folder) as world:
        action = world.action(repository="/nowhere/two  blanks", env=("TOKEN=env:EVAC_TEST_BLANKS",))
        message = ask("list_copies", action).message
        assert message == "borg: the repository does not exist: Repository /nowhere/(secret) does not exist."


def test_what_could_not_be_read_is_named(server_folder: Path) -> None:
    with archives(server_folder) as world:
        more = f'[ "$2" = create ] && exec {shutil.which("borg")} "$@" /proc/self/mem'
        program = script(world.folder, "borg", more, f'exec {shutil.which("borg")} "$@"')
        taken = ask("take", world.action(program=program))
        assert taken.copy.failed
        (unread,) = taken.missing
        assert unread.startswith("/proc/self/mem: read: ")


def test_an_incomplete_backup_is_one_even_if_nothing_answers_after_it(server_folder: Path) -> None:
    """Borg lists it like any other."""
    with archives(server_folder) as world:
        more = f'[ "$2" = create ] && exec {shutil.which("borg")} "$@" /proc/self/mem'
        taken = ask("take", world.action(program=script(world.folder, "borg", more, "exit 1")))
        assert taken.copy.failed
        (unread,) = taken.missing
        assert unread.startswith("/proc/self/mem: read: ")
        listed = {one.id: one.failed for one in ask("list_copies", world.action()).copies}
        assert listed[taken.copy.id] is False, "Borg says it now"


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
