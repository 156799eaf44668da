"""Publishes the public status page outside all sites after every change, so that it survives them.

A separate process of the controller (`python -m evac.app.status_export`), because it replays runs, which must
never cost a leader its lease. It follows the store, and writes one key there to show the state of the export:

status-export/<site>    {"at_ms", "ok_ms", "since_ms", "problem"}

Nothing is queued: each try writes the page as the store has it then, so a target that was unreachable for a
day gets the current state. It ends with its parent, and leaves the last page in place.

The public status is made from every incident in the store, reading only changed ones again.

The page goes to a folder, and from there anywhere a command takes it. Each file is written under a temporary
name and renamed, the page last, so that a reader always sees a complete file, and never a page without its
feed. The command is an argument list, never run through a shell.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import orjson

from evac import estate as estates
from evac.app import incidents
from evac.app.estates.copies import edition_of
from evac.app.incidents import Folds
from evac.app.runs import INCIDENT
from evac.app.side_process import end_of, until_ended
from evac.drivers.programs import run_program
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead.watch_journal import STREAM as WATCH
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import run_of_incident
from evac.incident.components import Language, StatusPage, languages_of, public_names, status_page
from evac.incident.incident import Dossier, Summary
from evac.model.errors import EvacError, InvalidInput, Permanent, StoreError
from evac.model.records import dataclass
from evac.store.journal import head_of, last_of
from evac.store.opening import open_store
from evac.store.port import Put, Store, all_entries
from evac.views.status_page import status_files

FOLDER: Final = "{folder}"
PUSH_S: Final = 120.0
SAID_MOST: Final = 300
ARGUMENTS_MOST: Final = 64
BESIDE: Final = ".new"
LEFT_S: Final = 600.0


class ExportFailed(EvacError):
    """The page could not be published; the last successful one is still there."""

    def __init__(self, why: str) -> None:
        super().__init__("status-page-unwritten", why, "evac tries again; check the target in the meantime")


@dataclass(frozen=True, slots=True)
class Target:
    """push: arguments of a command that takes the folder elsewhere; `{folder}` is replaced by its path.
    Empty: publish in the folder only.
    """

    folder: Path
    push: tuple[str, ...] = ()

    async def put(self, files: Mapping[str, bytes]) -> None:
        """Publish all files, in this order. Raises ExportFailed."""
        try:
            await asyncio.to_thread(_write, self.folder, files)
        except OSError as error:
            words = error.strerror or type(error).__name__
            raise ExportFailed(f"{self.folder} cannot be written: {words}") from error
        if self.push:
            await _run([part.replace(FOLDER, str(self.folder)) for part in self.push])


def target_of(folder: Path, push: str = "") -> Target:
    """push: words split as a shell would, without using one. Raises InvalidInput."""
    try:
        words = tuple(shlex.split(push))
    except ValueError as error:
        raise InvalidInput("status-push", f"'{push[:60]}' has an unclosed quote", "close it") from error
    if words and not any(FOLDER in word for word in words):
        raise InvalidInput(
            "status-push",
            "the command does not use the folder",
            "write {folder} where its path belongs: rsync -a {folder}/ status.example:/srv/status/",
        )
    if len(words) > ARGUMENTS_MOST:
        raise InvalidInput(
            "status-push",
            f"a command can have at most {ARGUMENTS_MOST} arguments",
            "write a script, and use its path",
        )
    return Target(folder, words)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Remove temporary files of processes killed while writing.
    for left in folder.glob(f".*{BESIDE}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_S:
                left.unlink()
    for name, body in files.items():
        mine = secrets.token_hex(8)  # another site's controller may write here with the same pid
        beside = folder / f".{name}.{mine}{BESIDE}"
        try:
            with beside.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            beside.chmod(0o644)  # publicly readable, whatever the umask
            beside.replace(folder / name)
        finally:
            beside.unlink(missing_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # otherwise a power cut may lose the rename
    finally:
        os.close(handle)


async def _run(arguments: list[str]) -> None:
    """Run the command, leaving nothing of its process group. Raises ExportFailed with its last output."""
    name = Path(arguments[0]).name
    try:
        ended = await run_program(arguments, env=os.environ, timeout_s=PUSH_S)
    except Permanent as error:
        raise ExportFailed(error.message) from error
    if ended.code is None:
        raise ExportFailed(f"{name} did not finish within {PUSH_S:.0f} s")
    if ended.code:
        plain = "".join(letter if letter.isprintable() else " " for letter in ended.output)
        words = " ".join(plain.split())[-SAID_MOST:]
        raise ExportFailed(f"{name} ended with {ended.code}" + (f": {words}" if words else ""))


URL: Final = "https://status.example/"
_Told = tuple[object, tuple[Dossier, Summary]]


@dataclass(frozen=True, slots=True)
class About:
    """The owner of the page. names: service -> its public name."""

    title: str
    names: Mapping[str, str]
    url: str = URL
    languages: tuple[Language, ...] = ("en",)
    join: str = ""
    """Where users subscribe by email; empty: nowhere."""


class PublicStatus:
    """Makes the page repeatedly, keeping each incident's notes and result. folds: of runs that are still
    read.
    """

    def __init__(self, store: Store, folds: Folds | None = None) -> None:
        self._store, self._folds = store, folds or Folds()
        self._told: dict[str, _Told] = {}

    async def page(self, about: About, now_ms: int) -> StatusPage:
        """The current page, from the store."""
        seen = await incidents.watched(self._store)
        noted = await self._store.get(incidents.NOTED)
        told: dict[str, _Told] = {}
        for name in await incidents.names(self._store):
            stamp = (noted.revision if noted else 0, *await self._records(name))
            kept = self._told.get(name)
            if kept is None or kept[0] != stamp:
                whole = await incidents.dossier(self._store, name, now_ms, seen, self._folds.of)
                about_it = self._folds.summary_of(whole)
                kept = (stamp, (Dossier(whole.incident, (), (), whole.notes), about_it))
            told[name] = kept
        self._told = told
        rows = sorted((row for _, row in told.values()), key=lambda row: (row[1].begun_ms, row[1].incident))
        first = [one.begun_ms for _, one in rows if one.begun_ms] + [one.at_ms for one in seen[:1]]
        return status_page(about.title, about.names, rows, min(first, default=0), now_ms)

    async def _records(self, incident: str) -> tuple[Any, ...]:
        """(run, records) of an incident; empty if it has only notes."""
        entry = await self._store.get(INCIDENT + incident)
        if entry is None:
            return ()
        run = run_of_incident(entry.value)
        head = await head_of(self._store, run)
        return run, head.records if head else 0


LOOK_S: Final = 1.0
REFRESH_MS: Final = 300_000
"""Without changes the page is still rewritten this often: it shows its date, and days pass."""
EDITION_S: Final = 2.0
AGAIN_S: Final = 1.0
AGAIN_MOST_S: Final = 60.0
SHARE: Final = 4
"""After an export, wait this many times its duration before the next."""


class Exporter:
    """The exporter of a process. tell: receives a message when the export fails, and when it works again."""

    def __init__(
        self,
        store: Store,
        about: About,
        target: Target,
        tell: Callable[[str], None],
        site: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._store, self._about, self._target, self._tell = store, about, target, tell
        self._key, self._clock = incidents.EXPORTED + (site or "-"), clock or SystemClock()
        self._written: object = None
        self._written_ms = -REFRESH_MS
        self._problem, self._since_ms, self._ok_ms = "", 0, 0
        self._status = PublicStatus(store)

    async def run(self) -> None:
        """Run until cancelled. Failures are retried, less and less often, without losing anything."""
        pause_s = AGAIN_S
        while True:
            began = time.monotonic()
            try:
                await self.look()
                pause_s = AGAIN_S
                await asyncio.sleep(max(LOOK_S, SHARE * (time.monotonic() - began)))
            except EvacError as error:
                await self._failed(error.message)
                await asyncio.sleep(pause_s)
                pause_s = min(AGAIN_MOST_S, pause_s * 2)

    async def look(self) -> bool:
        """Publish the page if anything changed since the last time; return whether it did.

        Raises ExportFailed, StoreError.
        """
        stamp, now_ms = await self._stamp(), self._clock.monotonic_ms()
        if stamp == self._written and now_ms - self._written_ms < REFRESH_MS:
            return False
        page = await self._status.page(self._about, self._clock.now_ms())
        made = status_files(page, self._about.url, self._about.languages, self._about.join)
        await self._target.put({name: text.encode() for name, text in made.items()})
        self._written, self._written_ms = stamp, now_ms
        await self._worked()
        return True

    async def _stamp(self) -> object:
        """Version of everything on the page: notes, the watch journal, and journals of open runs."""
        noted = await self._store.get(incidents.NOTED)
        runs = [entry.key.removeprefix(OPEN) for entry in await all_entries(self._store, OPEN)]
        heads = [await last_of(self._store, stream) for stream in (WATCH, *runs)]
        counts = tuple(head.records if head else 0 for head in heads)
        return (noted.revision if noted else 0, tuple(runs), counts)

    async def _worked(self) -> None:
        if self._problem:
            self._tell("the public status page is being written again")
        self._problem, self._since_ms, self._ok_ms = "", 0, self._clock.now_ms()
        await self._say()

    async def _failed(self, why: str) -> None:
        """Reported once for each reason, and stored for display."""
        if why == self._problem:
            return
        self._since_ms = self._since_ms or self._clock.now_ms()
        self._problem = why
        self._tell(f"the public status page is not up to date: {why}; evac will try again")
        await self._say()

    async def _say(self) -> None:
        told = {
            "at_ms": self._clock.now_ms(),
            "ok_ms": self._ok_ms,
            "since_ms": self._since_ms,
            "problem": self._problem,
            "languages": self._about.languages,
        }
        with contextlib.suppress(StoreError):
            await self._store.transact((), (Put(self._key, orjson.dumps(told)),))


async def _moved(estate: Path) -> None:
    """Wait until another edition of the estate is in use; a new process then reads its names."""
    begun = edition_of(estate)
    while edition_of(estate) == begun:
        await asyncio.sleep(EDITION_S)


async def export(
    estate: Path, store: str, target: Target, about: About, site: str, as_of: date | None
) -> None:
    """Run until SIGTERM, SIGINT, or the end of the parent. Raises EstateError, StoreError."""
    loaded = estates.load(estate, as_of)
    opened = open_store(store)

    def tell(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    about = replace(about, title=about.title or loaded.name, names=public_names(loaded))
    exporter = Exporter(opened, about, target, tell, site)
    try:
        await until_ended(exporter.run(), _moved(estate))
    finally:
        await opened.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evac.app.status_export")
    parser.add_argument("estate", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--push", default="")
    parser.add_argument("--title", default="")
    parser.add_argument("--url", default=URL)
    parser.add_argument("--languages", default="en")
    parser.add_argument("--join", default="")
    parser.add_argument("--site", default="")
    parser.add_argument("--as-of", type=date.fromisoformat)
    told = parser.parse_args(arguments)

    async def work() -> None:
        target = target_of(told.to, told.push)
        about = About(told.title, {}, told.url, languages_of(told.languages), told.join)
        await export(told.estate, told.store, target, about, told.site, told.as_of)

    return end_of(work)


if __name__ == "__main__":
    sys.exit(main())
