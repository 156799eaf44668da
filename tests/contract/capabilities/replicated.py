"""Questions to a replicated data set on real servers: the same, whatever database it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from evac.drivers.capabilities import AnswersProbe, ProvesSync, ReportsRole
from evac.drivers.port import Action, Value, Verb
from tests.contract.capabilities.hostile import Wire
from tests.contract.capabilities.story import until_stopped
from tests.contract.capabilities.suites import AskedProbe, AskedRole, AskedSync, Asks
from tests.contract.ports import free_port


class DataSet(Protocol):
    """A primary in pangyo, and a replica in anyang that confirms its commits."""

    @property
    def pangyo(self) -> Any: ...
    def settings(self, name: str) -> dict[str, Value]: ...
    def action(self, verb: Verb, name: str) -> Action: ...


def asks_of(
    opened: Callable[[Path], AbstractContextManager[DataSet]],
    driver: Callable[[], Any],
    process: Callable[[Any], int],
    wire: Callable[[Any], Wire],
    secret: str,
    sites: Mapping[str, str],
) -> dict[type, Asks]:
    """opened: a healthy data set; process: id of a server's process; wire: how to talk to a server; sites: by
    name of a member.
    """

    @contextmanager
    def same(folder: Path) -> Iterator[tuple[DataSet, dict[str, Any]]]:
        with opened(folder) as world:

            async def silence() -> None:
                world.pangyo.pause()
                await until_stopped(process(world.pangyo))

            async def speak() -> None:
                world.pangyo.resume()

            yield (
                world,
                {
                    "driver": driver(),
                    "action": world.action("verify", "dc-pangyo"),
                    "silence": silence,
                    "speak": speak,
                    "secrets": (secret,),
                    "wires": (wire(world.pangyo),),
                },
            )

    @contextmanager
    def role(folder: Path) -> Iterator[AskedRole]:
        with same(folder) as (world, given):
            replica = world.action("verify", "dc-anyang")
            yield AskedRole(**given, replica=replica, confirms=("dc-anyang",))

    @contextmanager
    def probe(folder: Path) -> Iterator[AskedProbe]:
        with same(folder) as (world, given):
            settings = {**world.settings("dc-pangyo"), "port": free_port()}
            yield AskedProbe(**given, gone=replace(given["action"], settings=settings))

    @contextmanager
    def sync(folder: Path) -> Iterator[AskedSync]:
        with same(folder) as (_, given):
            yield AskedSync(**given, candidate="dc-anyang", sites=dict(sites))

    return {ReportsRole: role, AnswersProbe: probe, ProvesSync: sync}
