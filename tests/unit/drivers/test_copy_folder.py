"""Copies in a plain folder: what is not a repository, not alone, not whole or not the same is named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.backups import Filled, Filling, Stopwatch
from evac.drivers.bandwidth import Pace
from evac.drivers.capabilities import READ, STRUCTURE, RestoresData, TakesBackups
from evac.drivers.copy_folder import CopyFolderDriver, Dumped, copy_folder
from evac.drivers.port import Action, Order
from evac.model.errors import ActionError, Permanent
from tests.contract.capabilities.asked import unrecorded

FULL = OSError(28, "No space left on device")
FORBIDDEN = PermissionError(13, "Permission denied", "/srv/copies")


class FilesDriver(CopyFolderDriver, TakesBackups, RestoresData):
    """Its tool writes two files; a test may have it write otherwise."""

    name = "files"
    program = "cat"
    writes: Callable[[Path], None]

    def __init__(self) -> None:
        self.writes = two_files

    async def _dump(self, action: Action, content: Path, watch: Stopwatch, lock: int) -> Dumped:
        self.writes(content)
        return Dumped("a test")

    async def _recover(self, into: Filling) -> Filled:
        return Filled(into.copy.bytes or 0, into.copy.taken_at, {"files": into.copy.files or 0})


def two_files(content: Path) -> None:
    (content / "inner").mkdir()
    (content / "inner" / "rows").write_bytes(random.Random(7).randbytes(4_000))
    (content / "names").write_bytes(b"of people\n" * 50)


@pytest.fixture
def one(tmp_path: Path) -> Action:
    return repository(tmp_path, "one")


def repository(folder: Path, name: str) -> Action:
    (folder / name).mkdir()
    (folder / name / "evac-repository").write_text(f"id-{name}\n")
    return Action("restore", "store-orders", "files", "ansan", {"repository": str(folder / name)})


def ask(driver: FilesDriver, question: str, action: Action, *more: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(driver, question)(action, 30.0, *more)
        except ActionError as error:
            return error

    return asyncio.run(story())


def code(found: Any) -> str:
    assert isinstance(found, ActionError), found
    return found.code


def content_of(action: Action) -> Path:
    (kept,) = copy_folder(action).copies()
    return kept.content


def test_a_mount_that_is_missing_is_no_empty_repository(one: Action) -> None:
    driver, folder = FilesDriver(), Path(str(one.settings["repository"]))
    (folder / "evac-repository").unlink()
    for question in ("list_copies", "take"):
        error = ask(driver, question, one)
        assert code(error) == "backup-no-repository"
        assert "mount it" in error.hint
    assert list(folder.iterdir()) == []


def test_two_at_once_and_what_an_interrupted_one_left(one: Action) -> None:
    driver, folder = FilesDriver(), copy_folder(one)
    with folder.alone():
        assert code(ask(driver, "take", one)) == "backup-locked"
        assert ask(driver, "list_copies", one).locked
    (folder.path / ".partial-killed" / "content").mkdir(parents=True)
    assert ask(driver, "list_copies", one).copies == ()
    assert ask(driver, "take", one).bytes_read == 4_500
    assert not (folder.path / ".partial-killed").exists()
    assert not ask(driver, "list_copies", one).locked


def test_a_clock_that_went_back_is_named(one: Action) -> None:
    driver, folder = FilesDriver(), copy_folder(one)
    with folder.alone(), folder.partial("future") as partial:
        (partial / "content").mkdir()
        folder.keep(partial, {"taken_at": 4_000_000_000, "files": {}}, "future")
    error = ask(driver, "take", one)
    assert code(error) == "backup-clock"
    assert "behind the newest backup" in error.message
    assert len(folder.copies()) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [(None, "backup-incomplete"), (FULL, "backup-full"), (FORBIDDEN, "backup-forbidden")],
)
def test_a_tool_that_writes_nothing_and_a_full_disk_leave_nothing(
    one: Action, error: OSError | None, expected: str
) -> None:
    def fill(content: Path) -> None:
        if error is not None:
            two_files(content)
            raise error

    driver = FilesDriver()
    driver.writes = fill
    assert code(ask(driver, "take", one)) == expected
    assert [path.name for path in copy_folder(one).path.iterdir()] == [".lock"]


def test_every_flipped_byte_is_found_and_never_restored(one: Action, tmp_path: Path) -> None:
    """At 30 random places of the files and of the record."""
    driver, chance = FilesDriver(), random.Random(2022)
    ask(driver, "take", one)
    content = content_of(one)
    files = [path for path in content.parent.rglob("*") if path.is_file()]
    missed = []
    for _ in range(30):
        path = chance.choice(files)
        before = path.read_bytes()
        at = chance.randrange(len(before))
        path.write_bytes(before[:at] + bytes([before[at] ^ (1 << chance.randrange(8))]) + before[at + 1 :])
        found = {ask(driver, "prove", one, READ, part, 3).outcome for part in (1, 2, 3)}
        error = ask(driver, "restore", one, "", str(tmp_path / "place"), None)
        if "damaged" not in found or code(error) not in ("backup-corrupt", "copy-unknown"):
            missed.append((path.name, at))
        path.write_bytes(before)
    assert missed == []
    assert not (tmp_path / "place").exists()
    shares = [ask(driver, "prove", one, READ, part, 3).share_read for part in (1, 2, 3)]
    assert abs(sum(shares) - 1_000_000) <= 3


def test_a_restore_that_failed_leaves_nothing_but_the_token_of_a_run(one: Action, tmp_path: Path) -> None:
    driver, places = FilesDriver(), tmp_path / "places"
    ask(driver, "take", one)
    places.mkdir()
    (kept,) = copy_folder(one).copies()
    with (kept.content / "names").open("r+b") as file:
        file.write(b"OF")
    error = ask(driver, "restore", one, "", str(places / "here"), None)
    assert (error.code, list(places.iterdir())) == ("backup-corrupt", [])
    order = Order("r", "restore", 1, 7, 3, "a test", 20.0, "k")
    inside = replace(one, settings={**one.settings, "place": str(places / "here")})
    with pytest.raises(Permanent):
        asyncio.run(driver.execute(inside, order))
    assert [path.name for path in places.iterdir()] == [".here.evac-restored"]
    with pytest.raises(Permanent) as late:
        asyncio.run(driver.execute(inside, replace(order, token=6)))
    assert late.value.code == "stale-token"


def test_a_file_that_is_missing_or_foreign_is_seen_without_reading(one: Action) -> None:
    driver = FilesDriver()
    ask(driver, "take", one)
    content = content_of(one)
    assert ask(driver, "prove", one, STRUCTURE, 1, 1).outcome == "passed"
    (content / "more").write_text("of someone else")
    found = ask(driver, "prove", one, STRUCTURE, 1, 1)
    assert (found.outcome, "more is not part of the backup" in found.detail) == ("damaged", True)
    (content / "more").unlink()
    (content / "names").unlink()
    found = ask(driver, "prove", one, READ, 1, 1)
    assert (found.outcome, "names is missing" in found.detail) == ("damaged", True)


def test_a_copy_elsewhere_is_compared(one: Action, tmp_path: Path) -> None:
    driver, two = FilesDriver(), repository(tmp_path, "two")
    taken = ask(driver, "take", one)
    copied = ask(driver, "copy_on", one, two, unrecorded)
    assert (copied.copy.original, copied.copy.tree) == (taken.copy.id, taken.copy.tree)
    assert ask(driver, "copy_on", one, two, unrecorded).bytes_stored == 0, "it is there already"
    record = content_of(two).parent / "copy.json"
    record.write_bytes(record.read_bytes() + b" ")
    assert code(ask(driver, "copy_on", one, two, unrecorded)) == "copy-differs", (
        "a copy elsewhere has the same id"
    )
    (content_of(one) / "names").write_bytes(b"of others\n" * 50)
    three = repository(tmp_path, "three")
    assert code(ask(driver, "copy_on", one, three, unrecorded)) == "backup-corrupt", "damage is not copied on"
    assert copy_folder(three).copies() == []


def test_all_that_evac_reads_and_copies_keeps_to_the_limits(
    one: Action, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is counted, against the limits of the repository that it is read from or written to."""
    passed: dict[tuple[int, ...], int] = {}

    class Counted(Pace):
        def __init__(self, *limits: int) -> None:
            super().__init__()
            self.limits = limits

        def passed(self, size: int) -> None:
            passed[self.limits] = passed.get(self.limits, 0) + size

    def limited(action: Action, up: int, down: int) -> Action:
        return replace(action, settings={**action.settings, "upload_kib": up, "download_kib": down})

    def counted(question: str, action: Action, *more: Any) -> dict[tuple[int, ...], int]:
        passed.clear()
        found = ask(FilesDriver(), question, action, *more)
        assert not isinstance(found, ActionError), found
        return dict(passed)

    monkeypatch.setattr("evac.drivers.copy_folder.Pace", Counted)
    here, there = limited(one, 100, 200), limited(repository(tmp_path, "two"), 300, 400)
    assert counted("take", here) == {(200,): 4_500}, "it is read again for its checksums"
    assert counted("prove", here, READ, 1, 1) == {(200,): 4_500}
    parts = [counted("prove", here, READ, part, 2) for part in (1, 2)]
    assert sum(sum(one.values()) for one in parts) == 4_500
    assert counted("copy_on", here, there, unrecorded) == {(200, 300): 4_500}
    assert counted("restore", here, "", str(tmp_path / "place"), None) == {(200,): 4_500}


@pytest.mark.parametrize("name", ["copies", "/srv/../etc"])
def test_a_repository_is_a_full_path(name: str) -> None:
    action = Action("restore", "store-orders", "files", "ansan", {"repository": name})
    with pytest.raises(Permanent):
        copy_folder(action)
