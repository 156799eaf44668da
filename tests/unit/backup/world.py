"""Backups in virtual time: repositories in memory, a driver that fails on request, an estate that uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from evac.backup.evidence import Evidence
from evac.backup.jobs import Task, Worker
from evac.drivers import registry
from evac.drivers.capabilities import (
    AsksRestored,
    Begins,
    CopyReport,
    Listing,
    Proof,
    ProofOutcome,
    Reply,
    Restored,
    RestoresData,
    Taken,
    TakesBackups,
)
from evac.drivers.port import Action
from evac.drivers.registry import Drivers
from evac.drivers.spec import DriverSpec
from evac.engine.clock import Clock
from evac.model.backup_policy import BackupPolicy
from evac.model.errors import ActionError, Retryable
from evac.model.estate import Backup, DataSet, Endpoint, Estate, Site
from evac.store.port import MemoryStore
from tests.unit.virtual_time import LOOP_MS, LoopClock

SPEC = DriverSpec(
    "vault", "repositories of tests", (TakesBackups, RestoresData, AsksRestored), (), "tests:none"
)


@dataclass
class Clocks:
    """The wall clock of the loop, which a test may turn."""

    turned_ms: int = 0

    def now_ms(self) -> int:
        return LoopClock().now_ms() + self.turned_ms

    def monotonic_ms(self) -> int:
        return LoopClock().now_ms()


@dataclass
class Repository:
    """What one endpoint holds, and what goes wrong there."""

    copies: list[CopyReport] = field(default_factory=list)
    deletable: bool | None = False
    error: ActionError | None = None
    unread: ActionError | None = None
    """Why no backup of the source can be taken."""
    uncopied: ActionError | None = None
    """Why a copy to it ends early."""
    unlisted: ActionError | None = None
    """Why it cannot be listed."""
    missing: tuple[str, ...] = ()
    outcome: ProofOutcome = "passed"
    bytes_read: int = 1_000
    content: Mapping[str, str | int] = field(default_factory=lambda: {"rows": 7})
    restored: Mapping[str, str | int] | None = None
    """What a restore has, if not what the source holds."""
    changes: bool = False
    """Whether the source changes while a backup of it is taken."""
    takes_s: float = 1.0
    ahead_s: int = 0
    """How far the clock of its tool is ahead."""
    places: set[str] = field(default_factory=set)
    """Places that are filled."""
    asked: list[tuple[str, float]] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)
    size: int = 1_000
    id: str = "r1"
    unseen: str = ""
    """Why a witness cannot look at the source."""
    reply: Reply | ActionError | None = None
    """What an application answers from restored data."""


class Vault:
    """The driver: an endpoint's id, in its settings, names the repository."""

    name = "vault"
    verbs: frozenset[Any] = frozenset()

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.most_at_once = self._at_once = 0

    @contextmanager
    def _at(self, action: Action, what: str) -> Iterator[Repository]:
        found = self.repositories[str(action.settings["id"])]
        found.asked.append((what, asyncio.get_running_loop().time()))
        if found.error is not None:
            raise found.error
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield found
        finally:
            self._at_once -= 1

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        with self._at(action, "list") as found:
            if found.unlisted is not None:
                raise found.unlisted
            copies = tuple(found.copies)
            return Listing(found.id, copies, "vault", "1.0", deletable=found.deletable)

    async def take(self, action: Action, timeout_s: float) -> Taken:
        with self._at(action, "take") as found:
            if found.unread is not None:
                raise found.unread
            await asyncio.sleep(found.takes_s)
            now_s = int(asyncio.get_running_loop().time()) + found.ahead_s
            copy = CopyReport(f"c{len(found.copies)}", now_s, found.size, source="db")
            found.copies.append(copy)
            return Taken(copy, found.size, 10, int(found.takes_s * 1_000), found.missing)

    async def copy_on(self, action: Action, timeout_s: float, to: Action, begins: Begins) -> Taken:
        with self._at(action, "copy") as origin:
            there = self.repositories[str(to.settings["id"])]
            last = origin.copies[-1]  # a copy of a copy names the first original, as those of real tools do
            original = last.original or last.id
            copy = next((one for one in there.copies if one.original == original), None)
            await begins(last, [] if copy is None else [copy])
            if there.uncopied is not None:
                raise there.uncopied
            if copy is None:  # it is copied once
                copy = replace(last, id=f"k{len(there.copies)}", original=original)
                there.copies.append(copy)
            return Taken(copy, 10, 10, 5, there.missing)

    async def prove(self, action: Action, timeout_s: float, level: int, part: int, of: int) -> Proof:
        with self._at(action, "prove") as found:
            found.parts.append((part, of))
            facts = (found.bytes_read, 1_000_000 // of, 5, action.at, "vault", "1.0")
            return Proof("", level, found.outcome, *facts, repository=found.id)

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        found = self.repositories[str(action.settings["id"])]
        if found.unseen:
            raise Retryable("source-unread", found.unseen)
        return {"rows": len(found.copies)} if found.changes else found.content

    async def restore(
        self, action: Action, timeout_s: float, copy: str, place: str, until: int | None
    ) -> Restored:
        with self._at(action, "restore") as found:
            assert place not in found.places, "only into an empty place"
            found.places.add(place)
            await asyncio.sleep(found.takes_s)
            facts = found.content if found.restored is None else found.restored
            chosen = next(one for one in reversed(found.copies) if copy in ("", one.id))
            as_of = chosen.taken_at if until is None else until
            took_ms = int(found.takes_s * 1_000)
            return Restored(chosen.id, place, chosen.bytes or 0, took_ms, None, facts, as_of)

    async def ask(self, action: Action, timeout_s: float, place: str) -> Reply:
        with self._at(action, "ask") as found:
            assert any(place in one.places for one in self.repositories.values()), "while it is restored"
            assert found.reply is not None
            if isinstance(found.reply, ActionError):
                raise found.reply
            return found.reply

    async def clean_up(self, action: Action, timeout_s: float, place: str) -> None:
        self.repositories[str(action.settings["id"])].places.discard(place)

    async def close(self) -> None:
        return


def endpoint(name: str, at: str = "anyang", subject: str = "wiki") -> Endpoint:
    return Endpoint(name, subject, at, "vault", MappingProxyType({"id": name}))


def estate_of(
    policy: BackupPolicy, backups: tuple[Backup, ...] = (), names: tuple[str, ...] = ("wiki",)
) -> Estate:
    """One data set a name, with a backup at an endpoint of its own unless others are given."""
    data = tuple(
        DataSet(name, "volume", "pangyo", (), 1, backups or (Backup("anyang", endpoint=f"r-{name}"),), policy)
        for name in names
    )
    ends = tuple(endpoint(str(backup.endpoint), backup.at, one.id) for one in data for backup in one.backups)
    return Estate("t", sites=(Site("anyang"), Site("pangyo")), data_sets=data, endpoints=ends)


@dataclass
class World:
    """store: with the virtual time of the loop."""

    store: MemoryStore
    evidence: Evidence
    worker: Worker
    vault: Vault

    @property
    def repositories(self) -> dict[str, Repository]:
        return self.vault.repositories


def world_of(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    repositories: dict[str, Repository],
    clock: Clock | None = None,
    clock_of_store: Callable[[], int] = LOOP_MS,
) -> World:
    monkeypatch.setattr(registry, "DRIVERS", {**registry.DRIVERS, "vault": SPEC})
    store, vault = MemoryStore(clock_of_store), Vault(repositories)
    evidence = Evidence(store, 0.0)
    drivers = Drivers({"vault": lambda: vault})
    return World(
        store, evidence, Worker(store, evidence, drivers, clock or LoopClock(), folder, "one"), vault
    )


def task(job: Any, name: str = "r-wiki", **rest: Any) -> Task:
    return Task(job, "wiki", name, endpoint(name), 0, **rest)
