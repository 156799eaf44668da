"""Drivers of runs that restore no backup found incomplete: its tool may list it as complete.

What is known is read when a step asks, not when its run is bound: a backup that is being taken when its
source is lost may end after that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from evac.backup.evidence import Evidence
from evac.drivers.capabilities import BACKUP, RestoresData
from evac.drivers.lacking import lacking_of, parameters_of
from evac.drivers.parameters import text
from evac.drivers.port import Action, Checked, Driver, Observed, Order
from evac.drivers.port import Evidence as Seen
from evac.drivers.registry import can
from evac.model.backup import Lacks
from evac.model.errors import ActionError, Corrupt, Permanent, Retryable, Unavailable
from evac.store.port import Store

Found = Callable[[str], Awaitable[Lacks]]
"""Data set -> which of its backups lack something, or may. Raises Corrupt, Unavailable."""


def recorded(store: Store) -> Found:
    """As the records in the store say at the time of the call."""
    evidence = Evidence(store)

    async def found(data_set: str) -> Lacks:
        return (await evidence.known(data_set)).lacks

    return found


def as_kept(kept: Mapping[str, Lacks]) -> Found:
    """As they were read before."""

    async def found(data_set: str) -> Lacks:
        return kept.get(data_set, Lacks())

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
            lacks = (await self._found(action.target)).of(text(action.parameters, BACKUP, ""))
        except Corrupt as error:
            hint = "restore a complete backup by hand (evac backup restore ESTATE), and attest the step"
            raise Permanent("backup-records", f"{words}: {error.message}", hint) from error
        except Unavailable as error:
            raise Retryable("backup-records", f"{words}: {error.message}") from error
        if not lacks:
            return action
        told = parameters_of(lacks)
        return replace(action, parameters=MappingProxyType({**action.parameters, **told}))


def _refuse_incomplete(action: Action, checked: Checked) -> None:
    """Raise `Permanent` if an incomplete backup would be restored that no one named: an agent of an older
    version does not know these parameters.
    """
    chosen, taken_at = checked.evidence.get("copy", ""), checked.evidence.get("taken_at", 0)
    named = {**action.settings, **action.parameters}.get("copy", "")
    if chosen and not named and lacking_of(action.parameters)(str(chosen), "", int(taken_at)):
        words = (
            f"{chosen} is incomplete, or may be, and an older version of evac at {action.at} would restore it"
        )
        raise Permanent("backup-incomplete", words, "upgrade the agent there, then retry the step")
