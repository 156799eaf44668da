"""Worlds of the drivers that keep their copies in a folder: one copy of a server's data, and a second folder.

A server and its first copy are made once in a process; every world has a copy of the folder of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.copy_folder import copy_folder
from evac.drivers.port import Action, Value, Verb
from evac.drivers.spec import DriverSpec
from tests.contract.adapters.command import script
from tests.contract.adapters.restic import flip
from tests.contract.capabilities.story import Case, nothing
from tests.contract.capabilities.suites import Adapter, AskedBackups, AskedRestore
from tests.contract.ports import free_port

STORE = "store-messages"


class Source(ABC):
    """A running server with some data, made once in a process and ended with it."""

    spec: ClassVar[DriverSpec]
    driver: ClassVar[type]
    program: ClassVar[str]
    secrets: ClassVar[tuple[str, ...]] = ()
    pid_file: ClassVar[str] = "evac.pid"
    """In the data folder of a server that was restored and runs."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="evac-source-", dir=_memory()))
        self.folder.chmod(0o755)
        atexit.register(self.end)

    @abstractmethod
    def begin(self) -> None:
        """Starts it and writes what the first copy holds. Skips the test where it is not installed."""

    @abstractmethod
    def kill(self) -> None: ...

    @abstractmethod
    def change(self) -> None: ...

    @abstractmethod
    def settings(self, served: int) -> dict[str, Value]:
        """served: the port of a restored server."""

    @abstractmethod
    def holds(self, place: Path, served: int) -> bool:
        """Whether a place holds what the first copy does, asked of its server if one runs."""

    def spoiled(self, content: Path) -> Path:
        """The file that a byte is flipped in."""
        return max((one for one in content.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size)

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@cache
def source(kind: type[Source]) -> Source:
    """The running server, with its first copy in `repository`."""
    made = kind()
    made.begin()
    mark(made.folder / "repository")
    action = Action(
        "restore", STORE, kind.spec.name, "ansan", made.settings(0) | _at(made.folder, "repository")
    )
    asyncio.run(kind.driver().take(action, 60.0))
    return made


def mark(folder: Path) -> None:
    """Makes a folder a repository."""
    folder.mkdir(exist_ok=True)
    (folder / "evac-repository").write_text(f"id-of-{folder.name}\n", encoding="utf-8")


def _at(folder: Path, name: str) -> dict[str, Value]:
    return {"repository": str(folder / name)}


class World:
    """Two repositories in a folder, and the port of what is restored."""

    def __init__(self, folder: Path, kind: type[Source]) -> None:
        self.folder, self.source, self.served = folder, source(kind), free_port()
        shutil.copytree(self.source.folder / "repository", folder / "one")
        mark(folder / "two")
        (folder / "places").mkdir()

    @property
    def place(self) -> Path:
        return self.folder / "places" / "here"

    def action(self, name: str = "one", **more: Value) -> Action:
        settings = self.source.settings(self.served) | _at(self.folder, name) | more
        return Action("restore", STORE, self.source.spec.name, "ansan", settings)

    @property
    def copies(self) -> list[Path]:
        return sorted(path for path in (self.folder / "one" / STORE).iterdir() if path.name[0] != ".")

    async def spoil(self) -> None:
        flip(self.source.spoiled(self.copies[0] / "content"))

    async def corrupt(self) -> None:
        flip(self.copies[0] / "copy.json")

    async def change(self) -> None:
        await asyncio.to_thread(self.source.change)

    async def holds(self, place: Path) -> bool:
        return place.is_dir() and await asyncio.to_thread(self.source.holds, place, self.served)

    async def left(self) -> object:
        """Names below the places, without what a running server writes."""
        places = self.folder / "places"
        found = sorted(path.name for path in places.iterdir())
        return found, self.place.is_dir() and any(self.place.iterdir())

    async def fill(self, place: Path) -> None:
        place.mkdir()
        (place / "theirs").write_text("of someone else", encoding="utf-8")


@contextmanager
def world(folder: Path, kind: type[Source]) -> Iterator[World]:
    """Everything that was restored is ended at the end."""
    made = World(folder, kind)
    try:
        yield made
    finally:
        for place in (folder / "places").iterdir():
            if place.is_dir() and (place / kind.pid_file).exists():
                asyncio.run(kind.driver()._stop(made.action(), place, None))


def adapter(kind: type[Source]) -> Adapter:
    """Joins the suites."""

    @contextmanager
    def backups(folder: Path) -> Iterator[AskedBackups]:
        with world(folder, kind) as made:
            slow, real = folder / "slow", shutil.which(kind.program)
            wait = f"while [ -e {slow} ]; do sleep 0.05; done"
            program = script(folder, kind.program, wait, f'exec {real} "$@"')
            Path(program).chmod(0o755)

            async def silence() -> None:
                slow.touch()

            async def speak() -> None:
                slow.unlink()

            yield AskedBackups(
                kind.driver(),
                made.action(program=program),
                silence,
                speak,
                secrets=kind.secrets,
                change=made.change,
                spoil=made.spoil,
                wrong={
                    "backup-other-repository": made.action(repository_id="another"),
                    "backup-no-repository": made.action("three"),
                    "backup-tool-missing": made.action(program="/nowhere/program"),
                },
                to=made.action("two"),
                lost=made.action("three"),
                deletable=True,
                disk=folder / "one",
                held=copy_folder(made.action()).alone,
                corrupt=made.corrupt,
            )

    @contextmanager
    def restores(folder: Path) -> Iterator[AskedRestore]:
        with world(folder, kind) as made:
            yield AskedRestore(
                kind.driver(),
                made.action(),
                nothing,
                secrets=kind.secrets,
                place=made.place,
                holds=made.holds,
                spoil=made.spoil,
                left=made.left,
                fill=made.fill,
            )

    @contextmanager
    def acts(folder: Path, verb: Verb) -> Iterator[Case]:
        with world(folder, kind) as made:

            async def is_done() -> bool:
                return (made.place / kind.pid_file).exists() and await made.holds(made.place)

            action = made.action(place=str(made.place))
            yield Case(
                kind.driver(), action, made.left, is_done, tokens=True, epochs=True, secrets=kind.secrets
            )

    asks: dict[type, Any] = {TakesBackups: backups, RestoresData: restores}
    return Adapter(kind.spec, acts={RestoresData: acts}, asks=asks)
