"""Drivers of runs that restore no backup found incomplete: its tool may list it as complete.

What is known is read when a step asks, not when its run is bound: a backup that is being taken when its
source is lost may end after that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from evac.backup.evidence import Evidence
from evac.drivers.capabilities import BACKUP, INCOMPLETE, INCOMPLETE_ELSEWHERE, RestoresData
from evac.drivers.parameters import many
from evac.drivers.port import Action, Checked, Driver, Observed, Order, Value
from evac.drivers.port import Evidence as Seen
from evac.drivers.registry import can
from evac.model.backup import Incomplete
from evac.model.errors import ActionError, Corrupt, Permanent, Retryable, Unavailable
from evac.store.port import Store

Found = Callable[[str], Awaitable[Iterable[Incomplete]]]
"""Data set -> its incomplete backups. Raises Corrupt, Unavailable."""


def recorded(store: Store) -> Found:
    """As the records in the store say at the time of the call."""
    evidence = Evidence(store)

    async def found(data_set: str) -> Iterable[Incomplete]:
        return (await evidence.known(data_set)).incomplete

    return found


def as_kept(kept: Mapping[str, Sequence[Incomplete]]) -> Found:
    """As they were read before."""

    async def found(data_set: str) -> Iterable[Incomplete]:
        return kept.get(data_set, ())

    return found


def restoring_complete(driver: Callable[[str], Driver], found: Found) -> Callable[[str], Driver]:
    """The same drivers; those that restore backups pass over incomplete ones."""

    def get(name: str) -> Driver:
        return CompleteOnly(driver(name), found) if can(name, RestoresData) else driver(name)

    return get


class CompleteOnly:
    """A driver that gets the ids of incomplete backups with each restore; unread, nothing is restored."""

    def __init__(self, driver: Driver, found: Found) -> None:
        self._driver, self._found = driver, found
        self.name, self.verbs = driver.name, driver.verbs

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            told = await self._told(action)
            checked = await self._driver.check(told, order)
            _refuse_incomplete(told, checked)
        except ActionError as error:
            return Checked((error.message,), error=error)
        return checked

    async def execute(self, action: Action, order: Order) -> Seen:
        return await self._driver.execute(await self._told(action), order)

    async def observe(self, action: Action, order: Order) -> Observed:
        return await self._driver.observe(action, order)

    async def undo(self, action: Action, order: Order) -> Seen:
        return await self._driver.undo(action, order)

    async def close(self) -> None:
        await self._driver.close()

    async def _told(self, action: Action) -> Action:
        """A restore with what is known now. A run bound by an older version does not name its backup: then no
        incomplete backup of any copy is restored.
        """
        if action.verb != "restore":
            return action
        words = f"it is unknown which backups of {action.target} are incomplete"
        try:
            found = tuple(await self._found(action.target))
        except Corrupt as error:
            hint = "restore a complete backup by hand (evac backup restore ESTATE), and attest the step"
            raise Permanent("backup-records", f"{words}: {error.message}", hint) from error
        except Unavailable as error:
            raise Retryable("backup-records", f"{words}: {error.message}") from error
        if not found:
            return action
        copy = action.parameters.get(BACKUP, "")
        own = {one.snapshot for one in found if copy in ("", one.copy)}
        others = {one.snapshot for one in found if copy not in ("", one.copy)}
        told: dict[str, Value] = {INCOMPLETE: tuple(sorted(own)), INCOMPLETE_ELSEWHERE: tuple(sorted(others))}
        return replace(action, parameters=MappingProxyType({**action.parameters, **told}))


def _refuse_incomplete(action: Action, checked: Checked) -> None:
    """Raise `Permanent` if an incomplete backup would be restored that no one named: an agent of an older
    version does not know these parameters.
    """
    chosen = checked.evidence.get("copy", "")
    named = {**action.settings, **action.parameters}.get("copy", "")
    if chosen and not named and chosen in many(action.parameters, INCOMPLETE):
        words = f"{chosen} is incomplete, and an older version of evac at {action.at} would restore it"
        raise Permanent("backup-incomplete", words, "upgrade the agent there, then retry the step")
